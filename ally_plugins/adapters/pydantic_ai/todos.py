"""The agent's todos, where the harness's planning keeps them: TODO_UPDATE after a tool of it has changed them."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pydantic_ai.tools import RunContext, ToolDefinition

__all__ = ["todos_after"]

_log: Final = logging.getLogger(__name__)

_PLANNING: Final = "pydantic_ai_harness.planning"
_STATUSES: Final = {"in_progress": "in_progress", "completed": "completed", "pending": "pending", "blocked": "pending"}
"""What a step's status is to plugins; a cancelled one is no todo any more."""


async def todos_after(ctx: RunContext[Any], tool: ToolDefinition) -> tuple[dict[str, str], ...] | None:
    """Return the todos as a tool of the harness's planning has left them; None for every other tool."""
    planning = ctx.capabilities.get(tool.capability_id) if tool.capability_id is not None else None
    if planning is None or not type(planning).__module__.startswith(_PLANNING):
        return None
    try:
        store: Any = planning.resolve_store(ctx)  # type: ignore[attr-defined]  # not imported: it may not be there
        found = store.get_items()
        items = await found if inspect.isawaitable(found) else found
        return tuple(_todo(item) for item in items if _status(item) in _STATUSES)
    except Exception:  # noqa: BLE001 - another version of the harness: the tool's own result is what counts
        _log.exception("the todos of %r cannot be read", type(planning).__name__)
        return None


def _status(item: Any) -> str:
    return str(getattr(item.status, "value", item.status))


def _todo(item: Any) -> dict[str, str]:
    todo = {"id": str(item.id), "task": str(item.content), "status": _STATUSES[_status(item)]}
    return {**todo, "activeForm": str(item.active_form)} if item.active_form else todo
