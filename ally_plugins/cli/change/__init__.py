"""The commands that change something: consent, grants, settings, placement, packages, tasks, old records."""
