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


class OwnProcess:
    """The process that runs this. Whoever is made with `own()` calls `check` first in each public call.

    `is_here` says whether the caller runs in it, and not in a fork of it.
    """

    __slots__ = ("is_here", "pid")

    def __init__(self) -> None:
        self.pid: Final = os.getpid()
        # Kept, and changed in a fork: `emit` looks at it, and a property would cost a tenth of what that may.
        self.is_here = True

    @staticmethod
    def own() -> OwnProcess:
        """Return the one that stands for this process."""
        return _Current.process

    def check(self, call: str, owner: object) -> None:
        """Return when the caller runs in this process. Raises HostError, with the way out, in a fork of it."""
        if not self.is_here:
            raise HostError(
                f"{call}() was called in process {_Current.process.pid}, but {owner!r} belongs to process {self.pid},"
                f" of which this one is a fork; {_WAY_OUT}"
            )


class _Current:
    process = OwnProcess()


def _renew() -> None:
    _Current.process.is_here = False
    _Current.process = OwnProcess()
    renew_ids()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no forks
    os.register_at_fork(after_in_child=_renew)
