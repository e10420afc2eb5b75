"""What a host and one daemon write to each other, kept in memory while an operator looks, and only then.

Lines are kept as they are and shown without the plugin's secrets; the settings that it starts with are never kept.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import orjson
from attrs import frozen

if TYPE_CHECKING:
    from ally_plugins.contract.values.masking import Secrets

__all__ = ["WireTap"]

WATCHED_S: Final = 10.0
"""For how long lines are kept after somebody has looked: the page looks more than once a second."""

LONGEST: Final = 8 * 1024
"""Bytes of one line that are kept: a gate's request has some hundred, a tool's output may have a million."""

MOST_BYTES: Final = 96 * 1024
"""Of all lines that are kept: even if each had to be escaped, they fit into one answer of the control socket."""

_LEFT_OUT: Final = "(left out)"


@frozen
class _Line:
    number: int
    at: int
    is_sent: bool
    content: bytes
    size: int


class WireTap:
    """The last lines of one plugin's processes. Belongs to the host's loop; `is_on` is all that a link looks at."""

    __slots__ = ("_count", "_kept", "_lines", "_until", "is_on")

    def __init__(self) -> None:
        self.is_on = False
        self._until = 0.0
        self._count = 0
        self._kept = 0
        self._lines: Final[deque[_Line]] = deque()

    def note(self, lines: Iterable[bytes], *, is_sent: bool) -> None:
        """Keep lines, without their newlines, that the host has sent or received. Call it while it `is_on`."""
        if time.monotonic() > self._until:
            self._end()
            return
        now = time.time_ns() // 1_000_000
        for line in lines:
            if not line.strip():
                continue
            content = _without_settings(line) if is_sent else line
            self._count += 1
            self._lines.append(_Line(self._count, now, is_sent, content[:LONGEST], len(line)))
            self._kept += len(self._lines[-1].content)
        while self._kept > MOST_BYTES:
            self._kept -= len(self._lines.popleft().content)

    def look(self, after: int, secrets: Secrets) -> dict[str, Any]:
        """Return what came after the line of a number, without secrets, and keep what comes for `WATCHED_S` more.

        `missed` counts those that are not kept any more. Numbers are of this host and plugin.
        """
        if time.monotonic() > self._until:
            self._end()
        self.is_on, self._until = True, time.monotonic() + WATCHED_S
        after = after if after <= self._count else 0
        first = self._lines[0].number if self._lines else self._count + 1
        return {
            "lines": [_shown(line, secrets) for line in self._lines if line.number > after],
            "last": self._count,
            "missed": max(first - 1 - after, 0) if after else 0,
        }

    def _end(self) -> None:
        self.is_on = False
        self._lines.clear()
        self._kept = 0


def _shown(line: _Line, secrets: Secrets) -> dict[str, Any]:
    is_cut = line.size > LONGEST
    text = secrets.masked(line.content.decode("utf-8", "replace"), is_cut=is_cut)
    return {"n": line.number, "at": line.at, "out": line.is_sent, "text": text, "bytes": line.size, "isCut": is_cut}


def _without_settings(line: bytes) -> bytes:
    """Return a line of the host's without the settings that `initialize` has, secrets among them that are too short."""
    if b'"initialize"' not in line:
        return line
    try:
        message = orjson.loads(line)
        if message.get("method") != "initialize":
            return line
        message["params"]["settings"] = _LEFT_OUT
        return orjson.dumps(message)
    except (ValueError, KeyError, TypeError, AttributeError):
        return _LEFT_OUT.encode()
