"""Answers of the model on their way to the person: what plugins make of them, and how long a stream is held for that.

An adapter gives each answer to `answered` before it is shown, kept or told of, and goes on with what that returns. How
an answer that was refused ends the run is the framework's own.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

from ally_plugins.contract.tools.returned import json_text
from ally_plugins.contract.values.conversation import Message
from ally_plugins.contract.values.errors import GateRefused, SessionError
from ally_plugins.contract.values.inert import inert

from .tool_calls import ToolCallRun

if TYPE_CHECKING:
    from ally_plugins.host.sessions.gates import AnswerHold, Ruling

__all__ = ["AnswerRefused", "AnswerRun", "HeldText"]

_SENTENCE_END: Final = re.compile("[.!?\u2026][)\\]\"'\u00bb\u201d\u2019]*(?=\\s)|[\u3002\uff01\uff1f]|\n")
"""Where a sentence ends in most scripts; one that is cut at an abbreviation costs a question more, and nothing else."""


class AnswerRefused(GateRefused):
    """Plugins withhold an answer of the model; the turn ends with it, and the model is not asked again.

    `shown` is what the person has seen of it by then; the text says whether it was withheld or cut.
    """

    def __init__(self, why: str, *, shown: str = "", plugin: str | None = None, decision_id: str | None = None) -> None:
        what = "cut here" if shown else "withheld"
        super().__init__(f"the answer was {what}: {why}", plugin=plugin, decision_id=decision_id)
        self.shown: Final = shown

    @property
    def kept(self) -> str:
        """What stands in the history in place of the answer: what was shown, and a line that says what happened."""
        notice = f"[{inert(str(self))}]"
        return f"{self.shown.rstrip()}\n{notice}" if self.shown else notice


@define(eq=False)
class AnswerRun(ToolCallRun):
    """One run of an agent, with what its model answers. `refusal` is set once an answer is withheld."""

    refusal: AnswerRefused | None = field(init=False, default=None)

    @property
    def answer_hold(self) -> AnswerHold | None:
        """How a stream is to be held, None where it need not be; look at the beginning of each response."""
        return self.live.session.answer_hold

    async def answered(self, content: str, *, is_structured: bool = False, shown: str = "") -> str:
        """Return a complete answer as transforms left it, once gates allow it to be shown and kept.

        An answer is text of the model, beside tool calls too, or the JSON of a structured output (`is_structured`).
        `shown` is the part of it that the person has seen. Raises AnswerRefused when it must be withheld; then end the
        turn, run none of the response's calls, and keep `error.kept` in its place; each later answer of the run is
        refused with it. Cancelling takes the question back; the answer must not be shown then.
        """
        session = self.live.session
        if self.refusal is not None:
            raise self.refusal
        if not content or not session.wants("answer"):
            return content
        message = self._answer(content, {"isStructured": True} if is_structured else {})
        try:
            message = await session.own_loop.run(session.transform_answer(message))
        except GateRefused as refusal:
            raise self.withheld(str(refusal), shown=shown, plugin=refusal.plugin) from None
        # The host was stopped meanwhile: what nobody can allow is withheld.
        except SessionError as error:
            raise self.withheld(str(error), shown=shown) from error
        await self._gate(message, shown)
        return message.content

    async def answered_data(self, data: Any) -> Any:
        """Return a structured output as transforms left its JSON, the same object where they left it. See `answered`.

        What JSON cannot say, and what a transform has left that is none, is withheld.
        """
        if self.refusal is None and not self.live.session.wants("answer"):
            return data
        try:
            given = json_text(data)
            after = await self.answered(given, is_structured=True)
            return data if after == given else json.loads(after)
        except (TypeError, ValueError, RecursionError) as error:
            raise self.withheld(f"it cannot be shown as JSON: {error}") from error

    def withheld(
        self, why: str, *, shown: str = "", plugin: str | None = None, decision_id: str | None = None
    ) -> AnswerRefused:
        """Return the refusal of an answer, with which the run must end; raise it."""
        self.refusal = AnswerRefused(why, shown=shown, plugin=plugin, decision_id=decision_id)
        return self.refusal

    async def answered_so_far(self, content: str, *, shown: str = "") -> None:
        """Ask gates about the text so far of an answer that is held by sentences. Raises AnswerRefused.

        Cancelling takes the question back; none of the text may be shown that was not before.
        """
        await self._gate(self._answer(content, {"isPartial": True}), shown)

    def _answer(self, content: str, about: dict[str, Any]) -> Message:
        agent_id = self.about.get("agent_id")
        metadata = about if agent_id is None else {**about, "agentId": agent_id}
        message_id = self.live.mirror.next_id if self.parent is None else f"{self.id}:answer"
        return Message(role="assistant", content=content, id=message_id, metadata=metadata)

    async def _gate(self, message: Message, shown: str) -> None:
        session = self.live.session
        try:
            ruling: Ruling = await session.own_loop.run(session.gate_answer(message))
        except SessionError as error:
            raise self.withheld(str(error), shown=shown) from error
        if ruling.is_denied:
            plugin = next(iter(ruling.decided_by), None)
            raise self.withheld(ruling.reason, shown=shown, plugin=plugin, decision_id=ruling.decision_id)


@define(eq=False)
class HeldText:
    """The text of one streamed answer that is held by sentences; lives as long as the response."""

    work: AnswerRun
    text: str = field(init=False, default="")
    _shown: int = field(init=False, default=0)

    @property
    def shown(self) -> str:
        """What may have been seen of it."""
        return self.text[: self._shown]

    async def feed(self, delta: str) -> str:
        """Take more of the text; return what may be shown now. Raises AnswerRefused; then the stream must end.

        Cancelling takes the question back, and shows nothing more.
        """
        self.text += delta
        # Up to the last sentence that is whole: one question for all that came at once.
        end = max((found.end() for found in _SENTENCE_END.finditer(self.text, self._shown)), default=0)
        if end <= self._shown or self.work.answer_hold == "whole":  # somebody has come meanwhile who sees it whole
            return ""
        # All of the text from its beginning: a gate may find something that spans sentences.
        await self.work.answered_so_far(self.text[:end], shown=self.shown)
        return self._show(end)

    async def feed_quietly(self, delta: str) -> str:
        """Do as `feed` does where the stream is read to its end whatever comes of it: once refused, nothing is shown.

        The run has its refusal then, and `answered` raises it.
        """
        with suppress(AnswerRefused):
            return await self.feed(delta) if self.work.refusal is None else ""
        return ""

    def left(self, whole: str) -> str:
        """Return what is left to show of the answer, which is complete and is this as `answered` left it.

        Raises AnswerRefused where that is not what was shown.
        """
        if not whole.startswith(self.shown):
            raise self.work.withheld("a transform has changed what was shown already", shown=self.shown)
        self.text = whole
        return self._show(len(whole))

    def _show(self, end: int) -> str:
        start, self._shown = self._shown, end
        return self.text[start:end]
