"""What a shortened conversation keeps, and that nothing of it is done a second time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic_ai import Agent
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import ModelAPIError
from pydantic_ai.messages import CompactionPart, ModelMessage, ModelResponse, UserPromptPart

from ally_plugins.cli.chat.compaction import ChatCompaction
from ally_plugins.cli.chat.offline.model import OfflineModel
from ally_plugins.cli.chat.tools.todos import Todos
from ally_plugins.contract.values.compat import override

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic_ai.models import ModelRequestContext
    from pydantic_ai.tools import RunContext


class Compacting(AbstractCapability[Any]):
    """Shortens the history before the requests that `is_due` picks, by how many messages there are."""

    def __init__(self, is_due: Callable[[int], bool]) -> None:
        super().__init__()
        self.is_due = is_due
        self.made: list[list[ModelMessage]] = []
        self.given: list[ModelMessage] = []

    @override
    async def before_model_request(
        self, ctx: RunContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        if not self.is_due(len(ctx.messages)):
            return request_context
        self.given = list(ctx.messages)
        self.made.append(await ChatCompaction().compact(list(ctx.messages), ctx))
        ctx.messages[:] = self.made[-1]
        return replace(request_context, messages=self.made[-1])


class Chat:
    """A conversation with the offline model, and what its tool `note` has been called with."""

    def __init__(self, model: OfflineModel | None = None) -> None:
        self.noted: list[str] = []
        self.history: list[ModelMessage] = []
        self.compacting = Compacting(lambda _: False)
        self.agent: Agent[None, str] = Agent(model or OfflineModel(), capabilities=[Todos(), self.compacting])
        self.agent.tool_plain(name="note")(self._note)

    def _note(self, text: str) -> str:
        self.noted.append(text)
        return "noted"

    def say(self, text: str) -> str:
        result = asyncio.run(self.agent.run(text, message_history=self.history))
        self.history = result.all_messages()
        return result.output


def note(text: str) -> str:
    return f'call note {{"text": "{text}"}}'


def test_what_was_asked_before_is_not_done_again_and_the_new_message_is() -> None:
    chat = Chat()
    for i in range(9):
        chat.say(note(f"old {i}"))
    chat.compacting.is_due = lambda count: len(chat.compacting.made) == 0 and count > 8
    chat.say(note("new"))
    chat.say("say bye")
    assert chat.noted == [*(f"old {i}" for i in range(9)), "new"]
    assert len(chat.compacting.made) == 1


def test_the_last_eight_messages_stay_as_they_are_behind_the_summary_of_the_others() -> None:
    chat = Chat()
    for i in range(9):
        chat.say(note(f"old {i}"))
    chat.compacting.is_due = lambda _: True
    chat.say("say hello")
    (made,) = chat.compacting.made
    assert made[-8:] == chat.compacting.given[-8:]
    (summary,) = [part for message in made[:-8] for part in message.parts]
    assert isinstance(summary, CompactionPart)


def test_a_long_turn_that_is_shortened_again_and_again_does_each_step_once() -> None:
    chat = Chat()
    for i in range(5):
        chat.say(note(f"old {i}"))
    chat.compacting.is_due = lambda count: count > 8
    chat.say("\n".join(note(f"step {i}") for i in range(12)))
    assert chat.noted == [*(f"old {i}" for i in range(5)), *(f"step {i}" for i in range(12))]
    assert len(chat.compacting.made) > 5


def test_of_a_turn_too_long_to_be_kept_the_persons_words_are_kept_and_no_step_is_done_twice() -> None:
    chat = Chat()
    wanted = "\n".join(note(f"step {i}") for i in range(40))
    chat.compacting.is_due = lambda count: count > 60
    said = chat.say(wanted)
    assert len(chat.noted) == len(set(chat.noted))
    assert "shortened amid this request" in said
    words = [part for message in chat.compacting.made[0] for part in message.parts if isinstance(part, UserPromptPart)]
    assert [part.content for part in words] == [wanted]
    assert chat.say(note("later")).endswith("noted")
    assert chat.noted[-1] == "later"


def test_todos_can_still_be_ticked_off_when_their_plan_was_summarised() -> None:
    chat = Chat()
    chat.say("plan sow; water; reap")
    for i in range(6):
        chat.say(note(f"old {i}"))
    chat.compacting.is_due = lambda _: len(chat.compacting.made) == 0
    chat.say("done sow")
    assert "no such todo" not in chat.say("done water")


def test_a_short_conversation_stays_as_it_is() -> None:
    chat = Chat()
    chat.say("say one")
    chat.compacting.is_due = lambda _: True
    chat.say("say two")
    assert chat.compacting.made[0] == chat.compacting.given


class Mute(OfflineModel):
    """Cannot be asked for a summary, for which alone it is asked without tools."""

    @override
    async def request(self, *args: Any) -> ModelResponse:
        if not args[-1].function_tools:
            raise ModelAPIError("offline", "no server")
        return await super().request(*args)


def test_without_a_summary_the_older_messages_are_dropped_and_nothing_is_done_again() -> None:
    chat = Chat(Mute())
    for i in range(9):
        chat.say(note(f"old {i}"))
    chat.compacting.is_due = lambda _: len(chat.compacting.made) == 0
    chat.say(note("new"))
    assert chat.compacting.made == [chat.compacting.given[-8:]]
    assert chat.noted == [*(f"old {i}" for i in range(9)), "new"]
