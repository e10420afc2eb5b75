"""What a host sends to a daemon: one class for the params of each message, and the daemon's answer to `initialize`.

Daemons read these leniently, so that a newer host may send more; the host reads the answer strictly.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

from attrs import field, frozen

from ally_plugins.contract.shapes import ID, INTEGER, NUMBER, OBJECT, TEXT, TEXTS, one_of, ref, several
from ally_plugins.contract.tables import holds, object_of, read_object
from ally_plugins.contract.values.frozen import EMPTY

from .offers import HookOffer, ToolOffer, offered_hooks, offered_tools

__all__ = [
    "GATE_TOPICS",
    "HOST_PARAMS",
    "TRANSFORM_TOPICS",
    "CallTool",
    "CancelParams",
    "Drain",
    "Gate",
    "HostInfo",
    "InitializeParams",
    "InitializeResult",
    "OnEvent",
    "Ping",
    "ProgressParams",
    "RunAction",
    "RunTask",
    "Shutdown",
    "Start",
    "Transform",
    "read_host_params",
]

GATE_TOPICS: Final = ("tool_call", "message", "permission", "user_message", "answer", "stop")
TRANSFORM_TOPICS: Final = (
    "tool_input",
    "tool_output",
    "user_message",
    "answer",
    "plugin_message",
    "system_prompt",
    "model_request",
)

GateTopic: TypeAlias = Literal["tool_call", "message", "permission", "user_message", "answer", "stop"]
TransformTopic: TypeAlias = Literal[
    "tool_input", "tool_output", "user_message", "answer", "plugin_message", "system_prompt", "model_request"
]

_ORIGIN: Final = holds(TEXTS, "the chain of plugins that led here, the longest ago first")
_CAUSE: Final = holds(TEXT, "what it is about: the id of a call, message, request or event")
_SESSION: Final = holds(TEXT, "the session that it belongs to")


@frozen(kw_only=True)
class HostInfo:
    """Who the host is; `api` is the version that a manifest's `requires_host` speaks of."""

    name: str = field(metadata=holds(TEXT, "the app"))
    version: str = field(metadata=holds(TEXT, "the version of ally_plugins"))
    api: str = field(metadata=holds(TEXT, "the version of the host API"))


@frozen(kw_only=True)
class InitializeParams:
    """The first message of a connection: who the host is, and what the daemon is, may and has."""

    protocol: str = field(metadata=holds(TEXT, "the version of the wire that the host would like to speak"))
    protocols: tuple[str, ...] = field(metadata=holds(TEXTS, "all the versions that it speaks"))
    plugin: str = field(metadata=holds(TEXT, "the name under which the host knows the daemon"))
    host: HostInfo = field(metadata=holds(object_of(HostInfo, is_strict=False), "who the host is"))
    capabilities: tuple[str, ...] = field(
        default=(), metadata=holds(TEXTS, "what `supports` answers yes to: calls, event types, actions of the host")
    )
    grants: tuple[str, ...] = field(default=(), metadata=holds(TEXTS, "what the operator has granted, as texts"))
    settings: dict[str, Any] = field(
        default=EMPTY, metadata=holds(OBJECT, "the values of the plugin's settings, secrets among them")
    )
    secrets: tuple[str, ...] = field(
        default=(), metadata=holds(TEXTS, "the names of the settings that are secret: never to be logged or shown")
    )
    sessions: tuple[str, ...] = field(default=(), metadata=holds(TEXTS, "the ids of the sessions that are open"))
    data_dir: str | None = field(default=None, metadata=holds(TEXT, "a directory of the plugin's own"))
    deadlines: dict[str, float] = field(
        default=EMPTY, metadata=holds(OBJECT, "seconds that each kind of hook, or a hook by its name, may take")
    )
    limits: dict[str, int] = field(
        default=EMPTY, metadata=holds(OBJECT, "sizes that hold for this connection: `frame_bytes`")
    )


@frozen(kw_only=True)
class InitializeResult:
    """Who the daemon is, and what it does: hooks that it implements, tools and actions that it offers."""

    protocol: str = field(metadata=holds(TEXT, "the version of the wire that is spoken from here on"))
    name: str | None = field(default=None, metadata=holds(TEXT, "its own name; another than the host's is a warning"))
    version: str | None = field(default=None, metadata=holds(TEXT, "its version"))
    hooks: tuple[HookOffer, ...] = field(
        default=(),
        metadata=holds(
            offered_hooks(),
            "the hooks that it implements, by name or with details; every gate and transform that was granted",
        ),
    )
    events: tuple[str, ...] | None = field(
        default=None,
        metadata=holds(TEXTS, "event types it wants, out of those granted; without it those of its hooks, or else all"),
    )
    tools: tuple[ToolOffer, ...] = field(default=(), metadata=holds(offered_tools(), "the tools that it offers"))
    actions: tuple[ToolOffer, ...] = field(default=(), metadata=holds(offered_tools(), "the actions that it offers"))


@frozen(kw_only=True)
class Start:
    """The plugin may begin, and make calls; sent only to a daemon that implements `ally_start`."""


@frozen(kw_only=True)
class Shutdown:
    """The host is about to let the daemon go. Once it is answered, the host closes its end."""

    reason: str = field(default="", metadata=holds(TEXT, "why, in words"))


@frozen(kw_only=True)
class Ping:
    """Are you there? Any result counts."""


@frozen(kw_only=True)
class Drain:
    """Have you done with the events before this? Answered after the last of them has been handled; `ping` is not."""


@frozen(kw_only=True)
class OnEvent:
    """Something happened in a session. The first three fields are Code-Ally's."""

    event_type: str = field(metadata=holds(TEXT, "the type, such as TOOL_CALL_END or `<plugin>:<type>`"))
    event_data: dict[str, Any] = field(metadata=holds(OBJECT, "the data of that type, in camelCase"))
    timestamp: int = field(metadata=holds(INTEGER, "when, as Unix time in milliseconds"))
    id: str = field(metadata=holds(TEXT, "the event's identity, `session:seq`"))
    seq: int = field(metadata=holds(INTEGER, "its number in the session, from 1"))
    session_id: str = field(metadata=_SESSION)
    origin: tuple[str, ...] = field(default=(), metadata=_ORIGIN)
    turn_id: str | None = field(default=None, metadata=holds(TEXT, "the turn of the conversation"))
    call_id: str | None = field(default=None, metadata=holds(TEXT, "the tool call that it is about"))
    agent_id: str | None = field(default=None, metadata=holds(TEXT, "the agent that it is about"))
    parent_id: str | None = field(default=None, metadata=holds(TEXT, "the event that it follows from"))
    offset: str | None = field(
        default=None, metadata=holds(TEXT, "only for a durable subscription: what `ack_events` takes, as it is")
    )


@frozen(kw_only=True)
class _HookParams:
    session_id: str = field(metadata=_SESSION)
    cause: str | None = field(default=None, metadata=_CAUSE)
    origin: tuple[str, ...] = field(default=(), metadata=_ORIGIN)
    deadline: float | None = field(
        default=None, metadata=holds(NUMBER, "seconds within which the answer counts, from when it was asked")
    )


@frozen(kw_only=True)
class Gate(_HookParams):
    """May this happen? Without a clear answer within the deadline it may not."""

    on: GateTopic = field(metadata=holds(one_of(*GATE_TOPICS), "what is asked about; the hook is `ally_gate_<on>`"))
    call: dict[str, Any] | None = field(default=None, metadata=holds(ref("ToolCall"), "the tool call, for `tool_call`"))
    message: dict[str, Any] | None = field(
        default=None, metadata=holds(ref("Message"), "the message, for `message`, `user_message` and `answer`")
    )
    stop: dict[str, Any] | None = field(
        default=None, metadata=holds(ref("Stop"), "the end of a turn that the agent wants, for `stop`")
    )
    request: dict[str, Any] | None = field(
        default=None, metadata=holds(ref("PermissionRequest"), "the data of the PERMISSION_REQUEST, for `permission`")
    )
    context: dict[str, Any] | None = field(
        default=None,
        metadata=holds(ref("Context"), "what the plugin may see of the session, if its hook takes `context`"),
    )


@frozen(kw_only=True)
class Transform(_HookParams):
    """What shall become of this value? Each transform is given what the one before made of it."""

    on: TransformTopic = field(
        metadata=holds(one_of(*TRANSFORM_TOPICS), "what is to be changed; the hook is `ally_transform_<on>`")
    )
    call: dict[str, Any] | None = field(
        default=None, metadata=holds(ref("ToolCall"), "the tool call, for `tool_input` and `tool_output`")
    )
    result: dict[str, Any] | None = field(
        default=None, metadata=holds(ref("ToolResult"), "what the tool returned, for `tool_output`")
    )
    message: dict[str, Any] | None = field(
        default=None, metadata=holds(ref("Message"), "the message, for `user_message`, `answer` and `plugin_message`")
    )
    sections: tuple[dict[str, Any], ...] | None = field(
        default=None, metadata=holds(several(ref("PromptSection")), "the sections in order, for `system_prompt`")
    )
    request: dict[str, Any] | None = field(
        default=None, metadata=holds(ref("ModelInput"), "what the model is about to be asked, for `model_request`")
    )


@frozen(kw_only=True)
class _Handled:
    name: str = field(metadata=holds(TEXT, "its name, as the daemon gave it"))
    arguments: dict[str, Any] = field(
        default=EMPTY, metadata=holds(OBJECT, "the arguments, checked against the schema of the offer")
    )
    session_id: str | None = field(default=None, metadata=_SESSION)
    cause: str | None = field(default=None, metadata=_CAUSE)
    origin: tuple[str, ...] = field(default=(), metadata=_ORIGIN)
    timeout: float | None = field(default=None, metadata=holds(NUMBER, "seconds until it is cancelled"))


@frozen(kw_only=True)
class CallTool(_Handled):
    """Run a tool of the daemon's. An object with a boolean `success` is a full result, anything else its data."""


@frozen(kw_only=True)
class RunAction(_Handled):
    """Run an action of the daemon's."""

    requested_by: str | None = field(default=None, metadata=holds(TEXT, "a plugin's name, `person`, `agent` or `host`"))


@frozen(kw_only=True)
class RunTask:
    """Run the task that `start_task` announced; its answer ends the task, `$/cancel` of it cancels the task."""

    task_id: str = field(metadata=holds(TEXT, "the identity that `start_task` gave"))
    name: str = field(metadata=holds(TEXT, "the name that the daemon gave it"))
    session_id: str | None = field(default=None, metadata=_SESSION)
    origin: tuple[str, ...] = field(default=(), metadata=_ORIGIN)


@frozen(kw_only=True)
class CancelParams:
    """The sender no longer wants the answer to its own request; it is answered with `cancelled` all the same."""

    id: int | str = field(metadata=holds(ID, "the id of that request"))


@frozen(kw_only=True)
class ProgressParams:
    """How far the answer to the other side's request is."""

    id: int | str = field(metadata=holds(ID, "the id of that request"))
    progress: float | None = field(default=None, metadata=holds(NUMBER, "from 0 to 1"))
    message: str | None = field(default=None, metadata=holds(TEXT, "a few words"))


HOST_PARAMS: Final[dict[str, type[Any]]] = {
    "initialize": InitializeParams,
    "start": Start,
    "shutdown": Shutdown,
    "ping": Ping,
    "drain": Drain,
    "on_event": OnEvent,
    "gate": Gate,
    "transform": Transform,
    "call_tool": CallTool,
    "run_action": RunAction,
    "run_task": RunTask,
    "$/cancel": CancelParams,
    "$/progress": ProgressParams,
}
"""The class of each message that a host sends."""


def read_host_params(method: str, params: dict[str, Any]) -> Any:
    """Return what a host sent as the class of that message; params that this version does not know are passed over.

    Raises KeyError for a method that no host sends, ValidationRefused for a wrong type.
    """
    return read_object(HOST_PARAMS[method], params, method, is_strict=False)
