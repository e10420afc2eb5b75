"""The agent's own tools, as capabilities of the framework: files, commands, todos, and a helper to delegate to.

Asking the person and plugins before a call is left to the adapter; `cli.chat.agent` puts them together.
"""
