"""A running host: its sessions, plugins, daemons, bus and control socket, joined in `host.host`.

What may run is decided in `catalog`.
"""
