"""The SDK of daemon authors: a plugin's class, run as a process of its own.

`python -m ally_plugins.daemon MODULE:CLASS` runs it, and so does a script that ends with `run(MyPlugin)`. The class is
the same as for a plugin inside the host: `__init__(self, ally)`, `@hookimpl`, `@tool`, `@action`. Nothing of the host's
side is imported here. A daemon that listens on a socket of its own talks back with `connect_back`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .reconnect import connect_back as connect_back
    from .running import run as run

__all__ = ["connect_back", "run"]


def __getattr__(name: str) -> Any:
    if name == "run":
        from .running import run

        return run
    if name == "connect_back":
        from .reconnect import connect_back

        return connect_back
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
