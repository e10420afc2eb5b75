"""Hooks past their deadline, and questions that are taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Start = Callable[..., Any]

SHORT = {"deadlines": {"observe": 0.1}}
RECEIPT = {"id": "m-1", "offset": 1, "state": "pending"}


def _emit(host: Any, tool: str, seq: int = 1, **more: Any) -> None:
    host.emit("TOOL_CALL_END", seq, toolName=tool, success=True, **more)


def test_an_observer_past_its_deadline_is_interrupted_reported_and_the_next_event_comes(in_thread: Start) -> None:
    host = in_thread("Hangs", told=SHORT)
    _emit(host, "wait", 1)
    _emit(host, "good", 2)
    assert host.told("report_crash") == {"hook": "ally_tool_call_end", "error": "TimedOut", "event_id": "s1:1"}
    request = host.asked("add_message")
    assert request.params["content"] == "heard good"
    host.respond(request, RECEIPT)
    assert host.shutdown() == 0
    assert host.stderr.count("took longer than 0.1 s") == 1


def test_a_deadline_of_the_hook_itself_counts_more_than_that_of_its_kind(in_thread: Start) -> None:
    host = in_thread("Hangs", told={"deadlines": {"observe": 3600, "ally_tool_call_end": 0.1}})
    _emit(host, "wait")
    assert host.told("report_crash")["error"] == "TimedOut"


def test_a_hook_that_swallows_its_interruption_and_ends_goes_on(in_thread: Start) -> None:
    host = in_thread("Hangs", told=SHORT)
    _emit(host, "swallow", 1)
    assert host.told("report_crash")["error"] == "TimedOut"
    _emit(host, "good", 2)
    assert host.asked("add_message").params["content"] == "heard good"


@pytest.mark.slow
def test_an_interrupted_hook_may_clean_up_and_timeouts_in_later_hooks_still_work(in_thread: Start) -> None:
    host = in_thread("Hangs", told={"deadlines": {"observe": 0.3}})
    for seq in (1, 2):
        _emit(host, "nested", seq)
        assert host.told("report_crash")["event_id"] == f"s1:{seq}"
        request = host.asked("add_message")
        assert request.params["content"] == "cleaned up"
        host.respond(request, RECEIPT)
    _emit(host, "good", 3)
    assert host.asked("add_message").params["content"] == "heard good"


@pytest.mark.slow
def test_a_hook_that_ignores_its_interruption_ends_the_process_with_70(daemon: Start) -> None:
    host = daemon("Hangs", told=SHORT)
    _emit(host, "ignore")
    assert host.told("report_crash") == {"hook": "ally_tool_call_end", "error": "TimedOut", "event_id": "s1:1"}
    assert host.told("report_crash")["is_final"] is True
    assert host.exit_code() == 70
    assert "cannot be stopped" in host.stderr


def test_a_thread_past_its_deadline_ends_the_process_with_70(daemon: Start) -> None:
    host = daemon("Hangs", told=SHORT)
    host.emit("TOOL_CALL_START", 1, toolName="x", arguments={})
    told = host.told("report_crash")
    assert (told["hook"], told["is_final"], told["event_id"]) == ("ally_tool_call_start", True, "s1:1")
    assert host.exit_code() == 70


def test_a_durable_event_that_hangs_its_hook_is_acknowledged_once_it_is_interrupted(in_thread: Start) -> None:
    host = in_thread("Hangs", told=SHORT)
    _emit(host, "wait", 1, offset="o1")
    assert host.told("report_crash")["error"] == "TimedOut"
    assert host.asked("ack_events").params["offset"] == "o1"


def test_a_gate_that_is_cancelled_is_interrupted_and_the_next_one_asked(in_thread: Start) -> None:
    host = in_thread("Judges")
    about = {"on": "tool_call", "session_id": "s1", "cause": "q", "origin": []}
    waiting = host.request("gate", **about, call={"toolName": "wait", "arguments": {}})
    queued = host.request("gate", **about, call={"toolName": "deny", "arguments": {}})
    last = host.request("gate", **about, call={"toolName": "allow", "arguments": {}})
    host.cancel(queued)
    host.cancel(waiting)
    assert host.answer(last) == {"verdict": "allow"}
    assert host.shutdown() == 0
    assert "crash" not in host.stderr


def test_a_gate_past_its_own_deadline_is_answered_and_interrupted(daemon: Start) -> None:
    host = daemon("Hangs")
    about = {"on": "tool_call", "session_id": "s1", "cause": "q", "origin": [], "deadline": 0.1}
    answer = host.ask("gate", **about, call={"toolName": "x", "arguments": {}})
    assert (answer.code, answer.data["reason"]) == (-32016, "deadline")
    assert host.ask("ping") == "pong"


def test_a_gate_behind_a_hook_that_hangs_is_answered_at_its_own_deadline(in_thread: Start) -> None:
    host = in_thread("Hangs")
    _emit(host, "wait")
    about = {"on": "tool_call", "session_id": "s1", "cause": "q", "origin": [], "deadline": 0.1}
    answer = host.ask("gate", **about, call={"toolName": "x", "arguments": {}})
    assert (answer.code, answer.data["reason"]) == (-32016, "deadline")


@pytest.mark.slow
def test_a_gate_that_ignores_that_it_was_cancelled_ends_the_process_with_70(daemon: Start) -> None:
    host = daemon("Hangs")
    about = {"on": "tool_call", "session_id": "s1", "cause": "q", "origin": []}
    asked = host.request("gate", **about, call={"toolName": "ignore", "arguments": {}})
    assert host.ask("ping") == "pong"
    host.cancel(asked)
    assert host.told("report_crash")["is_final"] is True
    assert host.exit_code() == 70


def test_a_start_past_its_deadline_is_an_error(spawn: Start) -> None:
    host = spawn("SlowStart")
    host.initialize(deadlines={"start": 0.1})
    answer = host.ask("start")
    assert (answer.code, answer.data["reason"]) == (-32016, "deadline")
