"""The reference agent, `ally-plugins chat` and `ally-plugins run`: a small coding agent on pydantic-ai.

Importing this package imports no framework; its modules do. Only the commands use it.
"""
