"""Adapters for agent frameworks, each behind an extra of its own; none is imported unless it is asked for by name."""
