"""The commands that only read: plugins, hosts, the journal, logs, and what `doctor` checks.

Changing anything is left to `cli.change`.
"""
