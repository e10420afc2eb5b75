"""What awaits: lanes for hooks, and processes for daemons.

Deciding is left to `policy`, and knowing a whole host to `host`.
"""
