"""The settings of coding agents: our entries in them, in and out to the byte, and what keeps hooks from running.

Only these files are written, and only by `connect`, `disconnect` and what an administrator deploys (`managed`).
"""
