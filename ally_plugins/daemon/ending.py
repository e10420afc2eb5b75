"""The end of the process that nothing can hold up: no thread, no task, no exit function."""

from __future__ import annotations

import os
import threading

__all__ = ["end_within"]


def end_within(seconds: float, code: int) -> None:
    """End the process after so many seconds with this code, if it has not ended by then."""
    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()
