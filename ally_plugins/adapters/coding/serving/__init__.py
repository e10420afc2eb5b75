"""The host behind agents' hooks: its socket, the conversations on it, and the host's own gate before their calls.

`server` takes hooks, `conversations` knows whose they are, `conversation` puts one to the plugins of its session.
"""
