"""A streamed run with plugins, which begins before the framework's and may go on when the model has answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal

from .interruption import RunInterrupted

if TYPE_CHECKING:
    from agents import Agent, RunResultStreaming, StreamEvent

    from .plugin_run import PluginRun

__all__ = ["StreamedRun"]


class StreamedRun:
    """Stands in the place of the framework's streamed result; what it has not itself is that one's.

    The run goes on in a task of its own, whatever is read of it, as the framework's do.
    """

    def __init__(
        self,
        opening: Awaitable[PluginRun],
        agent: Agent[Any],
        given: Any,
        start: Callable[[Agent[Any], Any, dict[str, Any]], RunResultStreaming],
    ) -> None:
        self._agent = agent
        self._start = start
        self._events: asyncio.Queue[StreamEvent | None] = asyncio.Queue()
        self._result: RunResultStreaming | None = None
        self._run: PluginRun | None = None
        self._is_cancelled = False
        self._responses = 0
        self._task = asyncio.get_running_loop().create_task(self._drive(opening, given))

    async def _drive(self, opening: Awaitable[PluginRun], given: Any) -> None:
        try:
            self._run = await opening
            await self._run.drive(self._agent, given, self._once)
        except RunInterrupted:
            if not self._is_cancelled:
                raise
        finally:
            self._events.put_nowait(None)

    async def _once(self, agent: Agent[Any], given: Any, options: dict[str, Any]) -> RunResultStreaming:
        assert self._run is not None  # noqa: S101 - it drives this
        result = self._result = self._start(agent, given, options)
        loop, work = asyncio.get_running_loop(), self._run.work
        work.stop = lambda: loop.call_soon_threadsafe(result.cancel)
        await self._show(result, self._run)
        if work.interruption_cause is not None:
            raise asyncio.CancelledError
        return result

    async def _show(self, result: RunResultStreaming, run: PluginRun) -> None:
        """Pass on the events of a run; those of a response that is held wait until plugins have seen the answer."""
        held: list[StreamEvent] = []
        how = ""
        async for event in result.stream_events():
            is_raw = event.type == "raw_response_event"
            hold = run.holds[self._responses] if is_raw else None
            if how == "withheld":
                continue
            if hold is None and not held:
                self._events.put_nowait(event)
            else:
                held.append(event)
            if not (event.type == "raw_response_event" and event.data.type == "response.completed"):
                continue
            self._responses += 1
            if hold is not None:
                task = result.run_loop_task  # it may end before plugins are asked
                await asyncio.wait([hold] if task is None else [hold, task], return_when=asyncio.FIRST_COMPLETED)
                how = hold.result() if hold.done() else "withheld"
            for each in held:
                if how != "withheld" and (how != "changed" or each.type != "raw_response_event"):
                    self._events.put_nowait(each)
            held.clear()

    async def stream_events(self) -> AsyncGenerator[StreamEvent]:
        """Return the events of the run as they come; raises what the run raises. Cancelling cancels the run."""
        try:
            while (event := await self._events.get()) is not None:
                yield event
            self._events.put_nowait(None)  # for who asks again
            await asyncio.shield(self._task)
        except asyncio.CancelledError:
            self._task.cancel()
            raise

    def cancel(self, mode: Literal["immediate", "after_turn"] = "immediate") -> None:
        """Stop the run, as the framework does it: its events end, and nothing is raised."""
        self._is_cancelled = True
        if self._run is None or self._result is None:
            self._task.cancel()
            return
        self._run.work.interruption_cause = "the stream was cancelled"
        self._result.cancel(mode)

    def __getattr__(self, name: str) -> Any:
        if self.__dict__.get("_result") is not None:
            return getattr(self._result, name)
        if name == "current_agent":
            return self._agent
        raise AttributeError(f"{name!r} of a streamed run is not known before its first event")
