"""Lines out of bytes: however they are cut, in linear time, in bounded memory."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.wire.framing import LineFramer

MIB = 1_048_576


class CountedBytes(bytes):
    """Bytes that add up how many of them are searched for newlines."""

    searched = 0

    def split(self, sep: Any = None, maxsplit: Any = -1) -> list[bytes]:
        CountedBytes.searched += len(self)
        return super().split(sep, maxsplit)


@st.composite
def cut_bytes(draw: st.DrawFn) -> list[bytes]:
    """Draw a text of a few letters and newlines, in chunks."""
    data = draw(st.lists(st.sampled_from([b"\n", b"a", b"bc", b"\r", b"\x00"]), max_size=60).map(b"".join))
    cuts = draw(st.lists(st.integers(0, len(data)), max_size=8))
    edges = [0, *sorted(cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def _lines(chunks: list[bytes], limit: int = MIB) -> tuple[list[bytes], bool, bytes]:
    framer = LineFramer(limit)
    lines = [line for chunk in chunks for line in framer.receive_data(chunk)]
    return lines, framer.is_overflowed, framer.receive_eof()


@given(chunks=cut_bytes())
def test_bytes_cut_anywhere_are_the_same_lines(chunks: list[bytes]) -> None:
    *lines, rest = b"".join(chunks).split(b"\n")
    assert _lines(chunks) == (lines, False, rest)


@given(chunks=cut_bytes(), limit=st.integers(1, 6))
def test_a_line_that_is_too_long_ends_it_at_the_same_place_however_it_is_cut(chunks: list[bytes], limit: int) -> None:
    whole = b"".join(chunks)
    *lines, rest = whole.split(b"\n")
    kept = 0
    while kept < len(lines) and len(lines[kept]) <= limit:
        kept += 1
    is_over = kept < len(lines) or len(rest) > limit
    assert _lines(chunks, limit) == (lines[:kept], is_over, b"" if is_over else rest)
    assert _lines([whole], limit) == _lines(chunks, limit)


def test_no_byte_of_a_long_line_is_searched_twice() -> None:
    CountedBytes.searched = 0
    framer = LineFramer(16 * MIB)
    chunk = CountedBytes(b"x" * 4096)
    for _ in range(4095):
        assert framer.receive_data(chunk) == []
    (line,) = framer.receive_data(CountedBytes(b"x" * 4096 + b"\n"))
    assert len(line) == 16 * MIB
    assert CountedBytes.searched == 16 * MIB + 1


def test_a_line_of_exactly_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    assert _lines([b"x" * 10 + b"\n"], 10) == ([b"x" * 10], False, b"")
    assert _lines([b"x" * 10], 10) == ([], False, b"x" * 10)
    assert _lines([b"x" * 11], 10) == ([], True, b"")
    assert _lines([b"x" * 10, b"x"], 10) == ([], True, b"")


def test_what_is_held_never_exceeds_the_limit_and_nothing_is_held_after_an_overflow() -> None:
    framer = LineFramer(10_000)
    while not framer.is_overflowed:
        framer.receive_data(b"x" * 999)
        assert len(framer._tail) <= 10_000
    assert framer._tail == b""
    assert framer.receive_data(b"y\nz\n") == []


def test_a_chunk_of_many_lines_may_be_larger_than_the_limit() -> None:
    lines, is_over, rest = _lines([b"abc\n" * 1000 + b"de"], 3)
    assert (len(lines), is_over, rest) == (1000, False, b"de")
