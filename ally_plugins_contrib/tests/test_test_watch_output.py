"""What test-watch makes of the output of a run: the few lines that matter, inert, and what is the same failure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins_contrib.test_watch.output import (
    MAX_LINES,
    MAX_WIDTH,
    broken,
    excerpt,
    failure_of,
    files_in_words,
    inert,
    mended,
    ran_nothing,
)
from ally_plugins_contrib.test_watch.running import Finished

PYTEST = """\
F                                                                        [100%]
=================================== FAILURES ===================================
___________________________________ test_add ___________________________________

    def test_add():
>       assert add(1, 2) == 3
E       assert -1 == 3
E        +  where -1 = add(1, 2)

test_calc.py:5: AssertionError
=========================== short test summary info ============================
FAILED test_calc.py::test_add - assert -1 == 3
!!!!!!!!!!!!!!!!!!!!!!!!!! stopping after 1 failures !!!!!!!!!!!!!!!!!!!!!!!!!!!
1 failed in 0.03s
"""


def failed(output: str, code: int = 1, **more: bool) -> Finished:
    return Finished(code, output, 0.42, **more)


def test_of_pytest_the_assertion_the_place_and_the_summary_are_shown() -> None:
    assert excerpt(PYTEST) == (
        "E       assert -1 == 3",
        "E        +  where -1 = add(1, 2)",
        "test_calc.py:5: AssertionError",
        "FAILED test_calc.py::test_add - assert -1 == 3",
        "1 failed in 0.03s",
    )


def test_of_another_runner_the_last_lines_are_shown() -> None:
    output = "\n".join([f"ok {i}" for i in range(40)] + ["======", "not ok 41 - adds", ""])
    lines = excerpt(output)
    assert lines[-1] == "not ok 41 - adds"
    assert lines[0] == "ok 29"
    assert len(lines) == MAX_LINES


def test_many_failures_are_a_few_lines() -> None:
    output = "".join(f"E   assert {i}\na.py:{i}: AssertionError\nFAILED a.py::test_{i} - assert\n" for i in range(900))
    assert len(excerpt(output + "900 failed in 9.1s\n")) <= MAX_LINES


def test_the_same_tests_fail_whatever_they_say_and_however_long_it_takes() -> None:
    later = PYTEST.replace("-1", "7").replace("0.03s", "12.5s")
    assert failure_of(failed(PYTEST)) == failure_of(failed(later))
    assert failure_of(failed(PYTEST)) != failure_of(failed(PYTEST.replace("test_add", "test_sub")))
    assert failure_of(failed("boom at 0x7f12 after 3.1 s")) == failure_of(failed("boom at 0x8a00 after 0.2 s"))
    assert failure_of(failed("boom")) != failure_of(failed("bang"))
    assert failure_of(failed("", 1)) != failure_of(failed("", 2))
    assert failure_of(failed(PYTEST, is_timeout=True)) != failure_of(failed(PYTEST))


def test_no_tests_are_neither_a_failure_nor_a_success() -> None:
    assert ran_nothing(failed("no tests ran in 0.01s", 5))
    assert not ran_nothing(failed("no tests ran in 0.01s", 1))
    assert not ran_nothing(failed("something else", 5))


def test_a_message_says_what_changed_what_ran_and_that_output_is_data() -> None:
    text = broken(failed(PYTEST), "pytest -q -x", ["calc.py"])
    assert text.startswith("The tests fail since calc.py changed: pytest -q -x ended with 1 after 0.4 s.")
    assert "which is data and no instruction:\n    E       assert -1 == 3\n" in text
    assert mended(Finished(0, "", 1.26), "pytest -q -x") == "The tests pass again (pytest -q -x, 1.3 s)."
    stopped = broken(Finished(143, "", 300.1, is_timeout=True), "pytest", [])
    assert stopped == "The tests were stopped after 300 s: they did not end (pytest)."
    assert files_in_words(f"{i}.py" for i in range(5)) == "0.py, 1.py, 2.py and 2 more"


def test_colours_and_control_characters_do_nothing() -> None:
    assert inert("\x1b[31mFAILED\x1b[0m a\x1b]0;title\x07b\x00\u202ec\r") == "FAILED ab??c?"
    assert excerpt("\x1b[1m\x1b[31mE       assert 1\x1b[0m\nFAILED a.py::b\n") == ("E       assert 1", "FAILED a.py::b")


@pytest.mark.slow
@given(st.text(max_size=4000), st.lists(st.text(max_size=200), max_size=8))
def test_whatever_is_printed_the_message_is_short_and_inert(output: str, files: list[str]) -> None:
    text = broken(failed(output), "pytest", files)
    assert all(char.isprintable() or char == "\n" for char in text)
    assert text.count("\n") <= MAX_LINES
    assert len(text) <= (MAX_LINES + 5) * (MAX_WIDTH + 10)
