"""The transport of daemons that listen on a Unix socket: claims of paths, the link, its messages, talking back.

The messages are Code-Ally's; its plugins and their manifests are left to `bridges.code_ally`.
"""
