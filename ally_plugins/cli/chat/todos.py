"""The agent's todos: kept for the session by the framework's harness, and emitted as TODO_UPDATE on each change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from pydantic_ai_harness.planning import InMemoryPlanStore, PlanItem

from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.events import TodoUpdate

if TYPE_CHECKING:
    from ally_plugins.contract.values.conversation import TodoItem

__all__ = ["Todos"]

_STATUSES: Final = {"in_progress": "in_progress", "completed": "completed", "cancelled": "completed"}


class Todos(InMemoryPlanStore):
    """The todos of one session; `emit` emits the event. Lives as long as the session is open."""

    def __init__(self, emit: Callable[[TodoUpdate], object]) -> None:
        super().__init__()
        self._emit = emit

    async def restore(self, todos: Sequence[TodoItem]) -> None:
        """Set the todos of a resumed session, without an event."""
        items = [PlanItem(id=todo.id, content=todo.task, status=todo.status) for todo in todos]  # type: ignore[arg-type]
        await super().set_items(items)

    @override
    async def set_items(self, items: list[PlanItem]) -> None:
        """Replace them all."""
        await super().set_items(items)
        await self._changed()

    @override
    async def add_item(self, item: PlanItem) -> PlanItem:
        """Append one."""
        added = await super().add_item(item)
        await self._changed()
        return added

    @override
    async def update_item(self, item_id: str, **changes: Any) -> PlanItem | None:
        """Change one, if it is there."""
        updated = await super().update_item(item_id, **changes)
        await self._changed()
        return updated

    @override
    async def remove_item(self, item_id: str) -> bool:
        """Remove one, if it is there."""
        was_there = await super().remove_item(item_id)
        await self._changed()
        return was_there

    async def _changed(self) -> None:
        self._emit(TodoUpdate(todos=tuple(_todo(item) for item in await self.get_items())))


def _todo(item: PlanItem) -> dict[str, Any]:
    todo = {"id": item.id, "task": item.content, "status": _STATUSES.get(item.status.value, "pending")}
    return todo | ({"activeForm": item.active_form} if item.active_form else {})
