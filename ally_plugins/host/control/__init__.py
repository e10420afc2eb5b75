"""The control socket of a running host: commands use it to see what runs, and to make an operator's change take effect.

`addresses` finds the sockets, `server` is the host's end, `client` the commands', which has `answers` looked at first.
What a request does to the plugins is decided in `live`, and what an operator may change in the registry.
"""
