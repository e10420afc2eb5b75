"""The agent's tools as a model meets them: their schemas, todos at the end of a request, and delegating."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelAPIError, ToolFailed
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel

from ally_plugins.cli.chat.tools.commands import CommandTools
from ally_plugins.cli.chat.tools.delegation import Delegation
from ally_plugins.cli.chat.tools.files import FileTools
from ally_plugins.cli.chat.tools.todos import Todos
from ally_plugins.contract.values.conversation import TodoItem

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic_ai.capabilities import AbstractCapability


class Model:
    """Answers with one part after the other, and keeps what it was asked and offered."""

    def __init__(self, *parts: ToolCallPart | TextPart) -> None:
        self.asked: list[list[ModelMessage]] = []
        self.offered: dict[str, Any] = {}
        self._parts = iter(parts)

    def __call__(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self.asked.append(list(messages))
        self.offered = {tool.name: tool for tool in info.function_tools}
        return ModelResponse(parts=[next(self._parts)])


def run(model: Model, *capabilities: AbstractCapability[Any]) -> list[ModelMessage]:
    agent: Agent[None, str] = Agent(FunctionModel(model), capabilities=capabilities)
    return asyncio.run(agent.run("go")).all_messages()


def plan(*items: dict[str, str]) -> ToolCallPart:
    return ToolCallPart("write_plan", {"items": list(items)}, "c1")


def last_texts(messages: list[ModelMessage]) -> list[str]:
    return [str(part.content) for part in messages[-1].parts if isinstance(part, UserPromptPart)]


def test_each_tool_and_each_argument_is_described(tmp_path: Path) -> None:
    model = Model(TextPart("ok"))
    run(model, FileTools(tmp_path), CommandTools(tmp_path), Todos(), Delegation(lambda: Agent("test")))
    assert sorted(model.offered) == [
        "check_command", "delegate_task", "edit_file", "find_files", "list_directory", "read_file", "run_command",
        "search_files", "start_command", "stop_command", "write_file", "write_plan",
    ]  # fmt: skip
    assert all(tool.description for tool in model.offered.values())
    assert model.offered["edit_file"].parameters_json_schema["required"] == ["path", "old_text", "new_text"]


def test_todos_stand_at_the_end_of_each_request_and_never_in_the_history() -> None:
    model = Model(
        plan({"content": "sow", "status": "in_progress"}, {"content": "reap\n[x] all", "active_form": "Reaping"}),
        plan({"content": "sow", "status": "completed"}),
        TextPart("done"),
    )
    todos = Todos([TodoItem("1", "from before")])
    history = run(model, todos)
    assert [last_texts(asked) for asked in model.asked] == [
        ["go", "<todos>\n[ ] from before\n</todos>"],
        ["<todos>\n[~] sow\n[ ] reap [x] all\n</todos>"],
        [],  # nothing is left to do
    ]
    assert "<todos>" not in str(history)


def test_the_adapter_is_told_the_todos_with_their_numbers() -> None:
    todos = Todos()
    run(Model(plan({"content": "sow", "active_form": "Sowing"}), TextPart("ok")), todos)
    told = asyncio.run(todos.ally_todos(None))  # type: ignore[arg-type]  # it looks at no run
    assert told == [{"id": "1", "task": "sow", "status": "pending", "activeForm": "Sowing"}]


def test_what_another_agent_fails_of_is_a_failed_call_and_its_usage_counts() -> None:
    class Down(Model):
        def __call__(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            if self.asked:
                raise ModelAPIError("far", "no server")
            return super().__call__(messages, info)

    def other() -> Agent[None, str]:
        return Agent(FunctionModel(inner))

    call = ToolCallPart("delegate_task", {"task": "look"}, "c1")
    inner = Down(TextPart("found it"))
    model = Model(call, call, TextPart("ok"))
    history = run(model, Delegation(other))
    returned = [part for message in history for part in message.parts if isinstance(part, ToolReturnPart)]
    assert [(part.outcome, part.content) for part in returned] == [
        ("success", "found it"),
        ("failed", "the other agent failed: no server"),
    ]
    assert [str(part.content) for part in inner.asked[0][0].parts if isinstance(part, UserPromptPart)] == ["look"]
    assert isinstance(history[0], ModelRequest)


def test_a_failure_of_a_file_tool_takes_none_of_the_models_tries(tmp_path: Path) -> None:
    calls = [ToolCallPart("read_file", {"path": "gone"}, f"c{i}") for i in range(9)]
    history = run(Model(*calls, TextPart("ok")), FileTools(tmp_path))
    returned = [part for message in history for part in message.parts if isinstance(part, ToolReturnPart)]
    assert [(part.outcome, part.content) for part in returned] == [("failed", "there is no file 'gone'")] * 9
    with pytest.raises(ToolFailed):
        FileTools(tmp_path).read_file("gone")
