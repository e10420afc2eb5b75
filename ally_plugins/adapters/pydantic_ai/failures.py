"""Failures that a capability's tools return as text: plugins get a failed result, the model reads the text.

A capability says which they are by a method `ally_tool_failure(tool, output)`, which returns the error or None; what
those of the harness say is known.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from attrs import evolve

from .harness import failure_of

if TYPE_CHECKING:
    from pydantic_ai.tools import RunContext, ToolDefinition

    from ally_plugins.contract.values.conversation import ToolResult

__all__ = ["with_failure"]

_log: Final = logging.getLogger(__name__)


@runtime_checkable
class _JudgesResults(Protocol):
    def ally_tool_failure(self, tool: str, output: str) -> str | None: ...


def with_failure(ctx: RunContext[Any], tool: ToolDefinition, result: ToolResult) -> ToolResult:
    """Return a result as the failure that its text reports: a command with an exit code other than 0, a missing file.

    Results of other tools are returned as they are.
    """
    owner = ctx.capabilities.get(tool.capability_id) if tool.capability_id is not None else None
    if owner is None or not result.success or not isinstance(result.output, str):
        return result
    try:
        judge = owner.ally_tool_failure if isinstance(owner, _JudgesResults) else None
        error = failure_of(owner, tool.name, result.output) if judge is None else judge(tool.name, result.output)
    except Exception:  # noqa: BLE001 - the host author's code; the result is what the tool returned
        _log.exception("whether a result of %r is a failure cannot be told", tool.name)
        return result
    return result if error is None else evolve(result, success=False, error=str(error))
