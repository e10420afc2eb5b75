"""Discards what was typed before a question was shown, since it cannot be meant as the answer."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from ally_plugins.contract.values.errors import ConsentError

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["discard", "discard_until_rest", "pauses"]

REST_S: Final = 0.3
"""Seconds without a key that end a person's typing, or a paste that comes in pieces; who types needs 0.1 to 0.2."""
_LOOKS: Final = 33
"""Pauses before a question is given up, 10 s together: only a program types so long without a rest, or a stuck key."""


def pauses(fd: int) -> Generator[float]:
    """Discard what was typed until nothing more comes; yield the seconds to wait before each further look, often none.

    Meanwhile the terminal keeps keys, without echo, and not lines, so that a line that was only begun is seen too.
    Close the generator when it is not exhausted: that restores the terminal. Raises ConsentError when the input never
    rests or cannot be discarded.
    """
    with _single_keys(fd):
        for _ in range(_LOOKS):
            if not discard(fd):
                return
            yield REST_S
    raise ConsentError(
        f"no question was put: the terminal's input never rests, expected {REST_S} s without a key within 10 s"
    )


def discard_until_rest(fd: int) -> bool:
    """Block until nobody types, and say whether anything was discarded. Raises ConsentError as `pauses` does."""
    was_typed = False
    for pause in pauses(fd):
        was_typed = True
        time.sleep(pause)
    return was_typed


if sys.platform == "win32":
    import msvcrt

    def discard(_: int) -> bool:
        """Discard what the console has not given to anybody yet; say whether there was any."""
        was_typed = False
        while msvcrt.kbhit():
            msvcrt.getwch()
            was_typed = True
        return was_typed

    @contextmanager
    def _single_keys(_: int) -> Generator[None]:
        yield  # `msvcrt` sees single keys anyway

else:
    import select
    import termios

    def discard(fd: int) -> bool:
        """Discard what the terminal has not given to anybody yet; say whether there was any. Raises ConsentError."""
        try:
            # Looked at first, since `tcflush` does not return whether there was anything.
            was_typed = bool(select.select([fd], [], [], 0)[0])
            termios.tcflush(fd, termios.TCIFLUSH)
        except (OSError, ValueError, termios.error) as error:
            raise _unsure(error) from None
        return was_typed

    @contextmanager
    def _single_keys(fd: int) -> Generator[None]:
        """Have the terminal keep keys and not lines; Ctrl-C stays a signal."""
        try:
            before = termios.tcgetattr(fd)
            during = [*before]
            during[3] &= ~(termios.ICANON | termios.ECHO)
            # Not TCSAFLUSH: it would discard keys unnoticed, where `discard` returns whether there were any.
            termios.tcsetattr(fd, termios.TCSANOW, during)
        except termios.error as error:
            raise _unsure(error) from None
        try:
            yield
        finally:
            with suppress(termios.error):  # the terminal was closed: it has no mode any more
                termios.tcsetattr(fd, termios.TCSANOW, before)

    def _unsure(error: Exception) -> ConsentError:
        return ConsentError(f"no question was put: what was typed before it cannot be discarded ({error})")
