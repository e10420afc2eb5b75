"""One tool call from the model's request to the result that it gets, in the order that the contract names.

Input transforms; the check of the arguments; TOOL_CALL_START; a diff preview; gates on the final value; the person,
where a gate wants it; the tool; output transforms; TOOL_CALL_END. A refusal is a result, so that the model can go on.
The order is Code-Ally's: observers see a call that is denied begin and end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from ally_plugins.contract.values.conversation import ToolCall, ToolResult
from ally_plugins.contract.values.errors import ArgumentsError, GateRefused

from .gates import unblocked
from .open_calls import Check, OpenCall, PermissionOutcome, Preview, Previewed, not_run

if TYPE_CHECKING:
    from .gates import Ruling, SessionGates

__all__ = ["Asker", "begin_tool_call"]

Asker = Callable[[ToolCall, "Ruling"], Awaitable[bool]]
"""What asks the person whether the call may run; only `True` is a yes."""


async def begin_tool_call(
    gates: SessionGates,
    opened: OpenCall,
    origin: tuple[str, ...],
    *,
    ask: Asker | None = None,
    check: Check | None = None,
    preview: Preview | None = None,
    forbids: Callable[[ToolCall], str | None] | None = None,
) -> ToolResult | None:
    """Bring a call to where its tool may run, with the arguments that it has then; or return the refusal.

    `forbids` is a gate of the host's own, which returns why it denies; plugins are not asked then.
    `origin` is the chain of plugins that led to it. Cancelling cancels the hook that runs, and ends a call that has
    started as interrupted.
    """
    try:
        opened.call = unblocked(await gates.transform_tool_input(opened.call, origin))
    except GateRefused as refusal:  # a redacting transform failed: nobody may see the arguments
        return opened.deny_unshown(str(refusal))
    try:
        if check is not None:
            check(opened.call.arguments)
    except ArgumentsError as error:  # the model's mistake: no call began
        return not_run(str(error))

    async def decide(call: ToolCall, _: Previewed) -> PermissionOutcome:
        why = forbids(call) if forbids is not None else None
        ruling = await gates.deny_by_host(call, why, origin) if why is not None else None
        if ruling is None or not ruling.is_denied:
            ruling = await gates.gate_tool_call(call, origin)
        reason = ruling.reason
        is_allowed = not ruling.is_denied
        if is_allowed and ruling.needs_person:
            reason = f"the person did not agree: {reason}"
            is_allowed = ask is not None and await ask(call, ruling) is True  # the text "no" is true to Python
        return PermissionOutcome(is_allowed=is_allowed, reason=reason, decision_id=ruling.decision_id)

    outcome = await opened.decide(decide, preview)
    return None if outcome.is_allowed else not_run(outcome.reason)
