"""The machine of a worker: its home, where plugins have their folders and logs, and what starts their processes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Final

from ally_plugins.host.sockets.leftovers import temporary_folder
from ally_plugins.runtime.lanes.teardown import cancel_task
from ally_plugins.runtime.processes.launching import make_launcher
from ally_plugins.runtime.processes.protection import forbid_inspection
from ally_plugins.runtime.processes.stderrlog import StderrLog, log_file

from .worker import MOST_LINKS, Worker

if TYPE_CHECKING:
    from pathlib import Path

    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.policy.permissions import GrantSet
    from ally_plugins.policy.protected_places import ProtectedPlace

    from .credentials import Credentials
    from .worker import Served

__all__ = ["serve"]


async def serve(
    who: Credentials,
    served: Mapping[str, Served],
    home: Home,
    protected_places: Callable[[], tuple[ProtectedPlace, ...]],
    on_ready: Callable[[], None],
    links_per_host: int = MOST_LINKS,
) -> None:
    """Serve plugins of a home until SIGTERM or Ctrl-C; `on_ready` is called when their processes have been started.

    Raises FleetError when the server cannot be reached at the start, ConfigError for credentials that are no worker's.
    """
    forbid_inspection()  # it has a key, and what hosts send to their plugins
    with _machine(home, protected_places) as machine:
        worker = Worker(who, served, machine, machine, links_per_host=links_per_host)
        over = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(NotImplementedError):  # Windows
                asyncio.get_running_loop().add_signal_handler(number, over.set)
        try:
            async with worker.serving():
                on_ready()
                waiting = asyncio.ensure_future(over.wait())
                try:
                    await waiting
                finally:
                    await cancel_task(waiting)
        finally:
            await machine.launcher.close()


@contextmanager
def _machine(home: Home, protected_places: Callable[[], tuple[ProtectedPlace, ...]]) -> Generator[_Machine]:
    with ExitStack() as closing:
        machine = _Machine(home, protected_places, closing.enter_context(temporary_folder("box-")))
        closing.callback(machine.close)
        yield machine


class _Machine:
    def __init__(self, home: Home, protected_places: Callable[[], tuple[ProtectedPlace, ...]], temporary: Path) -> None:
        self.home: Home | None = home
        self.protected_places: Final = protected_places
        self.launcher: Final = make_launcher()
        self._temporary: Final = temporary
        self._at: Final = home
        self._logs: Final[dict[str, StderrLog]] = {}

    def narrowed(self, plugin: str, granted: GrantSet, project: str | None) -> GrantSet:
        del plugin, project  # a worker is in none
        return granted

    def data_dir_of(self, plugin: str) -> str:
        return str(self._at.data_dir(plugin))

    def temporary_dir_of(self, plugin: str) -> str:
        folder = self._temporary / plugin
        folder.mkdir(mode=0o700, exist_ok=True)
        return str(folder)

    def stderr_log(self, plugin: str) -> StderrLog:
        if plugin not in self._logs:
            self._at.prepare(self._at.logs_dir)
            self._logs[plugin] = StderrLog(log_file(self._at.logs_dir, plugin))
        return self._logs[plugin]

    def close(self) -> None:
        for log in self._logs.values():
            log.close()
