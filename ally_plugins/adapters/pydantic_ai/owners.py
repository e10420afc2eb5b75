"""What the capability that a tool is of says of it: which results are failures, and the todos that it keeps.

A capability says so by a method `ally_tool_failure(tool, output)`, which returns the error of a result or None, and by
a coroutine method `ally_todos(ctx)`: `{id, task, status, activeForm?}` each, with the status `pending`, `in_progress`
or `completed`. The harness's own are known.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve

from .harness import failure_of, todos_of

if TYPE_CHECKING:
    from pydantic_ai.tools import RunContext, ToolDefinition

    from ally_plugins.contract.values.conversation import ToolResult

__all__ = ["todos_after", "with_failure"]

_log: Final = logging.getLogger(__name__)


def _owner(ctx: RunContext[Any], tool: ToolDefinition) -> Any:
    return ctx.capabilities.get(tool.capability_id) if tool.capability_id is not None else None


def with_failure(ctx: RunContext[Any], tool: ToolDefinition, result: ToolResult) -> ToolResult:
    """Return a result as the failure that its text reports: a command with an exit code other than 0, a missing file.

    Results of other tools are returned as they are.
    """
    owner = _owner(ctx, tool)
    if owner is None or not result.success or not isinstance(result.output, str):
        return result
    try:
        judge = getattr(owner, "ally_tool_failure", None)
        error = failure_of(owner, tool.name, result.output) if judge is None else judge(tool.name, result.output)
    except Exception:  # noqa: BLE001 - the host author's code; the result is what the tool returned
        _log.exception("whether a result of %r is a failure cannot be told", tool.name)
        return result
    return result if error is None else evolve(result, success=False, error=str(error))


async def todos_after(ctx: RunContext[Any], tool: ToolDefinition) -> tuple[dict[str, str], ...] | None:
    """Return the todos as a tool of the capability that keeps them has left them; None for every other tool.

    Raises nothing that the capability raises: that is logged. Cancelling cancels its method.
    """
    owner = _owner(ctx, tool)
    if owner is None:
        return None
    try:
        read = getattr(owner, "ally_todos", None)
        found = await (todos_of(owner, ctx) if read is None else read(ctx))
        return tuple(map(dict, found)) if found is not None else None
    except Exception:  # noqa: BLE001 - another version of the harness: the tool's own result is what counts
        _log.exception("the todos of %r cannot be read", type(owner).__name__)
        return None
