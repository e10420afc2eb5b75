"""The offline model of the checks: it answers by a script, and keeps its requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

from attrs import define, field, frozen

from ally_plugins.contract.values.conversation import Message, ToolCall
from ally_plugins.contract.values.frozen import EMPTY, FrozenDict, freeze_mapping

__all__ = ["Answer", "Asked", "RawCall", "Script", "calls"]

DONE: Final = "done"
"""The model's answer once its script is used up, so that every run ends."""


@frozen(kw_only=True)
class Answer:
    """One answer of the model: words, a thought before them, tool calls; or an error instead. Counts are tokens.

    A call has `tool_name`, `arguments` and `call_id`; give the framework the arguments as they are.
    """

    text: str = ""
    thinking: str = ""
    calls: tuple[ToolCall | RawCall, ...] = ()
    error: Exception | None = None
    input_tokens: int = 100
    output_tokens: int = 10


@frozen(kw_only=True)
class Asked:
    """One request as it reached the model, after all that adapter and plugins did to it.

    `messages` are in order, with the roles `system`, `user`, `assistant` and `tool`; an assistant's message holds its
    calls, a tool's the id of the call that it answers. `tools` are the schemas of the arguments by the tool's name.
    """

    messages: tuple[Message, ...]
    tools: Mapping[str, Any] = field(default=EMPTY)
    settings: FrozenDict = field(default=EMPTY, converter=freeze_mapping)

    @property
    def text(self) -> str:
        """The texts of all messages, to search in."""
        return "\n".join(message.content for message in self.messages)

    @property
    def system(self) -> str:
        """The system prompt."""
        return "\n".join(message.content for message in self.messages if message.role == "system")

    def result_of(self, call_id: str) -> str | None:
        """Return the result of a call in this request, None when there is none."""
        found = (message.content for message in self.messages if message.tool_call_id == call_id)
        return next(found, None)


@frozen
class RawCall:
    """A call of the model with unchecked arguments, which a `ToolCall` may not have (NaN, too deep)."""

    tool_name: str
    arguments: Mapping[str, Any]
    call_id: str


Step: TypeAlias = str | Answer | Callable[[Asked], "str | Answer"]
"""What the model does next: a text, an answer, or a function from the request to one of them."""


def _steps(steps: Iterable[Step]) -> list[Step]:
    return list(steps)


@define(eq=False)
class Script:
    """A model that answers one step a request; it lives as long as one check, and serves any number of runs.

    `window` is its context window in tokens.
    """

    steps: list[Step] = field(converter=_steps)
    window: int = 1_000
    asked: list[Asked] = field(init=False, factory=list)

    def answer(self, request: Asked) -> Answer:
        """Return the next answer; the driver's model calls it once for each request. Raises what a step says."""
        self.asked.append(request)
        step = self.steps.pop(0) if self.steps else DONE
        if callable(step):
            step = step(request)
        answer = Answer(text=step) if isinstance(step, str) else step
        if answer.error is not None:
            raise answer.error
        return answer


def calls(*wanted: tuple[str, str, str]) -> Answer:
    """Return an answer that calls tools, all at once: each the id, the tool's name and its one argument `text`."""
    made = tuple(ToolCall(name, freeze_mapping({"text": text}), call_id) for call_id, name, text in wanted)
    return Answer(calls=made)
