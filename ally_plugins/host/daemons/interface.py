"""What the daemons of one host need of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.host.sessions.activations import SessionActivations
    from ally_plugins.host.sockets.talkback import TalkBackServer
    from ally_plugins.runtime.lanes.plugin import Plugin
    from ally_plugins.runtime.lanes.protocol import AnyLane
    from ally_plugins.runtime.processes.launcher import Launcher
    from ally_plugins.runtime.processes.stderrlog import StderrLog


__all__ = ["RemoteSide"]


class RemoteSide(Protocol):
    """What daemons need of the host that they belong to."""

    app: str

    activations: SessionActivations
    home: Home | None
    """The host's, None when it keeps nothing on disk."""

    @property
    def launcher(self) -> Launcher:
        """Who starts processes."""
        ...

    async def talk_back(self) -> TalkBackServer:
        """Return the host's own socket, which is made when it is first needed."""
        ...

    def forget_talk_back(self, plugin: str) -> None:
        """Take back the token of a process that has ended."""

    @property
    def capabilities(self) -> tuple[str, ...]:
        """The names that `supports` says yes to."""
        ...

    def working_dir(self) -> str:
        """Where a daemon works that names no folder."""
        ...

    def session_ids(self) -> tuple[str, ...]:
        """Return the ids of the open sessions."""
        ...

    def data_dir_of(self, plugin: str) -> str | None:
        """Return the plugin's own directory, None for a host without a home."""
        ...

    def stderr_log(self, plugin: str) -> StderrLog:
        """Where the plugin's stderr goes."""
        ...

    async def feed(self, plugin: Plugin, lane: AnyLane, types: Iterable[str]) -> None:
        """Give a plugin its durable events from the journal."""

    async def feed_no_more(self, plugin: Plugin) -> None:
        """End the durable subscription of a plugin."""

    def is_readable(self, plugin: str) -> None:
        """Say that a daemon is ready for its durable events, or reads again."""

    def is_gone(self, plugin: str) -> None:
        """Say that the process of a daemon is gone."""

    async def acknowledge(self, plugin: str, offset: str) -> None:
        """Take a daemon's word that it has done everything of its durable subscription up to an offset."""

    def replan(self) -> None:
        """Compute the order of hooks anew, after a daemon's have become known."""
