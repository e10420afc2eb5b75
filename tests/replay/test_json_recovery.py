"""Lines that are not one record: what can be read from them is, the line is counted, and none of them takes long."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.replay.json_recovery import iterate_records, read_line


def record(number: int) -> bytes:
    content = [{"type": "text", "text": f'say "{number}" {{"type": 1}}'}, {"type": "image", "source": {"data": ""}}]
    return json.dumps({"type": "user", "uuid": f"u{number}", "message": {"content": content}}).encode()


def is_record(value: dict[str, Any]) -> bool:
    return type(value.get("type")) is str and "uuid" in value


def names(line: bytes) -> tuple[list[str], bool]:
    """Return the names of what is read from a line, and whether the line counts as broken."""
    records, fault = read_line(line + b"\n", is_record)
    return [one["uuid"] for one in records], bool(fault)


@pytest.mark.parametrize(
    "line",
    [
        b'{"a":' * 400_000, b'{"' * 500_000, b'{"a":"x' * 200_000, b'{"a":1},' * 100_000,
        b"[" * 500_000, b"\0" * 500_000, (b'{"type":"x","uuid":"' + b"y" * 50) * 10_000, b"\xff\xfe" * 250_000,
    ],
    ids=["nested", "open", "strings", "objects", "arrays", "zeros", "cut", "binary"],
)  # fmt: skip
def test_a_line_of_anything_is_a_fault_at_once(line: bytes) -> None:
    begun = time.perf_counter()
    records, fault = read_line(line, is_record)
    assert fault
    assert not [one for one in records if is_record(one)]
    assert time.perf_counter() - begun < 10  # without bounds it takes hours


@pytest.mark.parametrize("between", [b"", b" ", b"\0\0\0"])
def test_records_in_a_row_are_read_and_the_line_is_counted(between: bytes) -> None:
    assert names(record(1) + between + record(2) + between + record(3)) == (["u1", "u2", "u3"], True)


def test_zeros_around_a_record_do_not_hide_it() -> None:
    assert names(b"\0" * 4096 + record(1) + b"\0") == (["u1"], True)


def test_a_record_behind_a_cut_one_is_read_wherever_that_was_cut() -> None:
    whole = record(1)
    for end in range(1, len(whole)):
        for between in (b"", b"\0\0"):
            assert names(whole[:end] + between + record(2)) == (["u2"], True), whole[:end]
            assert names(whole[:end] + between + record(2) + record(3)) == (["u2", "u3"], True), whole[:end]


def test_no_part_of_a_cut_record_is_taken_for_one() -> None:
    inner = {"type": "user", "uuid": "inner", "message": {"content": "never said"}}
    whole = json.dumps({"type": "progress", "uuid": "outer", "data": {"message": inner, "n": 1}}).encode()
    inside = whole.index(b'"n"')
    for end in (*range(1, inside - 2), *range(inside, len(whole))):
        assert names(whole[:end]) == ([], True), whole[:end]


@given(st.binary(max_size=200), st.integers(0, 200))
def test_any_bytes_before_a_record_leave_the_file_readable(noise: bytes, cut: int) -> None:
    file = io.BytesIO(noise + record(1)[:cut] + b"\n" + record(2) + b"\n")
    found = [one["uuid"] for _, one in iterate_records(file, is_record) if isinstance(one, dict) and "uuid" in one]
    assert found[-1:] == ["u2"]
