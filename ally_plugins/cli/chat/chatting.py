"""The chat: it reads what the person says, runs turns, shows what happens, and asks before what is dangerous."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Final

from ally_plugins.cli.shell.ending import signals_handled
from ally_plugins.cli.shell.text import inert
from ally_plugins.contract.values import events
from ally_plugins.contract.values.compat import override

from .lines import question_lines, said_line
from .plugin_words import switch
from .prompting import Leave, LineInput, Stopped, TerminalInput, Woken
from .slash import run_slash

if TYPE_CHECKING:
    from ally_plugins.adapters.kit.permission import PermissionQuestion
    from ally_plugins.contract.values.events import Event
    from ally_plugins.host.host import Host

    from .opening import Opened
    from .screen import Screen
    from .talking import Turn

__all__ = ["Chat", "logs_on"]

_SHOWN_OF_OLD: Final = 6
"""Messages of a resumed session that are shown: enough to know where one was."""
_ANSWERS: Final = {"no": "deny", "yes": "allow", "always": "always"}


class Chat:
    """One chat at one terminal. It lives from `run`'s beginning to its end."""

    def __init__(self, screen: Screen, source: TerminalInput | LineInput) -> None:
        self.screen: Final = screen
        self.input: Final = source
        self.last_of_plugin: str | None = None
        """The id of the last thing that a plugin did, for `/why`."""
        self._opened: Opened | None = None
        self._leaves = self._wants_to_leave = False
        self._turning: asyncio.Future[Turn] | None = None
        self._presses = 0
        self._thread: Final = threading.get_ident()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def opened(self) -> Opened:
        """The conversation, once it is open."""
        if self._opened is None:
            raise RuntimeError("the chat has not begun")
        return self._opened

    def leave(self) -> None:
        """End the chat after what it is doing."""
        self._leaves = True

    def listen(self, host: Host) -> None:
        """Show what the host's sessions tell."""
        self._loop = asyncio.get_running_loop()
        host.stream.subscribe("*", self._hear)

    async def run(self, opened: Opened) -> None:
        """Talk until the person leaves."""
        self._opened = opened
        if opened.is_resumed:
            self._show_old()
        async with self.input.open():
            with self._interruptible():
                await self._talk(opened)

    async def _talk(self, opened: Opened) -> None:
        while not self._leaves:
            try:
                text = await self.input.read(opened.talk.wait_for_wake())
            except Woken:
                await self._turn(None)
            except Stopped as stopped:
                self._stopped(stopped)
            except Leave:
                await self._last_turn()
                return
            else:
                await self._take(text)

    def _show_old(self) -> None:
        self.screen.show(said_line(who, text) for who, text in self.opened.talk.recent(_SHOWN_OF_OLD))

    def _stopped(self, stopped: Stopped) -> None:
        if not stopped.was_empty:
            self._wants_to_leave = False
            return
        if self._wants_to_leave:
            self._leaves = True
            return
        self._wants_to_leave = True
        self.screen.note("Ctrl-C once more leaves, and so does Ctrl-D")

    async def _last_turn(self) -> None:
        """Let a plugin that has woken the agent have its turn, where the input has ended."""
        if not self.input.is_terminal and self.opened.session.triggered.is_set():
            await self._turn(None)

    async def _take(self, text: str) -> None:
        self._wants_to_leave = False
        if not text.strip():
            return
        if not self.input.is_terminal:
            self.screen.show([f"> {inert(line)}" for line in text.splitlines()])
        if text.lstrip().startswith("/"):
            await run_slash(self, text.strip())
        elif not switch(self, text):
            await self._turn(text)

    # --- turns ---

    async def _turn(self, prompt: str | None) -> None:
        """Run a turn; Ctrl-C stops it, and the chat goes on."""
        talk = self.opened.talk
        self.opened.title(prompt)
        self._turning, self._presses = asyncio.ensure_future(talk.turn(prompt)), 0
        try:
            turn = await self._turning
        except asyncio.CancelledError:
            program = asyncio.current_task()
            if program is not None and program.cancelling():  # it is the program that ends
                self._turning.cancel()
                raise
            self.screen.note("stopped")
            return
        finally:
            self._turning = None
        self._end(turn)

    def _end(self, turn: Turn) -> None:
        self.screen.end_stream()
        if turn.ending == "interrupted":
            self.screen.note("stopped")
        elif turn.ending == "refused":
            self.screen.error(f"not sent: {turn.reason}")
        elif turn.ending == "failed":
            self.screen.error(turn.reason)

    def _interruptible(self) -> AbstractContextManager[None]:
        """Have Ctrl-C stop the turn, the second time whatever it is doing; it never ends the program at a terminal.

        At the prompt it is a key, which the line editor reads. Over a pipe it ends the program between turns.
        """
        program = asyncio.current_task()
        return signals_handled(lambda _: self._pressed(program), signal.SIGINT)

    def _pressed(self, program: asyncio.Task[None] | None) -> None:
        self._presses += 1
        if self._turning is not None:
            if self._presses > 1 or not self.interrupt():
                self._turning.cancel()
        elif not self.input.is_terminal and program is not None:
            program.cancel()

    def interrupt(self) -> bool:
        """Stop the turn that runs; say whether there was one to stop."""
        opened = self.opened
        told = opened.plugins.interrupt(opened.session.id, "the person pressed Ctrl-C")
        return opened.talk.interrupt() or told

    # --- asking ---

    async def ask(self, question: str, answers: Sequence[str]) -> str:
        """Ask the person; the first answer counts where there is none, and after Ctrl-C."""
        self.screen.end_stream()
        try:
            return await self.input.ask(question, answers)
        except Stopped:
            return answers[0]

    async def approve(self, question: PermissionQuestion) -> str:
        """Ask about a call that needs permission: shown are who asks, why, and what exactly would happen."""
        self.screen.show(question_lines(question))
        try:
            return _ANSWERS[await self.input.ask("may it?", tuple(_ANSWERS))]
        except Stopped:
            self.interrupt()
            return "deny"

    async def compact(self, focus: str | None) -> None:
        """Have the conversation shortened with the next request to the model. Raises AllyError."""
        opened = self.opened
        opened.shortening.focus = focus
        await opened.session.request_action("compact", {"reason": focus} if focus else None)
        self.screen.note("the conversation is shortened before the model is asked next")

    # --- showing ---

    def _hear(self, event: Event) -> None:
        """Show an event; they may come from any thread."""
        if threading.get_ident() == self._thread:
            self._show(event)
        elif self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._show, event)

    def _show(self, event: Event) -> None:
        if (id_ := _plugin_thing(event)) is not None:
            self.last_of_plugin = id_
        self.screen.event(event)


def _plugin_thing(event: Event) -> str | None:
    """Return the id under which the journal explains what a plugin has done, None when it has done nothing."""
    if isinstance(event, events.Decision):
        return event.decision_id if event.decided_by else None
    if isinstance(event, events.PluginMessageReceived):
        return str(event.message.get("id"))
    if isinstance(event, events.TaskProgress):
        return event.task_id
    if isinstance(event, events.PluginEvent):
        return event.id
    return None


class ScreenLog(logging.Handler):
    """Shows what the package logs as lines of the chat, so that they do not tear the prompt apart."""

    def __init__(self, screen: Screen, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(logging.WARNING)
        self._screen = screen
        self._loop = loop

    @override
    def emit(self, record: logging.LogRecord) -> None:
        text = f"{record.levelname.lower()}: {record.getMessage()}"
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._screen.note, text)


@contextmanager
def logs_on(screen: Screen) -> Generator[None]:
    """Show the package's log on the screen meanwhile."""
    logger = logging.getLogger("ally_plugins")
    handler = ScreenLog(screen, asyncio.get_running_loop())
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before
