"""Plugins of other systems behind our hooks, a package for each system.

Each is a source of `catalog.discovery` with a way to run what it finds, and is named to the catalog by its place alone;
what all sources are asked for stands there, and what a host does for a bridged plugin in `host.daemons.bridged`.
"""
