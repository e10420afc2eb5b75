"""Background tasks of a plugin in a process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.wire.messages import ErrorResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    Start = Callable[..., Any]


@pytest.fixture
def daemon(in_thread: Start) -> Start:
    """What is looked at here is the same in a thread, and begins sooner."""
    return in_thread


def _tool(host: Any, name: str, /, **arguments: Any) -> Any:
    return host.answer(_begin(host, name, **arguments))


def _begin(host: Any, name: str, /, **arguments: Any) -> int:
    request: int = host.request("call_tool", name=name, arguments=arguments, session_id="s1", cause="q1", origin=[])
    return request


def _start(host: Any, how: str, task_id: str = "t-1") -> int:
    """Let the plugin start a task; return the id of the `run_task` request, sent in one write with the agreement."""
    asked = _begin(host, "start", how=how)
    request = host.asked("start_task")
    assert request.params == {"name": "indexing", "session_id": "s1", "cause": "q1"}
    host.connection.respond(request.id, {"task_id": task_id})
    run: int = host.request("run_task", task_id=task_id, name="indexing", session_id="s1", origin=[])
    assert host.answer(asked) == task_id
    return run


def _progress(host: Any, answer: Any = None) -> dict[str, Any]:
    request = host.asked("task_progress")
    host.respond(request, answer)
    params: dict[str, Any] = request.params
    return params


def test_a_task_runs_when_the_host_says_so_and_its_answer_is_its_end(daemon: Start) -> None:
    host = daemon("Works")
    run = _start(host, "finish")
    assert _progress(host) == {
        "task_id": "t-1", "progress": 0.5, "message": "session s1", "session_id": "s1", "cause": "t-1"
    }  # fmt: skip
    assert host.answer(run) is None
    assert _tool(host, "state") == ["done", "'the result'"]
    assert _tool(host, "cancel") is False


def test_a_task_that_fails_is_answered_with_its_type(daemon: Start) -> None:
    host = daemon("Works")
    run = _start(host, "fail")
    _progress(host)
    answer = host.answer(run)
    assert isinstance(answer, ErrorResponse)
    assert (answer.code, answer.data["type"]) == (-32603, "ValueError")
    assert _tool(host, "state") == ["failed", "ValueError"]
    assert b"a secret" not in host.raw


def test_the_host_cancels_a_task_by_cancelling_its_request(daemon: Start) -> None:
    host = daemon("Works")
    run = _start(host, "wait")
    _progress(host)
    host.cancel(run)
    host.drain()
    assert _tool(host, "state") == ["cancelled", "CancelledError"]


def test_the_plugin_cancels_its_task_from_the_loop_or_a_thread(daemon: Start) -> None:
    host = daemon("Works")
    for number, tool in enumerate(("cancel", "cancel_from_thread")):
        run = _start(host, "wait", f"t-{number}")
        _progress(host)
        assert _tool(host, tool) is True
        answer = host.answer(run)
        assert answer.code == -32800
        assert _tool(host, "state") == ["cancelled", "CancelledError"]


def test_a_task_that_is_cancelled_before_it_begins_never_runs(daemon: Start) -> None:
    host = daemon("Works")
    asked = _begin(host, "start", how="wait")
    host.respond(host.asked("start_task"), {"task_id": "t-1"})
    host.answer(asked)
    assert _tool(host, "cancel") is True
    answer = host.ask("run_task", task_id="t-1", name="indexing", session_id="s1", origin=[])
    assert answer.code == -32800
    assert _tool(host, "state") == ["cancelled", "CancelledError"]
    assert "never awaited" not in host.stderr


def test_a_task_that_is_cancelled_with_its_first_step_never_runs(daemon: Start) -> None:
    host = daemon("Works")
    asked = _begin(host, "start", how="wait")
    request = host.asked("start_task")
    host.connection.respond(request.id, {"task_id": "t-1"})
    run = host.connection.request("run_task", {"task_id": "t-1", "name": "indexing"})
    host.cancel(run)  # all three in one write
    host.answer(asked)
    assert _tool(host, "state") == ["cancelled", "CancelledError"]
    assert "never awaited" not in host.stderr


def test_a_task_that_is_refused_closes_its_coroutine(daemon: Start) -> None:
    host = daemon("Works")
    asked = _begin(host, "start", how="wait")
    host.fail(host.asked("start_task"), -32002, "too many", budget="running_tasks")
    assert host.answer(asked) == "BudgetRefused"
    assert "never awaited" not in host.stderr


def test_a_task_that_was_never_started_is_not_found(daemon: Start) -> None:
    host = daemon("Works")
    assert host.ask("run_task", task_id="t-9", name="x").code == -32010
    assert host.ask("run_task").code == -32010


def test_progress_outside_a_task_is_refused(daemon: Start) -> None:
    assert _tool(daemon("Works"), "progress_outside") == "NotFoundRefused"


def test_tasks_are_cancelled_when_the_plugin_is_stopped(daemon: Start) -> None:
    host = daemon("Works")
    run = _start(host, "wait")
    _progress(host)
    stop = host.request("shutdown", reason="over")
    assert host.answer(run).code == -32800
    assert host.answer(stop) is None
    assert host.exit_code() == 0
    assert "never awaited" not in host.stderr
