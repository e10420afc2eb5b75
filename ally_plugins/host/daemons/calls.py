"""A daemon's requests as calls on the bus: read, stamped with its identity, and answered.

The out-of-process twin of `port`: what a call may do is the bus's to decide, who makes it is the connection's word.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.contract.values.errors import (
    EncodeError,
    PermissionRefused,
    RefusedError,
    RemoteError,
    ToolCallError,
    UnavailableRefused,
)
from ally_plugins.contract.values.frozen import EMPTY
from ally_plugins.contract.values.ids import new_id
from ally_plugins.contract.values.inert import inert
from ally_plugins.contract.values.scope import SCOPE, Scope
from ally_plugins.runtime.lanes.lane import Crash
from ally_plugins.runtime.lanes.link import RemoteCrash
from ally_plugins.runtime.lanes.plugin import RunState
from ally_plugins.wire.codes import BUSY, CANCELLED, INTERNAL_ERROR, METHOD_NOT_FOUND, NOT_INITIALIZED, write_error
from ally_plugins.wire.methods import read_params, unknown_method
from ally_plugins.wire.values import context_to_wire, receipt_to_wire, tool_result_from

from .peer import Peer

if TYPE_CHECKING:
    from ally_plugins.host.bus.bus import PluginMessageBus
    from ally_plugins.runtime.lanes.link import Link
    from ally_plugins.runtime.lanes.plugin import Plugin
    from ally_plugins.wire.messages import Notification, Progress, Request

    from .lane import DaemonLane

__all__ = ["DaemonCalls"]

_log: Final = logging.getLogger(__name__)

IN_FLIGHT: Final = 64
"""Requests of one daemon that may be unanswered, of all kinds: twice its budget for those that are waited for."""

LONGEST_LOG: Final = 8_192
"""Characters of one log record of a daemon; the rest is cut."""

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class DaemonCalls:
    """Answers one daemon; it lives as long as its plugin, through every restart of the process."""

    def __init__(
        self,
        plugin: Plugin,
        bus: PluginMessageBus,
        lane: DaemonLane,
        acknowledge: Callable[[str, str], Awaitable[None]],
    ) -> None:
        self.is_open = False
        """Whether the daemon may make calls: it has been greeted."""
        self.link: Link | None = None
        """The connection over which it talks back, where that is not its lane's."""
        self._plugin = plugin
        self._bus = bus
        self._lane = lane
        self._acknowledge = acknowledge
        self._in_flight = 0
        self._given_up: Link | None = None
        """The connection over which it was said that the process cannot go on."""

    def on_request(self, peer: Peer, request: Request) -> asyncio.Future[Any] | None:
        """Begin to answer a request."""
        answer = _ANSWERS.get(request.method)
        if answer is None:
            peer.fail(request.id, METHOD_NOT_FOUND, str(unknown_method(request.method)))
        elif not self.is_open:
            peer.fail(request.id, NOT_INITIALIZED, "calls may be made once `initialize` has been answered")
        elif self._in_flight >= IN_FLIGHT and _counts(request):
            peer.fail(request.id, BUSY, f"{self._in_flight} requests are unanswered; wait for one to return")
        else:
            self._in_flight += _counts(request)
            return asyncio.get_running_loop().create_task(self._work(answer, peer, request))
        return None

    def on_notice(self, notice: Notification) -> None:
        """Take a log record or the report of a crash; anything else is dropped, as the protocol has it."""
        if not self.is_open:
            return
        try:
            params = read_params(notice.method, notice.params, self._plugin.name)
        except (RefusedError, LookupError):
            return
        if notice.method == "log":
            self._log(params)
        elif notice.method == "report_crash":
            self._crashed(params)

    async def _work(self, answer: _Answer, peer: Peer, request: Request) -> None:
        try:
            result = await self._answer(answer, request)
        except asyncio.CancelledError:
            peer.fail(request.id, CANCELLED, "cancelled")
            raise
        except (RefusedError, ToolCallError) as error:
            told = write_error(error)
            peer.fail(request.id, told.code, told.message, told.data)
        except Exception:  # noqa: BLE001 - logged; the daemon hears no more of it
            _log.exception("%s of the daemon %r failed", request.method, self._plugin.name)
            peer.fail(request.id, INTERNAL_ERROR, "internal error")
        else:
            try:
                peer.respond(request.id, result)
            except EncodeError:
                peer.fail(request.id, INTERNAL_ERROR, "internal error: the result cannot be said in JSON")
        finally:
            self._in_flight -= _counts(request)

    async def _answer(self, answer: _Answer, request: Request) -> Any:
        try:
            params = read_params(request.method, request.params, self._plugin.name)
        except RefusedError as refusal:
            self._bus.refuse(self._plugin, request.method, refusal)
            raise
        SCOPE.set(self._lane.scope_of(params.cause, params.session_id))
        return await answer(self, params)

    def let_go(self, link: Link) -> None:
        """Use a connection no more that has ended."""
        if self.link is link:
            self.link = None

    # --- the calls ---

    async def _add_message(self, params: Any) -> Any:
        receipt = await self._bus.accept_message(
            self._plugin,
            params.role,
            params.content,
            session_id=params.session_id,
            key=params.key,
            deliver_as=params.deliver_as,
            trigger_turn=params.trigger_turn,
            metadata=params.metadata,
        )
        return receipt_to_wire(receipt)

    async def _emit_event(self, params: Any) -> Any:
        data = params.data if params.data is not None else EMPTY
        return receipt_to_wire(
            await self._bus.emit_event(self._plugin, params.type, data, session_id=params.session_id)
        )

    async def _get_context(self, params: Any) -> Any:
        context = await self._bus.get_context(
            self._plugin, params.parts, since=params.since, session_id=params.session_id
        )
        return context_to_wire(context)

    async def _register_tool(self, params: Any) -> Any:
        return receipt_to_wire(await self.register("tool", params))

    async def _register_action(self, params: Any) -> Any:
        return receipt_to_wire(await self.register("action", params))

    async def _unregister(self, params: Any) -> None:
        await self._bus.unregister(self._plugin, params.name)

    async def _request_action(self, params: Any) -> Any:
        return await self._bus.request_action(
            self._plugin,
            params.action,
            params.arguments if params.arguments is not None else EMPTY,
            session_id=params.session_id,
            timeout=params.timeout,
        )

    async def _start_task(self, params: Any) -> Any:
        work = self._run_task(params.name)  # closed by the bus when it is refused
        task = await self._bus.start_task(self._plugin, params.name, work, session_id=params.session_id)
        return {"task_id": task.id}

    async def _task_progress(self, params: Any) -> None:
        SCOPE.set(self._lane.scope_of(params.task_id, params.session_id))
        await self._bus.task_progress(self._plugin, params.progress, params.message)

    async def _ack_events(self, params: Any) -> None:
        await self._acknowledge(self._plugin.name, params.offset)

    def _log(self, params: Any) -> None:
        if self._bus.may_log(self._plugin):
            logger = logging.getLogger(f"ally_plugins.plugin.{self._plugin.name}")
            text = inert(self._plugin.masked(params.message[:LONGEST_LOG]))  # one line, which a terminal only shows
            logger.log(_LEVELS.get(params.level, logging.INFO), "%s", text)

    def _crashed(self, params: Any) -> None:
        if self._plugin.state not in {RunState.STARTING, RunState.RUNNING}:  # it is being ended, and says so no more
            return
        name, hook = self._plugin.name, inert(params.hook[:80])
        text = f"{inert(params.error[:80])} in {hook}; its traceback is in `ally-plugins logs {name}`"
        event_id = params.event_id if params.event_id is not None and self._lane.was_told(params.event_id) else None
        crash = Crash(name, hook, RemoteCrash(text, plugin=name), event_id=event_id)
        if params.is_final and self._given_up is not self._lane.link:
            self._given_up = self._lane.link  # a second one of the same process is no such end, and counts
            self._plugin.on_crash(self._plugin, crash)  # what counts is the end of the process, which follows
        else:
            self._plugin.crashed(crash)

    # --- what the daemon offers ---

    async def register(self, kind: str, offer: Any) -> Any:
        """Take on a tool or an action of the daemon's, be it from `initialize` or later. Raises RefusedError."""
        described = offer.described
        if kind == "tool":
            described.pop("agent", None)
        return await self._bus.register(self._plugin, kind, self._handler(kind, offer.name), described)

    async def offer(self, kind: str, offer: Any) -> bool:
        """Take on what `initialize` offers; what is not granted is left out, as for decorators. Say whether it was."""
        try:
            await self.register(kind, offer)
        except PermissionRefused as refusal:
            _log.info("the %s %r of %r is not offered: %s", kind, offer.name, self._plugin.name, refusal)
            return False
        return True

    async def unregister(self, name: str) -> None:
        """Take back what a daemon does not offer any more."""
        with suppress(RefusedError):
            await self._bus.unregister(self._plugin, name)

    def _handler(self, kind: str, name: str) -> Callable[..., Awaitable[Any]]:
        method = "call_tool" if kind == "tool" else "run_action"

        async def call(**arguments: Any) -> Any:
            scope = SCOPE.get() or Scope(self._plugin.name)
            cause = new_id("c")
            params = {"name": name, "arguments": arguments, "session_id": scope.session_id, "cause": cause,
                      "origin": scope.origin}  # fmt: skip
            value = await self._ask(method, params, cause, scope)
            return tool_result_from(value) if kind == "tool" else value

        call.is_remote = True  # type: ignore[attr-defined]
        return call

    async def _run_task(self, name: str) -> Any:
        scope = SCOPE.get()
        assert scope is not None  # noqa: S101 - tasks set it
        assert scope.task_id is not None  # noqa: S101
        params = {"task_id": scope.task_id, "name": name, "session_id": scope.session_id, "origin": scope.origin}
        try:
            return await self._ask("run_task", params, scope.task_id, scope)
        except RemoteError as error:
            if error.code == CANCELLED:  # by the plugin itself
                raise asyncio.CancelledError from None
            raise

    async def _ask(self, method: str, params: dict[str, Any], cause: str, scope: Scope) -> Any:
        """Ask the daemon to do something outside its lane; the daemon names `cause` in what it does meanwhile."""
        link = self.link or self._lane.link
        if not isinstance(link, Peer):  # none, or one that only listens, whose connection back is broken
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

    def _on_progress(self, scope: Scope, told: Progress) -> None:
        """Take `$/progress` of a task that the daemon runs, as if it had called `task_progress`."""
        asyncio.get_running_loop().create_task(self._progressed(scope, told))

    async def _progressed(self, scope: Scope, told: Progress) -> None:
        SCOPE.set(scope)
        with suppress(RefusedError):  # counted and written down; a notification has no answer
            await self._bus.task_progress(self._plugin, told.progress, told.message)


def _counts(request: Request) -> bool:
    """Say whether a request is one of those in flight: not acknowledgements, of which a window may be on its way."""
    return request.method != "ack_events"


_Answer = Callable[[DaemonCalls, Any], Awaitable[Any]]

_ANSWERS: Final[dict[str, _Answer]] = {
    "add_message": DaemonCalls._add_message,  # noqa: SLF001 - the class's own table
    "emit_event": DaemonCalls._emit_event,  # noqa: SLF001
    "get_context": DaemonCalls._get_context,  # noqa: SLF001
    "register_tool": DaemonCalls._register_tool,  # noqa: SLF001
    "register_action": DaemonCalls._register_action,  # noqa: SLF001
    "unregister": DaemonCalls._unregister,  # noqa: SLF001
    "request_action": DaemonCalls._request_action,  # noqa: SLF001
    "start_task": DaemonCalls._start_task,  # noqa: SLF001
    "task_progress": DaemonCalls._task_progress,  # noqa: SLF001
    "ack_events": DaemonCalls._ack_events,  # noqa: SLF001
}
