"""The agent's todos, where a capability keeps them: TODO_UPDATE after a tool of it has changed them.

A capability returns them by a coroutine method `ally_todos(ctx)`: `{id, task, status, activeForm?}` each, with the
status `pending`, `in_progress` or `completed`. The harness's planning is known.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from .harness import todos_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic_ai.tools import RunContext, ToolDefinition

__all__ = ["todos_after"]

_log: Final = logging.getLogger(__name__)


@runtime_checkable
class _KeepsTodos(Protocol):
    async def ally_todos(self, ctx: RunContext[Any]) -> Iterable[Mapping[str, str]]: ...


async def todos_after(ctx: RunContext[Any], tool: ToolDefinition) -> tuple[dict[str, str], ...] | None:
    """Return the todos as a tool of the capability that keeps them has left them; None for every other tool.

    Raises nothing that the capability raises: that is logged. Cancelling cancels its method.
    """
    owner = ctx.capabilities.get(tool.capability_id) if tool.capability_id is not None else None
    if owner is None:
        return None
    try:
        found = await (owner.ally_todos(ctx) if isinstance(owner, _KeepsTodos) else todos_of(owner, ctx))
        return tuple(map(dict, found)) if found is not None else None
    except Exception:  # noqa: BLE001 - another version of the harness: the tool's own result is what counts
        _log.exception("the todos of %r cannot be read", type(owner).__name__)
        return None
