"""A message history as the offline model needs it: the person's request, the steps done, the results since."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from attrs import field, frozen
from pydantic_ai.messages import (
    CompactionPart,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextContent,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)

__all__ = ["HistoryView", "Result", "call_numbers", "persons_text", "text_of", "texts_of_part", "view_history"]

CALL_ID: Final = re.compile(r"call-(\d{1,9})\Z")
_PLUGIN: Final = re.compile(r"\[plugin ([a-z0-9_-]{1,128})\](?: |\n|\Z)")
_REMINDER: Final = re.compile(r"<todos>\n.*</todos>\Z", re.DOTALL)  # what `Todos` adds to a request
_PLANNED: Final = re.compile(r"(?m)^\[([ ~x])\] (.*)$")
_STATUSES: Final = {" ": "pending", "~": "in_progress", "x": "completed"}
_NOT_RUN: Final = ("not run:", "the output is withheld:")


@frozen
class Result:
    """The result of a tool call."""

    tool: str
    text: str
    is_good: bool
    is_refused: bool = False
    """Whether the call was denied: trying again is no use."""


@frozen
class HistoryView:
    """What matters of a history, for one answer.

    `steps_done` counts the steps of the person's last message that were called, `is_fresh` is whether nothing was
    answered to it yet, `is_over` whether the answer has ended, `is_cut` whether some of its steps were summarised, so
    that nobody knows which are done. `results` and `plugin_texts` (name and text) are new
    since the last response.
    """

    person: str = ""
    steps_done: int = 0
    is_fresh: bool = False
    is_over: bool = False
    is_cut: bool = False
    results: tuple[Result, ...] = ()
    plugin_texts: tuple[tuple[str, str], ...] = ()
    todos: tuple[Mapping[str, Any], ...] = field(default=())


def view_history(messages: Sequence[ModelMessage]) -> HistoryView:
    """Return the view of a history, read from its end back to the person's last message."""
    person: str | None = None
    steps = 0
    results: list[Result] = []
    plugin_texts: list[tuple[str, str]] = []
    is_new, is_over, is_cut = True, False, False
    for message in reversed(messages):
        if isinstance(message, ModelResponse):
            has_calls = any(isinstance(part, ToolCallPart) for part in message.parts)
            is_new, is_over, steps = False, is_over or not has_calls, steps + has_calls
            continue
        text, from_plugins, returned = _read(message)
        is_cut = is_cut or _is_summarised_after(message)
        if is_new:
            results[:0] = returned if text is None else ()  # results before a new message of the person are done with
            plugin_texts[:0] = from_plugins
        if text is not None:
            person = text
            break
    return HistoryView(
        person or "",
        steps,
        is_fresh=is_new and person is not None,
        is_over=is_over,
        is_cut=is_cut and not is_new,
        results=tuple(results),
        plugin_texts=tuple(plugin_texts),
        todos=tuple(_todos(messages)),
    )


def _is_summarised_after(message: ModelRequest) -> bool:
    """Say whether a summary stands in a request behind what the person says there, or alone."""
    kinds = [type(part) for part in message.parts if isinstance(part, (CompactionPart, UserPromptPart))]
    return bool(kinds) and kinds[-1] is CompactionPart


def persons_text(message: ModelMessage) -> str | None:
    """Return what the person says in a message, None where it is not theirs."""
    return _read(message)[0] if isinstance(message, ModelRequest) else None


def _read(message: ModelRequest) -> tuple[str | None, list[tuple[str, str]], list[Result]]:
    """Return the parts of one request: the person's text, texts of plugins by name, results of tools."""
    person: list[str] = []
    plugins: list[tuple[str, str]] = []
    results: list[Result] = []
    for part in message.parts:
        if isinstance(part, ToolReturnPart):
            # As text: of a failure the framework would make a JSON object.
            text = part.content if isinstance(part.content, str) else part.model_response_str()
            is_good = part.outcome == "success" and not text.startswith(_NOT_RUN)
            results.append(Result(part.tool_name, text, is_good, part.outcome == "denied" or text.startswith(_NOT_RUN)))
        elif isinstance(part, (UserPromptPart, SystemPromptPart)):
            texts = list(_texts(part.content))
            # It stands behind the person's words in the same request, and is no word of theirs.
            if _REMINDER.match("".join(texts)):
                continue
            for text in texts:
                if marked := _PLUGIN.match(text):
                    mark = f"[plugin {marked[1]}]"
                    # Each line is marked, so that none of a plugin's looks like the person's.
                    lines = (line.removeprefix(mark).removeprefix(" ") for line in text.split("\n"))
                    plugins.append((marked[1], "\n".join(lines)))
                elif isinstance(part, UserPromptPart):
                    person.append(text)
    return "\n".join(person) if person else None, plugins, results


def _texts(content: Any) -> Iterator[str]:
    for item in [content] if isinstance(content, str) else content:
        if isinstance(item, str):
            yield item
        elif isinstance(item, TextContent):
            yield item.content


def _todos(messages: Sequence[ModelMessage]) -> Sequence[Mapping[str, Any]]:
    """Return the todos as the request reminds of them, or as the model last wrote them."""
    # First the reminder, which is there still when the call that wrote the todos was summarised.
    if messages and (plan := next(filter(_REMINDER.match, reversed(list(text_of(messages[-1])))), None)) is not None:
        return [{"content": task, "status": _STATUSES[mark]} for mark, task in _PLANNED.findall(plan)]
    for message in reversed(messages):
        if not isinstance(message, ModelResponse):
            continue
        for part in reversed(message.parts):
            if isinstance(part, ToolCallPart) and part.tool_name == "write_plan":
                items = part.args_as_dict().get("items", ())
                return [item for item in items if isinstance(item, dict)]
    return ()


def text_of(message: ModelMessage) -> Iterator[str]:
    """Yield everything in a message that counts as tokens."""
    for part in message.parts:
        yield from texts_of_part(part)


def texts_of_part(part: Any) -> Iterator[str]:
    """Yield the texts of a message's part: a call's name and arguments, else its content."""
    content = getattr(part, "content", None)
    if isinstance(part, ToolCallPart):
        yield part.tool_name
        yield part.args_as_json_str()
    elif isinstance(part, ToolReturnPart):
        yield part.model_response_str()
    elif isinstance(content, (str, list, tuple)):
        yield from _texts(content)


def call_numbers(messages: Sequence[ModelMessage]) -> Iterator[int]:
    """Yield the numbers of the calls that a history holds, so that no id comes twice."""
    for message in messages:
        if isinstance(message, ModelResponse):
            for part in message.parts:
                if isinstance(part, ToolCallPart) and (found := CALL_ID.match(part.tool_call_id)):
                    yield int(found[1])
