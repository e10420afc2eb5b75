"""Plugins of other systems behind our hooks, a package for each system.

Each is a source of `catalog.discovery`, which has the interface of all sources, with a way to run what it finds. What a
host does for a bridged plugin is in `host.daemons.bridge_services`.
"""
