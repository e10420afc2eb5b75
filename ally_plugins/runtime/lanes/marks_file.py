"""The file that keeps a host's marks: mapped into memory, so that the kernel has them when the process ends at once."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .marks import BLOCKING, MARKS, UNMARKED, Slot, describe

__all__ = ["SIZE", "SLOTS", "Marks", "read_marks"]

SLOTS: Final = 256  # plugins of a host; what comes after them is not marked
SIZE: Final = 128  # bytes for each: the marks, the length of the name, and the name
_LENGTH: Final = MARKS
_NAME: Final = MARKS + 1


class Marks:
    """The marks of one host, from `open` to `close`. `choose` returns the file to be made, None to keep none."""

    def __init__(self, choose: Callable[[], Path | None]) -> None:
        self._choose = choose
        self._file: Path | None = None
        self._mapped: mmap.mmap | None = None
        self._content: memoryview | None = None
        self._slots: dict[str, Slot] = {}

    def open(self) -> None:
        """Make the file; where that fails the marks outlive nothing. Blocks on the disk; raises nothing."""
        self._content = self._map()

    def slot(self, plugin: str) -> Slot:
        """Return the place of a plugin's marks, the same ones for each instance of it. Raises nothing."""
        if plugin not in self._slots:
            self._slots[plugin] = self._new(plugin.encode("utf-8", "replace")[: SIZE - _NAME])
        return self._slots[plugin]

    def _new(self, name: bytes) -> Slot:
        start = len(self._slots) * SIZE
        if self._content is None or start >= len(self._content):
            return UNMARKED
        marks = self._content[start : start + SIZE]
        marks[_NAME : _NAME + len(name)], marks[_LENGTH] = name, len(name)
        return Slot(marks)

    def _map(self) -> memoryview:
        try:
            if (path := self._choose()) is not None:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
                self._file = path
                try:
                    os.truncate(descriptor, SLOTS * SIZE)
                    self._mapped = mmap.mmap(descriptor, SLOTS * SIZE)
                    return memoryview(self._mapped)
                finally:
                    os.close(descriptor)
        except OSError:  # a disk that is full
            pass
        return memoryview(bytearray(SLOTS * SIZE))

    def close(self) -> None:
        """Remove the file: this host ends as it should. Marks may still be set, and are read by nobody."""
        for slot in self._slots.values():
            if slot is not UNMARKED:
                slot.drop()
        # Every view before the map, whose `close` raises BufferError otherwise.
        content, self._content = self._content, None
        if content is not None:
            content.release()
        mapped, self._mapped = self._mapped, None
        if mapped is not None:
            mapped.close()  # it has a descriptor of its own
        file, self._file = self._file, None
        if file is not None:
            file.unlink(missing_ok=True)


def read_marks(content: bytes) -> list[tuple[str, str, bool]]:
    """Return what ran when a file was written last: for each plugin its name, what ran, and whether it was blocking."""
    found: list[tuple[str, str, bool]] = []
    for start in range(0, len(content) - SIZE + 1, SIZE):
        slot = content[start : start + SIZE]
        name, what = slot[_NAME : _NAME + slot[_LENGTH]].decode("utf-8", "replace"), describe(slot)
        if name and what:
            found.append((name, what, bool(slot[BLOCKING])))
    return found
