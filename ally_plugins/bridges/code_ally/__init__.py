"""Plugins made for Code-Ally: folders with a `plugin.json`, daemons that listen on a socket, tools that are programs.

`source` finds them, `manifest` reads them into the values of `plugin`, `installs` has their environments; the host
calls `bridge`, and `tools`, `programs` and `results` handle a call of a tool. The sockets are in `host.sockets`.
"""
