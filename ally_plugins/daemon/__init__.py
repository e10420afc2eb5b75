"""The SDK of daemon authors: a plugin's class, run as a process of its own.

`python -m ally_plugins.daemon MODULE:CLASS` runs it, and so does a script that ends with `run(MyPlugin)`. The class is
the same as for a plugin inside the host: `__init__(self, ally)`, `@hookimpl`, `@tool`, `@action`. What is about the
host is left to `host.daemons`, and not imported here. A daemon that listens on a socket of its own talks back with
`connect_back`.
"""

from __future__ import annotations

from typing import Final

from ally_plugins import lazy_exports

_HOMES: Final = {"reconnect": "connect_back", "running": "run"}

__getattr__, __dir__, __all__ = lazy_exports(__name__, _HOMES)
