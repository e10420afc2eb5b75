"""Closing a sandbox around the calling process. What is in it is the box's; which process, and when, the launcher's.

The order matters: no new privileges before the filter, which the kernel takes only so; the files before the filter,
which takes away the calls that are made for them.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from .bpf import ARCHITECTURES, filter_program, packed
from .kernel import (
    add_path,
    create_ruleset,
    drop_capabilities,
    forbid_new_privileges,
    landlock_version,
    restrict_files,
    set_filter,
)
from .rights import CONTENT, CREATE, EXECUTE, FILE_RIGHTS, LISTING, known, ruleset

if TYPE_CHECKING:
    from .box import Box

__all__ = ["enter"]

_READ: Final = CONTENT | LISTING
_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
"""What programs read and write without a thought. Not /dev/tty: it is the terminal of whoever started the host."""


def enter(box: Box) -> None:
    """Hold this process, and all that it starts, to a box; there is no way back.

    Must be called by the only thread of the process, before anything runs that is not trusted; limits and namespaces
    come before it. A missing folder of the plugin's own, or any call that fails, raises OSError: the caller then ends
    the process, which may be half closed in. Where the kernel has no Landlock, or an old one, less is kept; `support`
    says what. Raises RuntimeError on another system or architecture, and where there are other threads.
    """
    machine = os.uname().machine
    if sys.platform != "linux" or machine not in ARCHITECTURES or sys.maxsize < 1 << 32:
        raise RuntimeError(f"there is no sandbox on {sys.platform} {machine}")
    if (threads := _threads()) > 1:
        raise RuntimeError(f"a sandbox is entered by the only thread of a process, and this one has {threads}")
    drop_capabilities()
    forbid_new_privileges()
    if version := landlock_version():
        _guard_files(box, version)
    set_filter(packed(filter_program(machine, network=box.network)))


def _threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - names only
    except OSError:  # no /proc: the caller's word is all there is
        return 1


def _guard_files(box: Box, version: int) -> None:
    guarded = known(version)
    rules = create_ruleset(ruleset(version, network=box.network))
    try:
        for path, rights, is_needed in _granted(box):
            _allow(rules, path, rights & guarded, is_needed=is_needed)
        restrict_files(rules)
    finally:
        os.close(rules)


def _granted(box: Box) -> Iterator[tuple[str, int, bool]]:
    yield from ((path, _READ | CREATE, True) for path in (box.home, box.tmp))
    yield from ((path, _READ | CREATE, False) for path in (*box.write, *_DEVICES))
    yield from ((path, _READ, False) for path in box.read)
    yield from ((path, _READ | EXECUTE, False) for path in box.run)


def _allow(rules: int, path: str, rights: int, *, is_needed: bool) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        if is_needed:
            raise
        return
    try:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        add_path(rules, descriptor, rights if is_folder else rights & FILE_RIGHTS)
    finally:
        os.close(descriptor)
