"""The host for programs without a loop: the same calls as plain functions, over a loop in a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, overload

from ally_plugins.contract.blocking import blocking, on_loop, passed_on
from ally_plugins.contract.values.compat import override
from ally_plugins.runtime.lanes.loopthread import LoopThread

from .host import Host
from .sessions.session import Session
from .signals import SIGNALS, exit_thread

if TYPE_CHECKING:
    from pathlib import Path

    from ally_plugins.contract.values.conversation import ToolCall, ToolResult
    from ally_plugins.contract.values.events import DiffPreview

    from .sessions.gates import Ruling
    from .sessions.open_calls import Check

__all__ = ["BlockingHost", "BlockingOwner", "BlockingSession"]

P = ParamSpec("P")
R = TypeVar("R")


class BlockingOwner:
    """Runs something with a `start` and a `stop` on a loop in a thread of its own; a context manager.

    `wait` is the longest time in seconds that one call may take (None for ever); after it the call is cancelled and
    TimeoutError raised. It holds for start and stop where `limits_life` says so.
    """

    def __init__(self, behind: Any, name: str, *, wait: float | None, limits_life: bool) -> None:
        self._behind = behind
        self._limits_life = limits_life
        self._loop = LoopThread(name, f"with {type(self).__name__}(...) as {name}:")
        self.wait = wait

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._loop.is_elsewhere:
            return  # a fork that ends amid the block: what it raises counts, and the owner is not its to stop
        self.stop()

    def start(self) -> None:
        """Start the loop's thread, and what runs on it. Raises what that raises, and nothing is left running then."""
        self._loop.start(self._behind.start(), self.wait if self._limits_life else None)

    def stop(self) -> None:
        """Stop what runs on the loop, and its thread; safe to call twice. Raises HostError in a fork."""
        self._loop.stop(self._behind.stop(), self.wait if self._limits_life else None)

    def run(self, call: Coroutine[Any, Any, R], /) -> R:
        """Run a coroutine on the loop and wait for it. Raises RuntimeError on its own thread, HostError in a fork."""
        return self._loop.run(call, self.wait)

    # The name by which what `blocking` and `on_loop` make calls it, here and in sessions.
    _run = run


class BlockingHost(BlockingOwner):
    """A `Host` whose calls block. A context manager; takes the same arguments, and may be used from any thread.

    `wait` is the longest time in seconds that one call may take (None for ever); after it the call is cancelled and
    TimeoutError raised. Starting and stopping are not cut short by it. Deadlines of plugins hold as always.
    """

    def __init__(self, app: str = "ally-plugins", *, wait: float | None = None, **options: Any) -> None:
        self.host = Host(app, **options)
        super().__init__(self.host, "host", wait=wait, limits_life=False)

    @override
    def __enter__(self) -> Self:
        # By an exception in the main thread: it runs plain code, which has no task to cancel.
        SIGNALS.begin(self, exit_thread)
        try:
            return super().__enter__()
        except BaseException:
            SIGNALS.end(self)
            raise

    @override
    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            super().__exit__(kind, *rest)
        finally:
            SIGNALS.end(self)

    def session(
        self, session_id: str | None = None, *, focus: str | None = None, project: Path | str | None = None
    ) -> BlockingSession:
        """Return a session, as `Host.session` does."""
        return BlockingSession(self, self._session(session_id, focus=focus, project=project))

    _session = on_loop(Host.session)
    health = on_loop(Host.health)
    call_tool = blocking(Host.call_tool)


class BlockingSession:
    """A session of a `BlockingHost`; `session` is the one behind it."""

    def __init__(self, host: BlockingHost, session: Session) -> None:
        self.session = self._behind = session
        self.id = session.id
        self._run = host.run

    emit = passed_on(Session.emit)
    wants = passed_on(Session.wants)
    agent_tools = on_loop(Session.agent_tools)
    gate_tool_call = blocking(Session.gate_tool_call)
    gate_permission = blocking(Session.gate_permission)
    gate_user_message = blocking(Session.gate_user_message)
    gate_answer = blocking(Session.gate_answer)
    gate_stop = blocking(Session.gate_stop)
    transform_tool_input = blocking(Session.transform_tool_input)
    transform_tool_output = blocking(Session.transform_tool_output)
    transform_user_message = blocking(Session.transform_user_message)
    transform_answer = blocking(Session.transform_answer)
    transform_system_prompt = blocking(Session.transform_system_prompt)
    transform_model_request = blocking(Session.transform_model_request)
    refuse_call = blocking(Session.refuse_call)
    wait_for_trigger = blocking(Session.wait_for_trigger)
    safe_point = blocking(Session.safe_point)
    confirm = blocking(Session.confirm)
    take_back = on_loop(Session.take_back)
    request_action = blocking(Session.request_action)
    call_agent_tool = blocking(Session.call_agent_tool)
    drained = blocking(Session.drained)
    close = blocking(Session.close)

    end_call = blocking(Session.end_call)

    def begin_call(
        self,
        call: ToolCall,
        *,
        ask: Callable[[ToolCall, Ruling], bool] | None = None,
        check: Check | None = None,
        preview: Callable[[ToolCall], DiffPreview | None] | None = None,
    ) -> ToolCall | ToolResult:
        """As `Session.begin_call`, with plain functions; `ask` runs in a thread of the loop's pool."""
        return self._run(self.session.begin_call(call, ask=_in_thread(ask), check=check, preview=preview))

    def run_tool_call(
        self,
        call: ToolCall,
        run: Callable[[ToolCall], ToolResult],
        *,
        ask: Callable[[ToolCall, Ruling], bool] | None = None,
        check: Check | None = None,
        preview: Callable[[ToolCall], DiffPreview | None] | None = None,
    ) -> ToolResult:
        """As `Session.run_tool_call`, with plain functions; `run` and `ask` run in threads of the loop's pool."""
        runner, asker = _in_thread(run), _in_thread(ask)
        return self._run(self.session.run_tool_call(call, runner, ask=asker, check=check, preview=preview))


@overload
def _in_thread(function: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]: ...
@overload
def _in_thread(function: Callable[P, R] | None) -> Callable[P, Coroutine[Any, Any, R]] | None: ...
def _in_thread(function: Callable[P, R] | None) -> Callable[P, Coroutine[Any, Any, R]] | None:
    """Return a plain function as a coroutine function, which runs it in a thread of the loop's pool."""
    return partial(asyncio.to_thread, function) if function is not None else None
