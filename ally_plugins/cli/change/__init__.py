"""The commands that change something: consent, grants, settings, placement, packages, tasks, old records.

Showing how things stand is left to `cli.look`.
"""
