"""A plugin's calls to its host: one value for each call, from the handle to the bus.

`Ally` builds it, `Outbound.call` sends it, the wire writes and reads it by the described fields, the bus takes it. A
field without a description (a handler, a coroutine) never leaves the process. Only types are checked where a call is
read; its content and the grant are checked by the bus.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Protocol, TypeVar

from attrs import define, field

from .shapes import FLAG, NUMBER, OBJECT, TEXT, TEXTS
from .tables import holds
from .values.conversation import Context, Receipt
from .values.errors import ValidationRefused
from .values.frozen import EMPTY

if TYPE_CHECKING:
    from .tools.declared import Kind, ToolSpec  # noqa: TC004 - nobody reads these annotations at run time

__all__ = [
    "CAUSE",
    "REGISTER",
    "SESSION",
    "AddMessage",
    "AskQuestion",
    "EmitEvent",
    "GetContext",
    "PluginCall",
    "Register",
    "RegisterAction",
    "RegisterTool",
    "ReportProgress",
    "RequestAction",
    "StartTask",
    "Task",
    "Unregister",
]

R = TypeVar("R")

SESSION: Final = holds(TEXT, "the session; may be left out while one is open, or `cause` tells it")
CAUSE: Final = holds(TEXT, "the id of the event, or the `cause` of the request, that it reacts to")


class Task(Protocol):
    """A task that a plugin has started. It goes on until it ends, is cancelled, or its plugin stops."""

    @property
    def id(self) -> str:
        """The task's identity."""
        ...

    @property
    def name(self) -> str:
        """The name that the plugin gave it."""
        ...

    @property
    def state(self) -> str:
        """`running`, `done`, `failed` or `cancelled`."""
        ...

    def cancel(self) -> bool:
        """Cancel it; return whether it was still running. Returns before it has ended: await `result` for that."""
        ...

    async def result(self) -> Any:
        """Wait for the end and return what the coroutine returned.

        Raises what it raised, and CancelledError when the task was cancelled. Cancelling the waiting does not cancel
        the task.
        """


@define(kw_only=True)
class PluginCall(Generic[R]):
    """One call, which returns an R: where it belongs, and what it reacts to.

    It is made for one call and handed on, never kept or changed. (To freeze it would cost a microsecond each.) `cause`
    is sent by a daemon; in process it is taken from the running hook's scope, and this stays None.
    """

    METHOD: ClassVar[str]
    """The call's name: `Ally`'s method, the wire's method, and its name in records."""
    session_id: str | None = field(default=None, metadata=SESSION)
    cause: str | None = field(default=None, metadata=CAUSE)


@define(kw_only=True)
class AddMessage(PluginCall[Receipt]):
    """Add a message to the conversation. It is on disk when this is answered, and enters at the next safe point."""

    METHOD: ClassVar[str] = "add_message"
    role: str = field(metadata=holds(TEXT, "`user`, `assistant` or `system`, a grant each"))
    content: str = field(metadata=holds(TEXT, "the text"))
    key: str | None = field(
        default=None,
        metadata=holds(TEXT, "the same key gives the same receipt again; with other content it is refused"),
    )
    deliver_as: str = field(
        default="steer", metadata=holds(TEXT, "when it enters: `steer` the next step, `follow_up`, `next_turn`")
    )
    trigger_turn: bool = field(default=False, metadata=holds(FLAG, "whether to wake an idle agent; a grant of its own"))
    metadata: Mapping[str, Any] | None = field(
        default=None, metadata=holds(OBJECT, "the plugin's own; the host's stamp wins over it")
    )


@define(kw_only=True)
class EmitEvent(PluginCall[Receipt]):
    """Emit an event under the plugin's own name; others see it as `<plugin>:<type>`."""

    METHOD: ClassVar[str] = "emit_event"
    type: str = field(metadata=holds(TEXT, "its type, with or without the plugin's name before it"))
    data: Mapping[str, Any] = field(default=EMPTY, metadata=holds(OBJECT, "what it says"))


@define(kw_only=True)
class GetContext(PluginCall[Context]):
    """Read a frozen picture of the session."""

    METHOD: ClassVar[str] = "get_context"
    parts: Collection[str] | None = field(
        default=None,
        metadata=holds(TEXTS, "the parts that are wanted, a grant each; without it all that are granted"),
    )
    since: str | None = field(
        default=None, metadata=holds(TEXT, "the `cursor` of an earlier picture: `messages` has only what came after")
    )


@define(kw_only=True)
class Register(PluginCall[Receipt]):
    """Offer a tool or an action from now on. `options` are the arguments of `@tool` and `@action`.

    `spec` is what a decorator has made of them already.
    """

    KIND: ClassVar[Kind]
    handler: Callable[..., Any]
    options: Mapping[str, Any] = EMPTY
    spec: ToolSpec | None = None

    @staticmethod
    def of(spec: ToolSpec) -> Register:
        """Return the registration of what a decorator offers."""
        return REGISTER[spec.kind](handler=spec.handler, spec=spec)

    def make_spec(self) -> ToolSpec:
        """Return what is offered. Raises ValidationRefused for options that do not fit the handler."""
        if self.spec is not None:
            return self.spec
        from .tools.declared import make_spec  # it takes inspect along, which a daemon may do without

        try:
            return make_spec(self.KIND, self.handler, **self.options)
        # An option that is none: attrs says so with a TypeError, and it is the plugin's mistake.
        except TypeError as error:
            raise ValidationRefused(f"{self.METHOD}: {error}", field="described") from None


@define(kw_only=True)
class RegisterTool(Register):
    """Offer a tool from now on, until it is unregistered or the plugin ends."""

    METHOD: ClassVar[str] = "register_tool"
    KIND: ClassVar[Kind] = "tool"


@define(kw_only=True)
class RegisterAction(Register):
    """Offer an action from now on, until it is unregistered or the plugin ends."""

    METHOD: ClassVar[str] = "register_action"
    KIND: ClassVar[Kind] = "action"


REGISTER: Final[Mapping[Kind, type[Register]]] = {"tool": RegisterTool, "action": RegisterAction}
"""The call that registers a tool or an action, by kind."""


@define(kw_only=True)
class Unregister(PluginCall[None]):
    """Take a tool or an action of the plugin's own back."""

    METHOD: ClassVar[str] = "unregister"
    name: str = field(metadata=holds(TEXT, "its name"))


@define(kw_only=True)
class RequestAction(PluginCall[Any]):
    """Have an action carried out, the host's own or another plugin's, and get its result."""

    METHOD: ClassVar[str] = "request_action"
    action: str = field(metadata=holds(TEXT, "`compact`, or `<plugin>:<action>`"))
    arguments: Mapping[str, Any] = field(default=EMPTY, metadata=holds(OBJECT, "its arguments"))
    timeout: float = field(default=120.0, metadata=holds(NUMBER, "seconds that it may take"))


@define(kw_only=True)
class AskQuestion(PluginCall[str]):
    """Ask the person; the answer is one of the choices. Cancelled, the question is withdrawn."""

    METHOD: ClassVar[str] = "ask"
    question: str = field(metadata=holds(TEXT, "what the person is asked; they see whose question it is"))
    choices: Collection[str] = field(metadata=holds(TEXTS, "1 to 9 short texts, of which they choose one"))
    timeout: float = field(default=300.0, metadata=holds(NUMBER, "seconds that they may take"))


@define(kw_only=True)
class StartTask(PluginCall[Task]):
    """Start a task: work that goes on in the background. The host of a daemon then sends `run_task` to begin it."""

    METHOD: ClassVar[str] = "start_task"
    name: str = field(metadata=holds(TEXT, "1 to 64 letters, digits, '_' and '-'"))
    work: Coroutine[Any, Any, Any] | None = None
    """What runs; a daemon keeps it until `run_task`, and its host runs a coroutine that sends that."""


@define(kw_only=True)
class ReportProgress(PluginCall[None]):
    """Report how far a running task is."""

    METHOD: ClassVar[str] = "task_progress"
    task_id: str = field(metadata=holds(TEXT, "the identity that `start_task` gave"))
    progress: float | None = field(default=None, metadata=holds(NUMBER, "from 0 to 1"))
    message: str | None = field(default=None, metadata=holds(TEXT, "a few words"))
