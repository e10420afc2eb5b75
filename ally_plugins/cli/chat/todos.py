"""The agent's todos, which the framework's harness keeps for the session; the adapter emits TODO_UPDATE."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic_ai_harness.planning import InMemoryPlanStore, PlanItem, TaskStatus

if TYPE_CHECKING:
    from ally_plugins.contract.values.conversation import TodoItem

__all__ = ["plan_of"]


async def plan_of(todos: Iterable[TodoItem]) -> InMemoryPlanStore:
    """Return the harness's store with todos in it; it lives as long as the session is open."""
    store = InMemoryPlanStore()
    await store.set_items(list(map(_item, todos)))
    return store


def _item(todo: TodoItem) -> PlanItem:
    return PlanItem(id=todo.id, content=todo.task, status=TaskStatus(todo.status), active_form=todo.active_form or "")
