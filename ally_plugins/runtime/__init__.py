"""What awaits: lanes for hooks, and processes for daemons; `forks` tells a process from a fork of it.

Deciding is left to `policy`, and knowing a whole host to `host`.
"""
