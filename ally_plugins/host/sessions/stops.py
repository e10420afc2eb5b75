"""The ends of one session's turns: gates that send the agent on, and how often they may.

A deny is a message of the plugin's in the conversation: accepted and on disk like any other, and due at the next step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import attrs

from ally_plugins.contract.values.conversation import plugin_metadata
from ally_plugins.contract.values.errors import JournalError
from ally_plugins.contract.values.ids import new_id
from ally_plugins.contract.values.verdicts import Allow, Ask, Deny
from ally_plugins.journal.values import PendingMessage

from .inbox import Waiting

if TYPE_CHECKING:
    from ally_plugins.contract.values.conversation import Stop
    from ally_plugins.journal.journal import Journal

    from .gates import Ruling, SessionGates

__all__ = ["MAX_SENT_ON", "Stops"]

MAX_SENT_ON: Final = 3
"""How often in a row, without a tool call between, gates may send the agent on (design.md, section 3).

What it has not understood three times it does not understand the fourth time, and each costs a model request.
"""


class Stops:
    """Asks gates about the ends of a session's turns, and counts. It lives as long as the session."""

    def __init__(
        self,
        session_id: str,
        gates: SessionGates,
        journal: Callable[[], Journal],
        *,
        enqueue: Callable[[Waiting], None],
        now_ms: Callable[[], int],
    ) -> None:
        self._session_id = session_id
        self._gates = gates
        self._journal = journal
        self._enqueue = enqueue
        self._now_ms = now_ms
        self._in_turn = 0
        self.in_row = 0
        """How often gates have sent the agent on since its last tool call."""

    def begin_turn(self) -> None:
        """Count from the beginning: another turn has begun."""
        self._in_turn = self.in_row = 0

    def step(self) -> None:
        """Let gates send the agent on again: it has called a tool."""
        self.in_row = 0

    async def ask(self, stop: Stop, origin: tuple[str, ...]) -> Ruling:
        """Ask whether the agent may end its turn; a deny has queued the reasons as messages of those that gave them.

        The end is allowed at the limit, and where no plugin refuses it by itself: what cannot be shown to gates, or
        recorded, is no reason to go on. Cancelling takes the question back, or leaves the messages to the next safe
        point.
        """
        if self.in_row >= MAX_SENT_ON:
            text = (
                f"plugins have sent the agent on {MAX_SENT_ON} times in a row without a tool call; the turn ends here"
            )
            return await self._gates.allow_stop(stop, text, origin)
        ruling = await self._gates.gate_stop(attrs.evolve(stop, sent_on=self._in_turn), origin)
        if not ruling.is_denied:
            return ruling
        reasons = list(_refusals(ruling))
        if not reasons:  # nobody could be shown it, or nothing can be recorded
            return attrs.evolve(ruling, verdict=Allow())
        try:
            for plugin, reason in reasons:
                await self._accept(self._message_of(plugin, reason, origin), ruling)
        except JournalError as error:
            return attrs.evolve(ruling, verdict=Allow(), reason=f"the agent cannot be sent on: {error}")
        # Not before all is on disk: an end that stands all the same does not count.
        self._in_turn += 1
        self.in_row += 1
        return ruling

    def _message_of(self, plugin: str, reason: str, origin: tuple[str, ...]) -> Waiting:
        # Once for each plugin: what is sent on thrice is not a chain of three that set each other off.
        chain = origin if plugin in origin else (*origin, plugin)
        about = plugin_metadata(plugin, chain)
        return Waiting(new_id("m"), "user", reason, about, self._now_ms(), plugin, chain, "steer")

    async def _accept(self, waiting: Waiting, ruling: Ruling) -> None:
        """Have the message on disk before it waits. Raises JournalError."""
        body = {
            "role": waiting.role,
            "content": waiting.content,
            "metadata": waiting.metadata,
            "permission": "gate:stop",
            "decision": ruling.decision_id,
        }
        pending = PendingMessage(
            waiting.id,
            self._session_id,
            waiting.plugin,
            waiting.timestamp,
            waiting.role,
            waiting.deliver_as,
            waiting.trigger_turn,
            body,
        )
        waiting.offset = await self._journal().accept(pending)
        self._enqueue(waiting)


def _refusals(ruling: Ruling) -> Iterator[tuple[str, str]]:
    """Yield each plugin that refuses, and its reason."""
    for vote in ruling.votes:
        if vote.plugin in ruling.decided_by and isinstance(vote.verdict, (Ask, Deny)):
            yield vote.plugin, vote.verdict.reason
