"""The turns of one conversation with the agent: running, interrupting, and saving them.

Showing them and asking the person is left to the callbacks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from attrs import frozen
from pydantic_ai import CancellationToken, capture_run_messages
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import RunCancelled
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    PartDeltaEvent,
    PartEndEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    UserPromptPart,
)

from ally_plugins.adapters.kit.answers import AnswerRefused
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import GateRefused

from .cut_answers import why_cut
from .error_texts import error_text

if TYPE_CHECKING:
    from pydantic_ai import Agent
    from pydantic_ai.messages import AgentStreamEvent
    from pydantic_ai.tools import RunContext

    from ally_plugins.contract.values.masking import MaskedStream, Secrets
    from ally_plugins.host.sessions.session import Session

    from .saved_history import Saver

__all__ = ["AgentTurns", "Ending", "HistoryWriter", "Turn"]

Ending: TypeAlias = Literal["done", "refused", "failed", "interrupted"]


@frozen
class Turn:
    """How a turn ended: with the agent's text, or with the reason why there is none, or only the beginning of one."""

    ending: Ending
    text: str = ""
    reason: str = ""


class HistoryWriter(AbstractCapability[Any]):
    """Has the history written after every step of the conversation, so that a crash loses a step at most."""

    def __init__(self, session_id: str, follow: Callable[[list[ModelMessage]], None]) -> None:
        super().__init__()
        self._session_id = session_id
        self._follow = follow

    @override
    async def after_node_run(self, ctx: RunContext[Any], *, node: Any, result: Any) -> Any:  # noqa: ARG002 - a hook
        """Write what the step has added."""
        if ctx.conversation_id == self._session_id:
            self._follow(ctx.messages)
        return result


class AgentTurns:
    """The turns of a conversation. Lives as long as its session is open, on the host's loop; one turn at a time."""

    def __init__(
        self,
        agent: Agent[None, str],
        session: Session,
        saver: Saver,
        keys: Secrets,
        *,
        history: list[ModelMessage] | None = None,
        on_text: Callable[[str], None],
        on_thought: Callable[[str], None],
    ) -> None:
        self.agent: Final = agent
        self.session: Final = session
        self.history: list[ModelMessage] = history or []
        self._saver: Final = saver
        self._keys: Final = keys
        self._writer: Final = HistoryWriter(session.id, partial(saver.follow, is_whole=False))
        self._on_text = on_text
        self._on_thought = on_thought
        self._running: CancellationToken | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a turn runs."""
        return self._running is not None

    def recent(self, count: int) -> list[tuple[str, str]]:
        """Return the last texts of the conversation, each with its speaker: user or assistant."""
        found: list[tuple[str, str]] = []
        for message in reversed(self.history):
            who = "assistant" if isinstance(message, ModelResponse) else "user"
            texts = [part for part in reversed(message.parts) if isinstance(part, (TextPart, UserPromptPart))]
            found += [(who, text) for part in texts if (text := text_of_content(part.content))]
            if len(found) >= count:
                break
        # The last message may have several texts, so that there are more than `count`.
        return found[count - 1 :: -1] if len(found) >= count else found[::-1]

    async def wait_for_wake(self) -> None:
        """Wait until a plugin with the grant triggers a turn; then call `run(None)`. Cancelling loses no trigger."""
        await self.session.wait_for_trigger()

    async def run(self, prompt: str | None) -> Turn:
        """Run a turn with the person's message, or None when a plugin triggered it. Raises nothing but CancelledError.

        Cancelling it, or `interrupt`, stops tools and leaves a history that the model accepts.
        """
        # Before the run: events, hooks and the journal get the text that the model gets.
        text = self._keys.masked(prompt) if prompt is not None else None
        token = self._running = CancellationToken()
        with capture_run_messages() as captured:
            try:
                result = await self.agent.run(
                    text,
                    message_history=self.history,
                    conversation_id=self.session.id,
                    event_stream_handler=self._stream,
                    cancellation_token=token,
                    capabilities=[self._writer],
                )
            except RunCancelled as stopped:
                # Calls without a result may be among them: the framework answers these as interrupted in the next turn.
                self._keep(stopped.all_messages() or self.history)
                return Turn("interrupted", reason="interrupted")
            except asyncio.CancelledError as stopped:
                self._keep_cancelled(stopped, captured)
                raise
            except GateRefused as refused:
                # Empty when the run was refused before its first message: the history is as it was.
                self._keep(captured or self.history)
                text = str(refused) if isinstance(refused, AnswerRefused) else f"not sent: {refused}"
                return Turn("refused", reason=self._keys.masked(text))
            except Exception as error:  # noqa: BLE001 - whatever the model, the network or a tool did
                self._keep(captured or self.history)
                return Turn("failed", reason=self._keys.masked(error_text(error)))
            else:
                self._keep(result.all_messages())
                if (why := why_cut(self.history)) is not None:
                    return Turn("failed", text=result.output, reason=f"the answer was cut off: {why}; say how to go on")
                return Turn("done", text=result.output)
            finally:
                self._running = None

    def _keep_cancelled(self, stopped: BaseException, captured: list[ModelMessage]) -> None:
        found = RunCancelled.from_cancellation(stopped)
        self._keep((found.all_messages() if found is not None else captured) or self.history)

    def _keep(self, messages: list[ModelMessage]) -> None:
        self.history = messages
        self._saver.follow(messages)

    def interrupt(self) -> bool:
        """Stop the turn that runs, which then ends as `interrupted`; return whether there was one."""
        if self._running is None:
            return False
        self._running.cancel()
        return True

    async def _stream(self, ctx: RunContext[Any], stream: AsyncIterable[AgentStreamEvent]) -> None:
        is_main = ctx.conversation_id == self.session.id
        masked = self._keys.stream()
        try:
            async for event in stream:
                if is_main:
                    self._show(event, masked)
        finally:
            # The masking holds back what may be the beginning of a key, also where the stream ends with an error.
            if rest := masked.rest():
                self._on_text(rest)

    def _show(self, event: AgentStreamEvent, masked: MaskedStream) -> None:
        if text := _text_of(event):
            if text := masked.feed(text):
                self._on_text(text)
        elif isinstance(event, PartEndEvent):
            if rest := masked.rest():
                self._on_text(rest)
            if isinstance(event.part, ThinkingPart):
                self._on_thought(self._keys.masked(event.part.content))


def text_of_content(content: Any) -> str:
    """Return the text of a part's content, without images and other media."""
    if isinstance(content, str):
        return content
    texts = (item if isinstance(item, str) else getattr(item, "content", "") for item in content)
    return "\n".join(text for text in texts if isinstance(text, str))


def _text_of(event: Any) -> str:
    if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart):
        return event.part.content
    if isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
        return event.delta.content_delta
    return ""
