"""Which of the last lines on a process's stderr say why it ended.

Python prints its frames before the error; Node.js, Java, Ruby, Go and Rust print them behind it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile
from typing import Final

__all__ = ["reason_lines"]

_SPACE: Final = r"(?:\s|\\t)+"  # a tab in a log is an escape already
_FRAME: Final = re.compile(rf"{_SPACE}(?:at|from) .|{_SPACE}\.\.\. \d+ more")
_BEHIND: Final = re.compile(r"\s|\\t|[]})]|Node\.js v\d")
"""What stands among and behind frames: more of them, the fields of the error, and what Node.js signs with."""
_PANIC: Final = re.compile(r"panic: |fatal error: |thread '.*' (?:\(\d+\) )?panicked at ")
_BEHIND_PANIC: Final = re.compile(r"goroutine \d+ \[|note: run with|stack backtrace:|exit status \d")
_MARKS: Final = " ^~"
"""Python and Node.js mark a place below a line with these."""


def reason_lines(lines: Sequence[str], most: int) -> list[str]:
    """Return at most so many lines: the last ones, or, where the last ones are frames, those that stand before them."""
    shown = [line for line in lines if line.strip(_MARKS)]
    panic = next((at for at in range(len(shown) - 1, -1, -1) if _PANIC.match(shown[at])), None)
    if panic is not None:
        found = list(takewhile(lambda line: not _BEHIND_PANIC.match(line), shown[panic:]))[:most]
    else:
        behind = len(list(takewhile(_BEHIND.match, reversed(shown))))
        before = [line for line in shown[: len(shown) - behind] if not _FRAME.match(line)]
        has_frames = any(map(_FRAME.match, shown[len(shown) - behind :]))
        found = (before if has_frames and before else shown)[-most:]
    return [line.strip() for line in found]
