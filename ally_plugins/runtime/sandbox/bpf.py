"""From the table of refused calls to the program that the kernel runs before each call (classic BPF); pure.

The kernel itself remembers which calls the program lets through whatever their arguments (Linux 5.11), so that those
cost nothing more; a call that is looked at costs about a tenth of a microsecond.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator
from typing import Final

from .refused import NEWEST, QUIET, REFUSED, RULES, SOCKETS, TOUCHES, Condition, Number

__all__ = ["ARCHITECTURES", "Instruction", "filter_program", "packed"]

ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""What the kernel calls them in `seccomp_data` (AUDIT_ARCH_*), by the machine's name."""

Instruction = tuple[int, int, int, int]
"""`struct sock_filter`: code, how many instructions to skip when true, and when false, and a value."""

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_GREATER: Final = 0x25  # BPF_JMP | BPF_JGT | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_NUMBER_AT: Final = 0  # in `struct seccomp_data`
_ARCHITECTURE_AT: Final = 4
_ARGUMENTS_AT: Final = 16
_ARGUMENT_BYTES: Final = 8  # both architectures are little-endian: the lower half comes first

_KILL: Final = 0x80000000  # SECCOMP_RET_KILL_PROCESS
_ALLOW: Final = 0x7FFF0000
_ERROR: Final = 0x00050000  # with the error number in its lower half; 0 is success without the call
_REFUSED: Final = _ERROR | errno.EPERM
_ANY: Final = 0xFFFFFFFF


def filter_program(machine: str, *, network: bool) -> list[Instruction]:
    """Return the program for a machine, one of `ARCHITECTURES`.

    Calls by the interface of another architecture (32 bits) end the process: their numbers mean other calls. Those of
    x32 are larger than any other number, and are not there.
    """
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 1, 0, ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_GREATER, 0, 1, NEWEST),
        (_RETURN, 0, 0, _ERROR | errno.ENOSYS),
    ]
    for number, block in _blocks(machine, network=network):
        program += [(_EQUAL, 0, len(block), number), *block]
    return [*program, (_RETURN, 0, 0, _ALLOW)]


def packed(program: list[Instruction]) -> bytes:
    """Return the program as the kernel reads it."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _blocks(machine: str, *, network: bool) -> Iterator[tuple[int, list[Instruction]]]:
    rules = {**RULES, "socket": SOCKETS} if network else RULES
    answers = {
        **{name: (number, 0) for name, number in QUIET.items() if name not in TOUCHES},
        **REFUSED,
        **({} if network else {"socket": (SOCKETS.number, errno.EPERM)}),
    }
    for rule in rules.values():  # first, since some of them are frequent
        met, unmet = (_REFUSED, _ALLOW) if rule.refuses else (_ALLOW, _REFUSED)
        block = _look(rule.conditions, met, unmet)
        yield from ((number, block) for number in _numbers(rule.number, machine))
    for name, conditions in TOUCHES.items():
        block = _look(conditions, _ERROR | errno.ENOSYS, _ERROR)
        yield from ((number, block) for number in _numbers(QUIET[name], machine))
    for call, answer in answers.values():
        yield from ((number, [(_RETURN, 0, 0, _ERROR | answer)]) for number in _numbers(call, machine))


def _numbers(call: Number, machine: str) -> Iterator[int]:
    number = getattr(call, machine)
    if number is not None:
        yield number


def _look(conditions: Iterable[Condition], met: int, unmet: int) -> list[Instruction]:
    """Return what looks at a call's arguments, and answers `met` where all conditions hold."""
    block: list[Instruction] = []
    for argument, values, mask in conditions:
        block.append((_LOAD, 0, 0, _ARGUMENTS_AT + argument * _ARGUMENT_BYTES))
        if mask != _ANY:
            block.append((_AND, 0, 0, mask))
        last = len(values)
        # Each value leads behind the answer that follows the last of them.
        block += [(_EQUAL, last - at, 0, value) for at, value in enumerate(values)]
        block.append((_RETURN, 0, 0, unmet))
    return [*block, (_RETURN, 0, 0, met)]
