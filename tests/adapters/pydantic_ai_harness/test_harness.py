"""An agent with the harness's own capabilities: its files show their diffs, its plan is the
agent's todos, and what it says of a failure is one to plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic_ai.messages import ToolCallPart

from ally_plugins import CompactionComplete, DiffPreview, PermissionQuestion, TodoUpdate, ToolCallEnd, file_preview
from ally_plugins.adapters.pydantic_ai import AllyPlugins
from tests.hosts.scripted import Script, answer, live, returns_of
from tests.kit.waiting import go

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic_ai.messages import ModelMessage


@pytest.mark.smoke
def test_the_harness_s_edits_are_shown_and_asked_about_before_they_are_made(tmp_path: Path) -> None:
    from pydantic_ai.capabilities import LocalWorkspace
    from pydantic_ai_harness.filesystem import FileSystem

    target = tmp_path / "a.txt"
    target.write_text("one two")
    asked: list[PermissionQuestion] = []

    async def approve(question: PermissionQuestion) -> str:
        asked.append(question)
        assert target.read_text() == "one two"
        return "allow"

    async def main() -> None:
        async with live() as bench:
            steps = Script(
                answer(ToolCallPart("edit_file", {"path": "a.txt", "old_text": "one", "new_text": "1"}, "c1")), "ok"
            )
            agent = bench.agent(
                steps,
                capabilities=[LocalWorkspace(tmp_path), FileSystem()],
                sensitive=["edit_file", "write_file"],
                preview=file_preview(tmp_path),
                approve=approve,
            )
            result = await agent.run("go")
            assert target.read_text() == "1 two", returns_of(result.all_messages())
            (diff,) = bench.of(DiffPreview)
            assert (diff.old_content, diff.new_content, diff.call_id) == ("one two", "1 two", "c1")
            assert [question.diff for question in asked] == [diff]

    go(main())


@pytest.mark.smoke
def test_the_harness_s_plan_is_told_as_todos() -> None:
    from pydantic_ai_harness.planning import Planning

    async def main() -> None:
        async with live() as bench:
            plan = [{"id": "a", "content": "look"}, {"id": "b", "content": "mend", "active_form": "Mending"}]
            update = {"task_id": "a", "status": "completed"}
            steps = Script(
                answer(ToolCallPart("write_plan", {"items": plan}, "c1")),
                answer(ToolCallPart("read_plan", {}, "c2")),
                answer(ToolCallPart("update_task_status", update, "c3")),
                answer(ToolCallPart("remove_task", {"task_id": "b"}, "c4")),
                "done",
            )
            await bench.agent(steps, capabilities=[Planning()]).run("go", conversation_id="s1")
            told = [[(todo["task"], todo["status"]) for todo in event.todos] for event in bench.of(TodoUpdate)]
            assert told == [
                [("look", "pending"), ("mend", "pending")],
                [("look", "completed"), ("mend", "pending")],
                [("look", "completed")],
            ]
            assert bench.of(TodoUpdate)[0].todos[1]["activeForm"] == "Mending"
            assert [todo.task for todo in bench.host.sessions["s1"].conversation.todos] == ["look"]

    go(main())


COMMANDS = {
    "true": (True, None),
    "false": (False, "exit code: 1"),
    "echo '[exit code: 7]'; echo two; echo three": (True, None),
    "echo out; echo err >&2; exit 3": (False, "exit code: 3"),
    "sleep 60": (False, "Command timed out after 1.0s"),
}


@pytest.mark.smoke
def test_a_command_that_fails_is_a_failure_to_plugins_and_its_output_the_models(tmp_path: Path) -> None:
    from pydantic_ai.capabilities import LocalWorkspace
    from pydantic_ai_harness.shell import Shell

    async def main() -> None:
        async with live() as bench:
            calls = [
                answer(ToolCallPart("run_command", {"command": command, "timeout_seconds": 1.0}, f"c{number}"))
                for number, command in enumerate(COMMANDS)
            ]
            agent = bench.agent(Script(*calls, "ok"), capabilities=[LocalWorkspace(tmp_path), Shell()])
            result = await agent.run("go")
            assert [(event.success, event.error) for event in bench.of(ToolCallEnd)] == list(COMMANDS.values())
            said = returns_of(result.all_messages())
            assert said["c3"].content == "[stdout]\nout\n\n[stderr]\nerr\n\n[exit code: 3]"

    go(main())


def test_a_file_that_is_not_there_is_a_failure_to_plugins(tmp_path: Path) -> None:
    from pydantic_ai.capabilities import LocalWorkspace
    from pydantic_ai_harness.filesystem import FileSystem

    (tmp_path / "a.txt").write_text("Path not found: it only says so")

    async def main() -> None:
        async with live() as bench:
            calls = [ToolCallPart("read_file", {"path": path}, path) for path in ("gone.txt", "a.txt")]
            steps = Script(*map(answer, calls), "ok")
            agent = bench.agent(steps, capabilities=[LocalWorkspace(tmp_path), FileSystem()])
            result = await agent.run("go")
            ends = [(event.success, event.error) for event in bench.of(ToolCallEnd)]
            assert ends == [(False, "Path not found: gone.txt"), (True, None)]
            assert returns_of(result.all_messages())["gone.txt"].content == "Path not found: gone.txt"

    go(main())


def test_a_tool_that_only_prints_the_same_words_is_no_failure() -> None:
    def run_command() -> str:
        return "(no output)\n[exit code: 1]"

    async def main() -> None:
        async with live() as bench:
            agent = bench.agent(Script(answer(ToolCallPart("run_command", {}, "c1")), "ok"), tools=[run_command])
            await agent.run("go")
            assert [event.success for event in bench.of(ToolCallEnd)] == [True]

    go(main())


def test_each_status_of_a_step_is_known() -> None:
    from pydantic_ai_harness.planning import TaskStatus

    from ally_plugins.adapters.pydantic_ai.harness import STATUSES

    assert {status.value for status in TaskStatus} == set(STATUSES)


def test_each_tool_that_misses_a_file_fails(tmp_path: Path) -> None:
    from pydantic_ai.capabilities import LocalWorkspace
    from pydantic_ai_harness.filesystem import FileSystem

    async def main() -> None:
        async with live() as bench:
            tools = ("read_file", "list_directory", "file_info")
            steps = Script(*(answer(ToolCallPart(name, {"path": "gone"}, name)) for name in tools), "ok")
            await bench.agent(steps, capabilities=[LocalWorkspace(tmp_path), FileSystem()]).run("go")
            ends = {event.tool_name: event.success for event in bench.of(ToolCallEnd)}
            assert ends == dict.fromkeys(tools, False)

    go(main())


def test_a_shell_of_the_host_author_s_own_is_judged_as_the_harness_s(tmp_path: Path) -> None:
    from pydantic_ai.capabilities import LocalWorkspace
    from pydantic_ai_harness.shell import Shell

    class OurShell(Shell[None]):
        pass

    async def main() -> None:
        async with live() as bench:
            steps = Script(answer(ToolCallPart("run_command", {"command": "exit 9"}, "c1")), "ok")
            await bench.agent(steps, capabilities=[LocalWorkspace(tmp_path), OurShell()]).run("go")
            assert [(event.success, event.error) for event in bench.of(ToolCallEnd)] == [(False, "exit code: 9")]

    go(main())


def test_a_strategy_of_the_harness_does_it() -> None:
    from pydantic_ai_harness.compaction import SlidingWindowCompaction

    async def main() -> None:
        async with live() as bench:
            steps = Script("one", "two", "three", "four")
            strategy = SlidingWindowCompaction[Any](max_messages=3, keep_messages=2)
            agent = bench.agent(steps, compact=strategy)
            plugins = AllyPlugins(bench.host, compact=strategy)
            history: list[ModelMessage] = []
            for prompt in ("hello", "again", "more"):
                result = await agent.run(prompt, message_history=history, conversation_id="s1")
                history = result.all_messages()
            plugins.compact("s1")
            await agent.run("last", message_history=history)
            (end,) = bench.of(CompactionComplete)
            assert (end.strategy, end.error) == ("SlidingWindowCompaction", None)
            assert "again" not in steps.texts()
            assert steps.texts()[-1] == "last"

    go(main())
