"""The person's input: a terminal with a line editor, or lines of a pipe."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from ally_plugins.cli.shell.questions import DISCARDED, answer_choices, parse_answer, wrong_answer_text
from ally_plugins.cli.shell.text import is_terminal
from ally_plugins.cli.shell.typeahead import discard, pauses
from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.journal.owned_files import open_file
from ally_plugins.runtime.lanes.thread import Worker

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

    from .kept_history import KeptHistory

__all__ = ["Leave", "LineInput", "PersonInput", "Stopped", "TerminalInput", "Woken", "make_input"]

_LONGEST: Final = 1024 * 1024
"""Characters of one message; what is longer is a file, and can be read as one."""


class Woken(Exception):
    """A plugin woke the agent while the prompt was open: run a turn without a message, then read again."""


class Stopped(Exception):
    """Ctrl-C; `was_empty` is whether there was nothing on the line."""

    def __init__(self, *, was_empty: bool) -> None:
        super().__init__("Ctrl-C")
        self.was_empty = was_empty


class Leave(Exception):
    """Ctrl-D, or the end of the input."""


class PersonInput(Protocol):
    """The interface of an input. `is_terminal` is whether a person can answer questions."""

    is_terminal: bool

    async def read(self, woken: Awaitable[object]) -> str:
        """Return the person's next message. Raises Woken when `woken` is done first, Stopped and Leave.

        Cancelling keeps nothing of a line in a terminal; a line of a pipe is returned by the next call.
        """
        ...

    async def ask(self, question: str, answers: Sequence[str]) -> str:
        """Return one of the answers: the word or its first letter. The first is the default at the end of input.

        Raises Stopped, and ConsentError when the question could not be put. Cancelling takes the question away.
        """
        ...

    def open(self) -> Any:
        """Return the asynchronous context in which it works."""
        ...

    def keep(self, text: str) -> None:
        """Take what plugins left of the message that was read last, which is what may be kept of it."""
        ...

    @property
    def draft(self) -> str:
        """What the person had typed when `read` raised Woken; the next prompt begins with it."""
        ...


class TerminalInput:
    """A terminal: history, several lines (Alt-Enter, or pasted), wide characters. What is printed comes above it."""

    is_terminal = True

    def __init__(self, history_file: Path, words: Sequence[str]) -> None:
        self._history_file: Final = history_file
        self._words: Final = words
        self._session: PromptSession[str] | None = None
        self._file: KeptHistory | None = None
        self.draft = ""

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Open the line editor."""
        self._session = self._make()
        yield

    def _make(self) -> PromptSession[str]:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.shortcuts import CompleteStyle

        from .kept_history import KeptHistory

        self._history_file.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Checked, and made for its owner only: the library would open whatever is there, or make it by the umask.
            os.close(open_file(self._history_file, os.O_CREAT | os.O_RDWR))
        except OSError as error:
            file = str(self._history_file)
            raise ConfigError(f"{file} cannot be used: {error.strerror or error}", file=file) from error
        self._file = KeptHistory(str(self._history_file))
        return PromptSession(
            history=self._file,
            completer=WordCompleter(list(self._words), sentence=True),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            # No menu, so no room for one: eight lines would stay empty below the prompt.
            reserve_space_for_menu=0,
            key_bindings=_keys(),
            prompt_continuation="  ",
            enable_open_in_editor=False,
        )

    def keep(self, text: str) -> None:
        """Write the line to the history file, as plugins left it."""
        if self._file is not None:
            self._file.keep(text)

    async def read(self, woken: Awaitable[object]) -> str:
        """Return what the person typed; when a plugin wakes the agent meanwhile, it is kept as the draft."""
        session = self._session
        if session is None:
            raise Leave
        waiting = asyncio.ensure_future(woken)
        reading = asyncio.ensure_future(_prompt(session, "> ", default=self.draft))
        self.draft = ""
        try:
            await asyncio.wait([waiting, reading], return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                self.draft = session.default_buffer.text
                session.app.exit(exception=Woken())
            return (await reading)[:_LONGEST]
        except EOFError:
            raise Leave from None
        finally:
            waiting.cancel()
            if not reading.done():
                reading.cancel()

    async def ask(self, question: str, answers: Sequence[str]) -> str:
        """Ask until one of the answers is given. Only what is typed after the question was shown can be one."""
        from prompt_toolkit import PromptSession
        from prompt_toolkit.input import create_input
        from prompt_toolkit.input.typeahead import get_typeahead

        # a reader of its own: the one of the message may be in the middle of what was pasted
        keys = create_input()
        session: PromptSession[str] = PromptSession(key_bindings=_keys(), input=keys)
        before = ""
        while True:
            was_typed = bool(get_typeahead(keys))  # what the editor had read beyond the line that ended it
            with closing(pauses(keys.fileno())) as waiting:
                for pause in waiting:
                    was_typed = True
                    await asyncio.sleep(pause)
            before += f"({DISCARDED})\n" if was_typed else ""
            try:
                given = await _prompt(
                    session, f"{before}{question} {answer_choices(answers)} ", pre_run=partial(discard, keys.fileno())
                )
            except EOFError:
                return answers[0]
            if (answer := parse_answer(given, answers)) is not None:
                return answer
            before = f"{wrong_answer_text(given, answers)}\n"


async def _prompt(session: PromptSession[str], text: str, **options: Any) -> str:
    """Read a line; what is printed meanwhile appears above it. Not for a whole turn: it holds back incomplete lines."""
    from prompt_toolkit.patch_stdout import patch_stdout

    with patch_stdout(raw=True):
        return await session.prompt_async(text, handle_sigint=False, **options)


def _keys() -> Any:
    from prompt_toolkit.key_binding import KeyBindings

    bindings = KeyBindings()

    @bindings.add("escape", "enter")  # not Ctrl-J: that is what Enter becomes when it is pressed before we read
    def _(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    @bindings.add("c-c")  # the library's own way is a KeyboardInterrupt, which would end the loop that we run on
    def _(event: Any) -> None:
        event.app.exit(exception=Stopped(was_empty=not event.current_buffer.text))

    return bindings


class LineInput:
    """A pipe or a file: a message a line, and one that ends in a backslash goes on in the next. Nobody can be asked."""

    is_terminal = False
    draft = ""

    def __init__(self) -> None:
        self._worker: Final = Worker("ally-chat-input")  # a daemon thread: an open pipe does not keep the program alive
        self._reading: asyncio.Future[str] | None = None
        self._kept: list[str] = []

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """There is nothing to open."""
        try:
            yield
        finally:
            self._worker.close()

    def keep(self, text: str) -> None:
        """Keep nothing: whoever writes lines into a pipe has them."""

    async def read(self, woken: Awaitable[object]) -> str:
        """Return the next message. A plugin that wakes the agent comes first; the line is read on afterwards."""
        waiting: asyncio.Future[Any] = asyncio.ensure_future(woken)
        try:
            while True:
                # A line that is being read outlives the call that Woken ends: a thread in `readline` cannot be stopped.
                if self._reading is None:
                    self._reading = asyncio.ensure_future(self._worker.run(lambda: sys.stdin.readline(_LONGEST)))
                await asyncio.wait([waiting, self._reading], return_when=asyncio.FIRST_COMPLETED)
                if not self._reading.done():
                    raise Woken
                line, self._reading = self._reading.result(), None
                if (message := self._taken(line)) is not None:
                    return message
        finally:
            waiting.cancel()

    def _taken(self, line: str) -> str | None:
        if not line and not self._kept:
            raise Leave
        text = line.rstrip("\r\n")
        if text.endswith("\\") and line:
            self._kept.append(text[:-1])
            return None
        message = "\n".join([*self._kept, text])
        self._kept = []
        return message

    async def ask(self, question: str, answers: Sequence[str]) -> str:  # noqa: ARG002 - as a terminal is asked
        """Return the first answer: nobody is there."""
        return answers[0]


def make_input(home_path: Path, words: Sequence[str]) -> TerminalInput | LineInput:
    """Return a line editor where stdin and stdout are terminals, else the lines of stdin."""
    if is_terminal("stdin") and is_terminal("stdout"):
        return TerminalInput(home_path / "chat-history", words)
    return LineInput()
