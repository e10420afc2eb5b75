"""The output to the person: the model's text as it streams, and lines for events in between.

Nothing else writes to standard output while a chat runs. Colours reach a terminal only, and NO_COLOR removes them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from ally_plugins.cli.shell.console import make_console
from ally_plugins.cli.shell.signals import ENDS, signals_handled
from ally_plugins.cli.shell.text import inert

from .event_lines import BAD, PLUGIN, QUIET, event_lines, thought_lines

if TYPE_CHECKING:
    import asyncio
    import signal

    from rich.console import Console

    from ally_plugins.contract.values.events import Event

__all__ = ["Screen"]

_GUTTER: Final = "  | "

_MAX_HELD: Final = 1000
"""Lines, or pieces of them, that wait while a question is open: some screens; the journal has all events."""


class Screen:
    """One terminal, or a file in its place; lives as long as the chat."""

    def __init__(self, console: Console | None = None) -> None:
        self.console: Final = console if console is not None else make_console()
        self.is_cut = False
        """Whether whoever read the output, at the other end of a pipe, has gone."""
        self._is_mid_line = False
        self._is_gone = False
        self._task: asyncio.Task[Any] | None = None
        self._held: deque[tuple[Text, str]] | None = None

    def stream(self, text: str) -> None:
        """Show a piece of the model's text, right after the one before."""
        if text:
            shown = inert(text, keep_lines=True)
            self._print(Text(shown), end="")
            self._is_mid_line = not shown.endswith("\n")

    def end_stream(self) -> None:
        """End the line that the model's text has left open."""
        if self._is_mid_line:
            self._print(Text())
            self._is_mid_line = False

    def show(self, lines: Iterable[Text | str]) -> None:
        """Show whole lines."""
        for line in lines:
            self.end_stream()
            self._print(line if isinstance(line, Text) else Text(line))

    def show_folded(self, lines: Iterable[Text]) -> None:
        """Show whole lines with texts of plugins: one longer than the terminal continues behind a bar."""
        if self.console.is_terminal:
            lines = [part for line in lines for part in _folded(line, self.console)]
        self.show(lines)

    def event(self, event: Event) -> None:
        """Show the lines of an event."""
        self.show_folded(event_lines(event))

    def thought(self, text: str) -> None:
        """Show the model's thinking."""
        self.show(thought_lines(text))

    def painted(self, lines: Iterable[str]) -> None:
        """Show lines of the commands, which carry their own colours and are inert already."""
        self.show(Text.from_ansi(line) for line in lines)

    def note(self, text: str) -> None:
        """Show a remark of this program."""
        self.show([Text(inert(text), QUIET)])

    def error(self, text: str) -> None:
        """Show an error."""
        self.show([Text(inert(text), BAD)])

    @contextmanager
    def held(self) -> Generator[None]:
        """Hold back output until the end of the context, so that a question stays right below what it is about."""
        held = self._held = deque(maxlen=_MAX_HELD)
        try:
            yield
        finally:
            self._held = None  # first, or `_print` would hold these back again
            if len(held) == _MAX_HELD:
                self._print(Text(f"only the last {_MAX_HELD} pieces of what came meanwhile are shown", QUIET))
            for text, end in held:
                self._print(text, end)

    def _print(self, text: Text, end: str = "\n") -> None:
        """Print, unless the terminal is gone: then events are in the journal only, and no reader of a pipe wants more.

        Whoever made the text, nothing in it acts on the terminal; rich takes out five control characters only.
        """
        if (plain := inert(text.plain, keep_lines=True)) != text.plain:
            text = Text(plain, text.style)
        if self._held is not None:
            self._held.append((text, end))
            return
        if self._is_gone:
            return
        try:
            # `soft_wrap`: the terminal breaks long lines, so that a copy of one is one line.
            self.console.print(text, end=end, soft_wrap=True)
        # Before OSError, which it is: a reader that has gone ends the chat, a terminal that has gone only its output.
        except BrokenPipeError:
            self.is_cut = True
            self._hang_up()
        except OSError:
            self._is_gone = True

    def _hang_up(self) -> None:
        self._is_gone = True
        if self._task is not None:
            self._task.cancel()

    @contextmanager
    def until_hung_up(self, task: asyncio.Task[Any] | None) -> Generator[None]:
        """Cancel the task, and print no more, on SIGHUP (the terminal is closed), SIGTERM, and a closed pipe."""

        def hang_up(_: signal.Signals) -> None:
            self._hang_up()

        self._task = task
        with signals_handled(hang_up, *ENDS):
            yield
        self._task = None


def _folded(line: Text, console: Console) -> list[Text]:
    """Break a line that is longer than the terminal is wide, whose rest would begin where lines of others do."""
    if line.cell_len <= console.width:
        return [line]
    first, *more = line.wrap(console, max(console.width - len(_GUTTER), 1), overflow="fold")
    return [first, *(Text.assemble((_GUTTER, PLUGIN), part) for part in more)]
