"""Gates and transforms: from the host's request to the hook and its arguments, and from its result to the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from ally_plugins.contract.values.errors import EventError, NotFoundRefused
from ally_plugins.wire.answers import replacement_to_wire, verdict_to_wire
from ally_plugins.wire.values import (
    call_from_wire,
    context_from_wire,
    message_from_wire,
    model_input_from_wire,
    request_from_wire,
    result_from_wire,
    sections_from_wire,
    stop_from_wire,
)

if TYPE_CHECKING:
    from .loading import Hook, Loaded  # noqa: TC004 - nobody reads this annotation at run time

__all__ = ["ReceivedHookCall", "read_hook_call"]

_READERS: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    "call": call_from_wire,
    "message": message_from_wire,
    "request": request_from_wire,
    "result": result_from_wire,
    "context": context_from_wire,
    "sections": sections_from_wire,
    "stop": stop_from_wire,
}
# `request` is the question to the person everywhere else, and here what the model is sent.
_READERS_OF_TOPIC: Final[Mapping[str, Mapping[str, Callable[[Any, str], Any]]]] = {
    "model_request": {"request": model_input_from_wire},
}
_SUBJECTS: Final[Mapping[str, str]] = {
    "tool_input": "call",
    "tool_output": "result",
    "user_message": "message",
    "answer": "message",
    "plugin_message": "message",
    "system_prompt": "sections",
    "model_request": "request",
}
"""What each transform changes: the name of its argument."""


@frozen
class ReceivedHookCall:
    """A gate or transform to be called; `encode` makes the answer of what it returned. `deadline` is in seconds."""

    hook: Hook
    arguments: tuple[Any, ...]
    deadline: float | None
    encode: Callable[[Any], Any]


def read_hook_call(loaded: Loaded, kind: str, params: Mapping[str, Any]) -> ReceivedHookCall:
    """Read a `gate` or `transform` request.

    Raises NotFoundRefused for a hook that the plugin lacks, EventError for a field of a wrong type.
    """
    topic = params.get("on")
    hook = loaded.hooks.get(f"ally_{kind}_{topic}")
    if hook is None:
        raise NotFoundRefused(f"there is no {kind} on {topic!r:.80}")
    readers = {**_READERS, **_READERS_OF_TOPIC.get(str(topic), {})}
    values: dict[str, Any] = {
        name: readers[name](params.get(name), name) for name in hook.arguments if name != "context"
    }
    if "context" in hook.arguments:
        context = params.get("context")
        values["context"] = context_from_wire(context) if context is not None else None
    deadline = params.get("deadline")
    # By `type`, since True is an int; `not >=`, since NaN is neither less nor more.
    if deadline is not None and (type(deadline) not in {int, float} or not deadline >= 0):
        raise EventError("deadline is no number of seconds", path="deadline")
    arguments = tuple(values[name] for name in hook.arguments)
    if kind == "gate":
        return ReceivedHookCall(hook, arguments, deadline, verdict_to_wire)
    # Read though the hook may not take it: the answer says only what differs from it.
    subject = _SUBJECTS[str(topic)]
    old: Any = values[subject] if subject in values else readers[subject](params.get(subject), subject)
    return ReceivedHookCall(hook, arguments, deadline, lambda value: replacement_to_wire(old, value))
