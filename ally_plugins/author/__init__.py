"""For those who write plugins: what `new` writes, where a project's parts lie, and what `check` finds in its sources.

Nothing here imports or runs a plugin's code but `daemon_checks`, which starts its process. The commands are left to
`cli.author`, and running a plugin under test to `testing`.
"""
