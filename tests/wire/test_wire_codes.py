"""Errors over the wire: ours arrive as what they were, strangers' say nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.contract.values import errors
from ally_plugins.wire import codes
from ally_plugins.wire.codes import CODES, REASONS, read_error, write_error

ERRORS = [
    (codes.PERMISSION, errors.PermissionRefused("no", permission="emit:x", command="ally-plugins grant p emit:x")),
    (codes.BUDGET, errors.BudgetRefused("no", plugin="p", budget="messages_per_minute", retry_after=1.5)),
    (codes.BUDGET, errors.BudgetRefused("no", budget="events_per_minute")),
    (codes.BUDGET, errors.BudgetRefused("no", budget="running_tasks")),
    (codes.TOO_LARGE, errors.BudgetRefused("no", plugin="p", budget="message_bytes")),
    (codes.BUSY, errors.BudgetRefused("no", budget="calls_in_flight")),
    (codes.INVALID_PARAMS, errors.ValidationRefused("no", plugin="p", field="role")),
    (codes.INVALID_PARAMS, errors.ArgumentsError("no", tool="t", plugin="q", problems=("a: missing", "b: wrong"))),
    (codes.INVALID_PARAMS, errors.ArgumentsError("no", tool="t")),
    (codes.KEY_CONFLICT, errors.KeyConflictRefused("no")),
    (codes.HOP_LIMIT, errors.HopLimitRefused("no", chain=("a", "b"))),
    (codes.GATE, errors.GateRefused("no", plugin="p", decision_id="d-1")),
    (codes.GATE, errors.GateRefused("no")),
    (codes.REENTRY, errors.ReentryRefused("no")),
    (codes.NOT_FOUND, errors.NotFoundRefused("no", plugin="p")),
    (codes.UNAVAILABLE, errors.UnavailableRefused("no")),
    (codes.TOOL_FAILED, errors.ToolCallError("no", tool="t", plugin="q")),
    (codes.REFUSED, errors.RefusedError("no")),
]
IDS = [f"{number}-{type(error).__name__}" for number, (_, error) in enumerate(ERRORS)]


def _facts(error: errors.AllyError) -> tuple[type, str, dict[str, Any]]:
    return type(error), str(error), vars(error)


@pytest.mark.parametrize(("code", "error"), ERRORS, ids=IDS)
def test_our_errors_arrive_with_their_class_text_and_attributes(code: int, error: errors.AllyError) -> None:
    answer = write_error(error)
    assert answer.code == code
    assert answer.data["reason"] == REASONS[code]
    assert _facts(read_error(answer.code, answer.message, json.loads(json.dumps(answer.data)))) == _facts(error)


def test_every_kind_of_refusal_crosses() -> None:
    found = [each for each in map(vars(errors).get, errors.__all__) if isinstance(each, type)]
    kinds = {each for each in found if issubclass(each, errors.RefusedError)}
    assert kinds <= {type(error) for _, error in ERRORS}


def test_a_kind_of_refusal_that_we_do_not_know_is_a_plain_one() -> None:
    class StrangeRefused(errors.RefusedError):
        reason = "strange"

    assert write_error(StrangeRefused("no")).code == codes.REFUSED
    assert write_error(type("Mine", (errors.NotFoundRefused,), {})("no")).code == codes.NOT_FOUND


@pytest.mark.parametrize(
    "error",
    [
        ValueError("the password is hunter2"),
        errors.EventError("the password is hunter2"),
        errors.HostError("the password is hunter2"),
        KeyError("hunter2"),
        SystemExit("hunter2"),
    ],
)
def test_no_text_of_any_other_exception_crosses(error: BaseException) -> None:
    answer = write_error(error)
    assert (answer.code, answer.message, answer.data) == (-32603, "internal error", {"reason": "internal"})
    assert write_error(error, names_type=True).data == {"reason": "internal", "type": type(error).__name__}


def test_a_host_that_stops_is_unavailable() -> None:
    assert type(read_error(codes.SHUTTING_DOWN, "stopping")) is errors.UnavailableRefused


@pytest.mark.parametrize(
    "code",
    [
        codes.PARSE_ERROR,
        codes.INVALID_REQUEST,
        codes.METHOD_NOT_FOUND,
        codes.INTERNAL_ERROR,
        codes.CANCELLED,
        codes.NOT_INITIALIZED,
        codes.UNSUPPORTED_PROTOCOL,
        codes.UNAUTHORIZED,
        0,
        -1,
        2**70,
    ],
)
def test_what_is_no_error_of_ours_is_a_remote_error(code: int) -> None:
    error = read_error(code, "text", {"a": 1})
    assert isinstance(error, errors.RemoteError)
    assert (str(error), error.code, error.data) == ("text", code, {"a": 1})


@pytest.mark.parametrize("data", [None, [], "x", 5, {"field": 5}, {"field": "x", "plugin": 5}, {"tool": None}])
def test_an_error_that_lacks_its_facts_is_a_remote_error(data: Any) -> None:
    assert type(read_error(codes.INVALID_PARAMS, "text", data)) is errors.RemoteError


FACTS: st.SearchStrategy[Any] = st.sampled_from(["x", "", 1, True, 1.5, None, [], ["a"], [1], {}])
NAMES = (
    "plugin",
    "permission",
    "command",
    "budget",
    "retry_after",
    "field",
    "chain",
    "decision_id",
    "tool",
    "problems",
)


@given(
    code=st.sampled_from(sorted(REASONS)) | st.integers(),
    data=st.dictionaries(st.sampled_from(NAMES), FACTS) | FACTS,
)
def test_whatever_a_peer_answers_is_an_error_of_our_tree(code: int, data: Any) -> None:
    assert isinstance(read_error(code, "text", data), errors.AllyError)


def test_the_codes_are_stable() -> None:
    assert dict(CODES) == {
        "parse": -32700,
        "invalid_request": -32600,
        "method_not_found": -32601,
        "validation": -32602,
        "internal": -32603,
        "cancelled": -32800,
        "refused": -32000,
        "permission": -32001,
        "budget": -32002,
        "too_large": -32003,
        "hop_limit": -32004,
        "shutting_down": -32005,
        "busy": -32006,
        "gate": -32007,
        "key_conflict": -32008,
        "reentry": -32009,
        "not_found": -32010,
        "unavailable": -32011,
        "tool_failed": -32012,
        "not_initialized": -32013,
        "unsupported_protocol": -32014,
        "unauthorized": -32015,
        "deadline": -32016,
    }
    assert {code: reason for reason, code in CODES.items()} == dict(REASONS)
