"""The tool calls of a Claude Code transcript, and what follows from them: diffs, todos, sub-agents."""

from __future__ import annotations

from typing import Any

from attrs import define, field, frozen

from ally_plugins.contract.tools.common_names import common_name
from ally_plugins.contract.tools.todo_tools import TASK_TOOLS, todos_of_call, todos_with_task
from ally_plugins.contract.values.conversation import TodoItem

from .content import Notes, flatten, required_text, text_of
from .held_steps import HeldSteps
from .sidechains import AGENT_TOOLS, Sidechains
from .steps import AgentStarted, DiffMade, TodosChanged, ToolCalled, ToolReturned
from .tool_effects import derive_diff
from .turns import MAX_OPEN
from .user_texts import is_rejection

__all__ = ["TranscriptCalls"]


@frozen
class _TaskCall:
    """A call that changes one todo once it has returned."""

    tool_name: str
    arguments: dict[str, Any]
    agent_id: str | None


@define
class TranscriptCalls:
    """State between records. Lives as long as one reading of a file; steps are added to `out`."""

    out: HeldSteps
    sidechains: Sidechains
    todos: dict[str | None, tuple[TodoItem, ...]] = field(init=False, factory=dict)
    open_tasks: dict[str, _TaskCall] = field(init=False, factory=dict)

    def begin(self, now: int, block: dict[str, Any], agent_id: str | None, notes: Notes) -> None:
        """Add a call, and what its arguments say that it will do."""
        call_id, tool_name = required_text(block, "id", notes), required_text(block, "name", notes)
        if not call_id or not tool_name:
            notes.wrong("a tool_use's id or name", "", "a text that is not empty")
            return
        arguments = block.get("input")
        if type(arguments) is not dict:
            notes.wrong("a tool_use's input", arguments, "an object")
            arguments = {}
        common = common_name("claude", tool_name)
        self.out.add(ToolCalled(now, call_id, tool_name, arguments, common=common, agent_id=agent_id))
        if (diff := derive_diff(tool_name, arguments)) is not None:
            self.out.add(DiffMade(now, call_id, tool_name, diff, agent_id=agent_id))
        elif (todos := todos_of_call(tool_name, arguments)) is not None:
            self.todos[agent_id] = todos
            self.out.add(TodosChanged(now, todos, call_id, agent_id=agent_id))
        # Changed when it returns: the id of a new todo stands in the result.
        elif tool_name in TASK_TOOLS:
            if len(self.open_tasks) < MAX_OPEN:
                self.open_tasks[call_id] = _TaskCall(tool_name, arguments, agent_id)
        elif tool_name in AGENT_TOOLS:
            prompt = text_of(arguments, "prompt")
            self.sidechains.task_called(call_id, prompt)
            name = text_of(arguments, "subagent_type") or text_of(arguments, "description")
            self.out.add(AgentStarted(now, call_id, call_id, name, prompt, text_of(arguments, "model")))

    def end(self, now: int, block: dict[str, Any], details: Any, notes: Notes) -> None:
        """Add a result; `details` is what the program keeps of it beside the text."""
        call_id = required_text(block, "tool_use_id", notes)
        if not call_id:
            return
        output, is_error = flatten(block.get("content"), notes), block.get("is_error")
        if is_error is not None and type(is_error) is not bool:
            notes.wrong("is_error", is_error, "true or false")
        success = is_error is not True
        about = details if type(details) is dict else {}
        is_launch = about.get("status") == "async_launched"
        self.sidechains.task_returned(call_id, text_of(about, "agentId"), is_launch=is_launch)
        task = self.open_tasks.pop(call_id, None)
        if success and task is not None:
            self._change_todos(now, call_id, task, output, details)
        self.out.add(
            ToolReturned(
                now,
                call_id,
                success=success,
                output=output,
                error=None if success else output,
                is_rejected=not success and is_rejection(output),
                is_launch=is_launch,
            )
        )

    def _change_todos(self, now: int, call_id: str, task: _TaskCall, output: str, details: Any) -> None:
        before = self.todos.get(task.agent_id, ())
        todos = todos_with_task(before, task.tool_name, task.arguments, output, details)
        if todos is not None:
            self.todos[task.agent_id] = todos
            step = TodosChanged(now, todos, call_id, agent_id=task.agent_id, output=output, details=details)
            self.out.add(step)
