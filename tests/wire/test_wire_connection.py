"""One end against hostile bytes: the defined answer to each, and a ProtocolError or nothing."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.contract.values.errors import BudgetRefused, ProtocolError
from ally_plugins.wire.codes import (
    BUSY,
    CANCELLED,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    TOO_LARGE,
    UNAVAILABLE,
)
from ally_plugins.wire.connection import Connection, WireCounts
from ally_plugins.wire.limits import WireLimits
from ally_plugins.wire.messages import Cancel, ErrorResponse, Message, Notification, Progress, Request, Response


def _line(**members: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **members}).encode() + b"\n"


def _sent(connection: Connection) -> list[dict[str, Any]]:
    return [json.loads(line) for line in connection.data_to_send().splitlines()]


def _errors(connection: Connection) -> list[tuple[Any, int]]:
    return [(answer["id"], answer["error"]["code"]) for answer in _sent(connection)]


def _connection(**limits: int) -> Connection:
    return Connection(limits=WireLimits(**limits))


# ------------------------------------------------------------------------------------------------------------- hostile
@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"Traceback (most recent call last):\n", (None, PARSE_ERROR)),
        (b'{"jsonrpc":"2.0","method":"x","params":{"a":"\xff"}}\n', (None, PARSE_ERROR)),
        (b"[]\n", (None, INVALID_REQUEST)),
        (_line(id=None, method="x"), (None, INVALID_REQUEST)),
        (_line(id=7, method=1), (7, INVALID_REQUEST)),
        (_line(id="a", method="x", params=[1]), ("a", INVALID_PARAMS)),
        (_line(id=7, method="x", params={"a": [[]] * 100_000}), (None, INVALID_REQUEST)),
    ],
)
def test_what_is_malformed_is_answered_and_counted_and_the_rest_is_read(line: bytes, answer: tuple[Any, int]) -> None:
    connection = Connection()
    assert connection.receive_data(line + _line(method="next")) == [Notification("next", {})]
    assert _errors(connection) == [answer]
    assert connection.counts == WireCounts(malformed=1)
    assert not connection.incoming


@pytest.mark.parametrize("params", [[], [1, {"a": 2}], "x", 7, None])
def test_a_method_that_does_not_exist_is_answered_so_whatever_its_params_are(params: Any) -> None:
    connection = Connection(methods={"known"})
    unknown = _line(id=1, method="Known", params=params)
    notified = _line(method="Known", params=params)
    assert connection.receive_data(unknown + notified + _line(id=2, method="known", params=params)) == []
    assert _errors(connection) == [(1, METHOD_NOT_FOUND), (2, INVALID_PARAMS)]
    assert connection.receive_data(_line(id=3, method="Known", params={})) == [Request(3, "Known", {})]


@pytest.mark.parametrize("version", [None, "1.0", 2.0, "2", ["2.0"]])
def test_a_request_of_another_version_is_refused_with_its_id(version: Any) -> None:
    connection = Connection()
    message = {"jsonrpc": version, "id": "a", "method": "x", "params": [1]}
    assert connection.receive_data(json.dumps(message).encode() + b"\n") == []
    del message["jsonrpc"]
    assert connection.receive_data(json.dumps(message).encode() + b"\n") == []
    assert _errors(connection) == [("a", INVALID_REQUEST)] * 2


@pytest.mark.parametrize(
    "line",
    [
        _line(method="x", params=[]),
        _line(method="$/cancel"),
        _line(method="$/progress", params={"id": 1, "progress": 2}),
        _line(id=1, result=1, error=None),
        _line(id=1, error={"code": "x"}),
        _line(result=1),
        json.dumps({"id": 1, "result": 1}).encode() + b"\n",
    ],
)
def test_notifications_and_responses_are_never_answered_however_malformed(line: bytes) -> None:
    connection = Connection()
    connection.request("x")
    connection.data_to_send()
    assert connection.receive_data(line) == []
    assert connection.data_to_send() == b""
    assert connection.counts == WireCounts(malformed=1)
    assert dict(connection.outgoing) == {1: "x"}


def test_no_words_of_the_peer_and_none_of_the_codec_stand_in_an_answer() -> None:
    connection = Connection()
    connection.receive_data(b'{"password": hunter2}\n')
    assert _sent(connection) == [
        {
            "jsonrpc": "2.0",
            "id": None,
            "error": {"code": PARSE_ERROR, "message": "the line is not JSON in UTF-8", "data": {"reason": "parse"}},
        }
    ]


def test_blank_lines_are_nothing() -> None:
    connection = Connection()
    assert connection.receive_data(b"\n\r\n  \t\n" + b" " * 100 + b"\n" + _line(method="x")[:-1] + b"\r\n") == [
        Notification("x", {})
    ]
    assert connection.counts == WireCounts()
    assert connection.data_to_send() == b""


def test_a_line_over_the_limit_closes_the_connection_and_says_why() -> None:
    connection = _connection(frame_bytes=100)
    with pytest.raises(ProtocolError, match="a line of more than 100 bytes came") as caught:
        connection.receive_data(_line(method="x") + b"y" * 101)
    assert caught.value.received == (Notification("x", {}),)
    assert connection.is_closed
    assert _errors(connection) == [(None, INVALID_REQUEST)]


def test_a_line_of_exactly_the_limit_is_read() -> None:
    line = _line(method="x", params={"a": "b" * 50})
    assert len(_connection(frame_bytes=len(line) - 1).receive_data(line)) == 1
    with pytest.raises(ProtocolError):
        _connection(frame_bytes=len(line) - 2).receive_data(line)


def test_a_hundred_megabytes_without_a_newline_are_not_kept() -> None:
    connection = Connection()
    chunk = b"x" * 65_536
    for _ in range(16):
        assert connection.receive_data(chunk) == []
        assert len(connection._framer._tail) <= 1_048_576
    for _ in range(1_600):
        with pytest.raises(ProtocolError):
            connection.receive_data(chunk)
    assert len(connection._framer._tail) == 0


def test_the_last_malformed_frame_that_is_allowed_closes_the_connection() -> None:
    connection = Connection()
    assert connection.receive_data(b"x\n" * 99) == []
    with pytest.raises(ProtocolError, match="100 malformed messages came; the last: the line is not JSON") as caught:
        connection.receive_data(_line(method="y") + b"x\n" * 50)
    assert caught.value.received == (Notification("y", {}),)
    assert connection.counts.malformed == 100
    assert len(_sent(connection)) == 101


def test_after_a_protocol_error_every_call_that_sends_or_receives_raises_it_again() -> None:
    connection = _connection(malformed=1)
    with pytest.raises(ProtocolError) as caught:
        connection.receive_data(_line(id=1, method="x") + b"x\n")
    connection.data_to_send()
    calls: tuple[Any, ...] = (
        lambda: connection.receive_data(b""),
        lambda: connection.request("x"),
        lambda: connection.notify("x"),
        lambda: connection.write(b"x\n"),
    )
    for call in calls:
        with pytest.raises(ProtocolError, match="malformed messages came") as again:
            call()
        assert str(again.value) == str(caught.value)
    connection.respond(1, None)
    connection.fail(1, BUSY, "x")
    connection.progress(1, 0.5)
    connection.cancel(1)
    assert connection.data_to_send() == b""
    assert not connection.outgoing


def test_an_id_that_is_in_flight_is_refused_without_spoiling_the_first() -> None:
    connection = Connection()
    first = connection.receive_data(_line(id=5, method="x") + _line(id=5, method="y") + _line(id="5", method="z"))
    assert first == [Request(5, "x", {}), Request("5", "z", {})]
    connection.respond(5, "of x")
    refusal, answer = _sent(connection)
    assert (refusal["id"], refusal["error"]["code"]) == (None, INVALID_REQUEST)
    assert (answer["id"], answer["result"]) == (5, "of x")
    assert connection.receive_data(_line(id=5, method="again")) == [Request(5, "again", {})]


def test_more_requests_than_may_be_in_flight_are_answered_busy() -> None:
    connection = _connection(in_flight=2)
    assert len(connection.receive_data(b"".join(_line(id=n, method="x") for n in range(5)))) == 2
    assert _errors(connection) == [(2, BUSY), (3, BUSY), (4, BUSY)]
    assert connection.counts == WireCounts(busy=3)
    connection.respond(0, None)
    assert connection.receive_data(_line(id=9, method="x")) == [Request(9, "x", {})]


def test_responses_that_nobody_waits_for_are_counted_and_not_returned() -> None:
    connection = Connection()
    ids = [connection.request("x") for _ in range(3)]
    connection.cancel(ids[1])
    ok = {"result": 1}
    lines = b"".join(
        (
            _line(id=1, **ok),
            _line(id=1, **ok),  # double
            _line(id=2, **ok),  # late
            _line(id=2, **ok),  # double
            _line(id=4, **ok),  # unknown
            _line(id=0, **ok),  # unknown
            _line(id="1", **ok),  # unknown
            _line(id=None, error={"code": -32700, "message": "you wrote nonsense"}),  # unknown
        )
    )
    assert connection.receive_data(lines) == [Response(1, "x", 1)]
    assert connection.counts == WireCounts(late=1, double=2, unknown=4)
    assert dict(connection.outgoing) == {3: "x"}


def test_a_cancelled_request_is_forgotten_after_a_while_when_the_peer_never_answers() -> None:
    connection = _connection(in_flight=10)
    for _ in range(100):
        connection.cancel(connection.request("x"))
    assert len(connection._cancelled) == 10
    connection.receive_data(_line(id=100, result=1) + _line(id=1, result=1))
    assert connection.counts == WireCounts(late=1, double=1)


# -------------------------------------------------------------------------------------------------------- cancellation
def test_a_cancellation_is_answered_at_once_and_the_answer_of_the_work_is_dropped() -> None:
    connection = Connection()
    connection.receive_data(_line(id="a", method="x"))
    assert connection.receive_data(_line(method="$/cancel", params={"id": "a"})) == [Cancel("a")]
    assert _errors(connection) == [("a", CANCELLED)]
    assert not connection.incoming
    connection.respond("a", 1)
    connection.fail("a", CANCELLED, "cancelled")
    connection.progress("a", 0.5)
    assert connection.data_to_send() == b""
    assert connection.counts == WireCounts(dropped=3)


def test_a_cancellation_of_what_has_ended_or_never_was_is_nothing() -> None:
    connection = Connection()
    connection.receive_data(_line(id=1, method="x"))
    connection.respond(1, None)
    connection.data_to_send()
    cancels = b"".join(_line(method="$/cancel", params={"id": id_}) for id_ in (1, 2, "1"))
    assert connection.receive_data(cancels) == []
    assert connection.data_to_send() == b""
    assert connection.counts == WireCounts()


def test_to_cancel_what_has_ended_sends_nothing() -> None:
    connection = Connection()
    id_ = connection.request("x")
    connection.receive_data(_line(id=id_, result=1))
    connection.data_to_send()
    connection.cancel(id_)
    connection.cancel(99)
    assert connection.data_to_send() == b""


def test_progress_is_returned_while_the_request_waits_and_not_after() -> None:
    connection = Connection()
    id_ = connection.request("x")
    half = _line(method="$/progress", params={"id": id_, "progress": 0.5})
    assert connection.receive_data(half) == [Progress(id_, 0.5)]
    assert connection.receive_data(_line(id=id_, result=1) + half) == [Response(id_, "x", 1)]


# ------------------------------------------------------------------------------------------------------------- sending
def test_what_is_longer_than_the_peer_takes_is_not_sent() -> None:
    connection = Connection()
    connection.send_limit = 200
    connection.receive_data(_line(id=1, method="x") + _line(id=2, method="y"))
    for send in (connection.request, connection.notify):
        with pytest.raises(BudgetRefused, match=r"'z' has 2\d\d bytes where the peer takes 200") as caught:
            send("z", {"a": "b" * 200})
        assert (caught.value.budget, caught.value.retry_after) == ("frame_bytes", None)
    connection.respond(1, "b" * 200)
    connection.fail(2, BUSY, "b" * 200)
    assert _errors(connection) == [(1, TOO_LARGE), (2, BUSY)]
    assert not connection.outgoing
    assert not connection.incoming


def test_a_result_that_is_no_json_leaves_the_request_to_be_answered() -> None:
    connection = Connection()
    connection.receive_data(_line(id=1, method="x"))
    with pytest.raises(TypeError):
        connection.respond(1, object())
    assert 1 in connection.incoming
    with pytest.raises(TypeError):
        connection.request("x", {"a": object()})
    assert not connection.outgoing
    assert connection.data_to_send() == b""


def test_an_error_carries_the_reason_word_of_its_code() -> None:
    connection = Connection()
    connection.receive_data(b"".join(_line(id=n, method="x") for n in range(3)))
    connection.fail(0, BUSY, "busy")
    connection.fail(1, BUSY, "busy", {"mine": 1})
    connection.fail(2, 5, "of somebody else")
    errors = [answer["error"] for answer in _sent(connection)]
    assert errors == [
        {"code": BUSY, "message": "busy", "data": {"reason": "busy"}},
        {"code": BUSY, "message": "busy", "data": {"mine": 1}},
        {"code": 5, "message": "of somebody else"},
    ]


def test_output_is_drained_in_order_with_what_was_encoded_before() -> None:
    connection = Connection()
    connection.notify("a")
    connection.write(b"prepared\n")
    connection.notify("b", {"x": "\ud800"})
    data = connection.data_to_send()
    assert [line.split(b'"method":')[-1] for line in data.splitlines()] == [
        b'"a"}',
        b"prepared",
        b'"b","params":{"x":"?"}}',
    ]
    assert connection.data_to_send() == b""


# ----------------------------------------------------------------------------------------------------------------- end
def test_at_the_end_the_last_line_is_read_and_every_request_gets_its_end() -> None:
    connection = Connection()
    connection.request("x")
    connection.request("y")
    connection.receive_data(_line(id=1, result=1)[:-1])
    assert connection.receive_eof() == [
        Response(1, "x", 1),
        ErrorResponse(2, "y", UNAVAILABLE, "the connection is closed", {"reason": "unavailable"}),
    ]
    assert connection.receive_eof() == []
    with pytest.raises(ProtocolError, match="the connection is closed"):
        connection.request("x")


def test_the_end_in_the_middle_of_a_line_is_counted_and_never_raises() -> None:
    connection = _connection(malformed=1)
    connection.request("x")
    connection.receive_data(_line(id=1, result=1)[:-2])
    (end,) = connection.receive_eof()
    assert isinstance(end, ErrorResponse)
    assert connection.counts.malformed == 1


def test_a_peer_that_closed_only_its_half_still_gets_its_answers() -> None:
    connection = Connection()
    assert connection.receive_data(_line(id=1, method="x") + _line(id=2, method="y")[:-1]) == [Request(1, "x", {})]
    assert connection.receive_eof() == [Request(2, "y", {})]
    connection.progress(1, 0.5)
    connection.respond(1, "a")
    connection.respond(2, "b")
    assert [(answer["id"], answer["result"]) for answer in _sent(connection)] == [(1, "a"), (2, "b")]
    assert connection.counts == WireCounts(dropped=1)


def test_after_a_protocol_error_the_end_still_ends_every_request() -> None:
    connection = _connection(malformed=1)
    connection.request("x")
    with pytest.raises(ProtocolError):
        connection.receive_data(b"x\n")
    assert [type(message) for message in connection.receive_eof()] == [ErrorResponse]


# ---------------------------------------------------------------------------------------------------------- properties
GOOD = [
    _line(id=1, method="x", params={"é\\n": "€"}),
    _line(id=2, method="y"),
    _line(method="n", params={"a": [1, {}]}),
    _line(id=1, result={"a": 1}),
    _line(id=2, error={"code": 1, "message": "m"}),
    _line(method="$/cancel", params={"id": 1}),
    _line(method="$/progress", params={"id": 3, "progress": 0.5}),
    b"\r\n",
]
BAD = [b"x\n", b"[]\n", b"{}\n", b"\xff\xfe\n", _line(id=3, method="x", params=1), b"\x00" * 40 + b"\n"]


def _outcome(chunks: list[bytes]) -> tuple[list[Message], str, bytes, WireCounts]:
    connection = Connection(limits=WireLimits(frame_bytes=120, malformed=4))
    for _ in range(3):
        connection.request("q")
    connection.data_to_send()
    messages: list[Message] = []
    try:
        for chunk in chunks:
            messages += connection.receive_data(chunk)
    except ProtocolError as error:
        return [*messages, *error.received], str(error), connection.data_to_send(), connection.counts
    return messages + connection.receive_eof(), "", connection.data_to_send(), connection.counts


@given(
    lines=st.lists(st.sampled_from(GOOD + BAD) | st.binary(max_size=130), max_size=12),
    cuts=st.lists(st.integers(0, 1500), max_size=12),
)
def test_bytes_cut_anywhere_do_the_same(lines: list[bytes], cuts: list[int]) -> None:
    data = b"".join(lines)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[start:end] for start, end in pairwise(edges)]
    assert _outcome(chunks) == _outcome([data])
    assert _outcome([data[place : place + 1] for place in range(len(data))]) == _outcome([data])


@given(chunks=st.lists(st.binary(max_size=100), max_size=20))
def test_garbage_raises_a_protocol_error_and_nothing_else(chunks: list[bytes]) -> None:
    connection = Connection(limits=WireLimits(frame_bytes=64, malformed=5))
    with suppress(ProtocolError):
        for chunk in chunks:
            connection.receive_data(chunk)
    connection.receive_eof()
    for line in connection.data_to_send().splitlines():
        assert json.loads(line)["error"]["code"] in {PARSE_ERROR, INVALID_REQUEST}


def test_integers_that_cannot_be_read_cut_nobody_off() -> None:
    connection = _connection(malformed=2)
    for number in range(5):
        assert connection.receive_data(_line(id=number, method="x", params={"n": 2**64})) == []
    assert _errors(connection) == [(number, INVALID_PARAMS) for number in range(5)]
    assert connection.receive_data(_line(method="x", params={"n": 2**64})) == []
    assert connection.counts == WireCounts()
    id_ = connection.request("gate", {})
    assert [type(message) for message in connection.receive_data(_line(id=id_, result=2**64))] == [ErrorResponse]
    assert not connection.outgoing
