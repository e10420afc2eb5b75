"""The transport of daemons that listen on a Unix socket: claims of paths, the link, what is said on it, talking back.

The messages are Code-Ally's. Of the plugins made for it nothing is known here: which daemon listens is in its manifest.
"""
