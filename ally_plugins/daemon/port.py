"""The way from a plugin's handle to its host in another process; implements `handle.Outbound`.

Who the plugin is, the host knows by the descriptor. What a call reacts to (session, cause) is said for it, from the
scope that its code runs in.
"""

# ruff: noqa: D102 - each call is `handle.Outbound`'s, and described there

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ally_plugins.contract.values.errors import EventError, NotFoundRefused, UnavailableRefused, ValidationRefused
from ally_plugins.contract.values.scope import current_scope
from ally_plugins.wire.values import context_from_wire, receipt_from_wire

from .loading import described as described_tool

if TYPE_CHECKING:
    from concurrent.futures import Future

    from ally_plugins.contract.handle import Task
    from ally_plugins.contract.tools.declared import Kind
    from ally_plugins.contract.values.conversation import Context, Receipt

    from .handlers import Handlers
    from .peer import Peer
    from .tasks import Tasks

__all__ = ["DaemonPort"]

T = TypeVar("T")

LOGS_PER_MINUTE: Final = 600  # the host's default too (Limits.logs_per_minute): what it would drop need not be sent


class DaemonPort:
    """The outbound calls of the plugin in this process; made on the loop that the connection belongs to.

    A call that is made on another loop is carried over.
    """

    def __init__(self, plugin: str, peer: Peer, capabilities: frozenset[str], handlers: Handlers, tasks: Tasks) -> None:
        self.is_open = False
        """Whether calls may be made: not while the plugin is built, nor after its end."""
        self._plugin = plugin
        self._peer = peer
        self._capabilities = capabilities
        self._handlers = handlers
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._logs = float(LOGS_PER_MINUTE)
        self._logged_at = time.monotonic()

    def use(self, peer: Peer) -> None:
        """Make calls over another connection from now on."""
        self._peer = peer

    # --- without the host ---

    def supports(self, name: str, /) -> bool:
        return name in self._capabilities

    def may_log(self) -> bool:
        now = time.monotonic()
        gained = (now - self._logged_at) * LOGS_PER_MINUTE / 60
        self._logged_at = now
        self._logs = min(float(LOGS_PER_MINUTE), self._logs + gained)
        if self._logs < 1:
            return False
        self._logs -= 1
        return True

    def run_blocking(self, call: Coroutine[Any, Any, T], timeout: float | None) -> T:
        if threading.get_ident() == self._thread:
            call.close()
            message = "a blocking call on the loop's own thread would wait for itself; use `await ally...` there"
            raise RuntimeError(message)
        future = self._submit(call)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            if self._loop.is_closed() and inspect.getcoroutinestate(call) == inspect.CORO_CREATED:
                call.close()  # the loop ended before it came to the call
            raise

    # --- calls ---

    def add_message(
        self,
        role: str,
        content: str,
        *,
        session_id: str | None,
        key: str | None,
        deliver_as: str,
        trigger_turn: bool,
        metadata: Mapping[str, Any] | None,
    ) -> Coroutine[Any, Any, Receipt]:
        return self._carry(self._add_message(
            role=role, content=content, session_id=session_id, key=key, deliver_as=deliver_as,
            trigger_turn=trigger_turn, metadata=metadata,
        ))  # fmt: skip

    async def _add_message(self, **params: Any) -> Receipt:
        _check_texts(params, "content", "key")
        _check_data(params["metadata"], "metadata")
        if params["trigger_turn"] is False:
            del params["trigger_turn"]
        return receipt_from_wire(await self._call("add_message", params))

    def emit_event(
        self, event_type: str, data: Mapping[str, Any], *, session_id: str | None
    ) -> Coroutine[Any, Any, Receipt]:
        return self._carry(self._emit_event(event_type, data, session_id))

    async def _emit_event(self, event_type: str, data: Mapping[str, Any], session_id: str | None) -> Receipt:
        _check_data(data, "data")
        params = {"type": event_type, "data": data or None, "session_id": session_id}
        return receipt_from_wire(await self._call("emit_event", params))

    def get_context(
        self, parts: Sequence[str] | None, *, since: str | None, session_id: str | None
    ) -> Coroutine[Any, Any, Context]:
        return self._carry(self._get_context(parts, since, session_id))

    async def _get_context(self, parts: Sequence[str] | None, since: str | None, session_id: str | None) -> Context:
        if isinstance(parts, (set, frozenset, tuple)):
            parts = list(parts)
        params = {"parts": parts, "since": since, "session_id": session_id}
        return context_from_wire(await self._call("get_context", params))

    def register_tool(self, handler: Callable[..., Any], described: Mapping[str, Any]) -> Coroutine[Any, Any, Receipt]:
        return self._carry(self._register("tool", handler, described))

    def register_action(
        self, handler: Callable[..., Any], described: Mapping[str, Any]
    ) -> Coroutine[Any, Any, Receipt]:
        return self._carry(self._register("action", handler, described))

    async def _register(self, kind: Kind, handler: Callable[..., Any], described: Mapping[str, Any]) -> Receipt:
        from ally_plugins.contract.tools.declared import make_spec

        try:
            spec = make_spec(kind, handler, **described)
        except TypeError as error:
            raise ValidationRefused(f"register_{kind}: {error}", field="described") from None
        take_back = self._handlers.add(spec)
        try:
            return receipt_from_wire(await self._call(f"register_{kind}", described_tool(spec), has_session=False))
        except BaseException:
            take_back()
            raise

    def unregister(self, name: str) -> Coroutine[Any, Any, None]:
        return self._carry(self._unregister(name))

    async def _unregister(self, name: str) -> None:
        await self._call("unregister", {"name": name}, has_session=False)
        self._handlers.remove(name)

    def request_action(
        self, action: str, arguments: Mapping[str, Any], *, session_id: str | None, timeout: float
    ) -> Coroutine[Any, Any, Any]:
        return self._carry(self._request_action(action, arguments, session_id, timeout))

    async def _request_action(
        self, action: str, arguments: Mapping[str, Any], session_id: str | None, timeout: float
    ) -> Any:
        _check_data(arguments, "arguments")
        params = {"action": action, "arguments": arguments or None, "timeout": timeout, "session_id": session_id}
        return await self._call("request_action", params)

    def start_task(
        self, name: str, work: Coroutine[Any, Any, Any], *, session_id: str | None
    ) -> Coroutine[Any, Any, Task]:
        return self._carry(self._start_task(name, work, session_id))

    async def _start_task(self, name: str, work: Coroutine[Any, Any, Any], session_id: str | None) -> Task:
        started: list[Task] = []

        def agreed(result: Any) -> None:
            # Before anything else of the host's is read: its `run_task` may stand right behind this answer.
            task_id = result.get("task_id") if isinstance(result, dict) else None
            if not isinstance(task_id, str):
                raise EventError("the host answered start_task without a task_id", path="task_id")
            started.append(self._tasks.add(task_id, name, work))

        try:
            if not asyncio.iscoroutine(work):
                text = f"work is {type(work).__name__}; expected a coroutine"
                raise ValidationRefused(text, field="work")  # noqa: TRY301 - it is closed below, like any other
            await self._call("start_task", {"name": name, "session_id": session_id}, then=agreed)
        except BaseException:
            if not started and asyncio.iscoroutine(work):
                work.close()
            raise
        return started[0]

    def task_progress(self, progress: float | None, message: str | None) -> Coroutine[Any, Any, None]:
        return self._carry(self._task_progress(progress, message))

    async def _task_progress(self, progress: float | None, message: str | None) -> None:
        scope = current_scope(self._plugin)
        if scope is None or scope.task_id is None:
            raise NotFoundRefused("task_progress was called outside a task; call it from the task's coroutine")
        params = {"task_id": scope.task_id, "progress": progress, "message": message}
        await self._call("task_progress", params, has_session=False)

    # --- how ---

    async def _call(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        has_session: bool = True,
        then: Callable[[Any], None] | None = None,
    ) -> Any:
        if not self.is_open:
            text = f"the plugin {self._plugin!r} is not running; calls may be made from ally_start on, to ally_stop"
            raise UnavailableRefused(text, plugin=self._plugin)
        given = {name: value for name, value in params.items() if value is not None}
        scope = current_scope(self._plugin)
        if scope is not None:
            if has_session and scope.session_id is not None:
                given.setdefault("session_id", scope.session_id)
            if scope.cause_id is not None:
                given["cause"] = scope.cause_id
        try:
            return await self._peer.call(method, given, then=then)
        except TypeError as error:  # something in it is no JSON value
            raise ValidationRefused(f"{method}: {error}", plugin=self._plugin, field="params") from None

    def _carry(self, call: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        """Return what awaits a call here, or on the connection's loop when this is another thread's."""
        return call if threading.get_ident() == self._thread else self._carry_over(call)

    async def _carry_over(self, call: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(self._submit(call))

    def _submit(self, call: Coroutine[Any, Any, T]) -> Future[T]:
        try:
            return asyncio.run_coroutine_threadsafe(call, self._loop)
        except RuntimeError as error:  # the loop is closed
            call.close()
            raise UnavailableRefused(f"the host of {self._plugin!r} has stopped", plugin=self._plugin) from error


def _check_texts(params: Mapping[str, Any], *fields: str) -> None:
    """Refuse what the wire would change on its way, or cannot carry; everything else is for the host to judge."""
    for field in fields:
        text = params[field]
        if (type(text) is str and text.isascii()) or text is None or _is_sayable(text):
            continue
        from ally_plugins.policy.validation import find_text_problem

        raise ValidationRefused(f"{field} {find_text_problem(text, 2**31)}", field=field)


def _is_sayable(value: object) -> bool:
    """Say whether a value arrives as what it is."""
    if type(value) is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
        return True
    return type(value) in {bool, int, float, list, dict}


def _check_data(data: object, field: str) -> None:
    """Refuse what the wire would change on its way: numbers that are not finite, keys and values of other types."""
    if data:
        from ally_plugins.policy.validation import check_event_data

        check_event_data(data, 2**31, field=field)
