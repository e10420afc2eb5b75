"""The control socket of a running host: by it commands ask what runs, and make an operator's change take effect.

`addresses` says where the sockets lie, `server` is the host's end, `client` the commands'. What a request does to the
plugins is left to `live`, and what an operator may change to the registry.
"""
