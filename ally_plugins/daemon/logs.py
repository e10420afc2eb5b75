"""What the plugin logs, sent to the host; and what goes to stderr, which the host keeps as the plugin's log."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from typing import Final

from ally_plugins.contract.values.compat import override

from .sandbox_refusals import hint

__all__ = ["HostHandler", "write_failure", "write_stderr"]

MAX_CHARS: Final = 8_192  # the host's budget for one line (Limits.log_bytes)


class HostHandler(logging.Handler):
    """Sends the records of the plugin's logger as `log` notifications; tracebacks go to stderr, never to a peer.

    `send` takes the level's name and the text, from any thread.
    """

    def __init__(self, send: Callable[[str, str], None]) -> None:
        super().__init__()
        self._send = send

    @override
    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        try:
            self._send(_level(record.levelno), record.getMessage()[:MAX_CHARS])
            if record.exc_info:
                write_stderr("".join(traceback.format_exception(*record.exc_info)).rstrip())
        except Exception:  # noqa: BLE001 - as any handler of logging: a record that cannot be made must not raise
            self.handleError(record)


def write_stderr(text: str) -> None:
    """Write to stderr; what a plugin that has closed it would get is lost."""
    try:
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - the host keeps a daemon's stderr as its log
    except (OSError, ValueError, AttributeError):
        return


def write_failure(what: str, error: BaseException) -> None:
    """Write to stderr that something failed, with its traceback."""
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    write_stderr(f"{what} failed:\n{''.join(lines).rstrip()}{hint(error)}")


def _level(number: int) -> str:
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warning"
    return "info" if number >= logging.INFO else "debug"
