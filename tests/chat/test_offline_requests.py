from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.cli.chat.offline.requests import HELP, RequestContext, read_requests

if TYPE_CHECKING:
    from ally_plugins.cli.chat.offline.requests import RequestPlan

TEXT = {"properties": {"key": {"type": "integer"}, "text": {"type": "string"}}, "required": ["text"]}
TOOLS: dict[str, dict[str, Any]] = {
    name: {}
    for name in (
        *("read_file", "list_directory", "find_files", "search_files", "run_command"),
        *("write_file", "edit_file", "write_plan", "delegate_task", "report"),
    )
} | {"remember": TEXT, "recall": TEXT}


def read(text: str, todos: list[dict[str, Any]] | None = None) -> RequestPlan:
    return read_requests(text, RequestContext(TOOLS, todos or ()))


@pytest.mark.parametrize(
    ("line", "tool", "arguments"),
    [
        ("read README.md", "read_file", {"path": "README.md"}),
        ("READ  a file with spaces.txt", "read_file", {"path": "a file with spaces.txt"}),
        ("list", "list_directory", {"path": "."}),
        ("list src", "list_directory", {"path": "src"}),
        ("find *.py", "find_files", {"pattern": "*.py"}),
        ("search a.b(c", "search_files", {"text": "a.b(c"}),
        ("run pytest -q | tail", "run_command", {"command": "pytest -q | tail"}),
        ("write a.txt one\\ntwo", "write_file", {"path": "a.txt", "content": "one\ntwo"}),
        ("write a.txt", "write_file", {"path": "a.txt", "content": ""}),
        ("edit a.py x = 1 -> x = 2", "edit_file", {"path": "a.py", "old_text": "x = 1", "new_text": "x = 2"}),
        ("edit a.py x -> ", "edit_file", {"path": "a.py", "old_text": "x", "new_text": ""}),
        ("edit a.py a -> b -> c", "edit_file", {"path": "a.py", "old_text": "a", "new_text": "b -> c"}),
        ("delegate read a.txt", "delegate_task", {"task": "read a.txt"}),
        ("remember tests are slow", "remember", {"text": "tests are slow"}),
        ('call report {"full": true}', "report", {"full": True}),
        ("call report", "report", {}),
    ],
)
def test_a_line_means_one_call_of_one_tool(line: str, tool: str, arguments: dict[str, Any]) -> None:
    plan = read(line)
    assert plan.unknown == ()
    (((call,)),) = plan.steps
    assert (call.tool, dict(call.arguments)) == (tool, arguments)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("make me a sandwich", "I do not understand 'make me a sandwich'"),
        ("read", "expected a path after it"),
        ("edit a.py x", "expected PATH OLD -> NEW"),
        ("write", "expected a path and a text"),
        ("plan ;;", "expected todos with ; between them"),
        ("done nothing", "there is no such todo; there are none"),
        ("call report {", "the arguments are not JSON"),
        ("call report [1]", "the arguments are no JSON object"),
        ("call rm {}", "there is no tool 'rm' here; there are delegate_task"),
        ("call report " + "[" * 100_000, "the arguments are not JSON"),
    ],
)
def test_what_is_not_understood_is_said_and_never_guessed(line: str, why: str) -> None:
    plan = read(line)
    assert plan.steps == ()
    assert why in plan.unknown[0]


def test_a_tool_that_no_plugin_offers_is_not_called() -> None:
    plan = read_requests("remember this", RequestContext({"read_file": {}}))
    assert plan.steps == ()
    assert "there is no tool 'remember' here" in plan.unknown[0]


def test_lines_are_steps_and_also_joins_a_line_to_the_one_before() -> None:
    plan = read("read a\nalso read b\n\nrun make\nsay done\nhelp")
    assert [[call.line for call in step] for step in plan.steps] == [["read a", "read b"], ["run make"]]
    assert plan.texts == ("done",)
    assert plan.wants_help


def test_todos_begin_with_the_first_and_ticking_one_off_begins_the_next() -> None:
    ((plan,),) = read("plan build; test ; ship").steps
    items = plan.arguments["items"]
    assert [(item["content"], item["status"]) for item in items] == [
        ("build", "in_progress"),
        ("test", "pending"),
        ("ship", "pending"),
    ]
    ((done,),) = read("done Build", items).steps
    assert [item["status"] for item in done.arguments["items"]] == ["completed", "in_progress", "pending"]


def test_the_help_names_every_verb() -> None:
    from ally_plugins.cli.chat.offline.requests import _READERS

    assert [verb for verb in (*_READERS, "say", "insist") if verb not in HELP] == []


@given(st.text(max_size=200))
def test_any_text_is_read_without_an_error(text: str) -> None:
    plan = read(text)
    assert all(call.tool in TOOLS for step in plan.steps for call in step)
