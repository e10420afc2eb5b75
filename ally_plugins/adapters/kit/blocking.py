"""The agent kit for frameworks without a loop: the same calls as plain functions, from any thread.

They run on a loop in a thread of its own, with a copy of the caller's context; the tools run in the caller's thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, TypeVar, Unpack

from ally_plugins.contract.blocking import blocking, passed_on
from ally_plugins.contract.values.conversation import ToolCall, ToolResult
from ally_plugins.host.sessions.open_calls import Postponed, call_key, result_of_error
from ally_plugins.runtime.lanes.loopthread import LoopThread

from .context import enter_call, inside
from .kit import AgentKit
from .work import AgentWork

if TYPE_CHECKING:
    from ally_plugins.host.blocking import BlockingHost

    from .tool_calls import CallOptions, UnshownCall

__all__ = ["BlockingKit", "BlockingWork", "run_around", "run_blocking"]

A = TypeVar("A")
B = TypeVar("B")
R = TypeVar("R")


class _CallThread:
    """The thread of this process whose loop runs the calls of plain threads. It lives as long as the process."""

    def __init__(self) -> None:
        self._thread: LoopThread | None = None
        self._lock = threading.Lock()

    def run(self, call: Coroutine[Any, Any, R], wait: float | None) -> R:
        # Only for the start: calls themselves run side by side.
        with self._lock:
            if self._thread is None or self._thread.is_elsewhere:  # the thread of a fork's parent is not in the fork
                self._thread = LoopThread("calls", "BlockingKit(...)")
                # LoopThread starts with a coroutine; there is nothing to begin here.
                self._thread.start(_begin(), None)
        return self._thread.run(call, wait)


async def _begin() -> None:
    pass


_CALLS: Final = _CallThread()


def run_blocking(call: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine on the loop for plain threads, with a copy of the caller's context, and return its result."""
    return _CALLS.run(call, None)


def run_around(
    hook: Callable[[A, Callable[[A], Awaitable[B]]], Coroutine[Any, Any, R]], value: A, function: Callable[[A], B]
) -> R:
    """Run a hook that stands around a function, `hook(value, function)`, for a caller that has no loop.

    The function runs in the caller's thread, as often as the hook calls it, with a copy of the hook's context; no loop
    runs there, so that it may run one. What it raises is raised in the hook; KeyboardInterrupt and SystemExit cancel
    the hook, and are raised here.
    """
    calls: SimpleQueue[tuple[Future[B], Context, A] | None] = SimpleQueue()

    async def call(value: A) -> B:
        answer: Future[B] = Future()
        calls.put((answer, copy_context(), value))
        return await asyncio.wrap_future(answer)

    async def run() -> R:
        try:
            return await hook(value, call)
        finally:
            # Also when the hook fails or is cancelled: the caller's thread waits in `get`.
            calls.put(None)

    begun: list[asyncio.Task[R]] = []

    async def begin() -> None:
        # Kept and not returned: Ctrl-C may come before the caller's thread has the result.
        begun.append(asyncio.create_task(run()))

    try:
        run_blocking(begin())
        while (called := calls.get()) is not None:
            answer, context, given = called
            try:
                # In the hook's context: an agent that the function starts finds its run there.
                result = context.run(function, given)
            except Exception as error:  # noqa: BLE001 - raised in the hook, which stands around it
                answer.set_exception(error)
            else:
                answer.set_result(result)
    # Of the function, or Ctrl-C in `get`: a loop does not outlive KeyboardInterrupt and SystemExit.
    except BaseException:
        run_blocking(_cancelled(begun))
        raise
    return run_blocking(_result_of(begun[0]))


async def _cancelled(tasks: list[asyncio.Task[R]]) -> None:
    for task in tasks:
        task.cancel()
        await asyncio.wait((task,))


async def _result_of(task: asyncio.Task[R]) -> R:
    return await task


class BlockingKit:
    """An `AgentKit` whose calls block; `kit` is the one behind it. May be used from any thread but the host's own.

    `host` is given where the kit's host is that of a `BlockingHost`, on whose loop the calls run then. `wait` is the
    longest time in seconds that one call may take (None for ever); after it the call is cancelled and TimeoutError
    raised. Deadlines of plugins hold as always. An approver is a coroutine function here, too; one that asks a person
    by a function that blocks runs it in a thread (`asyncio.to_thread`).
    """

    def __init__(self, kit: AgentKit, host: BlockingHost | None = None, *, wait: float | None = None) -> None:
        # `_behind` is what `blocking` and `passed_on` call.
        self.kit = self._behind = kit
        self._host = host
        self._wait = wait

    def _run(self, call: Coroutine[Any, Any, R], /) -> R:
        return self._host.run(call) if self._host is not None else _CALLS.run(call, self._wait)

    _open = blocking(AgentKit.open)

    def open(
        self,
        session_id: str,
        run_id: str,
        name: str,
        *,
        model: str | None = None,
        parent: BlockingWork | None = None,
        call_id: str | None = None,
        is_exclusive: bool = False,
    ) -> BlockingWork:
        """Open one run of an agent, as `AgentKit.open` does."""
        behind = parent.work if parent is not None else None
        opened = self._open(
            session_id, run_id, name, model=model, parent=behind, call_id=call_id, is_exclusive=is_exclusive
        )
        return BlockingWork(self, opened)

    def find(self, session_id: str, run_id: str | None = None) -> BlockingWork | None:
        """Return an open run of a conversation, as `AgentKit.find` does."""
        found = self.kit.find(session_id, run_id)
        return BlockingWork(self, found) if found is not None else None


class BlockingWork:
    """One run of an agent as plain functions; `work` is the one behind it."""

    def __init__(self, kit: BlockingKit, work: AgentWork) -> None:
        self.work = self._behind = work
        self._run = kit._run  # noqa: SLF001 - its other half

    begin = blocking(AgentWork.begin)
    close = blocking(AgentWork.close)
    safe_point = blocking(AgentWork.safe_point)
    sent_on = blocking(AgentWork.sent_on)
    answered = blocking(AgentWork.answered)
    answered_data = blocking(AgentWork.answered_data)
    compacted = blocking(AgentWork.compacted)
    transform_input = blocking(AgentWork.transform_input)
    authorize = blocking(AgentWork.authorize)
    refuse = blocking(AgentWork.refuse)
    admit_ungated = blocking(AgentWork.admit_ungated)
    end_call = blocking(AgentWork.end_call)
    call_plugin_tool = blocking(AgentWork.call_plugin_tool)
    _begin_call = blocking(AgentWork.begin_call)
    given_call = passed_on(AgentWork.given_call)
    follow = passed_on(AgentWork.follow)
    offered = passed_on(AgentWork.offered)
    requested = passed_on(AgentWork.requested)
    received = passed_on(AgentWork.received)
    responded = passed_on(AgentWork.responded)
    thought = passed_on(AgentWork.thought)
    said = passed_on(AgentWork.said)
    model_answered = passed_on(AgentWork.model_answered)
    model_failed = passed_on(AgentWork.model_failed)
    planned = passed_on(AgentWork.planned)
    used = passed_on(AgentWork.used)
    postpone = passed_on(AgentWork.postpone)

    def begin_call(
        self,
        call: ToolCall | UnshownCall,
        *,
        runs_here: bool = False,
        **how: Unpack[CallOptions],
    ) -> ToolCall | ToolResult:
        """Return the call that may run now, or the refusal for the model, as `AgentWork.begin_call` does."""
        begun = self._begin_call(call, **how)
        if runs_here and isinstance(begun, ToolCall) and (opened := self.work.open_calls.find(begun)) is not None:
            enter_call(self.work, opened)  # in the context of this thread, and not in that of the call above
        return begun

    def run_tool_call(
        self,
        call: ToolCall | UnshownCall,
        run: Callable[[ToolCall], ToolResult],
        **how: Unpack[CallOptions],
    ) -> ToolResult:
        """Carry out one tool call, as `AgentWork.run_tool_call` does; `run` runs in this thread."""
        begun = self.begin_call(call, **how)
        if isinstance(begun, ToolResult):
            return begun
        try:
            with inside(self.work, begun.call_id):
                result = run(begun)
        except Postponed:
            self.work.postpone(begun)
            raise
        except Exception as error:  # noqa: BLE001 - what goes wrong in a tool is an answer to the model
            result = result_of_error(error)
        except BaseException as error:  # KeyboardInterrupt: the call must have an end all the same
            self.work.interrupt_call(begun, error)
            raise
        return self.end_call(call_key(begun), result)
