"""Input that nobody has read yet, at a terminal without a program."""

from __future__ import annotations

import os
import pty
import select
import termios
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.cli.shell.questions import answer_choices, parse_answer
from ally_plugins.cli.shell.typeahead import discard, pauses
from ally_plugins.contract.values.errors import ConsentError

if TYPE_CHECKING:
    from collections.abc import Iterator

ANSWERS = ("no", "yes", "always")


class Line:
    """A terminal: `keyboard` is what a person types at, `program` what a program reads."""

    def __init__(self) -> None:
        self.keyboard, self.program = pty.openpty()

    def type(self, keys: bytes) -> None:
        """Type keys, and wait until the terminal has them."""
        os.write(self.keyboard, keys)
        if termios.tcgetattr(self.program)[3] & termios.ECHO:
            assert select.select([self.keyboard], [], [], 60)[0]
            os.read(self.keyboard, 1024)
        else:
            assert select.select([self.program], [], [], 60)[0]


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    for fd in (made.keyboard, made.program):
        if fd >= 0:
            os.close(fd)


def test_nobody_waits_where_nothing_was_typed(line: Line) -> None:
    assert list(pauses(line.program)) == []


@pytest.mark.parametrize("keys", [b"y\n", b"y", b"\n", b"y\ny\nalways\ny"])
def test_a_whole_line_and_one_that_was_only_begun_are_discarded(line: Line, keys: bytes) -> None:
    line.type(keys)
    assert len(list(pauses(line.program))) == 1
    line.type(b"n\n")
    assert os.read(line.program, 100) == b"n\n"


def test_what_comes_in_pieces_is_waited_for_to_its_end(line: Line) -> None:
    line.type(b"first\n")
    looks = pauses(line.program)
    for piece in (b"y\n", b"al", b"ways\n"):
        next(looks)
        line.type(piece)
    next(looks)
    with pytest.raises(StopIteration):
        next(looks)
    assert discard(line.program) is False


def test_the_terminal_is_afterwards_as_it_was(line: Line) -> None:
    before = termios.tcgetattr(line.program)
    line.type(b"y")
    looks = pauses(line.program)
    next(looks)
    assert termios.tcgetattr(line.program) != before
    looks.close()  # as a cancelled question does
    assert termios.tcgetattr(line.program) == before


def test_a_terminal_that_is_closed_while_one_waits_hides_no_cancellation(line: Line) -> None:
    line.type(b"y")
    looks = pauses(line.program)
    next(looks)
    os.close(line.program)
    line.program = -1
    looks.close()


def test_input_that_never_rests_gets_no_question_and_the_reason_says_so(line: Line) -> None:
    line.type(b"y\n")
    with pytest.raises(ConsentError, match=r"never rests, expected 0\.3 s without a key within 10 s"):
        list(map(line.type, (b"y\n" for _ in pauses(line.program))))


def test_at_a_terminal_that_is_gone_no_question_is_put(line: Line) -> None:
    os.close(line.program)
    gone, line.program = line.program, -1
    with pytest.raises(ConsentError, match="cannot be discarded"):
        list(pauses(gone))
    with pytest.raises(ConsentError, match="cannot be discarded"):
        discard(gone)


@given(
    st.text(max_size=12)
    | st.sampled_from(["YES", " y\t", "nO", "Always", "ye", "aa", "[y]es", "y/n", "\uff39\uff25\uff33"])
)
def test_a_text_is_an_answer_only_when_it_is_a_word_that_is_offered_or_its_letter(text: str) -> None:
    said = text.strip().lower()
    wanted = {"n": "no", "no": "no", "y": "yes", "yes": "yes", "a": "always", "always": "always"}
    assert parse_answer(text, ANSWERS) == wanted.get(said)
    assert parse_answer(text, ("no", "yes")) in {None, wanted.get(said)}


def test_the_letters_that_count_are_those_that_are_shown() -> None:
    assert answer_choices(ANSWERS) == "[n]o / [y]es / [a]lways"
