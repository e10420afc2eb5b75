"""What every adapter needs and no framework has: turns, permission, usage, compaction, tools.

Translating to a framework is left to its adapter; what a call must pass, to `host.sessions`.
"""
