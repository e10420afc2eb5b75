"""A streamed run with plugins, which begins before the framework's and may go on when the model has answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Literal

from agents import RawResponsesStreamEvent
from openai.types.responses import ResponseTextDeltaEvent as TextDelta

from ally_plugins.adapters.kit.run import Interrupted

from .plugin_run import RunInterrupted

if TYPE_CHECKING:
    from agents import Agent, RunResultStreaming, StreamEvent

    from .plugin_run import PluginRun

__all__ = ["StreamedRun"]


_EMPTY: Final = frozenset(
    {
        "input_guardrail_results",
        "interruptions",
        "new_items",
        "output_guardrail_results",
        "raw_responses",
        "tool_input_guardrail_results",
        "tool_output_guardrail_results",
    }
)
"""The lists of a result in which there is nothing before its run has begun."""


class StreamedRun:
    """Stands in the place of the framework's streamed result; what it has not itself is that one's.

    The run goes on in a task of its own, whatever is read of it, as the framework's do.
    """

    def __init__(
        self,
        opening: Callable[[], Awaitable[PluginRun]],
        agent: Agent[Any],
        given: Any,
        start: Callable[[Agent[Any], Any, dict[str, Any]], RunResultStreaming],
    ) -> None:
        self._agent = agent
        self._start = start
        self._events: asyncio.Queue[StreamEvent | None] = asyncio.Queue()
        self._result: RunResultStreaming | None = None
        self._run: PluginRun | None = None
        self._is_cancelled = self._is_cut = False
        self._responses = 0
        self._task = asyncio.get_running_loop().create_task(self._drive(opening, given))
        self._task.add_done_callback(lambda _: self._events.put_nowait(None))  # also where it was cancelled as it began

    async def _drive(self, opening: Callable[[], Awaitable[PluginRun]], given: Any) -> None:
        try:
            self._run = await opening()
            await self._run.drive(self._agent, given, self._once)
        except RunInterrupted:
            if not self._is_cancelled:
                raise

    async def _once(self, agent: Agent[Any], given: Any, options: dict[str, Any]) -> RunResultStreaming:
        assert self._run is not None  # noqa: S101 - it drives this
        result = self._result = self._start(agent, given, options)
        loop, work = asyncio.get_running_loop(), self._run.work
        work.stop = lambda: loop.call_soon_threadsafe(result.cancel)
        self._run.is_streamed = True
        try:
            await self._show(result, self._run)
        except asyncio.CancelledError:
            result.cancel()
            raise
        finally:
            self._run.all_read()
        if work.interruption_cause is not None:
            raise Interrupted(work.interruption_cause)
        if result.run_loop_task is not None and result.run_loop_task.cancelled():  # as by a guardrail that was
            self._is_cancelled = True  # the framework's stream just ends then
            raise Interrupted("the run was cancelled")
        return result

    async def _show(self, result: RunResultStreaming, run: PluginRun) -> None:
        """Pass on the events of a run; those of a response that is held wait until plugins have seen the answer."""
        held: list[StreamEvent] = []
        how = ""
        delta: TextDelta | None = None
        async for event in result.stream_events():
            is_raw = event.type == "raw_response_event"
            hold = run.holds[self._responses] if is_raw else None
            if how == "withheld":
                continue
            text = hold.text if hold is not None else None
            if text is not None and event.type == "raw_response_event" and isinstance(event.data, TextDelta):
                delta = event.data
                self._show_text(delta, await text.feed_quietly(delta.delta))
            elif hold is None and not held:
                self._events.put_nowait(event)
            else:
                held.append(event)
            if event.type != "raw_response_event" or getattr(event.data, "type", None) != "response.completed":
                continue
            self._responses += 1
            if hold is not None:
                hold.is_read.set()
                task = result.run_loop_task  # it may end before plugins are asked
                waited = [hold.how] if task is None else [hold.how, task]
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                how = hold.how.result() if hold.how.done() else "withheld"
                self._show_text(delta, hold.rest)
                delta = None
            for each in held:
                if how != "withheld" and (how != "changed" or each.type != "raw_response_event"):
                    self._events.put_nowait(each)
            held.clear()

    def _show_text(self, delta: TextDelta | None, text: str) -> None:
        """Pass on text that was allowed, in an event of the model's. Its probabilities would name what was not."""
        if delta is not None and text:
            shown = delta.model_copy(update={"delta": text, "logprobs": []})
            self._events.put_nowait(RawResponsesStreamEvent(data=shown))

    async def stream_events(self) -> AsyncGenerator[StreamEvent]:
        """Return the events of the run as they come; raises what the run raises. Cancelling cancels the run.

        Closing it waits for the run, as the framework's does.
        """
        try:
            while (event := await self._events.get()) is not None and not self._is_cut:
                yield event
            self._events.put_nowait(None)  # for who asks again
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        finally:
            await asyncio.wait((self._task,))
            _ = self.run_loop_exception  # seen: asyncio reports no error of a run whose reader went away
        if not (self._is_cancelled and self._task.cancelled()):  # a tool may raise a cancellation of its own
            self._task.result()

    def cancel(self, mode: Literal["immediate", "after_turn"] = "immediate") -> None:
        """Stop the run, as the framework does it: its events end, and nothing is raised."""
        self._is_cancelled = True
        if mode == "immediate":
            self._is_cut = True
            self._events.put_nowait(None)
        if self._run is None or self._result is None:
            self._task.cancel()
            return
        self._run.work.interruption_cause = "the stream was cancelled"
        self._result.cancel(mode)

    @property
    def run_loop_task(self) -> asyncio.Task[None]:
        """The task in which the run goes on, with plugins."""
        return self._task

    @property
    def run_loop_exception(self) -> BaseException | None:
        """What the run has raised, once it has ended and was not cancelled, plugins' refusals among it."""
        return self._task.exception() if self._task.done() and not self._task.cancelled() else None

    def __getattr__(self, name: str) -> Any:
        known = self.__dict__
        if known.get("_result") is not None:
            return getattr(self._result, name)
        if name in _EMPTY:
            return []
        before = {"final_output": None, "current_agent": known.get("_agent"), "is_complete": known.get("_is_cancelled")}
        if name in before:
            return before[name]
        raise AttributeError(f"{name!r} of a streamed run is not known before its first event")
