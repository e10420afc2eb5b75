"""Virtual environments of single plugins, and pip or uv in this one.

Which plugin uses which stands in `catalog.home`.
"""
