"""Starting, watching and ending processes so that none outlives its host.

What is sent to them is left to `host.daemons`.
"""
