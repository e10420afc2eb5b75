"""The way from a plugin's handle to its host in another process; implements `handle.Outbound`.

Who the plugin is, the host knows by the descriptor. What a call reacts to (session, cause) is added to it, from the
scope that its code runs in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ally_plugins.contract.shapes import OBJECT, TEXT
from ally_plugins.contract.tables import described_fields, write_object
from ally_plugins.contract.values.errors import UnavailableRefused, ValidationRefused
from ally_plugins.contract.values.scope import current_scope
from ally_plugins.runtime.lanes.outbound import LoopCalls
from ally_plugins.wire.values import answer_from_wire

if TYPE_CHECKING:
    from ally_plugins.contract.calls import PluginCall, Register, StartTask, Task, Unregister

    from .handlers import Handlers
    from .peer import Peer
    from .tasks import DaemonTask, DaemonTasks

__all__ = ["WireOutbound"]

R = TypeVar("R")

LOGS_PER_MINUTE: Final = 600  # the host's default too (Limits.logs_per_minute): what it would drop need not be sent


class WireOutbound(LoopCalls):
    """The outbound calls of the plugin in this process; made on the loop that the connection belongs to."""

    def __init__(
        self, plugin: str, peer: Peer, capabilities: frozenset[str], handlers: Handlers, tasks: DaemonTasks
    ) -> None:
        super().__init__(plugin)
        self.is_open = False
        """Whether calls may be made: not while the plugin is built, nor after its end."""
        self._plugin = plugin
        self._peer = peer
        self._capabilities = capabilities
        self._handlers = handlers
        self._tasks = tasks
        self._logs = float(LOGS_PER_MINUTE)
        self._logged_at = time.monotonic()

    def use(self, peer: Peer) -> None:
        """Make calls over another connection from now on."""
        self._peer = peer

    def supports(self, name: str, /) -> bool:
        """As `Ally.supports`."""
        return name in self._capabilities

    def may_log(self) -> bool:
        """Return whether one more log record may be sent now, and count it."""
        now = time.monotonic()
        gained = (now - self._logged_at) * LOGS_PER_MINUTE / 60
        self._logged_at = now
        self._logs = min(float(LOGS_PER_MINUTE), self._logs + gained)
        if self._logs < 1:
            return False
        self._logs -= 1
        return True

    def call(self, call: PluginCall[R], /) -> Coroutine[Any, Any, R]:
        """Send a call to the host and return its answer; on the connection's loop."""
        send: _Send = _SENDERS.get(call.METHOD, WireOutbound._send)
        return self.carry(send(self, call))

    async def _send(self, call: PluginCall[Any]) -> Any:
        return answer_from_wire(call.METHOD, await self._request(call.METHOD, _written(call)))

    async def _register(self, call: Register) -> Any:
        """Keep the handler before the host is asked: it may call it before its answer is read."""
        # Only where something is registered: these classes cost a daemon's start.
        from ally_plugins.wire.offers import ToolOffer

        spec = call.make_spec()
        take_back = self._handlers.add(spec)
        try:
            answer = await self._request(call.METHOD, write_object(ToolOffer.of(spec)))
            return answer_from_wire(call.METHOD, answer)
        except BaseException:
            take_back()
            raise

    async def _unregister(self, call: Unregister) -> None:
        await self._send(call)
        # After the answer: until then the host may still call it.
        self._handlers.remove(call.name)

    async def _start_task(self, call: StartTask) -> Task:
        """Keep the coroutine until the host sends `run_task`; it is closed when the host refuses the task."""
        work = call.work
        started: list[DaemonTask] = []

        def agreed(answer: Any) -> None:
            # Before anything else of the host's is read: its `run_task` may stand right behind this answer.
            started.append(self._tasks.add(answer_from_wire(call.METHOD, answer), call.name, coroutine))

        if not asyncio.iscoroutine(work):
            raise ValidationRefused(f"work is {type(work).__name__}; expected a coroutine", field="work")
        coroutine: Coroutine[Any, Any, Any] = work
        try:
            await self._request(call.METHOD, _written(call), then=agreed)
        except BaseException:
            # Else the host has the task by now, though nobody waits for it here: its `run_task` is to find it.
            if not started:
                work.close()
            raise
        return started[0]

    async def _request(self, method: str, params: dict[str, Any], *, then: Callable[[Any], None] | None = None) -> Any:
        """Send a request with what it reacts to, and return the host's answer; `then` gets it first."""
        if not self.is_open:
            text = f"the plugin {self._plugin!r} is not running; calls may be made from ally_start on, to ally_stop"
            raise UnavailableRefused(text, plugin=self._plugin)
        scope = current_scope(self._plugin)
        if scope is not None:
            if scope.session_id is not None:
                # A call that names its session keeps it; what caused it is not for the plugin to say.
                params.setdefault("session_id", scope.session_id)
            if scope.cause_id is not None:
                params["cause"] = scope.cause_id
        try:
            return await self._peer.call(method, params, then=then)
        except TypeError as error:  # something in it is no JSON value
            raise ValidationRefused(f"{method}: {error}", plugin=self._plugin, field="params") from None


_Send = Callable[[WireOutbound, Any], Coroutine[Any, Any, Any]]

_SENDERS: Final[dict[str, _Send]] = {
    "register_tool": WireOutbound._register,  # noqa: SLF001 - the class's own table
    "register_action": WireOutbound._register,  # noqa: SLF001
    "unregister": WireOutbound._unregister,  # noqa: SLF001
    "start_task": WireOutbound._start_task,  # noqa: SLF001
}
"""The calls of which this process keeps a part; all others are only sent."""


def _written(call: PluginCall[Any]) -> dict[str, Any]:
    """Return a call as it is sent. Raises ValidationRefused for what the wire would change on its way, or cannot carry.

    That is text with lone surrogates, numbers that are not finite, and keys and values of other types than JSON's; the
    rest is for the host to judge.
    """
    for field in described_fields(type(call)):
        value, shape = getattr(call, field.name), field.metadata["shape"]
        if shape is TEXT and value is not None and not _is_encodable(value):
            from ally_plugins.policy.validation import find_text_problem  # only where something is wrong

            raise ValidationRefused(f"{field.name} {find_text_problem(value, 2**31)}", field=field.name)
        if shape is OBJECT and value:
            from ally_plugins.policy.validation import check_event_data

            # 2**31: no limit here, the budget for the size is the host's.
            check_event_data(value, 2**31, field=field.name)
    return write_object(call)


def _is_encodable(value: object) -> bool:
    """Return whether a value arrives as what it is: text with lone surrogates and other types than JSON's do not."""
    if type(value) is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
        return True
    # The exact types: a subclass (an `IntEnum`, a `defaultdict`) would arrive as its base.
    return type(value) in {bool, int, float, list, dict}
