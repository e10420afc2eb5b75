"""The commands that only look: plugins, hosts, the journal, logs, and what `doctor` checks."""
