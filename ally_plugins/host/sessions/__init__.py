"""One conversation: its events, gates, transforms and safe points, and what it shares with plugins.

Running the hooks is left to `runtime.lanes`.
"""
