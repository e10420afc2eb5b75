"""What the package logs while a command runs: one inert line each on stderr, without a traceback."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ally_plugins.contract.values.compat import override

from .lazy import DEBUG_VARIABLE
from .text import inert

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["plain_logs"]

_NAME: Final = "ally_plugins"


class _Plain(logging.Formatter):
    """Formats a record as one line; tracebacks only where somebody looks for an error."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        line = f"{record.levelname.lower()}: {inert(record.getMessage())}"
        if os.environ.get(DEBUG_VARIABLE) == "1" and record.exc_info:
            line += "".join(f"\n  | {inert(each)}" for each in self.formatException(record.exc_info).splitlines())
        return line


@contextmanager
def plain_logs(level: int = logging.WARNING, *, errors_of: str | None = None) -> Generator[None]:
    """Send the package's log, the plugins' own among it, to stderr as plain lines meanwhile.

    With `errors_of`, a plugin, the host's errors are left out: the command ends with them anyway.
    """
    logger = logging.getLogger(_NAME)
    handler = logging.StreamHandler()
    handler.setFormatter(_Plain())
    handler.setLevel(level)
    if errors_of is not None:
        own = f"{_NAME}.plugin.{errors_of}"
        handler.addFilter(lambda record: record.name == own or record.levelno < logging.ERROR)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
