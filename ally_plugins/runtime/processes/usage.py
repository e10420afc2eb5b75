"""What a process and all that it has started use of the machine; Linux only, where /proc says it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from attrs import frozen

from ally_plugins.journal.process_identity import stat_fields

__all__ = ["Usage", "usage_of"]

_TIMES: Final = slice(11, 15)  # utime, stime, and the same of children that have ended and were waited for
_RESIDENT: Final = 21  # in pages
_MANY: Final = 1024  # processes of one plugin that are looked at: twice as many as a sandbox lets it have


@frozen
class Usage:
    """`memory` is what is resident, in bytes; `cpu` what was used since the processes' starts, in seconds.

    Pages that processes share count for each of them.
    """

    memory: int
    cpu: float


def usage_of(pid: int) -> Usage | None:
    """Return what a process and its descendants use now; None where that cannot be known, or it has ended."""
    memory, cpu, found = 0, 0, False
    for each in _tree(pid):
        fields = stat_fields(each)
        if fields is not None and len(fields) > _RESIDENT:
            memory += int(fields[_RESIDENT])
            cpu += sum(map(int, fields[_TIMES]))
            found = True
    return Usage(memory * os.sysconf("SC_PAGE_SIZE"), cpu / os.sysconf("SC_CLK_TCK")) if found else None


def _tree(pid: int) -> Iterator[int]:
    waiting, seen = [pid], {pid}
    while waiting and len(seen) <= _MANY:
        each = waiting.pop()
        yield each
        for child in _children(each):
            if child not in seen:
                seen.add(child)
                waiting.append(child)


def _children(pid: int) -> Iterator[int]:
    # Each thread has its own children. A process or thread that ends meanwhile has none.
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                yield from map(int, (thread / "children").read_text("ascii").split())
