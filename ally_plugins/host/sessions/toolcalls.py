"""One tool call from the model's request to the result that it gets, in the order that the contract names.

Input transforms; the check of the arguments; TOOL_CALL_START; a diff preview; gates on the final value; the person,
where a gate wants it; the tool; output transforms; TOOL_CALL_END. A refusal is a result, so that the model can go on.
The order is Code-Ally's: observers see a call that is denied begin and end.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from attrs import define, evolve, field, frozen

from ally_plugins.contract.values.conversation import ToolCall, ToolResult
from ally_plugins.contract.values.errors import ArgumentsError, EventError, GateRefused, ToolCallError
from ally_plugins.contract.values.events import DiffPreview, Event, ToolCallEnd, ToolCallStart
from ally_plugins.contract.values.frozen import EMPTY, freeze_mapping

from .gates import unblocked

if TYPE_CHECKING:
    from .gates import Ruling, SessionGates

__all__ = [
    "Asker",
    "OpenCall",
    "OutputTransform",
    "Postponed",
    "Preview",
    "Previewed",
    "Runner",
    "not_run",
    "refuse_unshown",
    "run_tool_call",
]

_log: Final = logging.getLogger(__name__)

Runner = Callable[[ToolCall], Awaitable[ToolResult]]
"""What runs the tool, with the final arguments."""

OutputTransform = Callable[[ToolCall, ToolResult], Awaitable[ToolResult]]
"""What returns the result that plugins made of the tool's; raises GateRefused when it is withheld."""

Emit = Callable[[Event], object]
"""What takes an event of the session."""

Asker = Callable[[ToolCall, "Ruling"], Awaitable[bool]]
"""What asks the person whether the call may run; only `True` is a yes."""


Preview: TypeAlias = Callable[[ToolCall], DiffPreview | Awaitable[DiffPreview | None] | None]
"""What a call would change, None when it changes no file; may read, must not write. It is tied to the call."""


@frozen
class Previewed:
    """What a call would change, where there is a preview; `problem` says why there is none where one failed."""

    diff: DiffPreview | None = None
    problem: str = ""


class Postponed(Exception):
    """Raised by a runner whose tool has not run: another run goes on with the call, which stays open until then."""


@define(eq=False)
class OpenCall:
    """A call between its TOOL_CALL_START and its TOOL_CALL_END, each of which is emitted once.

    `parent_id` is the call that a sub-agent runs in, when it is one that makes this call. An open call may outlive the
    run that began it: one that was `Postponed` ends in another run.
    """

    emit: Emit
    call: ToolCall
    parent_id: str | None = None
    is_started: bool = False
    is_ended: bool = field(init=False, default=False)

    def start(self, unshown: str | None = None) -> None:
        """Emit the start, unless that was done. `unshown` is why the arguments are not in it."""
        if self.is_started:
            return
        self.is_started = True
        arguments = self.call.arguments if unshown is None else EMPTY
        self.emit(ToolCallStart(arguments=arguments, unshown=unshown, **self._about()))

    async def preview(self, preview: Preview) -> Previewed:
        """Emit what the call would change, and return it.

        One that fails does not deny the call: the gates see the call itself, and the person that the preview is
        missing. Cancelling propagates; the call stays open.
        """
        call = self.call
        try:
            made = preview(call)
            diff = await made if inspect.isawaitable(made) else made
            if diff is None:
                return Previewed()
            diff = evolve(
                diff,
                call_id=call.call_id or diff.call_id,
                agent_id=call.agent_id or diff.agent_id,
                parent_id=self.parent_id or diff.parent_id,
            )
            self.emit(diff)
        except Exception as error:  # noqa: BLE001 - whatever it is, the call is decided all the same
            _log.exception("the preview of %r failed; it is decided without one", call.tool_name)
            return Previewed(problem=f"the preview failed: {type(error).__name__}: {error}".removesuffix(": "))
        return Previewed(diff)

    def deny(self, reason: str, decision_id: str | None = None) -> ToolResult:
        """Emit the end of a call that does not run, and return the result for the model."""
        result = not_run(reason)
        self.end(result, denied=True, decision_id=decision_id)
        return result

    def end(
        self,
        result: ToolResult,
        *,
        duration_ms: float | None = None,
        denied: bool = False,
        decision_id: str | None = None,
    ) -> None:
        """Emit the end, unless that was done."""
        if self.is_ended:
            return
        self.is_ended = True
        summary = {"success": result.success, "error": result.error, "data": result.data}
        self.emit(
            ToolCallEnd(
                success=result.success,
                denied=denied,
                decision_id=decision_id,
                unshown=result.unshown,
                result=freeze_mapping({k: v for k, v in summary.items() if v is not None}),
                error=result.error,
                output=result.output,
                duration_ms=duration_ms,
                **self._about(),
            )
        )

    def interrupt(self, error: BaseException, duration_ms: float | None = None) -> None:
        """Emit the end of a call that was cancelled, or cut off by an unexpected error."""
        why = "interrupted" if isinstance(error, asyncio.CancelledError) else type(error).__name__
        self.end(ToolResult(success=False, error=why), duration_ms=duration_ms)

    async def carry_out(self, run: Runner, transform: OutputTransform) -> ToolResult:
        """Run a tool that may run: the tool, output transforms, the end with the time that the tool alone took.

        Cancelling cancels `run`, and emits the end with an error. Raises Postponed when `run` does: there is no end.
        """
        began = perf_counter()
        try:
            result = await _result_of(run, self.call)
        except Postponed:
            raise
        except BaseException as error:
            self.interrupt(error, _since(began))
            raise
        return await self.finish(result, transform, duration_ms=_since(began))

    async def finish(
        self, result: ToolResult, transform: OutputTransform, *, duration_ms: float | None = None
    ) -> ToolResult:
        """Return what transforms make of what the tool came to, and emit the end with it; cancelling emits it too."""
        try:
            result = await transform(self.call, result)
        except GateRefused as error:
            result = ToolResult(success=False, error=f"the output is withheld: {error}")
        except BaseException as error:
            self.interrupt(error, duration_ms)
            raise
        self.end(result, duration_ms=duration_ms)
        return result

    def _about(self) -> dict[str, Any]:
        call = self.call
        return {
            "tool_name": call.tool_name,
            "call_id": call.call_id,
            "agent_id": call.agent_id,
            "parent_id": self.parent_id,
        }


def not_run(reason: str) -> ToolResult:
    """Return the model's result of a call that did not run."""
    return ToolResult(success=False, error=f"not run: {reason}")


async def run_tool_call(
    gates: SessionGates,
    emit: Emit,
    origin: tuple[str, ...],
    call: ToolCall,
    run: Runner,
    *,
    ask: Asker | None = None,
    check: Callable[[Mapping[str, Any]], None] | None = None,
    preview: Preview | None = None,
) -> ToolResult:
    """Carry out one tool call; see `Session.run_tool_call`. `origin` is the chain of plugins that led to it.

    Cancelling cancels the hook or the tool that runs, and emits the end of a call whose start was emitted.
    """
    try:
        call = unblocked(await gates.transform_tool_input(call, origin))
    except GateRefused as refusal:  # a redacting transform failed: nobody may see the arguments
        return refuse_unshown(OpenCall(emit, call), str(refusal))
    try:
        if check is not None:
            check(call.arguments)
    except ArgumentsError as error:  # the model's mistake: no call began
        return not_run(str(error))
    opened = OpenCall(emit, call)
    opened.start()
    try:
        if preview is not None:
            await opened.preview(preview)
        if (denial := await _denial(await gates.gate_tool_call(call, origin), call, ask)) is not None:
            return opened.deny(*denial)
    except BaseException as error:
        opened.interrupt(error)
        raise

    async def transform(call: ToolCall, result: ToolResult) -> ToolResult:
        return unblocked(await gates.transform_tool_output(call, result, origin))

    return await opened.carry_out(run, transform)


def refuse_unshown(opened: OpenCall, why: str, decision_id: str | None = None) -> ToolResult:
    """Emit the start and the end of a call that is denied since its arguments cannot be shown."""
    opened.start(unshown=why)
    return opened.deny(why, decision_id)


async def _denial(ruling: Ruling, call: ToolCall, ask: Asker | None) -> tuple[str, str | None] | None:
    """Return why a call may not run, and the decision that says so; None when it may."""
    if ruling.is_denied:
        return ruling.reason, ruling.decision_id
    if ruling.needs_person and (ask is None or await ask(call, ruling) is not True):  # the text "no" is true to Python
        return f"the person did not agree: {ruling.reason}", ruling.decision_id
    return None


def _since(began: float) -> float:
    """Return the milliseconds since a moment, to the microsecond."""
    return round((perf_counter() - began) * 1000, 3)


async def _result_of(run: Runner, call: ToolCall) -> ToolResult:
    """Run a tool; what goes wrong in it is an answer to the model."""
    try:
        result = await run(call)
    except Postponed:
        raise
    except ToolCallError as error:
        return ToolResult(success=False, error=str(error))
    except EventError as error:  # of a result that cannot be made
        return ToolResult(success=False, error=f"the output is withheld: it cannot be shown to plugins: {error}")
    except Exception as error:  # noqa: BLE001
        return ToolResult(success=False, error=f"{type(error).__name__}: {error}")
    if isinstance(result, ToolResult):
        return result
    return ToolResult(success=False, error=f"the tool returned {type(result).__name__}; expected a ToolResult")
