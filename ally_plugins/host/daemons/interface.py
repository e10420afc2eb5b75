"""What daemons need of their host, as a protocol; `host.plugins.daemon_services` implements it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.contract.process_spec import Daemon
    from ally_plugins.host.sessions.activations import SessionActivations
    from ally_plugins.host.sockets.talkback import TalkBackServer
    from ally_plugins.policy.permissions import GrantSet
    from ally_plugins.policy.protected_places import ProtectedPlace
    from ally_plugins.runtime.lanes.plugin import Plugin
    from ally_plugins.runtime.lanes.protocol import AnyLane
    from ally_plugins.runtime.processes.launcher import Launcher
    from ally_plugins.runtime.processes.stderrlog import StderrLog

__all__ = ["DaemonServices", "SharedLinks"]


class SharedLinks(Protocol):
    """The way to plugins that workers run for many hosts."""

    def opener(self, remote: Any, daemon: Daemon) -> Any:
        """Return what opens links to a RemotePlugin, a `supervisor.Opener`: modules that know this one."""
        ...

    async def close(self) -> None:
        """End all links."""


class DaemonServices(Protocol):
    """What daemons need of the host that they belong to."""

    app: str
    activations: SessionActivations
    home: Home | None
    """The host's, None when it keeps nothing on disk."""

    @property
    def launcher(self) -> Launcher:
        """The launcher of processes."""
        ...

    async def talk_back_server(self) -> TalkBackServer:
        """Return the host's own socket, which listens from the first call on. Raises UnavailableRefused and OSError."""
        ...

    def revoke_token(self, plugin: str) -> None:
        """Revoke the talk-back token of a process that has ended."""

    @property
    def capabilities(self) -> tuple[str, ...]:
        """The names for which `supports` is true."""
        ...

    def working_dir(self) -> str:
        """Return the working directory of a daemon that names none."""
        ...

    def session_ids(self, plugin: str) -> tuple[str, ...]:
        """Return the ids of the open sessions that a plugin takes part in."""
        ...

    def project_of(self, session_id: str | None) -> str | None:
        """Return the root of the project that an open session is about."""
        ...

    def narrowed(self, plugin: str, granted: GrantSet, project: str | None) -> GrantSet:
        """Return what a plugin may do of what it was granted, in sessions about a project. Raises ConfigError."""
        ...

    def note_start(self, session_id: str, wait: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have the next turn of a session wait for a process that starts for it."""

    def protected_places(self) -> tuple[ProtectedPlace, ...]:
        """Return what no plugin is given. Blocks on files; raises ConfigError and ConsentError."""
        ...

    def data_dir_of(self, plugin: str) -> str | None:
        """Return the plugin's own directory, None for a host without a home."""
        ...

    def temporary_dir_of(self, plugin: str) -> str:
        """Return a folder for the plugin's temporary files, which is removed when the host stops. Raises OSError."""
        ...

    def stderr_log(self, plugin: str) -> StderrLog:
        """Return the log of the plugin's stderr."""
        ...

    async def start_feed(self, plugin: Plugin, lane: AnyLane, types: Iterable[str]) -> None:
        """Deliver a plugin's durable events from the journal, from where it last acknowledged."""

    async def begin_feed_elsewhere(self, plugin: Plugin) -> None:
        """Note where a plugin's durable events begin, which another process delivers."""

    async def stop_feed(self, plugin: Plugin) -> None:
        """End the feed of a plugin; waits a second for a hook that runs."""

    def notify_readable(self, plugin: str) -> None:
        """Have a daemon's feed go on: it is ready, or reads again."""

    def notify_gone(self, plugin: str) -> None:
        """Have a daemon's feed forget what was sent: the process is gone."""

    async def acknowledge(self, plugin: str, offset: str) -> None:
        """Record that a daemon is done with its durable events up to an offset. Raises RefusedError."""

    def shared_plugins(self) -> SharedLinks:
        """Return the way to plugins that workers run; nothing is connected before the first is launched."""
        ...

    def replan(self) -> None:
        """Compute the order of hooks anew, after a daemon has named its own."""
