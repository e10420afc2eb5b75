"""How a transform may change a request to the model: change texts and settings, drop messages, add its own.

The history stays valid: a tool call and its results stay together and in order, and the last word is not the model's.
What is private is not shown, and stays. Each check raises PluginError, which names what was found and what is expected;
such an answer is nonsense, and the transform counts as failed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

import attrs

from ally_plugins.contract.values.conversation import ROLES, Message, ModelInput, plugin_metadata
from ally_plugins.contract.values.errors import EventError, PluginError, RefusedError
from ally_plugins.contract.values.frozen import FrozenDict, freeze_mapping
from ally_plugins.contract.values.ids import new_id
from ally_plugins.contract.values.verdicts import describe_answer
from ally_plugins.contract.wording import is_plain_text

from .prompt_sections import MAX_ADDED
from .validation import check_event_data, find_text_problem

__all__ = ["check_model_input", "find_history_problem", "shown_to_plugins", "with_ids"]

MAX_CONTENT_CHARS: Final = 16 * 1024 * 1024
"""The largest text that a message of the input may be given, as for tool output of any size."""

LONGEST_ID: Final = 256  # characters; ours have thirty, those of model APIs stay below a hundred

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def with_ids(request: ModelInput) -> ModelInput:
    """Return the input with an id for each message that has none. Raises ValueError when two have the same."""
    messages = tuple([
        message if message.id else attrs.evolve(message, id=new_id("m")) for message in request.messages
    ])  # fmt: skip
    if double := _double(messages):
        raise ValueError(f"two messages of the model's input have the id {double!r}; an id is one message's")
    return attrs.evolve(request, messages=messages)


def shown_to_plugins(request: ModelInput) -> ModelInput:
    """Return the input without what is private."""
    if not any(message.private for message in request.messages):
        return request
    return attrs.evolve(request, messages=tuple(each for each in request.messages if not each.private))


def check_model_input(
    old: ModelInput, new: Any, plugin: str, origin: tuple[str, ...] = ()
) -> tuple[ModelInput, tuple[str, ...]]:
    """Take what a plugin made of what it was shown of `old`; return the whole, and the names of what differs.

    `origin` is the chain of plugins that led to the request. Messages whose ids the input does not have are new ones,
    and the plugin's. Raises PluginError, which names the field, for whatever a transform may not change.
    """
    if type(new) is not ModelInput:
        text = f"the transform replaced a ModelInput by {type(new).__name__}; use evolve(value, field=...)"
        raise PluginError(text)
    if new.model != old.model:
        raise PluginError(f"the transform changed the model from {old.model!r}; only messages and settings may change")
    shown = {message.id: message for message in old.messages if not message.private}
    messages = _take_all(new.messages, shown, plugin, origin)
    if shown and not messages:
        raise PluginError("no message is left; the model would have nothing to answer")
    whole = _with_private(old.messages, messages)
    # With what is private, since the model gets all of it.
    _check_history(old.messages, whole)
    settings = _take_settings(old.settings, new.settings)
    fields = (*_message_changes(shown, messages), *_setting_changes(old.settings, settings))
    return attrs.evolve(old, messages=whole, settings=settings), fields


def find_history_problem(messages: Sequence[Message]) -> str | None:
    """Return why no model takes these messages as a conversation, None when one does.

    Every tool call of an assistant's message is answered once, by the messages of the role `tool` that follow it at
    once, and every such message answers a call.
    """
    waiting: dict[str | None, str] = {}
    for message in messages:
        if message.role == "tool":
            if message.tool_call_id not in waiting:
                return f"the result {message.id!r} does not follow the call {message.tool_call_id!r} that it answers"
            del waiting[message.tool_call_id]
            continue
        if waiting:
            return _unanswered(waiting, message)
        if message.role == "assistant":
            waiting = {call.call_id: message.id for call in message.tool_calls}
    return _unanswered(waiting, None) if waiting else None


def _unanswered(waiting: dict[str | None, str], before: Message | None) -> str:
    call, message = next(iter(waiting.items()))
    where = f"before the message {before.id!r}" if before is not None else "at the end"
    return f"the call {call!r} of the message {message!r} has no result {where}"


def _take_all(given: object, shown: dict[str, Message], plugin: str, origin: tuple[str, ...]) -> list[Message]:
    if type(given) is not tuple:
        raise PluginError(f"messages is {describe_answer(given)}; expected a tuple of messages")
    taken: list[Message] = []
    places = {message_id: place for place, message_id in enumerate(shown)}
    last = -1
    for index, message in enumerate(given):
        if type(message) is not Message:
            raise PluginError(f"messages[{index}] is {describe_answer(message)}; expected a Message")
        original = shown.get(message.id) if type(message.id) is str else None
        if original is None:
            taken.append(_take_new(message, index, plugin, origin))
            continue
        if places[original.id] <= last:
            raise PluginError(f"the message {original.id!r} stands behind what followed it, or twice; leave the order")
        last = places[original.id]
        taken.append(_take_changed(original, message))
    added = sum(message.id not in shown for message in taken)
    if added > MAX_ADDED:
        raise PluginError(f"the transform added {added} messages; expected {MAX_ADDED} at most")
    return taken


def _take_changed(original: Message, message: Message) -> Message:
    """Return a message that was there, with the new text; nothing else of it may change, as elsewhere."""
    text = message.content
    if message is original or text == original.content:
        return original
    where = f"the content of the message {original.id!r}"
    if type(text) is not str:
        raise PluginError(f"{where} is {type(text).__name__}; expected a string")
    if len(text) > MAX_CONTENT_CHARS:
        raise PluginError(f"{where} has {len(text)} characters; expected {MAX_CONTENT_CHARS} at most")
    if _SURROGATE.search(text):
        raise PluginError(f"{where} has a lone surrogate, which no UTF-8 can say")
    if not text and original.role != "tool" and not original.tool_calls:
        raise PluginError(f"{where} is empty, which models refuse; drop the message instead")
    return attrs.evolve(original, content=text)


def _take_new(message: Message, index: int, plugin: str, origin: tuple[str, ...]) -> Message:
    where = f"messages[{index}], which is new,"
    if type(message.role) is not str or message.role not in ROLES:
        expected = ", ".join(map(repr, ROLES))
        raise PluginError(f"{where} has the role {_shown(message.role)}; expected one of {expected}")
    if message.tool_calls or message.tool_call_id is not None:
        raise PluginError(f"{where} has tool calls, or answers one; only the model calls tools")
    if problem := find_text_problem(message.content):
        raise PluginError(f"the content of {where} {problem}")
    if type(message.id) is not str or len(message.id) > LONGEST_ID or not is_plain_text(message.id):
        raise PluginError(f"{where} has an id that is {_shown(message.id)}; expected a short text, or none")
    if type(message.volatile) is not bool:
        raise PluginError(f"{where} has a volatile that is {describe_answer(message.volatile)}; expected true or false")
    metadata = plugin_metadata(plugin, (*origin, plugin), message.metadata)
    time = message.timestamp if type(message.timestamp) is int else 0
    return Message(
        role=message.role,
        content=message.content,
        id=message.id or new_id("m"),
        metadata=metadata,
        timestamp=time,
        volatile=message.volatile,
    )


def _with_private(old: Iterable[Message], messages: Sequence[Message]) -> tuple[Message, ...]:
    """Put what is private back behind the message that it followed, or the nearest before that which is still there."""
    kept = {message.id for message in messages}
    private: defaultdict[str, list[Message]] = defaultdict(list)
    anchor = ""
    for message in old:
        if message.private:
            private[anchor].append(message)
        elif message.id in kept:
            anchor = message.id
    if not private:
        return tuple(messages)
    whole = private[""]  # what stood before all that is shown; no message has the id ""
    for message in messages:
        whole.append(message)
        whole += private.get(message.id, ())
    return tuple(whole)


def _check_history(old: Sequence[Message], new: Sequence[Message]) -> None:
    if double := _double(new):
        raise PluginError(f"two messages have the id {double!r}; an id is one message's")
    if new and new[-1].role == "assistant" and not (old and old[-1].role == "assistant"):
        raise PluginError("the last message is the model's own; it would have nothing to answer")
    problem = find_history_problem(new)
    if problem is not None and find_history_problem(old) is None:  # else it is not the plugin's doing
        raise PluginError(f"{problem}; a call and its results stay, or go, together")


def _take_settings(old: FrozenDict, new: object) -> FrozenDict:
    if new is old:
        return old
    try:
        settings = freeze_mapping(new)  # type: ignore[arg-type]  # it says what is wrong with anything else
        check_event_data(settings, field="settings")
    # As a failure of the plugin, which `on_error` decides about: the request itself is well.
    except (EventError, RefusedError) as error:
        raise PluginError(f"the settings are not valid: {error}") from None
    return settings


def _message_changes(shown: dict[str, Message], messages: Sequence[Message]) -> list[str]:
    after = {message.id: message for message in messages}
    return [f"message {name}" for name in {**shown, **after} if shown.get(name) is not after.get(name)]


def _setting_changes(old: FrozenDict, new: FrozenDict) -> list[str]:
    missing = object()  # a setting may be None
    return [f"settings.{k}" for k in {**old, **new} if old.get(k, missing) != new.get(k, missing)]


def _double(messages: Iterable[Message]) -> str | None:
    seen: set[str] = set()
    for message in messages:
        if message.id in seen:
            return message.id
        seen.add(message.id)
    return None


def _shown(value: object) -> str:
    return f"{value[:40]!r}" if type(value) is str else f"of the type {type(value).__name__}"
