"""Failures that the framework's harness returns as text: plugins get a failed result, the model reads the text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve

if TYPE_CHECKING:
    from pydantic_ai.tools import RunContext, ToolDefinition

    from ally_plugins.contract.values.conversation import ToolResult

__all__ = ["with_failure"]

_SHELL: Final = "pydantic_ai_harness.shell"
_FILES: Final = "pydantic_ai_harness.filesystem"
_FOREGROUND: Final = "run_command"
"""The one tool of the shell whose result is the end of the command; the others tell of one that may run on."""

_END: Final = re.compile(r"\[(exit code: -?[1-9]\d*|Command timed out after [\d.]+s)\]")
_LAST: Final = 2
"""Lines at the end of a command's output, one of which says how it ended; a word on limits may follow."""

_NO_FILE: Final = "Path not found: "


def with_failure(ctx: RunContext[Any], tool: ToolDefinition, result: ToolResult) -> ToolResult:
    """Return a result as the failure that its text reports: a command with an exit code other than 0, a missing file.

    Results of other tools are returned as they are.
    """
    owner = ctx.capabilities.get(tool.capability_id) if tool.capability_id is not None else None
    if owner is None or not result.success or not isinstance(result.output, str):
        return result
    error = _error(type(owner).__module__, tool.name, result.output)
    return result if error is None else evolve(result, success=False, error=error)


def _error(module: str, tool: str, output: str) -> str | None:
    if module.startswith(_SHELL) and tool == _FOREGROUND:
        ends = (_END.fullmatch(line) for line in output.rsplit("\n", _LAST)[-_LAST:])
        return next((end[1] for end in ends if end is not None), None)
    if module.startswith(_FILES) and output.startswith(_NO_FILE):
        return output
    return None
