"""Adapters between a host and an agent framework, one package each, and the kit that they share.

Each is behind an extra of its own and imported only by name; what a host is stands in `host`.
"""
