"""The in-process end of a plugin's handle: it stamps the plugin's identity on every call to the bus."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import UnavailableRefused

if TYPE_CHECKING:
    from .bus import PluginMessageBus
    from .conversation import Context, Receipt
    from .handle import Task
    from .runtime.plugin import Plugin

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
            raise UnavailableRefused(f"the host of {self._plugin.name!r} has stopped", plugin=self._plugin.name) from error
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    def may_log(self) -> bool:
        """Say whether the plugin may write one more log record now, and count it."""
        return self._bus.may_log(self._plugin)

    async def _carry(self, call: Coroutine[Any, Any, T]) -> T:
        """Await a call here, or on the host's loop when this is another thread's."""
        if threading.get_ident() == self._thread:
            return await call
        if self._loop.is_closed():
            call.close()
            raise UnavailableRefused(f"the host of {self._plugin.name!r} has stopped", plugin=self._plugin.name)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, self._loop))

    async def add_message(self, role: str, content: str, **options: Any) -> Receipt:
        return await self._carry(self._bus.accept_message(self._plugin, role, content, **options))

    async def emit_event(self, event_type: str, data: Mapping[str, Any], *, session_id: str | None) -> Receipt:
        return await self._carry(self._bus.emit_event(self._plugin, event_type, data, session_id=session_id))

    async def get_context(self, parts: Sequence[str] | None, *, since: str | None, session_id: str | None) -> Context:
        return await self._carry(self._bus.get_context(self._plugin, parts, since=since, session_id=session_id))

    async def register_tool(self, handler: Callable[..., Any], described: Mapping[str, Any]) -> Receipt:
        return await self._carry(self._bus.register(self._plugin, "tool", handler, described))

    async def register_action(self, handler: Callable[..., Any], described: Mapping[str, Any]) -> Receipt:
        return await self._carry(self._bus.register(self._plugin, "action", handler, described))

    async def unregister(self, name: str) -> None:
        await self._carry(self._bus.unregister(self._plugin, name))

    async def request_action(
        self, action: str, arguments: Mapping[str, Any], *, session_id: str | None, timeout: float
    ) -> Any:
        return await self._carry(self._bus.request_action(self._plugin, action, arguments, session_id=session_id, timeout=timeout))

    async def start_task(self, name: str, work: Coroutine[Any, Any, Any], *, session_id: str | None) -> Task:
        return await self._carry(self._bus.start_task(self._plugin, name, work, session_id=session_id))

    async def task_progress(self, progress: float | None, message: str | None) -> None:
        await self._carry(self._bus.task_progress(self._plugin, progress, message))
