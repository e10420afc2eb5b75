"""Plugins' tools for agents that take MCP servers: what a tool is called there, and the server that an agent starts."""
