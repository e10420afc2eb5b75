"""Closing a sandbox around the calling process. What is in it is the box's; which process, and when, the launcher's.

The order matters: a namespace of its own first, while files of /proc can be written; no new privileges before the
filter, which the kernel takes only so; the files before the filter, which takes away the calls made for them.
"""

from __future__ import annotations

import errno
import os
import resource
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
    leave_user_namespace,
    open_without_links,
    restrict_files,
    set_filter,
)
from .rights import CONTENT, CREATE, EXECUTE, FILE_RIGHTS, LISTING, known, ruleset

if TYPE_CHECKING:
    from .box import Box

__all__ = ["enter"]

_READ: Final = CONTENT | LISTING
_PLACE: Final = os.O_PATH | os.O_CLOEXEC
_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
"""What programs read and write without a thought. Not /dev/tty: it is the terminal of whoever started the host."""


MOST_PROCESSES: Final = 512
"""Processes and threads that a sandboxed process and what it starts may be at once: a test run with a dozen of workers
is far below, and a machine far above."""

_APPARMOR: Final = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"


_FILTERS: Final = (
    [packed(filter_program(os.uname().machine, network=network)) for network in (False, True)]
    if sys.platform == "linux" and os.uname().machine in ARCHITECTURES
    else []
)
"""Made once, by the parent of all that enter: that takes as long as all else."""


def enter(box: Box) -> None:
    """Hold this process, and all that it starts, to a box; there is no way back.

    Must be called by the only thread of the process, before anything runs that is not trusted; limits and namespaces
    come before it. A missing folder of the plugin's own, a link on the way to what it was granted, or any call that
    fails, raises OSError: the caller then ends the process, which may be half closed in. Where the kernel has no
    Landlock, or an old one, less is kept; `support` says what. Raises RuntimeError on another system or architecture,
    and where there are other threads.
    """
    machine = os.uname().machine
    if sys.platform != "linux" or machine not in ARCHITECTURES or sys.maxsize < 1 << 32:
        raise RuntimeError(f"there is no sandbox on {sys.platform} {machine}")
    if (threads := _threads()) > 1:
        raise RuntimeError(f"a sandbox is entered by the only thread of a process, and this one has {threads}")
    _count_processes()
    drop_capabilities()
    forbid_new_privileges()
    if version := landlock_version():
        _guard_files(box, version)
    set_filter(_FILTERS[box.network])


def _threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - names only
    except OSError:  # no /proc: the caller's word is all there is
        return 1


def _count_processes() -> None:
    """Hold the process and what it starts to a number of processes, where a user namespace can count them apart.

    Without one the count is that of all the user's processes, and nothing is limited. Root is never limited so.
    """
    user, group = os.geteuid(), os.getegid()
    if user == 0 or _is_namespace_useless():
        return
    try:
        leave_user_namespace()
    except OSError:  # switched off, or there are too many
        return
    # Without this map no file of the user's would be its own: where it cannot be written, nothing is started.
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:  # noqa: PTH123
            file.write(text)
    resource.setrlimit(resource.RLIMIT_NPROC, (MOST_PROCESSES, MOST_PROCESSES))


def _is_namespace_useless() -> bool:
    """Say whether AppArmor lets anybody make a namespace and nobody use it, as Ubuntu has it since 24.04."""
    try:
        with open(_APPARMOR, encoding="ascii") as file:  # noqa: PTH123
            return file.read().strip() != "0"
    except OSError:
        return False


def _guard_files(box: Box, version: int) -> None:
    guarded = known(version)
    rules = create_ruleset(ruleset(version, network=box.network))
    try:
        for path in (box.home, box.tmp):
            _allow(rules, os.open(path, _PLACE | os.O_NOFOLLOW | os.O_DIRECTORY), (_READ | CREATE) & guarded)
        for path, rights, may_be_link in _shared(box):
            try:
                descriptor = os.open(path, _PLACE) if may_be_link else open_without_links(path)
            except OSError as error:
                if error.errno == errno.ELOOP and not may_be_link:
                    raise
                continue
            _allow(rules, descriptor, rights & guarded)
        restrict_files(rules)
    finally:
        os.close(rules)


def _shared(box: Box) -> Iterator[tuple[str, int, bool]]:
    """Yield what is not its own: a path, the rights there, and whether links are followed."""
    yield from ((path, _READ | CREATE, False) for path in box.write)
    yield from ((path, _READ, False) for path in box.read)
    yield from ((path, _READ | CREATE, True) for path in _DEVICES)
    yield from ((path, _READ, True) for path in box.system)
    yield from ((path, _READ | EXECUTE, True) for path in box.run)


def _allow(rules: int, descriptor: int, rights: int) -> None:
    """Give rights over an open place, and close it."""
    try:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        add_path(rules, descriptor, rights if is_folder else rights & FILE_RIGHTS)
    finally:
        os.close(descriptor)
