"""The package's log while a command runs: the handler that gets it, and each record as one inert line."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ally_plugins.contract.values.compat import override

from .command_group import DEBUG_VARIABLE
from .text import inert

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["log_line", "logs_to", "plain_logs"]

_NAME: Final = "ally_plugins"


def log_line(record: logging.LogRecord) -> str:
    """Return a record as one inert line; with ALLY_DEBUG=1 the lines of its traceback follow, each marked."""
    line = f"{record.levelname.lower()}: {inert(record.getMessage())}"
    if os.environ.get(DEBUG_VARIABLE) == "1" and record.exc_info:
        trace = logging.Formatter().formatException(record.exc_info)
        line += "".join(f"\n  | {inert(each)}" for each in trace.splitlines())
    return line


class _Plain(logging.Formatter):
    @override
    def format(self, record: logging.LogRecord) -> str:
        return log_line(record)


@contextmanager
def logs_to(handler: logging.Handler, *, alone: bool = True) -> Generator[None]:
    """Give a handler the package's log meanwhile, plugins' records included; with `alone`, no other handler gets it."""
    logger = logging.getLogger(_NAME)
    before = logger.propagate
    logger.addHandler(handler)
    # `and`: an application that has turned it off does not get it turned on by a command.
    logger.propagate = before and not alone
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


@contextmanager
def plain_logs(level: int = logging.WARNING, *, errors_of: str | None = None) -> Generator[None]:
    """Send the package's log to stderr as plain lines meanwhile.

    With `errors_of`, the name of a plugin, errors of the host are omitted: the command ends with them anyway.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_Plain())
    handler.setLevel(level)
    if errors_of is not None:
        own = f"{_NAME}.plugin.{errors_of}"
        handler.addFilter(lambda record: record.name == own or record.levelno < logging.ERROR)
    with logs_to(handler, alone=False):
        yield
