"""One line, one message: strict about everything, and nothing but Malformed for the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.contract.values.errors import EncodeError
from ally_plugins.wire.codes import INVALID_PARAMS, INVALID_REQUEST, PARSE_ERROR
from ally_plugins.wire.limits import WireLimits
from ally_plugins.wire.messages import (
    Cancel,
    ErrorResponse,
    Malformed,
    Message,
    Notification,
    Progress,
    Request,
    Response,
    encode_error,
    encode_notification,
    encode_request,
    encode_response,
    parse,
)


def _refused(frame: bytes | dict[str, Any], limits: WireLimits | None = None) -> tuple[int, Any, bool]:
    line = frame if isinstance(frame, bytes) else json.dumps(frame).encode()
    with pytest.raises(Malformed) as caught:
        parse(line, limits or WireLimits())
    assert caught.value.text
    return caught.value.code, caught.value.id, caught.value.is_answered


def _read(**members: Any) -> Message:
    return parse(json.dumps({"jsonrpc": "2.0", **members}).encode())


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"hello from print()",
        b'{"jsonrpc":"2.0","method":"x"} {"jsonrpc":"2.0","method":"x"}',
        b'{"jsonrpc":"2.0","method":"x","params":{"a":NaN}}',
        b'{"jsonrpc":"2.0","method":"x","params":{"a":-Infinity}}',
        b'{"jsonrpc":"2.0","method":"x","params":{"a":1e999}}',
        b'{"jsonrpc":"2.0","method":"x","params":{"a":"\xff"}}',
        b'{"jsonrpc":"2.0","method":"x","params":{"a":"\xed\xa0\x80"}}',
        b'{"jsonrpc":"2.0","method":"x","params":{"a":"\\ud800"}}',
        b'{"jsonrpc":"2.0","method":"x","params":{"\\udfff":1}}',
        b'{"jsonrpc":"2.0","method":"x","params":{"a":"\x00"}}',
        b'\xef\xbb\xbf{"jsonrpc":"2.0","method":"x"}',
        b"{'jsonrpc':'2.0'}",
        b'{"jsonrpc":"2.0","method":"x",}',
        b"[" * 60,
    ],
)
def test_what_is_not_strict_json_is_a_parse_error(line: bytes) -> None:
    assert _refused(line) == (PARSE_ERROR, None, True)


@pytest.mark.parametrize("line", [b"[]", b'[{"jsonrpc":"2.0","method":"x"}]', b"1", b"null", b'"text"', b"true"])
def test_a_batch_and_a_bare_value_are_invalid_requests(line: bytes) -> None:
    assert _refused(line) == (INVALID_REQUEST, None, True)


@pytest.mark.parametrize("id_", [None, True, 1.0, 2**64, [], {}, "x" * 129])
def test_an_id_that_is_no_id_is_refused_and_not_repeated(id_: Any) -> None:
    assert _refused({"jsonrpc": "2.0", "id": id_, "method": "x"}) == (INVALID_REQUEST, None, True)


@pytest.mark.parametrize("id_", [0, -1, 2**63 - 1, 2**64 - 1, "", "x" * 128, "é"])
def test_whole_numbers_and_texts_are_ids(id_: Any) -> None:
    assert _read(id=id_, method="x") == Request(id_, "x", {})


@pytest.mark.parametrize("params", [None, [], [1], "x", 1, True])
def test_params_that_are_no_object_are_invalid_params(params: Any) -> None:
    assert _refused({"jsonrpc": "2.0", "id": 7, "method": "x", "params": params}) == (INVALID_PARAMS, 7, True)
    assert _refused({"jsonrpc": "2.0", "method": "x", "params": params}) == (INVALID_PARAMS, None, False)


@pytest.mark.parametrize("method", [None, 1, "", "x" * 129, ["x"]])
def test_a_method_that_is_no_name_is_an_invalid_request(method: Any) -> None:
    assert _refused({"jsonrpc": "2.0", "id": 7, "method": method}) == (INVALID_REQUEST, 7, True)


@pytest.mark.parametrize("version", [None, "1.0", 2, 2.0, ["2.0"]])
def test_another_json_rpc_is_refused_and_its_notifications_are_not_answered(version: Any) -> None:
    assert _refused({"jsonrpc": version, "id": 7, "method": "x"}) == (INVALID_REQUEST, 7, True)
    assert _refused({"jsonrpc": version, "method": "x"}) == (INVALID_REQUEST, None, False)
    assert _refused({"jsonrpc": version, "id": 7, "result": 1}) == (INVALID_REQUEST, 7, False)


def test_an_object_that_is_nothing_is_an_invalid_request() -> None:
    assert _refused({"jsonrpc": "2.0"}) == (INVALID_REQUEST, None, True)
    assert _refused({"jsonrpc": "2.0", "id": 7}) == (INVALID_REQUEST, 7, True)
    assert _refused({}) == (INVALID_REQUEST, None, True)


@pytest.mark.parametrize(
    "members",
    [
        {"id": 7, "result": 1, "error": {"code": 1, "message": "x"}},
        {"id": 7, "result": 1, "method": "x"},
        {"result": 1},
        {"id": None, "result": 1},
        {"id": 1.5, "result": 1},
        {"id": [], "error": {"code": 1, "message": "x"}},
        {"error": {"code": 1, "message": "x"}},
        {"id": 7, "error": None},
        {"id": 7, "error": "x"},
        {"id": 7, "error": {}},
        {"id": 7, "error": {"code": "1", "message": "x"}},
        {"id": 7, "error": {"code": True, "message": "x"}},
        {"id": 7, "error": {"code": 1.0, "message": "x"}},
        {"id": 7, "error": {"code": 1, "message": None}},
    ],
)
def test_a_malformed_response_is_never_answered(members: dict[str, Any]) -> None:
    code, _, is_answered = _refused({"jsonrpc": "2.0", **members})
    assert (code, is_answered) == (INVALID_REQUEST, False)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("$/cancel", {}),
        ("$/cancel", {"id": None}),
        ("$/cancel", {"id": True}),
        ("$/progress", {}),
        ("$/progress", {"id": 1, "progress": 1.1}),
        ("$/progress", {"id": 1, "progress": -1}),
        ("$/progress", {"id": 1, "progress": True}),
        ("$/progress", {"id": 1, "progress": "half"}),
        ("$/progress", {"id": 1, "message": 5}),
    ],
)
def test_a_malformed_cancellation_or_progress_is_never_answered(method: str, params: dict[str, Any]) -> None:
    assert _refused({"jsonrpc": "2.0", "method": method, "params": params}) == (INVALID_REQUEST, None, False)


def test_each_kind_of_message_is_read() -> None:
    assert _read(method="x") == Notification("x", {})
    assert _read(method="x", params={"a": 1}, extra=[1]) == Notification("x", {"a": 1})
    assert _read(id="a", method="$/cancel") == Request("a", "$/cancel", {})
    assert _read(method="$/cancel", params={"id": "a"}) == Cancel("a")
    assert _read(method="$/progress", params={"id": 3}) == Progress(3)
    assert _read(method="$/progress", params={"id": 3, "progress": 1, "message": "x"}) == Progress(3, 1, "x")
    assert _read(id=3, result=None) == Response(3, "", None)
    assert _read(id=None, error={"code": 5, "message": "x"}) == ErrorResponse(None, "", 5, "x")  # type: ignore[arg-type]
    assert parse(encode_response(3, [1]), outgoing={3: "x"}) == Response(3, "x", [1])
    assert parse(encode_error(3, 5, "no", {"a": 1}), outgoing={3: "x"}) == ErrorResponse(3, "x", 5, "no", {"a": 1})


def test_of_duplicate_keys_the_last_wins() -> None:
    assert parse(b'{"jsonrpc":"1","id":1,"method":"x","jsonrpc":"2.0","method":"y"}') == Request(1, "y", {})


# ----------------------------------------------------------------------------------------------------- depth and nodes
def _nested(levels: int, text: str = "0") -> bytes:
    """Return a notification of so many levels, two of them its own."""
    deep = "[" * (levels - 2) + text + "]" * (levels - 2)
    return f'{{"jsonrpc":"2.0","method":"x","params":{{"a":{deep}}}}}'.encode()


@pytest.mark.parametrize("filler", ["", '"' + "[{" * 500 + '\\"[[' + '"', '"\\\\"', '"\\\\\\""', '"' + "]" * 99 + '"'])
def test_the_deepest_message_that_is_allowed_is_read_and_one_level_more_is_not(filler: str) -> None:
    assert isinstance(parse(_nested(64, filler)), Notification)
    assert _refused(_nested(65, filler)) == (INVALID_REQUEST, None, True)


def test_brackets_beside_each_other_are_no_depth() -> None:
    assert isinstance(parse(_nested(3, ",".join(["[[], {} ]"] * 1000))), Notification)


def test_brackets_and_commas_in_texts_are_no_values() -> None:
    limits = WireLimits(nodes=10)
    assert isinstance(parse(_nested(3, '"' + "[,{" * 1000 + '"'), limits), Notification)


def test_as_many_values_as_allowed_are_read_and_one_more_is_not() -> None:
    # The message, "2.0", "x", the params, and the list are five.
    limits = WireLimits(nodes=1005)
    for value in ('"a, [b"', "[]", "{ }", "0", "12345"):
        assert isinstance(parse(_nested(3, ",".join([value] * 1000)), limits), Notification), value
        if value != "0":  # so short that it takes twice as many to be worth a count
            assert _refused(_nested(3, ",".join([value] * 1001)), limits) == (INVALID_REQUEST, None, True), value


def _values(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(_values(item) for item in inner)


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max((_depth(item) for item in inner), default=0)


SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.text('[]{},:"\\a ', max_size=6)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('[{"\\,a', max_size=3), inner, max_size=4),
)


@given(value=JSON, depth=st.integers(1, 6), nodes=st.integers(4, 24), is_spaced=st.booleans())
def test_depth_and_values_are_counted_as_a_walk_over_the_decoded_value_counts_them(
    value: Any, depth: int, nodes: int, *, is_spaced: bool
) -> None:
    message = {"jsonrpc": "2.0", "method": "x", "params": {"a": value}}
    line = json.dumps(message, separators=(" , ", " : ") if is_spaced else (",", ":")).encode()
    limits = WireLimits(depth=depth, nodes=nodes)
    if len(line) <= 2 * max(depth, nodes):  # too short to be counted at all, and to do harm
        assert _depth(message) <= len(line) // 2
    elif _depth(message) > depth or _values(message) > nodes:
        assert _refused(line, limits)[0] == INVALID_REQUEST
    else:
        assert isinstance(parse(line, limits), Notification)


# ---------------------------------------------------------------------------------------------------------- properties
@given(frame=st.binary(max_size=200) | st.text(max_size=80).map(str.encode))
def test_garbage_is_a_message_or_malformed_and_nothing_else(frame: bytes) -> None:
    read = _read_any(frame)
    if isinstance(read, Malformed):
        assert read.text
        assert read.is_answered


def _read_any(frame: bytes) -> Message | Malformed:
    try:
        return parse(frame)
    except Malformed as malformed:
        return malformed


MEMBERS = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | JSON,
        "id": st.integers() | JSON,
        "method": st.sampled_from(["x", "$/cancel", "$/progress"]) | JSON,
        "params": st.dictionaries(st.sampled_from(["id", "progress", "message"]), JSON) | JSON,
        "result": JSON,
        "error": st.fixed_dictionaries({}, optional={"code": st.integers(-9, 9) | JSON, "message": JSON}) | JSON,
    },
)


@given(message=MEMBERS)
def test_an_object_of_any_members_is_a_message_or_malformed_and_nothing_else(message: dict[str, Any]) -> None:
    read = _read_any(json.dumps(message).encode())
    is_response = "result" in message or "error" in message
    if isinstance(read, Malformed):
        assert not (is_response and read.is_answered)
    else:
        assert message["jsonrpc"] == "2.0"
        assert isinstance(read, Response | ErrorResponse) is is_response is ("method" not in message)


TEXTS = st.text(st.characters(), max_size=20)  # lone surrogates too
INTEGERS = st.integers(-(2**63), 2**64 - 1)
PARAMS = st.dictionaries(TEXTS, TEXTS | INTEGERS | st.lists(TEXTS, max_size=3), max_size=4)


@given(text=TEXTS, params=PARAMS, id_=st.integers(0, 2**63 - 1))
def test_whatever_is_encoded_is_one_line_that_parses(text: str, params: dict[str, Any], id_: int) -> None:
    lines = (
        encode_request(id_, "x", params),
        encode_request(id_, "x", None),
        encode_notification("x", params),
        encode_notification("x"),
        encode_response(id_, params),
        encode_error(id_, -1, text, params),
        encode_error(None, -1, text),
    )
    kinds = (Request, Request, Notification, Notification, Response, ErrorResponse, ErrorResponse)
    for line, kind in zip(lines, kinds, strict=True):
        assert line.count(b"\n") == 1
        assert line.endswith(b"\n")
        assert isinstance(parse(line[:-1]), kind)


@given(number=st.integers(-(2**66), 2**66) | st.sampled_from([2**64, 2**64 - 1, -(2**63), -(2**63) - 1, 10**5000]))
def test_an_integer_crosses_as_it_is_or_is_refused_with_its_place(number: int) -> None:
    params = {"arguments": {"list": [1.5, "1" * 30, {"n": number}]}}
    if -(2**63) <= number <= 2**64 - 1:
        read = parse(encode_request(1, "call_tool", params)[:-1])
        assert isinstance(read, Request)
        assert read.params == params
        assert type(read.params["arguments"]["list"][2]["n"]) is int
    else:
        with pytest.raises(EncodeError) as raised:
            encode_request(1, "call_tool", params)
        assert str(raised.value).startswith("params.arguments.list[2].n is an integer of ")
        assert raised.value.path == "params.arguments.list[2].n"


@pytest.mark.parametrize("number", ["18446744073709551616", "-9223372036854775809", "1" * 5000])
def test_an_integer_that_would_become_a_float_is_refused_where_it_is_read(number: str) -> None:
    line = '{"jsonrpc":"2.0",%s:{"a":"\\"[1","list":[0,{"n":' + number + "}]}}"
    for members, id_ in (('"id":7,"method":"x","params"', 7), ('"method":"x","params"', None)):
        with pytest.raises(Malformed) as raised:
            parse((line % members).encode())
        found = raised.value
        text = f"params.list[1].n is an integer of {len(number.lstrip('-'))} digits; expected 64 bits at most, or text"
        assert (found.code, found.text, found.id, found.is_answered) == (INVALID_PARAMS, text, id_, id_ is not None)
        assert not found.is_broken
    answer = parse((line % '"id":7,"result"').encode(), outgoing={7: "gate"})
    assert isinstance(answer, ErrorResponse)
    assert answer.method == "gate"
    assert answer.message.startswith("the answer to 'gate' cannot be read: result.list[1].n is an integer of ")
    failure = parse((line % '"id":7,"error":{"code":-1,"message":"m","data"').encode() + b"}")
    assert failure == ErrorResponse(7, "", -1, "m")


@pytest.mark.parametrize("value", ['"18446744073709551616"', "18446744073709551616.0", "1e300", "18446744073709551615"])
def test_other_numbers_and_texts_of_many_digits_are_read(value: str) -> None:
    read = parse(f'{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"n":{value}}}}}'.encode())
    assert isinstance(read, Request)
    assert read.params == json.loads(f'{{"n":{value}}}')


def test_of_a_long_message_the_place_of_such_an_integer_is_not_looked_for() -> None:
    value = "[" + "1," * 40_000 + "1" * 30 + "]"
    with pytest.raises(Malformed, match=r"^a value is an integer of 30 digits"):
        parse(f'{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"n":{value}}}}}'.encode())
