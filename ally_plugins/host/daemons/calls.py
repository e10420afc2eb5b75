"""A daemon's requests as calls on the bus: read, given the identity of its connection, and answered.

Whether a call is allowed is decided by the bus.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve

from ally_plugins.contract.calls import (
    REGISTER,
    PluginCall,
    Register,
    ReportProgress,
    StartTask,
    Unregister,
)
from ally_plugins.contract.hookspecs import HOOKS
from ally_plugins.contract.values.codec import decode, encode
from ally_plugins.contract.values.errors import (
    EncodeError,
    PermissionRefused,
    RefusedError,
    RemoteError,
    ToolCallError,
    UnavailableRefused,
)
from ally_plugins.contract.values.ids import new_id
from ally_plugins.contract.values.inert import inert
from ally_plugins.contract.values.scope import SCOPE, Scope
from ally_plugins.runtime.lanes.link import RemoteCrash
from ally_plugins.runtime.lanes.plugin import RunState
from ally_plugins.runtime.lanes.requests import Crash
from ally_plugins.wire.codes import BUSY, CANCELLED, INTERNAL_ERROR, METHOD_NOT_FOUND, NOT_INITIALIZED, write_error
from ally_plugins.wire.daemon_params import AckEvents, RegisterActionParams
from ally_plugins.wire.methods import PLUGIN_METHODS, read_params, unknown_method
from ally_plugins.wire.offers import ToolOffer
from ally_plugins.wire.values import answer_to_wire, tool_result_from

from .stream_link import StreamLink

if TYPE_CHECKING:
    from ally_plugins.contract.tools.declared import Kind
    from ally_plugins.host.bus.bus import PluginMessageBus
    from ally_plugins.runtime.lanes.jobs import Job
    from ally_plugins.runtime.lanes.link import Link
    from ally_plugins.runtime.lanes.plugin import Plugin
    from ally_plugins.wire.messages import Notification, Progress, Request

    from .lane import RemoteLane

__all__ = ["DaemonCalls"]

_log: Final = logging.getLogger(__name__)

IN_FLIGHT: Final = 64
"""Requests of one daemon that may be unanswered at once: twice the budget of calls in flight that `policy` has."""

REQUESTS: Final = frozenset(
    name for name, method in PLUGIN_METHODS.items() if method.is_request and name != "initialize"
)
"""The methods that a daemon may call; `initialize` is the first frame of a connection, and read there."""

LONGEST_LOG: Final = 8_192
"""Characters of one log record of a daemon; the rest is cut."""

_LONGEST_US: Final = 10**12
"""Microseconds of eleven days: more than any hook takes, in a number that any reader of JSON has."""

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class DaemonCalls:
    """Answers one daemon; it lives as long as its plugin, through every restart of the process."""

    def __init__(
        self,
        plugin: Plugin,
        bus: PluginMessageBus,
        lane: RemoteLane,
        acknowledge: Callable[[str, str], Awaitable[None]],
    ) -> None:
        self.link: Link | None = None
        """The connection over which it talks back, when that is another one than its lane's."""
        self._plugin = plugin
        self._bus = bus
        self._lane = lane
        self._acknowledge = acknowledge
        self._in_flight = 0
        self._final_crash_link: Link | None = None
        """The connection over which the process reported a crash that it ends of."""

    def on_request(self, link: StreamLink, request: Request) -> Job | None:
        """Begin to answer a request; return what cancels that, None when it was answered at once."""
        if request.method not in REQUESTS:
            link.fail(request.id, METHOD_NOT_FOUND, str(unknown_method(request.method)))
        elif not link.is_initialized:
            link.fail(request.id, NOT_INITIALIZED, "calls may be made once `initialize` has been answered")
        elif self._in_flight >= IN_FLIGHT and _is_counted(request):
            link.fail(request.id, BUSY, f"{self._in_flight} requests are unanswered; wait for one to return")
        else:
            self._in_flight += _is_counted(request)
            return link.jobs.run(self._work(link, request))
        return None

    def on_notice(self, link: StreamLink, notice: Notification) -> None:
        """Take a log record or the report of a crash; anything else is dropped, as the protocol has it."""
        if not link.is_initialized:
            return
        try:
            params = read_params(notice.method, notice.params, self._plugin.name)
        except (RefusedError, LookupError):
            return
        if notice.method == "log":
            self._log(params)
        elif notice.method == "report_crash":
            self._report_crash(params)
        elif notice.method == "report_times":
            self._report_times(params)

    async def _work(self, link: StreamLink, request: Request) -> None:
        try:
            result = await self._answer(request)
        except asyncio.CancelledError:
            link.fail(request.id, CANCELLED, "cancelled")
            raise
        except (RefusedError, ToolCallError) as error:
            answer = write_error(error)
            link.fail(request.id, answer.code, answer.message, answer.data)
        except Exception:  # noqa: BLE001 - logged here; the daemon is sent no details of the host
            _log.exception("%s of the daemon %r failed", request.method, self._plugin.name)
            link.fail(request.id, INTERNAL_ERROR, "internal error")
        else:
            _respond(link, request, result)
        finally:
            self._in_flight -= _is_counted(request)

    async def _answer(self, request: Request) -> Any:
        try:
            params = read_params(request.method, request.params, self._plugin.name)
        except RefusedError as refusal:
            self._bus.refuse(self._plugin, request.method, refusal)
            raise
        # Progress belongs to the task it names, whatever cause the call names.
        cause = params.task_id if isinstance(params, ReportProgress) else params.cause
        SCOPE.set(self._lane.scope_of(cause, params.session_id))
        if isinstance(params, AckEvents):
            await self._acknowledge(self._plugin.name, params.offset)
            return None
        return answer_to_wire(request.method, await self._carry_out(self._with_handlers(params)))

    async def _carry_out(self, call: PluginCall[Any]) -> Any:
        return await self._bus.call(self._plugin, call)

    def _with_handlers(self, params: Any) -> PluginCall[Any]:
        """Return a call with handlers for what runs in the daemon's process: each sends a request to it."""
        if isinstance(params, ToolOffer):
            return self._registration("action" if isinstance(params, RegisterActionParams) else "tool", params)
        if isinstance(params, StartTask):
            return evolve(params, work=self._run_task(params.name))  # closed by the bus when it is refused
        call: PluginCall[Any] = params
        return call

    def _registration(self, kind: Kind, offer: ToolOffer) -> Register:
        described = offer.described
        if kind == "tool":
            described.pop("agent", None)
        return REGISTER[kind](handler=self._handler(kind, offer.name), options=described)

    def forget_link(self, link: Link) -> None:
        """Stop using a connection for talking back that has ended."""
        if self.link is link:
            self.link = None

    def _log(self, params: Any) -> None:
        if self._bus.may_log(self._plugin):
            logger = logging.getLogger(f"ally_plugins.plugin.{self._plugin.name}")
            is_cut = len(params.message) >= LONGEST_LOG  # here, or by the daemon, which has the same limit
            text = self._plugin.secrets.masked(params.message, is_cut=is_cut)
            text = inert(text[:LONGEST_LOG])  # one line, which a terminal only shows
            logger.log(_LEVELS.get(params.level, logging.INFO), "%s", text)

    def _report_times(self, params: Any) -> None:
        """Keep what a daemon says of events that it was sent; it may name any, and is believed of its own alone."""
        session_id = params.session_id or ""
        for each in params.times:
            if self._lane.was_delivered(f"{session_id}:{each['seq']}"):
                hook = each.get("hook")
                hook = hook if hook in HOOKS else None
                self._plugin.receipts.tell(session_id, hook, min(each["us"], _LONGEST_US) / 1e6, each["seq"])

    def _report_crash(self, params: Any) -> None:
        # While it is being stopped, whatever fails is no news.
        if self._plugin.state not in {RunState.STARTING, RunState.RUNNING}:
            return
        name, hook = self._plugin.name, inert(params.hook[:80])
        text = f"{inert(params.error[:80])} in {hook}; its traceback is in `ally-plugins logs {name}`"
        event_id = params.event_id
        if event_id is not None and not self._lane.was_delivered(event_id):
            event_id = None  # a daemon may name any
        crash = Crash(name, hook, RemoteCrash(text, plugin=name), event_id=event_id)
        if params.is_final and self._final_crash_link is not self._lane.link:
            self._final_crash_link = self._lane.link  # a second one of the same process counts as any crash
            self._plugin.on_crash(self._plugin, crash)  # recorded only: the end of the process follows, and is counted
        else:
            self._plugin.crashed(crash)

    # --- what the daemon offers ---

    async def offer(self, kind: Kind, offer: ToolOffer) -> bool:
        """Register what `initialize` offers, and say whether it was; what is not granted is skipped, as for decorators.

        Raises RefusedError for any other reason. Cancelling withdraws it.
        """
        try:
            await self._carry_out(self._registration(kind, offer))
        except PermissionRefused as refusal:
            why = self._plugin.describe(refusal)
            _log.info("the %s %r of %r is not offered: %s", kind, offer.name, self._plugin.name, why)
            return False
        return True

    async def unregister(self, name: str) -> None:
        """Unregister what a restarted daemon does not offer any more. Cancelling may leave it registered."""
        # It may be gone: unregistered by the plugin, or removed with a grant that was revoked.
        with suppress(RefusedError):
            await self._carry_out(Unregister(name=name))

    def _handler(self, kind: str, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(**arguments: Any) -> Any:
            return await self.run(kind, name, arguments)

        # Read by `Contribution.run`: nothing of the plugin's runs here that could keep the caller waiting.
        call.is_remote = True  # type: ignore[attr-defined]
        return call

    async def run(self, kind: str, name: str, arguments: Mapping[str, Any]) -> Any:
        """Have the daemon run a tool or an action of its own, in the scope of the caller, and return what it returned.

        Raises RefusedError and RemoteError. Cancelling cancels it there.
        """
        scope = SCOPE.get() or Scope(self._plugin.name)
        # Of this call alone: the daemon names it in its own calls, and several may run at one time.
        cause = new_id("c")
        params = {"name": name, "arguments": arguments, "session_id": scope.session_id, "cause": cause,
                  "origin": scope.origin}  # fmt: skip
        value = await self._request("call_tool" if kind == "tool" else "run_action", params, cause, scope)
        return tool_result_from(value) if kind == "tool" else value

    async def _run_task(self, name: str) -> Any:
        scope = SCOPE.get()
        assert scope is not None  # noqa: S101 - tasks set it
        assert scope.task_id is not None  # noqa: S101
        params = {"task_id": scope.task_id, "name": name, "session_id": scope.session_id, "origin": scope.origin}
        try:
            return await self._request("run_task", params, scope.task_id, scope)
        except RemoteError as error:
            if error.code == CANCELLED:  # by the plugin itself
                raise asyncio.CancelledError from None
            raise

    async def _request(self, method: str, params: dict[str, Any], cause: str, scope: Scope) -> Any:
        """Send a request that runs outside the lane; the daemon names `cause` in the calls that it makes for it."""
        link = self.link or self._lane.link
        if not isinstance(link, StreamLink):  # none, or one that only listens, whose connection back is broken
            what = "does not run" if link is None else "is not connected to its host; call again soon"
            raise UnavailableRefused(f"the process of {self._plugin.name!r} {what}", plugin=self._plugin.name)
        self._lane.note(cause, scope)
        try:
            answer = link.request(method, params)
            if method == "run_task":
                link.watch(answer, partial(self._on_progress, scope))
            return await answer
        finally:
            self._lane.forget(cause)

    def _on_progress(self, scope: Scope, progress: Progress) -> None:
        """Take `$/progress` of a task that the daemon runs, as if it had called `task_progress`."""
        # No reference is kept: it ends in its first step, since the bus awaits nothing for progress.
        asyncio.get_running_loop().create_task(self._report_progress(scope, progress))

    async def _report_progress(self, scope: Scope, progress: Progress) -> None:
        SCOPE.set(scope)
        with suppress(RefusedError):  # counted and written down; a notification has no answer
            call = ReportProgress(task_id=scope.task_id or "", progress=progress.progress, message=progress.message)
            await self._bus.call(self._plugin, call)


def _respond(link: StreamLink, request: Request, result: Any) -> None:
    try:
        try:
            link.respond(request.id, result)
        except EncodeError:
            if request.method != "get_context":
                raise
            # A conversation may hold integers of more than 64 bits, which are text then, as in events.
            link.respond(request.id, decode(encode(result)))
    except EncodeError as error:
        link.fail(request.id, INTERNAL_ERROR, f"the result cannot be sent: {error}")


def _is_counted(request: Request) -> bool:
    """Say whether a request counts as in flight: acknowledgements do not, since a whole window may be on its way."""
    return request.method != "ack_events"
