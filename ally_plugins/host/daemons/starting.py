"""Which opener and restarts a daemon has: by its transport, and by Code-Ally's numbers for a plugin of Code-Ally's."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, cast

from ally_plugins.contract.values.ids import new_id
from ally_plugins.policy.restart import Backoff, LinearBackoff

from .stdio import StdioOpener
from .supervisor import Supervisor

if TYPE_CHECKING:
    from ally_plugins.contract.process_spec import Daemon

    from .member import Remote
    from .supervisor import Opener, RestartPolicy

__all__ = ["new_supervisor", "restarts_of"]


def new_supervisor(remote: Remote, daemon: Daemon) -> Supervisor:
    """Return the supervisor of a daemon's process, as its transport and Code-Ally's own numbers want it."""
    opener = cast("Opener", StdioOpener(remote, daemon))
    if daemon.transport == "socket":
        from .sockets import SocketOpener  # only where there is one

        opener = SocketOpener(remote, daemon, remote.legacy, new_id("h"))
    return Supervisor(
        remote.plugin, remote.lane, opener, daemon.timing, restarts_of(daemon), remote.can_read, remote.is_gone
    )


def restarts_of(daemon: Daemon) -> RestartPolicy:
    """Return when a daemon that failed is started again."""
    if daemon.legacy:
        from ally_plugins.catalog.code_ally.limits import MAX_RESTARTS, RESTART_DELAY  # only where there is one

        return LinearBackoff(RESTART_DELAY, MAX_RESTARTS)
    return Backoff(random.random)
