"""Which opener and restarts a daemon has: by its transport, and by the rule of another system where it has one."""

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
    """Return the supervisor of a daemon's process, as its transport and its own rule want it."""
    opener = cast("Opener", StdioOpener(remote, daemon))
    if daemon.transport == "socket":
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
    """Return when a daemon that failed is started again."""
    own = daemon.restarts
    return Backoff(random.random) if own is None else LinearBackoff(own.delay, own.most)
