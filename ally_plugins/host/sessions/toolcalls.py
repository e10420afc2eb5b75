"""One tool call from the model's wish to what the model is told, in the order that the contract names.

Input transforms; the check of the arguments; a diff preview; gates on the final value; the person, where a gate wants
it; the tool; output transforms; and the events of all of it. A refusal is a result, so that the model can go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from ally_plugins.contract.values.conversation import ToolCall, ToolResult
from ally_plugins.contract.values.errors import ArgumentsError, GateRefused, ToolCallError
from ally_plugins.contract.values.events import DiffPreview, Event, ToolCallEnd, ToolCallStart
from ally_plugins.contract.values.frozen import freeze_mapping

if TYPE_CHECKING:
    from .gates import Ruling

__all__ = ["Asker", "RunSide", "Runner", "ToolCallSide", "carry_out", "run_tool_call"]

Runner = Callable[[ToolCall], Awaitable[ToolResult]]
"""What runs the tool, with the final arguments."""

Asker = Callable[[ToolCall, "Ruling"], Awaitable[bool]]
"""What asks the person."""


class RunSide(Protocol):
    """What the running of a tool needs of its session."""

    def emit(self, event: Event) -> None:
        """Emit an event."""

    async def transform_tool_output(self, call: ToolCall, result: ToolResult) -> ToolResult:
        """Return the result that the plugins made of the tool's."""
        ...


class ToolCallSide(RunSide, Protocol):
    """What a tool call needs of its session."""

    async def transform_tool_input(self, call: ToolCall) -> ToolCall:
        """Return the call with the arguments that the plugins made of it."""
        ...

    async def gate_tool_call(self, call: ToolCall) -> Ruling:
        """Ask the plugins whether the tool may run."""
        ...


async def run_tool_call(
    session: ToolCallSide,
    call: ToolCall,
    run: Runner,
    *,
    ask: Asker | None = None,
    check: Callable[[Mapping[str, Any]], None] | None = None,
    preview: Callable[[ToolCall], DiffPreview | None] | None = None,
) -> ToolResult:
    """Carry out one tool call; see `Session.run_tool_call`."""
    refusal: str | None = None
    try:
        call = await session.transform_tool_input(call)
        if check is not None:
            check(call.arguments)
    except (GateRefused, ArgumentsError) as error:
        refusal = str(error)
    if refusal is None:
        if preview is not None and (diff := preview(call)) is not None:
            session.emit(diff)
        ruling = await session.gate_tool_call(call)
        if ruling.is_denied:
            refusal = ruling.reason
        elif ruling.needs_person and not (ask is not None and await ask(call, ruling)):
            refusal = f"the person did not agree: {ruling.reason}"
    if refusal is not None:
        return ToolResult(success=False, error=f"not run: {refusal}")
    return await carry_out(session, call, run)


async def carry_out(session: RunSide, call: ToolCall, run: Runner, *, parent_id: str | None = None) -> ToolResult:
    """Run a tool that may run: TOOL_CALL_START, the tool, output transforms, TOOL_CALL_END with the time it took.

    `parent_id` is the call in which a sub-agent that makes this one works.
    """
    about: dict[str, Any] = {
        "tool_name": call.tool_name,
        "call_id": call.call_id,
        "agent_id": call.agent_id,
        "parent_id": parent_id,
    }
    session.emit(ToolCallStart(arguments=call.arguments, **about))
    began = perf_counter()
    took = 0.0
    try:
        result = await _result_of(run, call)
        took = _since(began)
        result = await session.transform_tool_output(call, result)
    except GateRefused as error:
        result = ToolResult(success=False, error=f"the output is withheld: {error}")
    except BaseException as error:
        why = "interrupted" if isinstance(error, asyncio.CancelledError) else type(error).__name__
        session.emit(ToolCallEnd(success=False, error=why, duration_ms=_since(began), **about))
        raise
    summary = {"success": result.success, "error": result.error, "data": result.data}
    session.emit(
        ToolCallEnd(
            success=result.success,
            result=freeze_mapping({k: v for k, v in summary.items() if v is not None}),
            error=result.error,
            output=result.output,
            duration_ms=took,
            **about,
        )
    )
    return result


def _since(began: float) -> float:
    """Return the milliseconds since a moment, to the microsecond."""
    return round((perf_counter() - began) * 1000, 3)


async def _result_of(run: Runner, call: ToolCall) -> ToolResult:
    """Run a tool; what goes wrong in it is an answer to the model."""
    try:
        result = await run(call)
    except ToolCallError as error:
        return ToolResult(success=False, error=str(error))
    except Exception as error:  # noqa: BLE001
        return ToolResult(success=False, error=f"{type(error).__name__}: {error}")
    if isinstance(result, ToolResult):
        return result
    return ToolResult(success=False, error=f"the tool returned {type(result).__name__}; expected a ToolResult")
