"""The reference agent: `chat`, `run` and `sessions`, a small coding agent on pydantic-ai.

Importing this package imports no framework; what plugins need of an agent is left to the adapter.
"""
