"""Plugins that run in processes of their own: from a record to a running daemon behind the same hooks.

`remote_plugin` is one of them, `hooks` what it implements, `calls` what it asks of the host; `stdio` and `sockets` are
the transports, `transports` chooses one, `bridge_services` is what the host does for a plugin of another system.
`supervisor` keeps the process running, `stream_link` and `lane` carry bytes and events. Starting a process is left to
`runtime.processes`, what a host has for all of them to `host.plugins.daemon_services`.
"""
