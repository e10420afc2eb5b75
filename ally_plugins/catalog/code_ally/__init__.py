"""What a `plugin.json` of Code-Ally's says, as our own values: daemons that listen on a socket, programs as tools.

All of it computes. Running what it describes is left to `host.code_ally`, its environments to `catalog.environments`.
"""
