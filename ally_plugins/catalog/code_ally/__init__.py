"""Plugins made for Code-Ally, unchanged: `plugin.json` folders, daemons that listen on a socket, programs as tools.

`plugin`, `manifest` and everything they import compute; `sockets`, `executable`, `environments` and `talkback` await.
What a host does with a plugin once it is read is left to the registry and the host.
"""
