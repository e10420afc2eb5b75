"""Which plugins are installed or lie in folders, read without importing or running any.

Whether one may run is decided in `catalog.decide`.
"""
