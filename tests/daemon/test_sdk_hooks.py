"""Hooks of a plugin in a process of its own: order, answers, and what crashes come to."""

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


RECEIPT = {"id": "m-1", "offset": 1, "state": "pending"}
CALL = {"toolName": "bash", "arguments": {"path": "/etc"}, "callId": "c1"}


def _gate(host: Any, tool: str, **more: Any) -> Any:
    call = {**CALL, "toolName": tool}
    return host.request(
        "gate", **{"on": "tool_call", "session_id": "s1", "cause": "q1", "origin": [], "call": call, **more}
    )


def test_events_come_in_order_with_their_envelope_and_calls_name_them_as_cause(daemon: Start) -> None:
    host = daemon("Hears")
    host.emit("TOOL_CALL_END", 1, toolName="bash", success=True)
    host.emit("other:thing", 2, it=1, origin=["other"])
    host.emit("USER_MESSAGE", 3, session="s2", content="hi")
    said = []
    for _ in range(3):
        request = host.asked("add_message")
        said.append((request.params["content"], request.params["cause"], request.params["session_id"]))
        host.respond(request, RECEIPT)
    assert said == [
        ("TOOL_CALL_END s1:1  s1", "s1:1", "s1"),
        ("other:thing s1:2 other s1", "s1:2", "s1"),
        ("USER_MESSAGE s2:3  s2", "s2:3", "s2"),
    ]
    host.drain()
    assert host.shutdown() == 0


def test_unknown_events_of_a_newer_host_and_wrong_ones_are_passed_over(daemon: Start) -> None:
    host = daemon("Hears")
    host.emit("NEVER_HEARD_OF", 1)
    host.notify("on_event", event_type="TOOL_CALL_END", event_data=3, seq="x")
    host.notify("on_event", event_type=7)
    host.notify("on_something", x=1)
    host.emit("THOUGHT_COMPLETE", 4, thinking="so it goes on")
    assert host.asked("add_message").params["content"].startswith("THOUGHT_COMPLETE s1:4")
    assert "an event could not be read" in host.stderr


def test_hooks_never_overlap_and_a_gate_comes_after_the_events_before_it(daemon: Start) -> None:
    host = daemon("Overlaps")
    for seq in range(1, 6):
        host.emit("THOUGHT_COMPLETE", seq, thinking="x")
    first = _gate(host, "bash")
    host.emit("THOUGHT_COMPLETE", 6, thinking="x")
    second = _gate(host, "bash")
    assert host.answer(first) == {"verdict": "deny", "reason": "1 1 2 3 4 5 gate"}
    assert host.answer(second) == {"verdict": "deny", "reason": "1 1 2 3 4 5 gate 6 gate"}


def test_def_hooks_run_in_one_thread_and_may_block(daemon: Start) -> None:
    host = daemon("HearsInThread")
    for seq in (1, 2, 3):
        host.emit("TOOL_CALL_END", seq, toolName=f"t{seq}", success=True)
    for seq in (1, 2, 3):
        request = host.asked("add_message")
        assert request.params["content"] == f"t{seq} s1:{seq} ally-under-test"
        assert request.params["cause"] == f"s1:{seq}"
        host.respond(request, RECEIPT)
    host.drain()


def test_every_verdict_crosses_and_nonsense_is_told_as_such(daemon: Start) -> None:
    host = daemon("Judges")
    context = {"sessionId": "s1", "focus": "/home", "cursor": "c", "isReset": False, "readOnly": True}
    assert host.answer(_gate(host, "deny", context=context)) == {
        "verdict": "deny",
        "reason": "not /etc with /home in s1",
    }
    assert host.answer(_gate(host, "ask")) == {"verdict": "ask", "reason": "please"}
    assert host.answer(_gate(host, "allow")) == {"verdict": "allow"}
    assert host.answer(_gate(host, "none")) is None
    assert "nonsense" in host.answer(_gate(host, "nonsense"))


def test_the_other_gates_get_their_values(daemon: Start) -> None:
    host = daemon("Judges")
    message = {"role": "user", "content": "hello", "metadata": {"sourcePlugin": "other"}}
    about = {"session_id": "s1", "cause": "q", "origin": ["other"]}
    answer = host.ask("gate", on="message", message=message, **about)
    assert answer == {"verdict": "deny", "reason": "hello by other"}
    request = {"requestId": "r", "toolName": "bash", "arguments": {}, "path": "/x", "options": []}
    assert host.ask("gate", on="permission", request=request, **about)["reason"] == "bash /x"
    message = {"role": "user", "content": "hello"}
    assert host.ask("gate", on="user_message", message=message, **about)["reason"] == "the person: hello"
    message = {"role": "assistant", "content": "yes", "metadata": {"isPartial": True}}
    answer = host.ask("gate", on="answer", message=message, **about)
    assert answer["reason"] == "the model: yes {'isPartial': True}"
    stop = {"reason": "stop", "answer": "done", "sentOn": 2, "ofTomorrow": 1}
    assert host.ask("gate", on="stop", stop=stop, **about)["reason"] == "stop after done, sent on 2 times"


@pytest.mark.parametrize(("tool", "kind"), [("crash", "ValueError"), ("exit", "SystemExit")])
def test_a_gate_that_crashes_is_answered_with_the_type_and_no_text(daemon: Start, tool: str, kind: str) -> None:
    host = daemon("Judges")
    answer = host.answer(_gate(host, tool))
    assert isinstance(answer, ErrorResponse)
    assert (answer.code, answer.message, answer.data["type"]) == (-32603, "internal error", kind)
    assert host.answer(_gate(host, "allow")) == {"verdict": "allow"}
    assert "Traceback" in host.stderr
    assert b"a secret" not in host.raw


def test_a_call_from_a_gate_names_the_questions_cause(daemon: Start) -> None:
    host = daemon("Judges")
    asked = _gate(host, "message", cause="q77")
    request = host.asked("add_message")
    assert (request.params["cause"], request.params["session_id"]) == ("q77", "s1")
    host.respond(request, RECEIPT)
    assert host.answer(asked)["reason"] == "m-1"


def test_an_uncaught_refusal_in_a_gate_is_answered_as_what_it_is(daemon: Start) -> None:
    host = daemon("Judges")
    asked = _gate(host, "message")
    facts = {"reason": "permission", "permission": "add_message:user", "command": "grant it"}
    host.fail(host.asked("add_message"), -32001, "not granted", **facts)
    answer = host.answer(asked)
    assert isinstance(answer, ErrorResponse)
    assert (answer.code, answer.message, answer.data["permission"]) == (-32001, "not granted", "add_message:user")


@pytest.mark.parametrize(
    "params",
    [
        {"on": "nothing"},
        {"on": "tool_call"},
        {"on": "tool_call", "call": {"toolName": 3}},
        {"on": "tool_call", "call": CALL, "deadline": "soon"},
        {"on": "tool_call", "call": CALL, "origin": "x"},
        {"on": "answer", "stop": {"answer": "done"}},
        {"on": "stop", "stop": {"answer": 3}},
    ],
)
def test_a_malformed_question_is_an_error_and_hurts_nobody(daemon: Start, params: dict[str, Any]) -> None:
    host = daemon("Judges")
    answer = host.ask("gate", **{"session_id": "s1", "cause": "q", **params})
    assert isinstance(answer, ErrorResponse)
    assert answer.code in {-32602, -32010}
    assert host.answer(_gate(host, "allow")) == {"verdict": "allow"}


def test_transforms_answer_the_fields_that_they_changed(daemon: Start) -> None:
    host = daemon("Changes")
    about = {"session_id": "s1", "cause": "q", "origin": []}
    assert host.ask("transform", on="tool_input", call=CALL, **about) == {
        "replace": {"arguments": {"path": "/etc", "added": True}}
    }
    same = {**CALL, "toolName": "same"}
    assert host.ask("transform", on="tool_input", call=same, **about) is None
    result = {"success": True, "output": "text"}
    assert host.ask("transform", on="tool_output", call=CALL, result=result, **about) == {
        "replace": {"output": "bash: text"}
    }
    message = {"role": "user", "content": "hello", "metadata": {"sourcePlugin": "other"}}
    assert host.ask("transform", on="user_message", message=message, **about) == {"replace": {"content": "HELLO"}}
    assert host.ask("transform", on="plugin_message", message=message, **about) == {
        "replace": {"content": "other says hello"}
    }
    message = {"role": "assistant", "content": "HELLO"}
    assert host.ask("transform", on="answer", message=message, **about) == {"replace": {"content": "hello"}}
    nonsense = {**CALL, "toolName": "nonsense"}
    assert "nonsense" in host.ask("transform", on="tool_input", call=nonsense, **about)


@pytest.mark.parametrize(
    ("tool", "kind"),
    [("error", "ValueError"), ("exit", "SystemExit"), ("cancelled", "HookCancelled"), ("stop", "RuntimeError")],
)
def test_an_observer_that_crashes_is_reported_by_its_type_and_the_next_event_comes(
    daemon: Start, tool: str, kind: str
) -> None:
    host = daemon("Crashes")
    host.emit("TOOL_CALL_END", 1, toolName=tool, success=True)
    assert host.told("report_crash") == {"hook": "ally_tool_call_end", "error": kind, "event_id": "s1:1"}
    host.emit("TOOL_CALL_END", 2, toolName="good", success=True)
    assert host.asked("add_message").params["content"] == "heard good"
    assert "Traceback" in host.stderr
    assert b"a secret" not in host.raw


@pytest.mark.parametrize(("tool", "kind"), [("error", "ValueError"), ("exit", "SystemExit"), ("x", "PluginError")])
def test_a_def_observer_that_crashes_is_reported_too(daemon: Start, tool: str, kind: str) -> None:
    host = daemon("CrashesInThread")
    host.emit("TOOL_CALL_END", 1, toolName=tool, success=True)
    assert host.told("report_crash")["error"] == kind
    host.drain()


def test_a_refusal_that_is_not_caught_is_no_crash(daemon: Start) -> None:
    host = daemon("Crashes")
    host.emit("TOOL_CALL_END", 1, toolName="refused", success=True)
    facts = {"reason": "permission", "permission": "add_message:system", "command": "grant it"}
    host.fail(host.asked("add_message"), -32001, "not granted", **facts)
    host.drain()
    assert not any(getattr(message, "method", "") == "report_crash" for message in host.seen)
    assert "did not catch a refusal" in host.stderr


def test_a_hook_that_cancels_its_own_task_is_the_end_as_it_is_inline(daemon: Start) -> None:
    host = daemon("Crashes")
    host.emit("TOOL_CALL_END", 1, toolName="cancels", success=True)
    told = host.told("report_crash")
    assert (told["error"], told["is_final"]) == ("HookCancelled", True)
    assert host.exit_code() == 70


def test_a_durable_event_is_acknowledged_after_its_hook_one_request_at_a_time(daemon: Start) -> None:
    host = daemon("Durable")
    host.emit("TOOL_CALL_END", 1, toolName="x", success=True, offset="o1")
    first = host.asked("ack_events")
    assert first.params["offset"] == "o1"
    for seq in (2, 3, 4):
        host.emit("TOOL_CALL_END", seq, toolName="x", success=True, offset=f"o{seq}")
    host.drain()
    assert not any(getattr(message, "method", "") == "ack_events" for message in host.seen)
    host.respond(first, None)
    second = host.asked("ack_events")
    assert second.params["offset"] == "o4"
    host.respond(second, None)
    assert host.shutdown() == 0


def test_a_durable_event_that_nobody_hears_or_that_crashes_its_hook_is_acknowledged_too(daemon: Start) -> None:
    host = daemon("Durable")
    host.emit("THOUGHT_COMPLETE", 1, thinking="x", offset="o1")
    request = host.asked("ack_events")
    host.respond(request, None)
    host.emit("TOOL_CALL_END", 2, toolName="error", success=True, offset="o2")
    assert host.told("report_crash")["event_id"] == "s1:2"
    assert host.asked("ack_events").params["offset"] == "o2"


def test_a_refused_acknowledgement_is_followed_by_the_next_one(daemon: Start) -> None:
    host = daemon("Durable")
    host.emit("TOOL_CALL_END", 1, toolName="x", success=True, offset="o1")
    host.fail(host.asked("ack_events"), -32011, "the disk is full", reason="unavailable")
    host.drain()
    host.emit("TOOL_CALL_END", 2, toolName="x", success=True, offset="o2")
    assert host.asked("ack_events").params["offset"] == "o2"
    assert "the disk is full" in host.stderr


@pytest.mark.slow
def test_a_plugin_that_falls_behind_loses_the_oldest_and_is_told_which(daemon: Start) -> None:
    host = daemon("Counts")
    total = 10_000
    for seq in range(1, total + 1):
        host.emit("TOOL_CALL_END", seq, toolName="x", success=True)
    assert host.ask("ping") == "pong"  # everything has been read
    assert host.ask("call_tool", name="open", arguments={}) is None
    host.drain()
    count = host.ask("call_tool", name="count", arguments={})
    lost = sum(number for number, _ in count["dropped"])
    assert lost > 0
    assert count["heard"] + lost == total
    assert count["dropped"][0][1][0][0] == 2  # the first was being heard
