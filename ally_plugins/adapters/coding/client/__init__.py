"""The hook client: what a coding agent runs for each hook, in Python or compiled from C, and its files in a home.

`hook_client` is copied out of the package and imports nothing of it; `compiled_client` makes the C program with the
same table, `client_files` lays either into a home and knows when it was changed.
"""
