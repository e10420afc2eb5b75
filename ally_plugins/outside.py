"""What a host has for all its daemons: who starts processes, where their stderr goes, what they are told of the host.

Made with the host, and asleep until there is a daemon: a host without any starts nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .capabilities import CAPABILITIES

if TYPE_CHECKING:
    from .activations import SessionActivations
    from .home import Home
    from .legacy.talkback import TalkBackServer
    from .runtime.process import Launcher
    from .runtime.stderrlog import StderrLog

__all__ = ["Outside"]


class Outside:
    """Implements `remote.RemoteSide` for one host; it lives from the host's start to its stop."""

    def __init__(
        self,
        app: str,
        home: Home | None,
        *,
        emits: Iterable[str],
        actions: Iterable[str],
        sessions: Mapping[str, Any],
        replan: Callable[[], None],
        activations: SessionActivations,
    ) -> None:
        self.app = app
        self.capabilities = tuple(sorted({*emits, *CAPABILITIES, *actions}))
        self.replan = replan
        self.home = home
        self.activations = activations
        self._talk_back: TalkBackServer | None = None
        self._sessions = sessions
        self._launcher: Launcher | None = None
        self._logs: dict[str, StderrLog] = {}

    @property
    def launcher(self) -> Launcher:
        """Who starts processes; made when it is first needed."""
        from .runtime.launching import make_launcher  # with all that it takes, only where there are daemons

        if self._launcher is None:
            self._launcher = make_launcher()
        return self._launcher

    @property
    def has_started(self) -> bool:
        """Whether there was anything to start."""
        return self._launcher is not None

    async def talk_back(self) -> TalkBackServer:
        """Return the host's own socket for daemons that talk back; it listens from its first use on."""
        from .legacy.places import short_directory
        from .legacy.talkback import TalkBackServer

        if self._talk_back is None:
            server = TalkBackServer(self.home.run_dir if self.home is not None else short_directory())
            await server.start()
            self._talk_back = server
        return self._talk_back

    def forget_talk_back(self, plugin: str) -> None:
        """Take back the token of a process that has ended."""
        if self._talk_back is not None:
            self._talk_back.forget(plugin)

    def session_ids(self) -> tuple[str, ...]:
        """Return the open sessions."""
        return tuple(self._sessions)

    def data_dir_of(self, plugin: str) -> str | None:
        """Return the plugin's own directory, made when it is not there; None for a host without a home."""
        return str(self.home.data_dir(plugin)) if self.home is not None else None

    def working_dir(self) -> str:
        """Return where a daemon works that names no folder: a directory of the home, or the root."""
        if self.home is not None:
            return str(self.home.path)
        return os.path.abspath(os.sep)  # noqa: PTH100 - never the host's own, which may be anywhere

    def stderr_log(self, plugin: str) -> StderrLog:
        """Return the log that a plugin's stderr goes to; without a home only its end is kept."""
        from .runtime.stderrlog import StderrLog, log_file

        if plugin not in self._logs:
            self._logs[plugin] = StderrLog(log_file(self.home.logs_dir, plugin) if self.home is not None else None)
        return self._logs[plugin]

    async def acknowledge(self, plugin: str, offset: str) -> None:
        """Take a daemon's word on its durable subscription."""

    async def close(self) -> None:
        """End every process, and close the logs."""
        launcher, self._launcher = self._launcher, None
        if launcher is not None:
            await launcher.close()
        server, self._talk_back = self._talk_back, None
        if server is not None:
            await server.close()
        logs, self._logs = self._logs, {}
        for log in logs.values():
            log.close()
