"""JSON lines of any size, with whatever is wrong with them."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.replay.json_lines import decode_record, iterate_lines


def test_a_line_over_the_limit_is_read_past_and_the_next_one_is_whole() -> None:
    file = io.BytesIO(b"short\n" + b"x" * 5000 + b"\nlast")
    assert list(iterate_lines(file, limit=100)) == [(1, b"short\n"), (2, None), (3, b"last")]


def test_a_line_of_exactly_the_limit_is_whole() -> None:
    assert list(iterate_lines(io.BytesIO(b"x" * 100 + b"\ny"), limit=100)) == [(1, b"x" * 100 + b"\n"), (2, b"y")]


def test_an_endless_last_line_is_one_broken_line() -> None:
    assert list(iterate_lines(io.BytesIO(b"x" * 5000), limit=100)) == [(1, None)]


def test_blank_lines_are_counted_and_left_out() -> None:
    assert list(iterate_lines(io.BytesIO(b"\n  \r\na\r\n\n"))) == [(3, b"a\r\n")]


def test_a_byte_order_mark_belongs_to_no_record() -> None:
    assert [decode_record(line) for _, line in iterate_lines(io.BytesIO(b'\xef\xbb\xbf{"a":1}\n'))] == [{"a": 1}]


def test_half_an_emoji_does_not_break_its_line() -> None:
    assert decode_record(rb'{"text":"half \ud83d, whole \ud83d\ude00"}') == {"text": "half ?, whole \U0001f600"}
    assert decode_record(rb'{"text":"half \ud83d","n":-36893488147419103232}') == {"text": "half ?", "n": -(2**65)}


def test_why_a_line_is_no_record_is_said() -> None:
    assert "not JSON" in str(decode_record(b'{"a":'))
    assert decode_record(b"[1]") == "a JSON array, expected an object"
    assert decode_record(b"null") == "a JSON null, expected an object"
    assert "longer than" in str(decode_record(None))
    assert "not JSON" in str(decode_record(b'{"a":NaN,"b":"\\ud83d"}'))
    assert "not JSON" in str(decode_record(b"[" * 100_000 + rb'"\ud83d"'))


@given(st.binary(max_size=200))
def test_no_bytes_make_the_decoder_raise(line: bytes) -> None:
    assert isinstance(decode_record(line), dict | str)


@given(st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b""))), st.integers(1, 30))
def test_every_line_that_is_not_blank_appears_once_with_its_number(lines: list[bytes], limit: int) -> None:
    lines = [b"start", *lines]
    found = list(iterate_lines(io.BytesIO(b"\n".join(lines)), limit=limit))
    expected = [number for number, line in enumerate(lines, 1) if len(line) > limit or line.strip()]
    assert [number for number, _ in found] == expected


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**63) - 1, 10**30])
def test_a_large_whole_number_is_the_one_that_is_there(number: int) -> None:
    line = json.dumps({"n": number, "text": f"{number} and é"}).encode()
    assert decode_record(line) == {"n": number, "text": f"{number} and é"}


def test_a_number_that_is_too_large_to_be_read_is_a_reason_and_no_error() -> None:
    assert "not JSON: number is infinity" in decode_record(b'{"n": 1' + b"0" * 5000 + b"}")
