"""What a daemon sends to its host: one class for the params of each message. The host reads these strictly.

Only types are checked here; what a call may say and whether it is granted is the bus's.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from attrs import field, frozen

from .shapes import FLAG, NUMBER, OBJECT, TEXT, TEXTS, one_of, said, write_object
from .values.frozen import EMPTY

__all__ = [
    "LOG_LEVELS",
    "AckEvents",
    "AddMessage",
    "ConnectParams",
    "EmitEvent",
    "GetContext",
    "Log",
    "PluginCall",
    "RegisterAction",
    "RegisterTool",
    "ReportCrash",
    "RequestAction",
    "StartTask",
    "TaskProgressParams",
    "ToolOffer",
    "Unregister",
]

LOG_LEVELS: Final = ("debug", "info", "warning", "error")

_SESSION: Final = said(TEXT, "the session; may be left out while one is open, or `cause` tells it")
_CAUSE: Final = said(TEXT, "the id of the event, or the `cause` of the request, that it reacts to")


@frozen(kw_only=True)
class PluginCall:
    """What every call may say: where it belongs, and what it reacts to."""

    session_id: str | None = field(default=None, metadata=_SESSION)
    cause: str | None = field(default=None, metadata=_CAUSE)


@frozen(kw_only=True)
class AddMessage(PluginCall):
    """Add a message to the conversation. It is on disk when this is answered, and enters at the next safe point."""

    role: str = field(metadata=said(TEXT, "`user`, `assistant` or `system`, a grant each"))
    content: str = field(metadata=said(TEXT, "the text"))
    key: str | None = field(
        default=None, metadata=said(TEXT, "the same key gives the same receipt again; with other content it is refused")
    )
    deliver_as: str = field(
        default="steer", metadata=said(TEXT, "when it enters: `steer` the next step, `follow_up`, `next_turn`")
    )
    trigger_turn: bool = field(default=False, metadata=said(FLAG, "whether to wake an idle agent; a grant of its own"))
    metadata: dict[str, Any] | None = field(
        default=None, metadata=said(OBJECT, "the plugin's own; the host's stamp wins over it")
    )


@frozen(kw_only=True)
class EmitEvent(PluginCall):
    """Emit an event under the plugin's own name; others see it as `<plugin>:<type>`."""

    type: str = field(metadata=said(TEXT, "its type, with or without the plugin's name before it"))
    data: dict[str, Any] = field(default=EMPTY, metadata=said(OBJECT, "what it says"))


@frozen(kw_only=True)
class GetContext(PluginCall):
    """Read a frozen picture of the session."""

    parts: tuple[str, ...] | None = field(
        default=None, metadata=said(TEXTS, "the parts that are wanted, a grant each; without it all that are granted")
    )
    since: str | None = field(
        default=None, metadata=said(TEXT, "the `cursor` of an earlier picture: `messages` has only what came after")
    )


@frozen(kw_only=True)
class ToolOffer:
    """A tool or an action, as a daemon describes it. What the words may be is checked when it is taken on."""

    name: str = field(metadata=said(TEXT, "1 to 64 letters, digits, '_' and '-'"))
    description: str | None = field(default=None, metadata=said(TEXT, "what it does, for the model"))
    schema: dict[str, Any] | None = field(
        default=None, metadata=said(OBJECT, "the JSON schema of its arguments, an object; without it anything goes")
    )
    timeout: float | None = field(default=None, metadata=said(NUMBER, "seconds that a call may take; 120 if not given"))
    visible_to: tuple[str, ...] = field(
        default=(), metadata=said(TEXTS, "the names of the agents that see it; empty is all")
    )
    agent: bool | None = field(
        default=None, metadata=said(FLAG, "of an action: whether the agent is offered it as a tool too")
    )

    @property
    def described(self) -> dict[str, Any]:
        """What was said, as `tools.make_spec` takes it; without a schema, that of any object."""
        given = {key: item for key, item in write_object(self).items() if key not in ("session_id", "cause")}
        return {"description": "", "schema": {"type": "object"}, **given, "agent": self.agent is True}


@frozen(kw_only=True)
class RegisterTool(ToolOffer):
    """Offer a tool from now on, until it is unregistered or the daemon ends."""

    session_id: str | None = field(default=None, metadata=_SESSION)
    cause: str | None = field(default=None, metadata=_CAUSE)


@frozen(kw_only=True)
class RegisterAction(ToolOffer):
    """Offer an action from now on, until it is unregistered or the daemon ends."""

    session_id: str | None = field(default=None, metadata=_SESSION)
    cause: str | None = field(default=None, metadata=_CAUSE)


@frozen(kw_only=True)
class Unregister(PluginCall):
    """Take a tool or an action of the plugin's own back."""

    name: str = field(metadata=said(TEXT, "its name"))


@frozen(kw_only=True)
class RequestAction(PluginCall):
    """Have an action carried out, the host's own or another plugin's, and get its result."""

    action: str = field(metadata=said(TEXT, "`compact`, or `<plugin>:<action>`"))
    arguments: dict[str, Any] = field(default=EMPTY, metadata=said(OBJECT, "its arguments"))
    timeout: float = field(default=120.0, metadata=said(NUMBER, "seconds that it may take"))


@frozen(kw_only=True)
class StartTask(PluginCall):
    """Start a task: work that goes on in the background. The host then asks for it with `run_task`."""

    name: str = field(metadata=said(TEXT, "1 to 64 letters, digits, '_' and '-'"))


@frozen(kw_only=True)
class TaskProgressParams(PluginCall):
    """Say how far a running task is."""

    task_id: str = field(metadata=said(TEXT, "the identity that `start_task` gave"))
    progress: float | None = field(default=None, metadata=said(NUMBER, "from 0 to 1"))
    message: str | None = field(default=None, metadata=said(TEXT, "a few words"))


@frozen(kw_only=True)
class AckEvents(PluginCall):
    """Everything up to this event of a durable subscription is done, and is not sent again. On disk when answered."""

    offset: str = field(metadata=said(TEXT, "the `offset` of the last event that is done, as it was sent"))


@frozen(kw_only=True)
class Log(PluginCall):
    """Write a line into the plugin's log."""

    level: Literal["debug", "info", "warning", "error"] = field(
        metadata=said(one_of(*LOG_LEVELS), "how much it matters")
    )
    message: str = field(metadata=said(TEXT, "the line"))


@frozen(kw_only=True)
class ReportCrash(PluginCall):
    """A hook of the daemon's failed on an event, which has no answer that could say so. It is counted as a crash."""

    hook: str = field(metadata=said(TEXT, "the hook"))
    error: str = field(metadata=said(TEXT, "the name of the error's type, and nothing else"))
    event_id: str | None = field(default=None, metadata=said(TEXT, "the event that it failed on"))
    is_final: bool = field(default=False, metadata=said(FLAG, "whether the daemon cannot go on"))


@frozen(kw_only=True)
class ConnectParams:
    """The first frame on the host's own socket, by a `socket` daemon that talks back: here is my token."""

    token: str = field(repr=False, metadata=said(TEXT, "what the environment has as ALLY_TOKEN"))
    protocol: str = field(metadata=said(TEXT, "the version of the wire that it speaks"))
    name: str | None = field(default=None, metadata=said(TEXT, "its own name; the token decides who it is"))
