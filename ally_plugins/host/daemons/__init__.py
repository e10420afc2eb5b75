"""Plugins that run in processes of their own: from a record to a running daemon behind the same hooks.

`member` is one of them, `hooks` what it implements, `calls` what it asks of the host; `stdio` and `sockets` are the
ways to speak with it, `starting` chooses one, `legacy` has what Code-Ally's plugins offer besides. `outside` is the
host's part. Keeping a process running is left to `runtime.supervisor`, bytes to `runtime.peer`, events to
`runtime.bridge`.
"""
