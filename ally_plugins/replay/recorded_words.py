"""What person and model said in a recording: transforms change it, and gates say what they would have done.

What a gate denies stands all the same, and an agent that it would have sent on has stopped: the recording has happened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, evolve, field

from ally_plugins.contract.values.conversation import Message, Stop
from ally_plugins.contract.values.errors import GateRefused

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ally_plugins.host.sessions.session import Session  # noqa: TC004 - nobody reads these annotations at run time

__all__ = ["RecordedWords"]


@define(eq=False)
class RecordedWords:
    """The words of one recording; lives as long as its player."""

    session: Session
    _answers: dict[str | None, tuple[str, str]] = field(init=False, factory=dict)
    """The last answer of each agent, as it was recorded and as transforms left it; None is the main agent."""

    async def person(self, message: Message) -> Message:
        """Return the person's message as transforms leave it, once its gates have been asked.

        Cancelling cancels the hook that runs.
        """
        self._answers.pop(None, None)
        if self.session.wants("user_message"):
            message = await self._transformed(self.session.transform_user_message(message), message)
            await self.session.gate_user_message(message)
        return message

    async def answer(self, message: Message, agent_id: str | None) -> Message:
        """Return an answer of the model as transforms leave it, once its gates have been asked.

        Cancelling cancels the hook that runs.
        """
        recorded = message.content
        if recorded and self.session.wants("answer"):
            about = {"agentId": agent_id} if agent_id is not None else {}
            # As a live host shows it: a sub-agent's answer names its agent.
            shown = evolve(message, metadata=about)
            message = await self._transformed(self.session.transform_answer(shown), shown)
            await self.session.gate_answer(message)
        self._answers[agent_id] = (recorded, message.content)
        return message

    def result(self, agent_id: str, recorded: str) -> str:
        """Return what a sub-agent returned, as transforms left it where it was its answer."""
        before, after = self._answers.pop(agent_id, ("", ""))
        return after if before and before.strip() == recorded.strip() else recorded

    def go_on(self) -> None:
        """Take note that the main agent does not end its turn with its answer: it calls a tool, or is stopped."""
        self._answers.pop(None, None)

    async def stop(self) -> None:
        """Ask gates whether the turn might have ended, where it did so with an answer; cancelling cancels the gates."""
        answer = self._answers.pop(None, None)
        if answer is not None and self.session.wants("stop"):
            await self.session.gates.gate_stop(Stop(answer=answer[1]), self.session.origin)

    async def _transformed(self, changing: Awaitable[Message], message: Message) -> Message:
        try:
            return await changing
        except GateRefused as refusal:
            return evolve(message, content=f"[withheld: {refusal}]")
