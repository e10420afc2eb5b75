"""Plugins made for Code-Ally: folders with a `plugin.json`, daemons that listen on a socket, tools that are programs.

`source` finds them, `manifest` reads them into the values of `plugin`, `installs` has their environments; `bridge` is
what the host asks, `tools`, `programs` and `results` what a call of a tool does. The sockets are `host.sockets`'.
"""
