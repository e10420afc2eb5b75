"""One person and one open chat: the questions to the person, and what slash commands do to the chat.

Turns are run and events received in `chat_loop`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ally_plugins.contract.values.errors import ConsentError

from .event_lines import plugin_question_lines, question_lines
from .person_input import LineInput, Stopped, TerminalInput

if TYPE_CHECKING:
    from ally_plugins.contract.values.questions import PluginQuestion
    from ally_plugins.host.person.permission import PermissionQuestion

    from .opened_chat import OpenedChat
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
        """Whether the person wants to leave; the chat ends after the current turn or command."""
        self._opened: OpenedChat | None = None

    @property
    def opened(self) -> OpenedChat:
        """The conversation, once it is open."""
        if self._opened is None:
            raise RuntimeError("the chat has not begun")
        return self._opened

    def begin(self, opened: OpenedChat) -> None:
        """Set the chat, now that it is open."""
        self._opened = opened

    def leave(self) -> None:
        """End the chat after the current turn or command."""
        self.is_left = True

    def interrupt(self) -> bool:
        """Interrupt the turn that runs; return whether there was one."""
        opened = self.opened
        is_stopped = opened.plugins.interrupt(opened.session.id, "the person pressed Ctrl-C")
        # Both are stopped: `or` between the two calls would leave the second out.
        return opened.turns.interrupt() or is_stopped

    async def ask(self, question: str, answers: Sequence[str]) -> str:
        """Ask the person. The first answer is the default, without a person and after Ctrl-C.

        Raises ConsentError when the question could not be put. Cancelling takes the question away.
        """
        self.screen.end_stream()
        try:
            with self.screen.held():
                return await self.input.ask(question, answers)
        except Stopped:
            return answers[0]

    async def approve(self, question: PermissionQuestion) -> str:
        """Ask about a call that needs permission, and show who asks, why, and the arguments or the diff.

        Returns `allow`, `deny` or `always`, or the choice of a plugin's own question, empty for none of them; Ctrl-C is
        a no that also interrupts the turn. Cancelling takes the question away.
        """
        if question.plugin_question is not None:
            return await self._answer(question.plugin_question)
        self.screen.show_folded(question_lines(question))
        try:
            with self.screen.held():
                return _ANSWERS[await self.input.ask("may it?", tuple(_ANSWERS))]
        except Stopped:
            self.interrupt()
            return "deny"
        except ConsentError as error:
            self.screen.error(str(error))
            return "deny"

    async def _answer(self, question: PluginQuestion) -> str:
        """Ask by number: a plugin's choices may begin with any letters, and `yes` is the chat's own word."""
        self.screen.show_folded(plugin_question_lines(question))
        numbers = tuple(map(str, range(1, len(question.choices) + 1)))
        try:
            with self.screen.held():
                given = await self.input.ask("which?", ("none", *numbers))
        except Stopped:
            self.interrupt()
            return ""
        except ConsentError as error:
            self.screen.error(str(error))
            return ""
        return question.choices[int(given) - 1] if given in numbers else ""

    async def compact(self, focus: str | None) -> None:
        """Have the conversation compacted with the next request to the model. Raises AllyError.

        `focus` is what the summary should keep. After cancelling, the request may stand all the same.
        """
        opened = self.opened
        opened.compaction.focus = focus
        await opened.session.request_action("compact", {"reason": focus} if focus else None)
        self.screen.note("the conversation is shortened before the model is asked next")
