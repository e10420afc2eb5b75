"""Virtual environments of single plugins, and pip or uv in this one.

Which plugin uses which is in `config.toml`, which `catalog.home` reads.
"""
