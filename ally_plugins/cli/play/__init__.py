"""The commands that run plugins without an agent: recordings, the demo, and one tool called by hand.

Reading and playing recordings is left to `replay`.
"""
