"""How a host runs plugins made for Code-Ally: sockets, programs as tools, talking back.

What a `plugin.json` says is read in `catalog.code_ally`.
"""
