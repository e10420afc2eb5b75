"""What all daemons of a host share: the launcher, the talk-back socket, logs of stderr, durable subscriptions.

Each is made when a daemon first needs it: a host without daemons starts nothing and imports nothing for them.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, ExitStack, nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ally_plugins.catalog.projects.trusted import rules_for
from ally_plugins.contract.values.errors import NotFoundRefused
from ally_plugins.host.sockets.leftovers import temporary_folder

if TYPE_CHECKING:
    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.host.bus.services import HostServices
    from ally_plugins.host.daemons.interface import SharedLinks
    from ally_plugins.host.durable.feeds import Feeds
    from ally_plugins.host.sockets.talkback import TalkBackServer
    from ally_plugins.policy.permissions import GrantSet
    from ally_plugins.policy.protected_places import ProtectedPlace
    from ally_plugins.runtime.lanes.plugin import Plugin
    from ally_plugins.runtime.lanes.protocol import AnyLane
    from ally_plugins.runtime.processes.launcher import Launcher
    from ally_plugins.runtime.processes.stderrlog import StderrLog

__all__ = ["HostDaemonServices"]


class HostDaemonServices:
    """Implements `daemons.interface.DaemonServices` for one host; it lives from the host's start to its stop."""

    def __init__(
        self,
        services: HostServices,
        home: Home | None,
        *,
        replan: Callable[[], None],
        protected_places: Callable[[], tuple[ProtectedPlace, ...]],
        launcher: Launcher | None = None,
        fleet_file: Path | str | None = None,
    ) -> None:
        self.app = services.app
        self.replan = replan
        self.protected_places = protected_places
        self.home = home
        self.activations = services.activations
        self._services = services
        self._feeds: Feeds | None = None
        self._talk_back: TalkBackServer | None = None
        self._talk_back_starting = asyncio.Lock()
        self._launcher = launcher
        self._logs: dict[str, StderrLog] = {}
        self._closing = ExitStack()
        self._temporary: Path | None = None
        self._making_temporary = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._is_closed = False
        self._shared: SharedLinks | None = None
        self._fleet_file = fleet_file

    @property
    def launcher(self) -> Launcher:
        """The launcher of processes; made when it is first needed."""
        from ally_plugins.runtime.processes.launching import (
            make_launcher,  # with all that it takes, only where there are daemons
        )

        if self._launcher is None:
            self._launcher = make_launcher()
        return self._launcher

    @property
    def capabilities(self) -> tuple[str, ...]:
        """The names for which `supports` is true, sent to daemons that start now; actions may be added later."""
        return tuple(sorted(self._services.supported()))

    def shared_plugins(self) -> SharedLinks:
        """Return the way to plugins that workers run; made, and its packages imported, when it is first needed."""
        if self._shared is None:
            # By name: a host knows nothing of fleets, and only one that has such a plugin pays for them.
            fleet: Any = import_module("ally_plugins.fleet.shared_plugins")
            file = (
                self.home.path / "fleet.toml"
                if self._fleet_file is None and self.home is not None
                else self._fleet_file
            )
            made: SharedLinks = fleet.SharedPlugins(None if file is None else Path(file))
            self._shared = made
        return self._shared

    async def talk_back_server(self) -> TalkBackServer:
        """Return the host's own socket for daemons that talk back; it listens from the first call on.

        Raises UnavailableRefused where there are no Unix sockets, and OSError. Cancelling leaves it to another call.
        """
        from ally_plugins.host.sockets.directories import short_directory
        from ally_plugins.host.sockets.talkback import TalkBackServer

        # Daemons start at the same time: the second one waits for the server of the first.
        async with self._talk_back_starting:
            if self._talk_back is None:
                server = TalkBackServer(self.home.run_dir if self.home is not None else short_directory())
                await server.start()
                self._talk_back = server
            return self._talk_back

    def revoke_token(self, plugin: str) -> None:
        """Revoke the talk-back token of a process that has ended."""
        if self._talk_back is not None:
            self._talk_back.forget(plugin)

    def session_ids(self, plugin: str) -> tuple[str, ...]:
        """Return the ids of the open sessions that a plugin takes part in."""
        return tuple(each.id for each in self._services.sessions.copy().values() if each.has_plugin(plugin))

    def note_start(self, session_id: str, wait: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have the next turn of a session wait for a process that starts for it."""
        self._services.starting.setdefault(session_id, []).append(wait)

    def project_of(self, session_id: str | None) -> str | None:
        """Return the root of the project that an open session is about."""
        session = self._services.sessions.get(session_id) if session_id is not None else None
        return session.project if session is not None else None

    def narrowed(self, plugin: str, granted: GrantSet, project: str | None) -> GrantSet:
        """Return what a plugin may do of what it was granted, in sessions about a project. Raises ConfigError."""
        return rules_for(self.home, project).grants(plugin, granted) if self.home is not None else granted

    def data_dir_of(self, plugin: str) -> str | None:
        """Return the plugin's own directory, made when it is not there; None for a host without a home."""
        return str(self.home.data_dir(plugin)) if self.home is not None else None

    def working_dir(self) -> str:
        """Return where a daemon works that names no folder: a directory of the home, or the root."""
        if self.home is not None:
            return str(self.home.work_dir)
        return os.path.abspath(os.sep)  # noqa: PTH100 - never the host's own, which may be anywhere

    def temporary_dir_of(self, plugin: str) -> str:
        """Return a folder for a sandboxed plugin's temporary files, removed when the host ends. Raises OSError."""
        with self._making_temporary:  # several daemons start at a time, each in a thread that may wait for files
            # Anew where something that tidies the system's folder up has removed it.
            if self._temporary is None or not self._temporary.is_dir():
                self._temporary = self._closing.enter_context(temporary_folder("box-"))
                # Before the first process that writes there is started, since callbacks of the loop keep their order.
                self._loop.call_soon_threadsafe(self._remove_at_end, str(self._temporary))
            folder = self._temporary / plugin
        folder.mkdir(mode=0o700, exist_ok=True)
        return str(folder)

    def _remove_at_end(self, folder: str) -> None:
        if not self._is_closed:
            self.launcher.remove_at_end(folder)

    def stderr_log(self, plugin: str) -> StderrLog:
        """Return the log that a plugin's stderr goes to; without a home only its end is kept."""
        from ally_plugins.runtime.processes.stderrlog import StderrLog, log_file

        if plugin not in self._logs:
            self._logs[plugin] = StderrLog(log_file(self.home.logs_dir, plugin) if self.home is not None else None)
        return self._logs[plugin]

    async def start_feed(self, plugin: Plugin, lane: AnyLane, types: Iterable[str]) -> None:
        """Deliver a plugin's durable events from the journal, from where it last acknowledged.

        Cancelling may leave the feed begun; `stop_feed` ends it.
        """
        await self._all_feeds().add(plugin, lane, types)

    async def begin_feed_elsewhere(self, plugin: Plugin) -> None:
        """Note where a plugin's durable events begin, which another process delivers; see `Feeds.begin_elsewhere`."""
        await self._all_feeds().begin_elsewhere(plugin.name)

    def _all_feeds(self) -> Feeds:
        from ally_plugins.host.durable.feeds import Feeds

        if self._feeds is None:
            self._feeds = Feeds(self._services.journal, self.home, self._services.host_id)
        return self._feeds

    async def stop_feed(self, plugin: Plugin) -> None:
        """End the feed of a plugin that was stopped; its bookmark stays in the journal.

        Waits a second for a hook that runs. Cancelling does not take it back.
        """
        if self._feeds is not None:
            await self._feeds.remove(plugin)

    def handing_over(self, session_id: str) -> AbstractAsyncContextManager[None]:
        """Let go of a session in the block, when its durable events that were sent are done; see `Feeds`."""
        return self._feeds.handing_over(session_id) if self._feeds is not None else nullcontext()

    def has_feeds(self) -> bool:
        """Say whether any plugin has a durable subscription, which reads the journal as it grows."""
        return self._feeds is not None

    def wake_feeds(self) -> None:
        """Have the feeds look for events: some were handed to the journal."""
        if self._feeds is not None:
            self._feeds.wake()

    def notify_readable(self, plugin: str) -> None:
        """Have a daemon's feed go on: it is ready, or reads again."""
        if self._feeds is not None:
            self._feeds.connected(plugin)

    def notify_gone(self, plugin: str) -> None:
        """Have a daemon's feed forget what was sent: the process is gone."""
        if self._feeds is not None:
            self._feeds.disconnected(plugin)

    async def acknowledge(self, plugin: str, offset: str) -> None:
        """Record that a daemon is done with its durable events up to an offset; see `Feed.acknowledge`.

        Raises NotFoundRefused when it has no durable subscription.
        """
        if self._feeds is None:
            text = f"plugin {plugin!r} has no durable subscription; its manifest needs `durable` in [events]"
            raise NotFoundRefused(text, plugin=plugin)
        await self._feeds.acknowledge(plugin, offset)

    async def close(self) -> None:
        """End the feeds, every process and the talk-back socket, and close the logs. May be called again.

        Cancelling leaves what comes after for another call.
        """
        self._is_closed = True
        feeds, self._feeds = self._feeds, None
        if feeds is not None:  # after the last acknowledgements of daemons, before the journal closes
            await feeds.close()
        launcher, self._launcher = self._launcher, None
        if launcher is not None:
            await launcher.close()
        shared, self._shared = self._shared, None
        if shared is not None:
            await shared.close()
        server, self._talk_back = self._talk_back, None
        if server is not None:
            await server.close()
        self._temporary = None
        self._closing.close()
        # Last: processes write to them until they have ended.
        logs, self._logs = self._logs, {}
        for log in logs.values():
            log.close()
