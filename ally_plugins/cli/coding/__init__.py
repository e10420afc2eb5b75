"""Commands for coding agents: the host behind their hooks, and which agents are connected to it.

What agents say and understand is left to `adapters.coding`.
"""
