"""The events that a host emits, as frozen values.

Each class is one event type; its fields are the event's data (snake_case here, camelCase in JSON: `eventjson`).
The envelope is part of the same value: the emitter gives `call_id`, `agent_id`, `parent_id` and `turn_id`; the session
stamps `seq`, `timestamp`, `session_id` and `origin` when it emits. The first twelve types are Code-Ally's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from operator import attrgetter
from typing import Any, ClassVar, Final, TypeVar

import attrs
from attrs import field, frozen

from .compat import override
from .errors import EventError
from .event_types import CODE_ALLY_TYPES, PLUGIN_TYPES
from .frozen import EMPTY, FrozenDict, freeze, freeze_mapping

__all__ = [
    "CODE_ALLY_TYPES",
    "EVENT_TYPES",
    "PLUGIN_TYPES",
    "AgentEnd",
    "AgentStart",
    "AssistantMessage",
    "CompactionComplete",
    "CompactionStart",
    "ContextThreshold",
    "ContextUsageUpdate",
    "Decision",
    "DiffPreview",
    "Event",
    "EventsDropped",
    "ModelRequest",
    "ModelResponse",
    "PermissionRequest",
    "PermissionResponse",
    "PluginActionRequested",
    "PluginEvent",
    "PluginEventEmitted",
    "PluginMessageReceived",
    "PluginState",
    "PromptPrefixChanged",
    "SessionEnd",
    "SessionStart",
    "TaskProgress",
    "ThoughtComplete",
    "TodoUpdate",
    "ToolCallEnd",
    "ToolCallStart",
    "UserMessage",
    "dropped_in_place",
    "is_event_type",
    "keep_json",
    "stamp",
    "unstamped",
    "with_parent",
]

_LONGEST_ID: Final = 1_000  # characters of an id that stands for something; far more than hosts use

_PLUGIN_EVENT: Final = re.compile(r"[a-z0-9_-]+:[A-Za-z0-9_.-]+\Z")


def _as_names(names: Iterable[str]) -> tuple[str, ...]:
    # Not `tuple` itself as the converter: attrs would import a tokenizer to find its signature.
    return tuple(names)


class _WithJson:
    """Room for an event's JSON, which is made once (`codec.encoded`); it is no field of the event."""

    __slots__ = ("kept_json",)
    kept_json: bytes


@frozen(kw_only=True, eq=False, repr=False)
class Event(_WithJson):
    """Something that happened in a session.

    `id` is `session:seq`; `seq` counts from 1 in each session; `timestamp` is Unix time in milliseconds; `origin` is
    the chain of plugins that led here, empty for what the host and the person do by themselves. `extra` keeps fields of
    a newer version that this one does not know.

    Every class compares and shows itself by the two methods here, and has none of its own: attrs would write and
    compile them for each class, which is a tenth of the time in which the process of a daemon starts.
    """

    TYPE: ClassVar[str] = ""

    call_id: str | None = None
    agent_id: str | None = None
    parent_id: str | None = None
    turn_id: str | None = None
    extra: FrozenDict = field(default=EMPTY, converter=freeze_mapping, repr=False)

    seq: int = field(default=0, init=False, eq=False)
    timestamp: int = field(default=0, init=False, eq=False)
    session_id: str = field(default="", init=False, eq=False)
    origin: tuple[str, ...] = field(default=(), init=False, eq=False)

    @property
    def type(self) -> str:
        """The event's type, as subscriptions and the wire name it."""
        return self.TYPE

    @property
    def id(self) -> str:
        """The event's identity, `session:seq`; the seq is 0 until a session has emitted the event."""
        return f"{self.session_id}:{self.seq}"

    @override
    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            # Not False: the other one may know how to compare, as matchers of tests do.
            return NotImplemented
        return _compared(self) == _compared(other)

    @override
    def __hash__(self) -> int:
        return hash((self.__class__, _compared(self)))  # TypeError: there are dicts in each

    @override
    def __repr__(self) -> str:
        shown = [f"{a.name}={getattr(self, a.name)!r}" for a in attrs.fields(self.__class__) if a.repr]
        return f"{self.__class__.__qualname__}({', '.join(shown)})"


def _compared(event: object) -> tuple[Any, ...]:
    """Return all of an event that counts for equality: its stamp does not."""
    cls: Any = event.__class__
    return _getter(cls)(event)


@cache
def _getter(cls: Any) -> Callable[[object], tuple[Any, ...]]:
    return attrgetter(*[a.name for a in attrs.fields(cls) if a.eq])


@frozen(eq=False, repr=False)
class ToolCallStart(Event):
    """The agent wants to run a tool, with its final arguments; the gates and the person decide after it.

    For a group of calls, `group_execution` is true and `tools` lists them. `common_name` is what all agents' tools of
    the kind are called, where the agent has another name for it. Where the arguments could not be shown,
    `arguments` is empty and `unshown` says why: such a call has been denied.
    """

    TYPE = "TOOL_CALL_START"

    tool_name: str = ""
    arguments: FrozenDict = field(default=EMPTY, converter=freeze_mapping)
    unshown: str | None = None
    visible_in_chat: bool | None = None
    is_transparent: bool | None = None
    collapsed: bool | None = None
    should_collapse: bool | None = None
    hide_output: bool | None = None
    group_execution: bool | None = None
    tool_count: int | None = None
    tools: tuple[Any, ...] | None = field(default=None, converter=freeze)
    common_name: str | None = None


@frozen(eq=False, repr=False)
class ToolCallEnd(Event):
    """A call has ended: the tool returned, or failed with `error`, or did not run since that was denied.

    Each call that has a start has one end. `denied` says that a gate, a transform or the person refused it: `error` has
    the reason, `decision_id` the decision, where plugins took one. `duration_ms` is the time of the tool alone, in
    milliseconds; None when it did not run. `unshown` says why a part of the result is missing here.
    """

    TYPE = "TOOL_CALL_END"

    tool_name: str = ""
    success: bool = True
    denied: bool = False
    decision_id: str | None = None
    unshown: str | None = None
    result: FrozenDict = field(default=EMPTY, converter=freeze_mapping)
    error: str | None = None
    output: str | None = None
    duration_ms: float | None = None
    common_name: str | None = None


@frozen(eq=False, repr=False)
class AgentStart(Event):
    """The agent, or a sub-agent that it delegated `task_prompt` to, begins to work."""

    TYPE = "AGENT_START"

    agent_name: str = ""
    message: str | None = None
    is_specialized_agent: bool | None = None
    instance_id: str | None = None
    task_prompt: str | None = None
    model: str | None = None


@frozen(eq=False, repr=False)
class AgentEnd(Event):
    """An agent has finished, or was interrupted. `duration` is in seconds, `context_usage` in percent."""

    TYPE = "AGENT_END"

    agent_name: str = ""
    content: str | None = None
    interrupted: bool | None = None
    interruption_cause: str | None = None
    is_specialized_agent: bool | None = None
    instance_id: str | None = None
    result: Any = field(default=None, converter=freeze)
    duration: float | None = None
    tool_use_count: int | None = None
    context_usage: float | None = None


@frozen(eq=False, repr=False)
class PermissionRequest(Event):
    """The host asks whether a tool may run; also what `ally_gate_permission` decides on."""

    TYPE = "PERMISSION_REQUEST"

    request_id: str
    tool_name: str
    arguments: FrozenDict = field(default=EMPTY, converter=freeze_mapping)
    path: str | None = None
    command: str | None = None
    sensitivity: str = "normal"
    options: tuple[Any, ...] = field(default=(), converter=freeze)
    common_name: str | None = None


@frozen(eq=False, repr=False)
class PermissionResponse(Event):
    """A permission request was answered with `choice`, one of its options."""

    TYPE = "PERMISSION_RESPONSE"

    request_id: str
    choice: str


@frozen(eq=False, repr=False)
class CompactionStart(Event):
    """The host begins to shorten the conversation."""

    TYPE = "COMPACTION_START"


@frozen(eq=False, repr=False)
class CompactionComplete(Event):
    """The conversation was shortened, or with `is_error` could not be. Usage and threshold are in percent."""

    TYPE = "COMPACTION_COMPLETE"

    old_context_usage: float | None = None
    new_context_usage: float | None = None
    threshold: float | None = None
    strategy: str | None = None
    degraded: bool | None = None
    error: bool | None = None
    error_message: str | None = None


@frozen(eq=False, repr=False)
class ContextUsageUpdate(Event):
    """How much of the model's context window is used, in percent from 0 to 100.

    With `parent_call_id` it is that of a sub-agent, which works in that call, and says nothing of the session's own.
    """

    TYPE = "CONTEXT_USAGE_UPDATE"

    context_usage: float
    parent_call_id: str | None = None


@frozen(eq=False, repr=False)
class TodoUpdate(Event):
    """The agent's list of todos is now this: `{id, task, status, activeForm?}` each."""

    TYPE = "TODO_UPDATE"

    todos: tuple[Any, ...] = field(default=(), converter=freeze)


@frozen(eq=False, repr=False)
class ThoughtComplete(Event):
    """The model has finished a thought."""

    TYPE = "THOUGHT_COMPLETE"

    thinking: str


@frozen(eq=False, repr=False)
class DiffPreview(Event):
    """What an edit would change, before it is applied."""

    TYPE = "DIFF_PREVIEW"

    tool_name: str
    file_path: str
    old_content: str = ""
    new_content: str = ""
    operation_type: str = "edit"
    edits_count: int | None = None


@frozen(eq=False, repr=False)
class PluginMessageReceived(Event):
    """A plugin's message has entered the conversation."""

    TYPE = "PLUGIN_MESSAGE_RECEIVED"

    plugin_name: str
    message: FrozenDict = field(default=EMPTY, converter=freeze_mapping)


@frozen(eq=False, repr=False)
class PluginEventEmitted(Event):
    """A plugin has emitted an event of its own; `event_type` is its full name, `<plugin>:<type>`."""

    TYPE = "PLUGIN_EVENT_EMITTED"

    plugin_name: str
    event_type: str = field(metadata={"wire": "type"})
    data: FrozenDict = field(default=EMPTY, converter=freeze_mapping)


@frozen(eq=False, repr=False)
class PluginActionRequested(Event):
    """A plugin, the person or the agent asks for an action."""

    TYPE = "PLUGIN_ACTION_REQUESTED"

    plugin_name: str
    action: str
    arguments: FrozenDict = field(default=EMPTY, converter=freeze_mapping)
    requested_by: str = ""


@frozen(eq=False, repr=False)
class SessionStart(Event):
    """A session begins, or is found again (`resumed`). `focus` is its working directory."""

    TYPE = "SESSION_START"

    focus: str | None = None
    resumed: bool | None = None


@frozen(eq=False, repr=False)
class SessionEnd(Event):
    """A session has ended; `reason` says why."""

    TYPE = "SESSION_END"

    reason: str | None = None


@frozen(eq=False, repr=False)
class UserMessage(Event):
    """The person has sent a message."""

    TYPE = "USER_MESSAGE"

    content: str
    message_id: str | None = None


@frozen(eq=False, repr=False)
class AssistantMessage(Event):
    """The model has answered the person."""

    TYPE = "ASSISTANT_MESSAGE"

    content: str
    message_id: str | None = None


@frozen(eq=False, repr=False)
class ModelRequest(Event):
    """The host asks the model to go on."""

    TYPE = "MODEL_REQUEST"

    model: str | None = None
    message_count: int | None = None


@frozen(eq=False, repr=False)
class ModelResponse(Event):
    """The model has answered. Counts are tokens, `duration_ms` milliseconds."""

    TYPE = "MODEL_RESPONSE"

    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_creation_tokens: int | None = None
    stop_reason: str | None = None
    duration_ms: float | None = None


@frozen(eq=False, repr=False)
class ContextThreshold(Event):
    """Context usage has passed `threshold` (50, 75 or 90 percent); once, and again after it fell below.

    A level that a plugin asks for in its manifest comes to that one alone, `plugin_name`.
    """

    TYPE = "CONTEXT_THRESHOLD"

    threshold: float
    context_usage: float
    plugin_name: str | None = None


@frozen(eq=False, repr=False)
class PromptPrefixChanged(Event):
    """A plugin has changed what requests to the model begin with, so that a provider's cache does not hold it any more.

    `part` names what differs from the request before. `changes` counts the plugin's in the session. `uncached_tokens`
    are those of the request before that were not read from a cache; None where the model does not count. `refused`
    says that the plugin's budget was spent, and what it had added before was sent again.
    """

    TYPE = "PROMPT_PREFIX_CHANGED"

    plugin_name: str
    part: str
    changes: int = 1
    uncached_tokens: int | None = None
    refused: bool = False


@frozen(eq=False, repr=False)
class PluginState(Event):
    """A plugin is now in `state`; `reason` says why, and where possible the command that changes it."""

    TYPE = "PLUGIN_STATE"

    plugin_name: str
    state: str
    reason: str = ""


@frozen(eq=False, repr=False)
class TaskProgress(Event):
    """A plugin's task is in `state` (running, done, failed, cancelled); `progress` is from 0 to 1."""

    TYPE = "TASK_PROGRESS"

    plugin_name: str
    task_id: str
    name: str
    state: str
    progress: float | None = None
    message: str | None = None


@frozen(eq=False, repr=False)
class Decision(Event):
    """A gate was decided: `verdict` is allow, ask or deny. `subject` names what it was about."""

    TYPE = "DECISION"

    decision_id: str
    kind: str
    subject: str
    verdict: str
    reason: str = ""
    decided_by: tuple[str, ...] = field(default=(), converter=_as_names)


@frozen(eq=False, repr=False)
class EventsDropped(Event):
    """A plugin fell behind and lost `count` events; `ranges` holds `[first, last]` sequence numbers, both lost."""

    TYPE = "EVENTS_DROPPED"

    plugin_name: str
    count: int
    ranges: tuple[tuple[int, int], ...] = field(default=(), converter=freeze)


@frozen(eq=False, repr=False)
class PluginEvent(Event):
    """An event of a plugin's own making; its type is `<plugin>:<name>`."""

    event_type: str
    data: FrozenDict = field(default=EMPTY, converter=freeze_mapping)

    @property
    @override
    def type(self) -> str:
        """The plugin's own name for it, `<plugin>:<name>`."""
        return self.event_type


EVENT_TYPES: Final[dict[str, type[Event]]] = {
    cls.TYPE: cls
    for cls in (
        ToolCallStart,
        ToolCallEnd,
        AgentStart,
        AgentEnd,
        PermissionRequest,
        PermissionResponse,
        CompactionStart,
        CompactionComplete,
        ContextUsageUpdate,
        TodoUpdate,
        ThoughtComplete,
        DiffPreview,
        PluginMessageReceived,
        PluginEventEmitted,
        PluginActionRequested,
        SessionStart,
        SessionEnd,
        UserMessage,
        AssistantMessage,
        ModelRequest,
        ModelResponse,
        ContextThreshold,
        PromptPrefixChanged,
        PluginState,
        TaskProgress,
        Decision,
        EventsDropped,
    )
}
"""Every built-in type, by its name."""

_E = TypeVar("_E", bound=Event)


def is_event_type(name: str) -> bool:
    """Return whether `name` is a built-in type, or has the form of a plugin's own (`<plugin>:<type>`)."""
    return name in EVENT_TYPES or _PLUGIN_EVENT.match(name) is not None


def with_parent(event: _E, parent_id: str) -> _E:
    """Return a copy of an event that has not been emitted, with `parent_id` where it had none."""
    return event if event.parent_id is not None else attrs.evolve(event, parent_id=parent_id)


_set_seq: Final = Event.seq.__set__  # type: ignore[attr-defined]  # slots: the member descriptors write past `frozen`
_set_timestamp: Final = Event.timestamp.__set__  # type: ignore[attr-defined]
_set_session: Final = Event.session_id.__set__  # type: ignore[attr-defined]
_set_origin: Final = Event.origin.__set__  # type: ignore[attr-defined]
_set_turn: Final = Event.turn_id.__set__  # type: ignore[union-attr]
_set_json: Final = Event.kept_json.__set__  # type: ignore[attr-defined]


def stamp(
    event: Event, seq: int, timestamp: int, session_id: str, origin: tuple[str, ...], turn_id: str | None
) -> None:
    """Write the envelope into an event that nobody has seen yet; only a session does this, once for each event.

    Writing through the slots costs a tenth of `attrs.evolve`, which alone breaks the 2 µs that emit may take.
    """
    _set_seq(event, seq)
    _set_timestamp(event, timestamp)
    _set_session(event, session_id)
    # Only where it is not the default: most events have neither, and each write costs.
    if origin:
        _set_origin(event, origin)
    if turn_id is not None and event.turn_id is None:  # what the host author gave wins over the session's
        _set_turn(event, turn_id)


def keep_json(event: Event, text: bytes) -> None:
    """Keep the JSON of an event that was stamped with it."""
    _set_json(event, text)


def dropped_in_place(event: Event) -> EventsDropped:
    """Return the EVENTS_DROPPED that stands for one event that cannot be encoded, with its number and time."""
    # Without a plugin: it is lost to all of them.
    missing = EventsDropped(plugin_name="", count=1, ranges=((event.seq, event.seq),))
    turn_id = event.turn_id  # of the host author's making, so it may be just what cannot be encoded
    is_valid = isinstance(turn_id, str) and len(turn_id) <= _LONGEST_ID
    stamp(missing, event.seq, event.timestamp, event.session_id, event.origin, turn_id if is_valid else None)
    return missing


def unstamped(event: _E) -> _E:
    """Return a fresh copy of an event without its stamp, so that it can be emitted (again).

    Raises EventError when `event` is not an event.
    """
    if not isinstance(event, Event):
        message = f"expected an event, found {type(event).__name__}"
        raise EventError(message, found=type(event).__name__)
    # evolve gives no field with `init=False`, so that the stamp stays behind.
    return attrs.evolve(event)
