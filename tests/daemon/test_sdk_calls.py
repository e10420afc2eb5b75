"""Tools, actions and outbound calls of a plugin in a process of its own, and every error of theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from ally_plugins.daemon.process import METHODS
from ally_plugins.wire.messages import Cancel, ErrorResponse
from ally_plugins.wire.methods import HOST_METHODS

if TYPE_CHECKING:
    from collections.abc import Callable

    Start = Callable[..., Any]


@pytest.fixture
def daemon(in_thread: Start) -> Start:
    """What is looked at here is the same in a thread, and begins sooner."""
    return in_thread


RECEIPT = {"id": "m-1", "offset": 1, "state": "pending"}


def _tool(host: Any, name: str, /, **arguments: Any) -> int:
    request: int = host.request(
        "call_tool", name=name, arguments=arguments, session_id="s1", cause="q1", origin=["other"], timeout=120
    )
    return request


def _call(host: Any, name: str, *arguments: Any, **keywords: Any) -> int:
    """Have the plugin make an outbound call."""
    numbered = {str(index): value for index, value in enumerate(arguments)}
    return _tool(host, "call", name=name, arguments=numbered, keywords=keywords)


# --- tools and actions ---


def test_tools_answer_what_their_handlers_return(daemon: Start) -> None:
    host = daemon("Tools")
    assert host.answer(_tool(host, "echo", text="hello")) == "hello"
    assert host.answer(_tool(host, "threaded", number=3)) == {"number": 3, "thread": True}
    assert host.answer(_tool(host, "threaded", number=4)) == {"number": 4, "thread": True}
    assert host.answer(_tool(host, "free")) is None


def test_a_dict_with_success_stays_data_and_is_no_result(daemon: Start) -> None:
    host = daemon("Tools")
    assert host.answer(_tool(host, "succeeds")) == {
        "success": True,
        "output": "only data",
        "data": {"success": False, "message": "only data"},
    }


def test_an_action_answers_its_value_as_it_is(daemon: Start) -> None:
    host = daemon("Tools")
    answer = host.ask("run_action", name="act", arguments={"amount": 2}, session_id="s1", requested_by="person")
    assert answer == {"success": True, "amount": 2}


def test_a_call_within_a_tool_belongs_to_its_session_and_cause(daemon: Start) -> None:
    host = daemon("Tools")
    asked = _tool(host, "where")
    request = host.asked("add_message")
    assert (request.params["session_id"], request.params["cause"]) == ("s1", "q1")
    host.respond(request, RECEIPT)
    assert host.answer(asked) == {"session": "s1", "receipt": "m-1"}


@pytest.mark.parametrize(
    ("tool", "code", "message", "kind"),
    [
        ("fails", -32603, "internal error", "ValueError"),
        ("exits", -32603, "internal error", "SystemExit"),
        ("unsayable", -32603, "internal error", "EventError"),
        ("says_no", -32012, "the file is not there", None),
        ("cancels_itself", -32800, "cancelled", None),
    ],
)
def test_a_tool_that_fails_is_answered_with_its_type_or_its_own_words(
    daemon: Start, tool: str, code: int, message: str, kind: str | None
) -> None:
    host = daemon("Tools")
    answer = host.answer(_tool(host, tool))
    assert isinstance(answer, ErrorResponse)
    assert (answer.code, answer.message, answer.data.get("type")) == (code, message, kind)
    assert host.answer(_tool(host, "echo", text="still here")) == "still here"
    assert b"a secret" not in host.raw
    assert ("Traceback" in host.stderr) is (kind is not None)


def test_a_refusal_in_a_tool_crosses_as_what_it_is(daemon: Start) -> None:
    host = daemon("Tools")
    asked = _tool(host, "refused")
    facts = {"reason": "permission", "permission": "add_message:system", "command": "grant it"}
    host.fail(host.asked("add_message"), -32001, "not granted", **facts)
    answer = host.answer(asked)
    assert (answer.code, answer.data["command"]) == (-32001, "grant it")


def test_tools_run_side_by_side_and_one_can_be_cancelled(daemon: Start) -> None:
    host = daemon("Tools")
    first, second = _tool(host, "wait"), _tool(host, "wait")
    assert host.answer(_tool(host, "echo", text="meanwhile")) == "meanwhile"
    host.cancel(first)
    request = host.asked("add_message")
    assert request.params["content"] == "cancelled"
    host.respond(request, RECEIPT)
    host.answer(_tool(host, "free"))
    assert host.answer(second) == "freed"
    assert host.ask("ping") == "pong"
    assert host.connection.counts.late == 1  # the answer to what was cancelled, which is defined


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"name": "nothing"}, -32010),
        ({"name": 3}, -32010),
        ({}, -32010),
        ({"name": "echo", "arguments": [1]}, -32602),
        ({"name": "echo", "arguments": {"text": "x"}, "session_id": 3}, -32602),
        ({"name": "echo", "arguments": {}}, -32602),
    ],
)
def test_a_wrong_call_is_an_error(daemon: Start, params: dict[str, Any], code: int) -> None:
    host = daemon("Tools")
    answer = host.ask("call_tool", **params)
    assert isinstance(answer, ErrorResponse)
    assert answer.code == code
    assert host.ask("ping") == "pong"


def test_an_unknown_method_is_answered_as_such(daemon: Start) -> None:
    host = daemon("Plain")
    answer = host.ask("make_coffee")
    assert (answer.code, answer.data["reason"]) == (-32601, "method_not_found")
    for method, code in (("make_coffee", -32601), ("add_message", -32601), ("call_tool", -32602), ("drain", -32602)):
        request_id = host.connection.request(method, cast("Any", ["by", "position"]))
        host.flush()
        assert host.answer(request_id).code == code
    assert host.ask("ping") == "pong"


def test_a_daemon_knows_what_a_host_may_call() -> None:
    assert {name for name, method in HOST_METHODS.items() if method.is_request} == METHODS


# --- outbound calls ---


@pytest.mark.parametrize(
    ("arguments", "keywords", "method", "params", "result", "returned"),
    [
        (
            ("add_message", "user", "hello"),
            {"key": "k", "deliver_as": "follow_up", "trigger_turn": True, "metadata": {"a": 1}, "session_id": "s2"},
            "add_message",
            {
                "role": "user", "content": "hello", "key": "k", "deliver_as": "follow_up", "trigger_turn": True,
                "metadata": {"a": 1}, "session_id": "s2", "cause": "q1",
            },
            RECEIPT,
            "Receipt(id='m-1', offset=1, state='pending')",
        ),
        (
            ("emit_event", "found", {"it": [1, 2]}),
            {},
            "emit_event",
            {"type": "found", "data": {"it": [1, 2]}, "session_id": "s1", "cause": "q1"},
            {"id": "s1:9", "offset": 9, "state": "recorded"},
            "Receipt(id='s1:9', offset=9, state='recorded')",
        ),
        (
            ("get_context", ["focus", "messages"]),
            {"since": "c0"},
            "get_context",
            {"parts": ["focus", "messages"], "since": "c0", "session_id": "s1", "cause": "q1"},
            {"sessionId": "s1", "focus": "/home", "messages": [], "cursor": "c1", "isReset": False, "readOnly": True},
            (
                "Context(session_id='s1', messages=(), focus='/home', token_usage=None, todos=None, agents=None, "
                "is_processing=None, cursor='c1', is_reset=False, read_only=True)"
            ),
        ),
        (
            ("request_action", "compact", {"hard": True}),
            {"timeout": 5},
            "request_action",
            {"action": "compact", "arguments": {"hard": True}, "timeout": 5, "session_id": "s1", "cause": "q1"},
            {"done": True},
            "{'done': True}",
        ),
        (("unregister", "look"), {}, "unregister", {"name": "look", "session_id": "s1", "cause": "q1"}, None, "None"),
    ],
)  # fmt: skip
def test_outbound_calls_say_what_they_are_given_and_return_what_the_host_answers(
    daemon: Start, arguments: Any, keywords: Any, method: str, params: Any, result: Any, returned: str
) -> None:
    host = daemon("Calls")
    asked = _call(host, *arguments, **keywords)
    request = host.asked(method)
    assert request.params == params
    host.respond(request, result)
    assert host.answer(asked) == {"returned": returned}


def test_the_host_reads_every_outbound_call_strictly(daemon: Start) -> None:
    from ally_plugins.wire.methods import read_params

    host = daemon("Calls")
    calls: list[Any] = [("add_message", "user", "x"), ("emit_event", "x", {}), ("get_context",), ("unregister", "x")]
    for call in calls:
        _call(host, *call)
        read_params(call[0], host.asked(call[0]).params)
    _call(host, "register_tool", None)
    _tool(host, "register", name="later")
    read_params("register_tool", host.asked("register_tool").params)


@pytest.mark.parametrize(
    ("code", "data", "raised"),
    [
        (-32001, {"permission": "p", "command": "c"}, {"raised": "PermissionRefused", "permission": "p"}),
        (
            -32002,
            {"budget": "messages_per_minute", "retry_after": 2.5},
            {"raised": "BudgetRefused", "retry_after": 2.5},
        ),
        (-32003, {"budget": "message_bytes"}, {"raised": "BudgetRefused", "retry_after": None}),
        (-32004, {"chain": ["a", "b"]}, {"raised": "HopLimitRefused", "chain": ["a", "b"]}),
        (-32005, {}, {"raised": "UnavailableRefused"}),
        (-32006, {"budget": "calls_in_flight", "retry_after": 1.0}, {"raised": "BudgetRefused"}),
        (-32007, {"decision_id": "d-1"}, {"raised": "GateRefused", "decision_id": "d-1"}),
        (-32008, {}, {"raised": "KeyConflictRefused"}),
        (-32009, {}, {"raised": "ReentryRefused"}),
        (-32010, {}, {"raised": "NotFoundRefused"}),
        (-32011, {}, {"raised": "UnavailableRefused"}),
        (-32012, {"tool": "t"}, {"raised": "ToolCallError", "tool": "t"}),
        (-32602, {"field": "role"}, {"raised": "ValidationRefused", "field": "role"}),
        (-32603, {}, {"raised": "RemoteError", "code": -32603}),
        (-1, {}, {"raised": "RemoteError", "code": -1}),
    ],
)
def test_errors_of_the_host_are_raised_as_they_are_inline(
    daemon: Start, code: int, data: dict[str, Any], raised: dict[str, Any]
) -> None:
    host = daemon("Calls")
    asked = _call(host, "add_message", "user", "x")
    host.fail(host.asked("add_message"), code, "the reason in words", **data)
    answer = host.answer(asked)
    assert answer["text"] == "the reason in words"
    assert {key: answer.get(key) for key in raised} == raised


def test_what_the_wire_cannot_say_is_refused_as_inline_and_never_sent(daemon: Start) -> None:
    host = daemon("Calls")
    assert host.answer(_tool(host, "unsayable")) == ["ValidationRefused"] * 6
    assert host.seen == []


def test_a_message_larger_than_a_frame_is_over_budget(daemon: Start) -> None:
    host = daemon("Calls", told={"limits": {"frame_bytes": 2000}})
    answer = host.answer(_call(host, "add_message", "user", "x" * 3000))
    assert answer["raised"] == "BudgetRefused"
    assert answer["budget"] == "frame_bytes"


def test_a_nonsensical_answer_of_the_host_is_an_error_of_the_call(daemon: Start) -> None:
    host = daemon("Calls")
    asked = _call(host, "add_message", "user", "x")
    host.respond(host.asked("add_message"), {"id": 3})
    assert host.answer(asked)["raised"] == "EventError"


def test_a_call_that_is_given_up_is_cancelled_at_the_host(daemon: Start) -> None:
    host = daemon("Calls")
    asked = _tool(host, "give_up")
    request = host.asked("add_message")
    assert host.wait(lambda m: isinstance(m, Cancel) and m.id == request.id, "cancel")
    assert host.answer(asked) == "gave up"


def test_blocking_calls_work_in_threads_and_raise_on_the_loop(daemon: Start) -> None:
    host = daemon("Calls")
    asked = _tool(host, "call_blocking", name="add_message", arguments={"0": "user", "1": "from a thread"})
    request = host.asked("add_message")
    assert (request.params["content"], request.params["session_id"]) == ("from a thread", "s1")
    host.respond(request, RECEIPT)
    assert host.answer(asked) == "Receipt(id='m-1', offset=1, state='pending')"
    assert "would wait for itself" in host.answer(_tool(host, "block_the_loop"))


def test_a_call_from_another_loop_is_carried_over(daemon: Start) -> None:
    host = daemon("Calls")
    asked = _tool(host, "from_another_loop")
    request = host.asked("add_message")
    assert request.params["content"] == "from another loop"
    host.respond(request, RECEIPT)
    assert host.answer(asked) == "m-1"


def test_a_tool_registered_at_run_time_can_be_called_at_once_and_taken_back(daemon: Start) -> None:
    host = daemon("Calls")
    asked = _tool(host, "register", name="later")
    request = host.asked("register_tool")
    assert (request.params["name"], request.params["description"]) == ("later", "adds one")
    assert request.params["schema"]["required"] == ["number"]
    # The answer and the first call in one write: nothing of the plugin's runs in between.
    host.connection.respond(request.id, {"id": "under-test:later", "offset": 1, "state": "recorded"})
    assert host.ask("call_tool", name="later", arguments={"number": 41}) == 42
    assert host.answer(asked) == "under-test:later"
    asked = _call(host, "unregister", "later")
    host.respond(host.asked("unregister"), None)
    assert host.answer(asked) == {"returned": "None"}
    assert host.ask("call_tool", name="later", arguments={"number": 41}).code == -32010


def test_a_tool_whose_registration_is_refused_is_not_there(daemon: Start) -> None:
    host = daemon("Calls")
    asked = _tool(host, "register", name="later")
    host.fail(host.asked("register_tool"), -32002, "too many", budget="tools")
    assert host.answer(asked).code == -32002
    assert host.ask("call_tool", name="later", arguments={"number": 1}).code == -32010


def test_a_second_tool_of_a_name_does_not_replace_the_first(daemon: Start) -> None:
    host = daemon("Calls")
    asked = _tool(host, "register", name="supports")
    host.fail(host.asked("register_tool"), -32602, "has a tool 'supports' already", field="name")
    assert host.answer(asked).code == -32602
    assert host.answer(_tool(host, "supports")) == [True, False]


# --- log ---


def test_log_records_are_sent_and_tracebacks_stay_on_stderr(daemon: Start) -> None:
    host = daemon("Logs")
    host.answer(_tool(host, "log"))
    found = [host.told("log") for _ in range(3)]
    assert [each["level"] for each in found] == ["info", "warning", "error"]
    assert [each["message"] for each in found] == ["an info 1", "a warning", "an error"]
    assert "ValueError: inner" in host.stderr
    assert b"inner" not in host.raw


def test_a_flood_of_log_records_is_cut_where_the_host_would(daemon: Start) -> None:
    host = daemon("Logs")
    host.answer(_tool(host, "flood"))
    assert host.ask("ping") == "pong"
    lines = [message for message in host.seen if getattr(message, "method", "") == "log"]
    assert 590 <= len(lines) <= 700
