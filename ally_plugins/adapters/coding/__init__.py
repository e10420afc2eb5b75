"""Coding agents that have hooks of their own: what each says and understands, and the host that stands behind them.

A dialect (`claude`, `codex`, ...) is pure: a hook's payload in, our values out, and back. `hook_client` is the program
that an agent runs for a hook; it is copied out of the package, and has what each agent takes for a no when nobody
answers.
"""
