"""The commands that change something: consent, grants, settings, placement, packages, tasks, old records.

Showing the current state is left to `cli.look`.
"""
