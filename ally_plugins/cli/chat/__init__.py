"""The reference agent: `chat`, `run` and `sessions`, a small coding agent on pydantic-ai.

Importing this package imports no framework. Serving the plugins is left to the adapter for pydantic-ai.
"""
