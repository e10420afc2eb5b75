"""What the plugins remember of each session: bounded, so that a host that runs for months stays as large as it is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

__all__ = ["LONGEST_NAME", "PerSession", "Recent", "shown"]

K = TypeVar("K")
V = TypeVar("V")

MAX_SESSIONS: Final = 256
"""Sessions remembered at once; the one that was silent longest is forgotten first."""

LONGEST_NAME: Final = 80
"""Characters of a stranger's name that a message repeats; tool names of model APIs end at 64 or 128."""


class Recent(OrderedDict[K, V]):
    """A dict that holds at most `limit` entries; the one that was set longest ago goes first."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def put(self, key: K, value: V) -> None:
        """Set an entry as the newest one."""
        self[key] = value
        self.move_to_end(key)
        if len(self) > self.limit:
            self.popitem(last=False)


class PerSession(Generic[V]):
    """One value for each session, made when it is first asked for."""

    def __init__(self, make: Callable[[], V], limit: int = MAX_SESSIONS) -> None:
        self._make = make
        self._values: Recent[str, V] = Recent(limit)

    def get(self, session_id: str) -> V:
        """Return the session's value; asking keeps it from being forgotten."""
        value = self._values.get(session_id)
        if value is None:
            value = self._make()
        self._values.put(session_id, value)
        return value

    def drop(self, session_id: str) -> None:
        """Forget a session."""
        self._values.pop(session_id, None)


def shown(name: object) -> str:
    """Return a stranger's name as a message may repeat it: one short printable line."""
    text = "".join(char for char in str(name)[: LONGEST_NAME + 1] if char.isprintable())
    return f"{text[:LONGEST_NAME]}..." if len(text) > LONGEST_NAME else text or "a tool"
