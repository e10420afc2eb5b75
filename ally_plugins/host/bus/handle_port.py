"""The in-process end of a plugin's handle: it stamps the plugin's identity on every call to the bus."""

# ruff: noqa: D102 - each call is `handle.Outbound`'s, and described there

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ally_plugins.contract.values.errors import UnavailableRefused

if TYPE_CHECKING:
    from ally_plugins.contract.handle import Task
    from ally_plugins.contract.values.conversation import Context, Receipt
    from ally_plugins.runtime.lanes.plugin import Plugin

    from .bus import PluginMessageBus

__all__ = ["PluginPort"]

T = TypeVar("T")


class PluginPort:
    """One plugin's way to the bus of its host; implements `handle.Outbound`.

    A call that is made on another loop than the host's is carried over to the host's.
    """

    def __init__(self, plugin: Plugin, bus: PluginMessageBus, supports: Callable[[str], bool]) -> None:
        self._plugin = plugin
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self.supports = supports

    def run_blocking(self, call: Coroutine[Any, Any, T], timeout: float | None) -> T:
        if threading.get_ident() == self._thread:
            call.close()
            message = "a blocking call on the loop's own thread would wait for itself; use `await ally...` there"
            raise RuntimeError(message)
        if self._loop.is_closed():
            call.close()
            text = f"the host of {self._plugin.name!r} has stopped"
            raise UnavailableRefused(text, plugin=self._plugin.name)
        try:
            future = asyncio.run_coroutine_threadsafe(call, self._loop)
        except RuntimeError as error:  # closed just now
            call.close()
            raise UnavailableRefused(
                f"the host of {self._plugin.name!r} has stopped", plugin=self._plugin.name
            ) from error
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            if self._loop.is_closed() and inspect.getcoroutinestate(call) == inspect.CORO_CREATED:
                call.close()  # the loop ended before it came to the call
            raise

    def may_log(self) -> bool:
        """Say whether the plugin may write one more log record now, and count it."""
        return self._bus.may_log(self._plugin)

    def _carry(self, call: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        """Return what awaits a call here, or on the host's loop when this is another thread's.

        No coroutine of its own in between where none is needed: each costs as much as a step of the bus.
        """
        return call if threading.get_ident() == self._thread else self._carry_over(call)

    async def _carry_over(self, call: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            call.close()
            raise UnavailableRefused(f"the host of {self._plugin.name!r} has stopped", plugin=self._plugin.name)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, self._loop))

    def add_message(self, role: str, content: str, **options: Any) -> Coroutine[Any, Any, Receipt]:
        return self._carry(self._bus.accept_message(self._plugin, role, content, **options))

    def emit_event(
        self, event_type: str, data: Mapping[str, Any], *, session_id: str | None
    ) -> Coroutine[Any, Any, Receipt]:
        return self._carry(self._bus.emit_event(self._plugin, event_type, data, session_id=session_id))

    def get_context(
        self, parts: Sequence[str] | None, *, since: str | None, session_id: str | None
    ) -> Coroutine[Any, Any, Context]:
        return self._carry(self._bus.get_context(self._plugin, parts, since=since, session_id=session_id))

    def register_tool(self, handler: Callable[..., Any], described: Mapping[str, Any]) -> Coroutine[Any, Any, Receipt]:
        return self._carry(self._bus.register(self._plugin, "tool", handler, described))

    def register_action(
        self, handler: Callable[..., Any], described: Mapping[str, Any]
    ) -> Coroutine[Any, Any, Receipt]:
        return self._carry(self._bus.register(self._plugin, "action", handler, described))

    def unregister(self, name: str) -> Coroutine[Any, Any, None]:
        return self._carry(self._bus.unregister(self._plugin, name))

    def request_action(
        self, action: str, arguments: Mapping[str, Any], *, session_id: str | None, timeout: float
    ) -> Coroutine[Any, Any, Any]:
        return self._carry(
            self._bus.request_action(self._plugin, action, arguments, session_id=session_id, timeout=timeout)
        )

    def start_task(
        self, name: str, work: Coroutine[Any, Any, Any], *, session_id: str | None
    ) -> Coroutine[Any, Any, Task]:
        return self._carry(self._bus.start_task(self._plugin, name, work, session_id=session_id))

    def task_progress(self, progress: float | None, message: str | None) -> Coroutine[Any, Any, None]:
        return self._carry(self._bus.task_progress(self._plugin, progress, message))
