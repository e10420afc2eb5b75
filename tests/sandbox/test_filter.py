"""The program of refused calls, by an interpreter of its few instructions, and its table by the kernel's headers."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.runtime.sandbox.bpf import ARCHITECTURES, Instruction, filter_program, packed
from ally_plugins.runtime.sandbox.refused import NEWEST, QUIET, REFUSED, RULES, SOCKETS, TOUCHES, Number

ALLOWED, KILLED = "allowed", "killed"
CALLS: dict[str, Number] = {
    **QUIET,
    **{name: number for name, (number, _) in REFUSED.items()},
    **{name: rule.number for name, rule in RULES.items()},
    "socket": SOCKETS.number,
}
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def answer(program: list[Instruction], architecture: int, number: int, arguments: tuple[int, ...] = ()) -> str | int:
    """Run a program as the kernel would, and return its answer: a word, or the error number."""
    data = {0: number, 4: architecture}
    for at, argument in enumerate((*arguments, *[0] * (6 - len(arguments)))):
        data |= {16 + 8 * at: argument & 0xFFFFFFFF, 20 + 8 * at: argument >> 32 & 0xFFFFFFFF}
    at = accumulator = 0
    while True:
        code, when_true, when_false, value = program[at]
        at += 1
        match code:
            case 0x20:
                accumulator = data[value]
            case 0x54:
                accumulator &= value
            case 0x15:
                at += when_true if accumulator == value else when_false
            case 0x25:
                at += when_true if accumulator > value else when_false
            case 0x06:
                return {0x7FFF0000: ALLOWED, 0x80000000: KILLED}.get(value, value & 0xFFFF)
            case _:
                raise AssertionError(code)


def call(name: str, *arguments: int, machine: str = "x86_64", network: bool = False) -> str | int:
    number = getattr(CALLS[name], machine)
    return answer(filter_program(machine, network=network), ARCHITECTURES[machine], number, arguments)


@pytest.mark.parametrize("network", [False, True])
@pytest.mark.parametrize("machine", list(ARCHITECTURES))
def test_of_all_numbers_just_those_of_the_table_are_looked_at(machine: str, *, network: bool) -> None:
    program = filter_program(machine, network=network)
    wanted: dict[int, set[str | int]] = {}
    for name, call_number in CALLS.items():
        if (found := getattr(call_number, machine)) is not None:
            by_arguments: set[str | int] = {0, errno.ENOSYS} if name in TOUCHES else {ALLOWED, errno.EPERM}
            fixed = 0 if name in QUIET.keys() - TOUCHES.keys() else REFUSED[name][1] if name in REFUSED else None
            wanted[found] = by_arguments if fixed is None else {fixed}
    conditions = [*(rule.conditions for rule in (*RULES.values(), SOCKETS)), *TOUCHES.values()]
    named = [value for looked_at in conditions for each in looked_at for value in each.values[:2]]
    for number in range(NEWEST + 200):
        allowed = wanted.get(number, {ALLOWED} if number <= NEWEST else {errno.ENOSYS})
        # Where arguments count, all that some rule names, and one that none does.
        values = (*named, 0x10000000) if len(allowed) > 1 else (0,)
        answers = {
            answer(program, ARCHITECTURES[machine], number, (first, second)) for first in values for second in values
        }
        assert answers <= allowed, number
        if len(allowed) > 1:
            assert answers - {ALLOWED, 0}, number


@pytest.mark.parametrize("network", [False, True])
@pytest.mark.parametrize("machine", list(ARCHITECTURES))
def test_the_program_is_one_that_the_kernel_takes(machine: str, *, network: bool) -> None:
    program = filter_program(machine, network=network)
    # As the kernel checks it (seccomp_check_filter, bpf_check_classic): known codes, aligned loads within
    # `struct seccomp_data`, jumps that go forward to an instruction, and an answer at the end.
    assert 0 < len(program) <= 4096
    for at, (code, when_true, when_false, value) in enumerate(program):
        assert code in {0x20, 0x54, 0x15, 0x25, 0x06}
        assert 0 <= when_true < 256
        assert 0 <= when_false < 256
        assert 0 <= value < 1 << 32
        if code == 0x20:
            assert value % 4 == 0
            assert value < 64
        if code in {0x15, 0x25}:
            assert at + 1 + max(when_true, when_false) < len(program)
        else:
            assert (when_true, when_false) == (0, 0)
    assert program[-1][0] == 0x06


@pytest.mark.parametrize("machine", list(ARCHITECTURES))
def test_every_call_of_the_table_is_answered_with_what_the_table_says(machine: str) -> None:
    wanted = dict.fromkeys(QUIET, 0) | {name: number for name, (_, number) in REFUSED.items()}
    there = {name: answer for name, answer in wanted.items() if getattr(CALLS[name], machine) is not None}

    assert {name: call(name, 3, 1, 1, machine=machine) for name in there} == there


@pytest.mark.parametrize("machine", list(ARCHITECTURES))
def test_a_path_whose_times_are_to_be_now_is_refused_so_that_programs_make_what_is_missing(machine: str) -> None:
    here, path, nothing, times = -100, 0x7F0000001000, 0, 0x7F0000002000

    assert call("utimensat", here, path, nothing, 0, machine=machine) == errno.ENOSYS
    assert call("utimensat", here, path, times, 0, machine=machine) == 0
    assert call("utimensat", 3, nothing, nothing, 0, machine=machine) == 0  # an open file, as `touch` of the shell has


@pytest.mark.parametrize("machine", list(ARCHITECTURES))
def test_no_number_stands_twice_in_the_table(machine: str) -> None:
    numbers = [found for number in CALLS.values() if (found := getattr(number, machine)) is not None]

    assert len(numbers) == len(set(numbers))
    assert max(numbers) <= NEWEST


@pytest.mark.parametrize("machine", [name for name, path in HEADERS.items() if path.exists()])
def test_the_numbers_are_those_of_the_kernels_headers(machine: str) -> None:
    headers = {
        name: int(number)
        for name, number in re.findall(
            r"define __NR(?:3264)?_(\w+)\s+(\d+)$", HEADERS[machine].read_text(), re.MULTILINE
        )
    }

    known = {name: getattr(CALLS[name], machine) for name in CALLS if name in headers}
    assert known == {name: headers[name] for name in known}
    assert len(known) > 80  # the headers may be older than the table, and not much


@pytest.mark.parametrize("machine", list(ARCHITECTURES))
@given(number=st.integers(NEWEST + 1, 0xFFFFFFFF), network=st.booleans())
def test_a_call_newer_than_the_table_is_not_there(machine: str, number: int, *, network: bool) -> None:
    program = filter_program(machine, network=network)

    assert answer(program, ARCHITECTURES[machine], number) == errno.ENOSYS


@given(
    architecture=st.integers(0, 0xFFFFFFFF).filter(lambda it: it != ARCHITECTURES["x86_64"]),
    number=st.integers(0, 500),
)
def test_another_architectures_interface_ends_the_process(architecture: int, number: int) -> None:
    assert answer(filter_program("x86_64", network=True), architecture, number) == KILLED


def refused(*calls: tuple[Any, ...]) -> list[Any]:
    return [pytest.param(name, arguments, id=f"{name}-{arguments}") for name, *arguments in calls]


@pytest.mark.parametrize("above", [0, 1 << 32])
@pytest.mark.parametrize(
    ("name", "arguments"),
    refused(
        ("ioctl", 0, 0x5412),
        ("ioctl", 0, 0x541C),
        ("ioctl", 3, 0x40086602),
        ("clone", 0x10000000 | 17),
        ("clone", 0x00020000),
        ("socketpair", 1, 2),
        ("socketpair", 1, 3),
        ("socketpair", 1, 2 | 0x80000),
        ("socketpair", 2, 1),
        ("setpriority", 0, 1),
        ("setpriority", 2, 0),
        ("ioprio_set", 1, 1),
        ("ioprio_set", 3, 0),
        ("sched_setaffinity", 1),
        ("prlimit64", 1, 7),
    ),
)
def test_arguments_are_refused_whatever_their_upper_half_says(name: str, arguments: list[int], above: int) -> None:
    # The kernel reads `int`: a filter that compared all 64 bits would be passed by setting one of the upper ones.
    assert call(name, *(argument | above for argument in arguments)) == errno.EPERM


@pytest.mark.parametrize(
    ("name", "arguments"),
    refused(
        ("ioctl", 0, 0x5401),  # TCGETS
        ("clone", 17),
        ("clone", 0x3D0F00),  # what the C library starts a thread with
        ("socketpair", 1, 1 | 0x80000 | 0x800),
        ("socketpair", 1, 5),
        ("setpriority", 0, 0, 5),
        ("ioprio_set", 1, 0),
        ("sched_setaffinity", 0),
        ("prlimit64", 0, 7),
    ),
)
def test_what_programs_do_to_themselves_is_let_through(name: str, arguments: list[int]) -> None:
    assert call(name, *arguments) == ALLOWED
    assert call(name, *arguments, machine="aarch64") == ALLOWED


def test_sockets_are_refused_and_with_the_network_those_of_a_path_are_still() -> None:
    assert [call("socket", family, 1, 0) for family in (1, 2, 10, 16, 38, 40)] == [errno.EPERM] * 6
    assert [call("socket", family, 1, 0, network=True) for family in (1, 2, 10, 16, 38, 40)] == [
        errno.EPERM, ALLOWED, ALLOWED, ALLOWED, errno.EPERM, errno.EPERM,
    ]  # fmt: skip
    assert call("socket", 1 | 1 << 32, 1, 0, network=True) == errno.EPERM


@pytest.mark.parametrize("number", [0, 1, 9, 59, 202, 231, 257, 318, 434, 436, 439, NEWEST])
def test_the_usual_calls_are_let_through(number: int) -> None:
    assert answer(filter_program("x86_64", network=False), ARCHITECTURES["x86_64"], number) == ALLOWED


@pytest.mark.parametrize("machine", list(ARCHITECTURES))
def test_the_program_is_as_long_as_the_kernel_takes(machine: str) -> None:
    program = filter_program(machine, network=True)

    assert len(program) <= 4096
    assert len(packed(program)) == 8 * len(program)
    assert os.sysconf("SC_PAGESIZE") >= 4096
