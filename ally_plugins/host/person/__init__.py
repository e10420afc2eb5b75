"""Asking the person: permission for calls, with what they would change, and plugins' own questions.

Who the person is and how they are asked is left to the host author's approver; what plugins say first, to `sessions`.
"""
