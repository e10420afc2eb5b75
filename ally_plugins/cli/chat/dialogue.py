"""One person and one open conversation: what is shown and asked, and what the person may have done to it.

The slash commands work on it. What runs turns and listens to events is `chatting`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ally_plugins.contract.values.errors import ConsentError

from .lines import question_lines
from .prompting import LineInput, Stopped, TerminalInput

if TYPE_CHECKING:
    from ally_plugins.adapters.kit.permission import PermissionQuestion

    from .opening import Opened
    from .screen import Screen

__all__ = ["Dialogue"]

_ANSWERS: Final = {"no": "deny", "yes": "allow", "always": "always"}


class Dialogue:
    """A screen, an input, and the conversation once it is open. It lives as long as the chat."""

    def __init__(self, screen: Screen, source: TerminalInput | LineInput) -> None:
        self.screen: Final = screen
        self.input: Final = source
        self.last_of_plugin: str | None = None
        """The id of the last thing that a plugin did, for `/why`."""
        self.is_left = False
        """Whether the person wants to leave; the chat ends after what it is doing."""
        self._opened: Opened | None = None

    @property
    def opened(self) -> Opened:
        """The conversation, once it is open."""
        if self._opened is None:
            raise RuntimeError("the chat has not begun")
        return self._opened

    def begin(self, opened: Opened) -> None:
        """Take the conversation that is open now."""
        self._opened = opened

    def leave(self) -> None:
        """End the chat after what it is doing."""
        self.is_left = True

    def interrupt(self) -> bool:
        """Stop the turn that runs; say whether there was one to stop."""
        opened = self.opened
        is_stopped = opened.plugins.interrupt(opened.session.id, "the person pressed Ctrl-C")
        return opened.talk.interrupt() or is_stopped

    async def ask(self, question: str, answers: Sequence[str]) -> str:
        """Ask the person; the first answer counts where there is none, and after Ctrl-C."""
        self.screen.end_stream()
        try:
            with self.screen.held():
                return await self.input.ask(question, answers)
        except Stopped:
            return answers[0]

    async def approve(self, question: PermissionQuestion) -> str:
        """Ask about a call that needs permission: shown are who asks, why, and what exactly would happen."""
        self.screen.show_said(question_lines(question))
        try:
            with self.screen.held():
                return _ANSWERS[await self.input.ask("may it?", tuple(_ANSWERS))]
        except Stopped:
            self.interrupt()
            return "deny"
        except ConsentError as error:
            self.screen.error(str(error))
            return "deny"

    async def compact(self, focus: str | None) -> None:
        """Have the conversation shortened with the next request to the model. Raises AllyError."""
        opened = self.opened
        opened.shortening.focus = focus
        await opened.session.request_action("compact", {"reason": focus} if focus else None)
        self.screen.note("the conversation is shortened before the model is asked next")
