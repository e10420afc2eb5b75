"""What a host makes known of its plugins: states, crashes and tasks become records, log lines and events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from traceback import format_exception
from typing import TYPE_CHECKING, Final, Protocol

from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.contract.values.events import Event, PluginState, TaskProgress
from ally_plugins.journal.values import Record
from ally_plugins.runtime.lanes.link import DaemonError
from ally_plugins.runtime.lanes.plugin import Plugin, RunState, describe

if TYPE_CHECKING:
    from ally_plugins.catalog.registry import Registry
    from ally_plugins.host.bus.offered import Contributions
    from ally_plugins.host.bus.tasks import PluginTask, Tasks
    from ally_plugins.host.sessions.session import Session
    from ally_plugins.journal.journal import Journal
    from ally_plugins.runtime.lanes.clock import Clock
    from ally_plugins.runtime.lanes.lane import Crash

__all__ = ["Chronicle", "ChronicleSide"]

_log: Final = logging.getLogger(__name__)


class ChronicleSide(Protocol):
    """What the chronicle needs of its host."""

    clock: Clock
    tasks: Tasks
    tools: Contributions
    actions: Contributions
    sessions: dict[str, Session]
    registry: Registry | None

    @property
    def open_journal(self) -> Journal | None:
        """The journal, None before the start and after the end."""

    def is_installed(self, plugin: str) -> bool:
        """Say whether a plugin was found installed, rather than given by code."""
        ...


class Chronicle:
    """Told of everything that happens to the plugins of one host; belongs to the host's loop."""

    def __init__(self, host: ChronicleSide) -> None:
        self._host = host

    def state_changed(self, plugin: Plugin) -> None:
        """Take a plugin's new state: record it, end what cannot go on without the plugin, and tell the sessions."""
        record = Record(
            "plugin_state", self._host.clock.time_ms(), plugin.name, None, None,
            {"state": plugin.state.value, "reason": plugin.reason},
        )  # fmt: skip
        self._record(record)
        if plugin.state in {RunState.QUARANTINED, RunState.FAILED, RunState.STOPPED}:
            self._host.tasks.cancel_all(f"its plugin is {plugin.state}", plugin.name)
            self._host.tools.remove(plugin.name)
            self._host.actions.remove(plugin.name)
        if plugin.state == RunState.QUARANTINED:
            self._remember_quarantine(plugin)
        self._tell_all(lambda: PluginState(plugin_name=plugin.name, state=plugin.state.value, reason=plugin.reason))

    def _remember_quarantine(self, plugin: Plugin) -> None:
        _log.error("the plugin %r is in quarantine: %s", plugin.name, plugin.reason)
        registry = self._host.registry
        if registry is None or not self._host.is_installed(plugin.name):
            return

        def write() -> None:
            try:
                registry.quarantine(plugin.name, plugin.reason)
            except (ConfigError, OSError) as error:
                _log.warning("the quarantine of %r could not be written down: %s", plugin.name, error)

        # In a thread: it waits for the disk, and for another command that is editing the same home.
        asyncio.get_running_loop().run_in_executor(None, write)

    def crashed(self, plugin: Plugin, crash: Crash) -> None:
        """Log and record what went wrong in a hook or handler."""
        why = plugin.masked(describe(crash.error))
        _log.error("%s of the plugin %r failed: %s", crash.hook, plugin.name, why,
                   exc_info=crash.error if _may_be_shown(plugin, crash.error) else None)  # fmt: skip
        event_id = crash.event.id if crash.event is not None else crash.event_id
        data = {"hook": crash.hook, "error": why, "event": event_id}
        session_id = event_id.rpartition(":")[0] if event_id is not None else None
        self._record(Record("crash", self._host.clock.time_ms(), plugin.name, session_id, None, data))

    def task_changed(self, task: PluginTask, message: str | None) -> None:
        """Announce a task's start, progress or end in its session, and record the end."""
        session = self._host.sessions.get(task.session_id or "")
        if task.state != "running":
            data = {"name": task.name, "state": task.state, "reason": task.reason}
            at = self._host.clock.time_ms()
            self._record(Record("task_end", at, task.plugin.name, task.session_id, task.id, data))
        if session is not None:
            event = TaskProgress(
                plugin_name=task.plugin.name,
                task_id=task.id,
                name=task.name,
                state=task.state,
                progress=task.progress,
                message=message,
            )
            session.emit_caused(event, task.origin)

    def _record(self, record: Record) -> None:
        """Write a record of what plugins did; what they do after the end of the host is written nowhere."""
        journal = self._host.open_journal
        if journal is not None:
            journal.append_soon(record)

    def _tell_all(self, make: Callable[[], Event]) -> None:
        for session in list(self._host.sessions.values()):
            if not session.is_closed:
                session.emit_caused(make(), ())


def _may_be_shown(plugin: Plugin, error: BaseException) -> bool:
    """Say whether an error has a traceback to show, and one that quotes no secret."""
    if not isinstance(error, Exception) or isinstance(error, DaemonError) or error.__traceback__ is None:
        return False
    text = "".join(format_exception(error)) if plugin.secrets else ""
    return plugin.masked(text) == text
