"""One JSON object in pieces: the same members however the file is cut, and nothing raises."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.replay import json_scanner
from ally_plugins.replay.json_scanner import JsonMember, iterate_members

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


def members(data: bytes, limit: int = 1 << 20) -> list[JsonMember]:
    return list(iterate_members(io.BytesIO(data), limit))


def expected(value: dict[str, Any]) -> list[tuple[str, int | None, Any]]:
    found: list[tuple[str, int | None, Any]] = []
    for key, member in value.items():
        if isinstance(member, list):
            found.extend((key, number, element) for number, element in enumerate(member))
        else:
            found.append((key, None, member))
    return found


@given(
    st.dictionaries(st.text('abc"\\{}[],:é', max_size=5), JSON, max_size=5),
    st.integers(1, 9),
    st.sampled_from([None, 2]),
)
def test_members_are_the_same_however_the_bytes_are_cut(value: dict[str, Any], chunk: int, indent: int | None) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=indent is None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_scanner, "_CHUNK_BYTES", chunk)
        found = members(text.encode())
    keys = [(one.key, one.element, json.loads(one.raw or b"")) for one in found]
    assert keys == expected(value)


@given(st.binary(max_size=300), st.integers(1, 9))
def test_no_bytes_make_the_scanner_raise(data: bytes, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_scanner, "_CHUNK_BYTES", chunk)
        members(b"{" + data)
        members(data)


def test_a_cut_file_hands_out_its_last_element_as_cut() -> None:
    whole, cut = members(b'{"trajectory": [{"a": 1}, {"b": "unfin')
    assert (whole.raw, whole.is_cut) == (b'{"a": 1}', False)
    assert (cut.key, cut.element, cut.is_cut) == ("trajectory", 1, True)


def test_an_element_over_the_limit_is_dropped_and_the_next_one_is_whole() -> None:
    data = json.dumps({"trajectory": [{"a": "x" * 500}, {"b": 1}]}).encode()
    assert [one.raw for one in members(data, limit=100)] == [None, b'{"b": 1}']


def test_what_is_no_object_has_no_members() -> None:
    for data in (b"", b"   ", b"[1, 2]", b"plain text", b"\x00\xff"):
        assert members(data) == []


def test_a_byte_order_mark_and_what_follows_the_object_are_ignored() -> None:
    assert members(b'\xef\xbb\xbf {"a": 1} {"b": 2}') == [JsonMember("a", None, b"1")]
