"""Coding agents that have hooks of their own: what each says and understands, and the host that stands behind them.

A dialect (`claude`, `codex`, ...) is pure: a hook's payload in, our values out, and back; `dialects` has them by name,
`dialect` is what they have in common. `client` is the program that an agent runs for a hook, `settings` puts it into an
agent's settings, `tools` has plugins' tools for MCP clients, `serving` is the host's side, and `offline` runs an agent
against a scripted model. Each knows those before it, and none of them what comes after.
"""
