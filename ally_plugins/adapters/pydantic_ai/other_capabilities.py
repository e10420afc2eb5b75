"""The other capabilities of a run: whether one takes part in something, and what it made of a call's arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError
from pydantic_ai.capabilities import AbstractCapability, ToolSearch
from pydantic_core import to_json

if TYPE_CHECKING:
    from pydantic_ai.capabilities.abstract import RawToolArgs
    from pydantic_ai.tools import RunContext
    from pydantic_ai.toolsets import ToolsetTool

__all__ = ["CHANGES_ARGUMENTS", "changed_arguments", "takes_part"]

CHANGES_ARGUMENTS: Final = (
    "before_tool_validate",
    "wrap_tool_validate",
    "after_tool_validate",
    "on_tool_validate_error",
    "wrap_tool_execute",
    "before_tool_execute",
    "get_wrapper_toolset",
)
"""The framework's hooks in which a capability may give a call other arguments."""


def takes_part(ctx: RunContext[Any], own: AbstractCapability[Any], *hooks: str) -> bool:
    """Say whether a capability of the run other than `own` implements one of the framework's hooks."""
    found: list[AbstractCapability[Any]] = []
    if ctx.root_capability is not None:
        ctx.root_capability.apply(found.append)
    return any(
        # By the class: the framework's base has every hook, with a body that does nothing.
        getattr(type(each), hook) is not getattr(AbstractCapability, hook)
        for each in found
        # The framework's own search of tools stands in each run, and adds a tool by a toolset.
        if each is not own and type(each) is not ToolSearch
        for hook in hooks
    )


def changed_arguments(
    ctx: RunContext[Any], tool: ToolsetTool[Any], shown: RawToolArgs, args: dict[str, Any]
) -> list[str]:
    """Return the names of the arguments that are not what the tool's own check makes of those that were shown.

    A check that makes another value each time (an id) is believed.
    """
    expected = _checked(ctx, tool, shown)
    changed = _differing(expected, args)
    if not changed:
        return []
    # The second check only where something differs: it costs as much as the first.
    unstable = _differing(expected, _checked(ctx, tool, shown))
    return [name for name in changed if name not in unstable]


def _checked(ctx: RunContext[Any], tool: ToolsetTool[Any], shown: RawToolArgs) -> dict[str, Any]:
    validator, context = tool.args_validator, ctx.validation_context
    try:
        if isinstance(shown, str):
            found: dict[str, Any] = validator.validate_json(shown, context=context)
        else:
            found = validator.validate_python(shown, context=context)
    except ValidationError:  # another tool's arguments
        return {}
    return found


def _differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [name for name in {**one, **other} if _encoded_argument(one, name) != _encoded_argument(other, name)]


def _encoded_argument(args: dict[str, Any], name: str) -> bytes | None:
    """Return all that is in an argument, None where it is missing; JSON tells 1 from true."""
    if name not in args:
        return None
    return to_json(args[name], fallback=repr, inf_nan_mode="constants", bytes_mode="base64")
