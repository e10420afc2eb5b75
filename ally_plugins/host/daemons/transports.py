"""Chooses the opener of a daemon by its placement and its transport, and its restart policy."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, cast

from ally_plugins.contract.values.ids import new_id
from ally_plugins.policy.restart import Backoff, LinearBackoff

from .stdio import StdioOpener
from .supervisor import Supervisor

if TYPE_CHECKING:
    from ally_plugins.contract.process_spec import Daemon

    from .remote_plugin import RemotePlugin
    from .supervisor import Opener, RestartPolicy

__all__ = ["new_supervisor", "restarts_of"]


def new_supervisor(remote: RemotePlugin, daemon: Daemon) -> Supervisor:
    """Return a supervisor for a daemon's process, not started yet."""
    opener = cast("Opener", StdioOpener(remote, daemon))
    if remote.record.placement == "shared":
        opener = cast("Opener", remote.services.shared_plugins().opener(remote, daemon))
    elif daemon.transport == "socket":
        from .sockets import SocketOpener  # only where there is one

        opener = SocketOpener(remote, daemon, new_id("h"))
    return Supervisor(
        remote.plugin,
        remote.lane,
        opener,
        daemon.timing,
        restarts_of(daemon),
        remote.notify_readable,
        remote.notify_gone,
    )


def restarts_of(daemon: Daemon) -> RestartPolicy:
    """Return the restart policy of a daemon: exponential, or linear where another system's rule gives delays."""
    own = daemon.restarts
    return Backoff(random.random) if own is None else LinearBackoff(own.delay, own.most)
