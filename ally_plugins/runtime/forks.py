"""Whether this process is the one in which something was made, or a fork of that one.

A fork has a copy of every object and none of the threads: what waits there for a loop or a writer of the original would
wait for ever, so calls ask here first. A fork names what it makes anew, since the copy would go on with the same names.
"""

from __future__ import annotations

import os
from typing import Final

from ally_plugins.contract.values.errors import HostError
from ally_plugins.contract.values.ids import renew_ids

__all__ = ["OwnProcess"]

_WAY_OUT: Final = "make a host in each process, after it was forked"


class _Current:
    """The id of this process, kept: asking for it is a system call, which costs half of what an `emit` may."""

    pid = os.getpid()


def _renew() -> None:
    _Current.pid = os.getpid()
    renew_ids()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no forks
    os.register_at_fork(after_in_child=_renew)


class OwnProcess:
    """The process that makes this. Whoever is made with it calls `check` first in each public call."""

    __slots__ = ("_pid",)

    def __init__(self) -> None:
        self._pid: Final = _Current.pid

    @property
    def is_here(self) -> bool:
        """Whether the caller runs in this process, and not in a fork of it."""
        return self._pid == _Current.pid

    def check(self, call: str, owner: object) -> None:
        """Return when the caller runs in this process. Raises HostError, with the way out, in a fork of it."""
        if self._pid != _Current.pid:
            raise HostError(
                f"{call}() was called in process {_Current.pid}, but {owner!r} belongs to process {self._pid}, of which"
                f" this one is a fork; {_WAY_OUT}"
            )
