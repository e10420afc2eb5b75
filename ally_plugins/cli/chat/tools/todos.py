"""The agent's todos: one tool that writes them all, and a reminder of them at the end of each request."""

# ruff: noqa: ARG002 - the framework's hooks are called with all that it has

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.messages import ModelRequest, UserPromptPart
from pydantic_ai.toolsets import FunctionToolset

from ally_plugins.contract.tools.todo_tools import todo_data
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.conversation import TodoItem

if TYPE_CHECKING:
    from pydantic_ai.models import ModelRequestContext
    from pydantic_ai.tools import RunContext

__all__ = ["PlanItem", "Todos"]

_MARKS: Final = {"pending": "[ ]", "in_progress": "[~]", "completed": "[x]"}


@dataclass
class PlanItem:
    """A todo as the model writes it; the framework makes the tool's schema of a dataclass, and of no attrs class."""

    content: str
    status: Literal["pending", "in_progress", "completed"] = "pending"
    active_form: str = ""


class Todos(AbstractCapability[Any]):
    """Keeps the todos of one conversation. Lives as long as its session is open."""

    def __init__(self, todos: Iterable[TodoItem] = ()) -> None:
        super().__init__()
        self.id = "todos"
        self._todos = tuple(todos)

    @override
    def get_toolset(self) -> FunctionToolset[Any]:
        """Return the tool."""
        return FunctionToolset([self.write_plan], id=self.id)

    def write_plan(self, items: list[PlanItem]) -> str:
        """Write the todos of a work of several steps: all of them, in order, each time one is begun or done.

        Args:
            items: Each has a content, a status (pending, in_progress or completed) and, where it helps, an active_form
                for the time when it is worked on.
        """
        self._todos = tuple(
            TodoItem(str(number), item.content, item.status, item.active_form or None)
            for number, item in enumerate(items, 1)
        )
        return _lines(self._todos) or "there are no todos"

    async def ally_todos(self, ctx: RunContext[Any]) -> Sequence[dict[str, str]]:
        """Return the todos as the adapter emits them, after each call of the tool. Never waits."""
        return list(map(todo_data, self._todos))

    @override
    async def before_model_request(
        self, ctx: RunContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        """Remind of the todos while any is left, at the end of this request alone.

        There it changes nothing of what the model's server has in its cache, and is there still when the call that
        wrote them was summarised.
        """
        *before, last = request_context.messages
        is_done = all(todo.status == "completed" for todo in self._todos)
        if is_done or not isinstance(last, ModelRequest):
            return request_context
        reminder = UserPromptPart(f"<todos>\n{_lines(self._todos)}\n</todos>")
        # Copies: the history holds these objects, in which a reminder would stay for ever.
        return replace(request_context, messages=[*before, replace(last, parts=[*last.parts, reminder])])


def _lines(todos: Iterable[TodoItem]) -> str:
    """Return a line for each; a text of several lines must not pass for several todos."""
    return "\n".join(f"{_MARKS[todo.status]} {' '.join(todo.task.split())}" for todo in todos)
