"""Whether a permission question can become one of the framework's deferred approvals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from pydantic_ai.tools import DeferredToolRequests

from .other_capabilities import takes_part

if TYPE_CHECKING:
    from pydantic_ai.capabilities import AbstractCapability
    from pydantic_ai.tools import RunContext

__all__ = ["allows_deferral", "has_resolver"]


def allows_deferral(ctx: RunContext[Any]) -> bool:
    """Say whether the agent's own output type has `DeferredToolRequests`; one that is given to the run is not seen."""
    return ctx.agent is not None and _has_requests(ctx.agent.output_type)


def _has_requests(output: Any) -> bool:
    if output is DeferredToolRequests:
        return True
    members = output if isinstance(output, (list, tuple)) else get_args(output)
    return any(_has_requests(each) for each in members)


def has_resolver(ctx: RunContext[Any], own: AbstractCapability[Any]) -> bool:
    """Say whether another capability of the run resolves deferred calls, so that raising one is no error."""
    return takes_part(ctx, own, "handle_deferred_tool_calls")
