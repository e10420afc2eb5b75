"""The commands that only look: plugins, hosts, the journal, logs, and what `doctor` checks.

Changing anything is left to `cli.change`.
"""
