"""The agent kit for frameworks without a loop: the same calls as plain functions, from any thread.

They run on a loop in a thread of its own, with a copy of the caller's context; the tools run in the caller's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from ally_plugins.contract.blocking import blocking, passed_on
from ally_plugins.contract.values.conversation import ToolCall, ToolResult
from ally_plugins.host.sessions.open_calls import Postponed, call_key, result_of_error
from ally_plugins.runtime.lanes.call_thread import run_blocking

from .context import enter_call, inside
from .kit import AgentKit
from .work import AgentWork

if TYPE_CHECKING:
    from ally_plugins.host.blocking import BlockingHost

    from .tool_calls import CallOptions, UnshownCall

__all__ = ["BlockingKit", "BlockingWork"]

R = TypeVar("R")


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
        return self._host.run(call) if self._host is not None else run_blocking(call, self._wait)

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
    said = passed_on(AgentWork.said)
    model_answered = passed_on(AgentWork.model_answered)
    model_failed = passed_on(AgentWork.model_failed)
    planned = passed_on(AgentWork.planned)
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
