"""The end of the process that nothing can hold up: no thread, no task, no exit function."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

__all__ = ["end_within"]


def end_within(seconds: float, code: int) -> None:
    """End the process after so many seconds with this code, if it has not ended by then; at once for 0."""
    if not seconds:
        # `os._exit` writes no buffers.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # closed, or there is none
                stream.flush()
        os._exit(code)
    timer = threading.Timer(seconds, os._exit, (code,))
    # Else the interpreter's own end would wait for it.
    timer.daemon = True
    timer.start()
