"""The system calls that close a sandbox, through the C library; what they are given is made elsewhere.

Each acts on the calling thread and what it starts later. All raise OSError.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

__all__ = [
    "add_path",
    "create_ruleset",
    "drop_capabilities",
    "forbid_new_privileges",
    "landlock_version",
    "leave_user_namespace",
    "open_without_links",
    "restrict_files",
    "set_filter",
]

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long

# linux/prctl.h, capability.h, landlock.h. Landlock's numbers are the same on every architecture.
_PR_SET_SECCOMP: Final = 22
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_SECCOMP_MODE_FILTER: Final = 2
_CAPABILITY_VERSION: Final = 0x20080522
_CAPABILITIES: Final = 64  # more than there are; the kernel answers EINVAL behind the last
_OPEN_AT_2: Final = 437
_AT_FDCWD: Final = -100
_RESOLVE_NO_SYMLINKS: Final = 0x04
_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_CREATE_RULESET_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1
_CLONE_NEWUSER: Final = 0x10000000


# Described once: arguments that are wrapped at each call take longer than most of the calls.
_LIBC.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
_add_rule = _LIBC["syscall"]  # by item each time another function, whose arguments are described apart
_add_rule.restype = ctypes.c_long
_add_rule.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_char_p, ctypes.c_long)


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _call(number: int, *arguments: int | bytes | None) -> int:
    found: int = _LIBC.syscall(
        ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
    )
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found


def _prctl(option: int, first: int, second: int = 0) -> None:
    if _LIBC.prctl(option, first, second, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def drop_capabilities() -> None:
    """Give up all capabilities, and the bounding set as far as that is ours to lower.

    Where it is not (an ordinary user), no new privileges keep `exec` from giving any.
    """
    for capability in range(_CAPABILITIES):
        try:
            _prctl(_PR_CAPBSET_DROP, capability)
        except OSError:  # behind the last, or without the right to
            break
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header, nothing = struct.pack("=Ii", _CAPABILITY_VERSION, 0), bytes(24)
    if _LIBC.capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def forbid_new_privileges() -> None:
    """Have no program that is executed from here on give more rights than its caller has (setuid, file rights)."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def landlock_version() -> int:
    """Return the version of Landlock's interface, 0 where the kernel has none or it is switched off."""
    try:
        return _call(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    except OSError:
        return 0


def open_without_links(path: str) -> int:
    """Return a descriptor that stands for a file or folder; the caller closes it. A link on the way is ELOOP."""
    how = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_NO_SYMLINKS)  # `struct open_how`
    return _call(_OPEN_AT_2, _AT_FDCWD, os.fsencode(path), how, len(how))


def create_ruleset(attributes: bytes) -> int:
    """Return the descriptor of a new ruleset; the caller closes it."""
    return _call(_CREATE_RULESET, attributes, len(attributes), 0)


def add_path(ruleset: int, descriptor: int, rights: int) -> None:
    """Give rights over what is below an open folder, or over an open file."""
    if _add_rule(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def leave_user_namespace() -> None:
    """Go over into a user namespace of its own, in which this user has all capabilities, until they are dropped."""
    if _LIBC.unshare(_CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def restrict_files(ruleset: int) -> None:
    """Hold this thread, and what it starts, to a ruleset."""
    _call(_RESTRICT_SELF, ruleset, 0)


def set_filter(program: bytes) -> None:
    """Hold this thread, and what it starts, to a filter of system calls."""
    buffer = ctypes.create_string_buffer(program, len(program))
    filled = _Program(len(program) // 8, ctypes.addressof(buffer))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(filled))
