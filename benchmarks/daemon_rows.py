"""What the parts of the daemon benchmark share: rows, and figures of samples."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def row(name: str, ours: float, other: float | None, unit: str, target: str = "-") -> Row:
    """Return one line of the table; the ratio is of ours to the other."""
    ratio = None if other is None else ours / other
    return {"name": name, "ours": ours, "bare": other, "ratio": ratio, "target": target, "unit": unit}


def p50(seconds: Sequence[float]) -> float:
    """Return the median, in µs."""
    return statistics.median(seconds) * 1e6


def p99(seconds: Sequence[float]) -> float:
    """Return what one in a hundred takes longer than, in µs."""
    return sorted(seconds)[int(len(seconds) * 0.99)] * 1e6


def ancestors(pid: int) -> list[int]:
    """Return the processes above one, its parent first."""
    found = [pid]
    while found[-1] > 1:
        found.append(int(Path(f"/proc/{found[-1]}/stat").read_text().rpartition(")")[2].split()[1]))
    return found[1:]


def cpu_of(pid: int) -> float:
    """Return the seconds of processor time that a process with one thread has had."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@contextmanager
def pinned() -> Iterator[None]:
    """Keep this process, and what it starts meanwhile, on one core: a wake-up on another costs tens of µs."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
