"""The audit of a host's plugins: states, crashes and tasks become records, log lines and events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.contract.values.events import Event, PluginState, TaskProgress
from ally_plugins.runtime.lanes.link import DaemonError
from ally_plugins.runtime.lanes.plugin import Plugin, RunState

if TYPE_CHECKING:
    from ally_plugins.host.bus.services import HostServices
    from ally_plugins.host.bus.tasks import PluginTask
    from ally_plugins.runtime.lanes.loop_watch import Blocker
    from ally_plugins.runtime.lanes.requests import Crash

__all__ = ["PluginAudit"]

_log: Final = logging.getLogger(__name__)


class PluginAudit:
    """Records, logs and announces what happens to the plugins of one host; belongs to the host's loop.

    `quarantine` writes down that a plugin is out, with the reason, for the next start; it is called in a thread.
    """

    def __init__(self, services: HostServices, quarantine: Callable[[str, str], None]) -> None:
        self._services = services
        self._quarantine = quarantine

    def state_changed(self, plugin: Plugin) -> None:
        """Record a plugin's new state, end what cannot go on without it, and emit PLUGIN_STATE in every session."""
        data = {"state": plugin.state.value, "reason": plugin.reason}
        self._services.records.write_soon("plugin_state", plugin.name, None, None, data)
        if plugin.state in {RunState.QUARANTINED, RunState.FAILED, RunState.STOPPED}:
            self._services.tasks.cancel_all(f"its plugin is {plugin.state}", plugin.name)
            self._services.tools.remove(plugin.name)
            self._services.actions.remove(plugin.name)
        if plugin.state == RunState.QUARANTINED:
            self._remember_quarantine(plugin)
        self._emit_in_all_sessions(
            lambda: PluginState(plugin_name=plugin.name, state=plugin.state.value, reason=plugin.reason)
        )

    def _remember_quarantine(self, plugin: Plugin) -> None:
        _log.error("the plugin %r is in quarantine: %s", plugin.name, plugin.reason)

        def write() -> None:
            try:
                self._quarantine(plugin.name, plugin.reason)
            except (ConfigError, OSError) as error:
                _log.warning("the quarantine of %r could not be written down: %s", plugin.name, error)

        # In a thread: it waits for the disk, and for another command that is editing the same home.
        asyncio.get_running_loop().run_in_executor(None, write)

    def crashed(self, plugin: Plugin, crash: Crash) -> None:
        """Log and record what went wrong in a hook or handler."""
        why = plugin.describe(crash.error)
        error, trace = _traceback(plugin, crash.error)
        _log.error("%s of the plugin %r failed: %s%s", crash.hook, plugin.name, why, trace, exc_info=error)
        event_id = crash.event.id if crash.event is not None else crash.event_id
        data = {"hook": crash.hook, "error": why, "event": event_id}
        # An event's id is `session:number`, and a session's may hold colons itself.
        session_id = event_id.rpartition(":")[0] if event_id is not None else None
        self._services.records.write_soon("crash", plugin.name, session_id, None, data)

    def blocked(self, blocker: Blocker, seconds: float) -> None:
        """Record who has held up the loop, once it turns again."""
        data = {"hook": blocker.what, "where": blocker.where, "seconds": round(seconds, 1)}
        self._services.records.write_soon("blocked", blocker.plugin, None, None, data)

    def lost_host(self, pid: int, running: Sequence[tuple[str, str, bool]]) -> None:
        """Log and record that a host of this home has ended without stopping, and whose code ran in it then."""
        blocking = [each for each in running if each[2]]
        # While one held the loop up, no other could have run on it.
        for plugin, what, is_blocking in blocking or running:
            how = "held it up" if is_blocking else "ran in it"
            _log.error("the host with the process id %d ended without stopping, while %s of the plugin %r %s; if that"
                       " happens again, let it end only itself: ally-plugins place %s process",
                       pid, what, plugin, how, plugin)  # fmt: skip
            data = {"pid": pid, "running": what, "was_blocking": is_blocking}
            self._services.records.write_soon("lost_host", plugin, None, None, data)

    def task_changed(self, task: PluginTask, message: str | None) -> None:
        """Announce a task's start, progress or end in its session, and record the end."""
        session = self._services.sessions.get(task.session_id or "")
        if task.state != "running":
            data = {"name": task.name, "state": task.state, "reason": task.reason}
            self._services.records.write_soon("task_end", task.plugin.name, task.session_id, task.id, data)
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

    def _emit_in_all_sessions(self, make: Callable[[], Event]) -> None:
        for session in list(self._services.sessions.values()):
            if not session.is_closed:
                # An event for each: a session stamps what it is given.
                session.emit_caused(make(), ())


def _traceback(plugin: Plugin, error: BaseException) -> tuple[BaseException | None, str]:
    """Return an error whose traceback may be logged as it is, else that traceback as text: masked and inert."""
    if not isinstance(error, Exception) or isinstance(error, DaemonError) or error.__traceback__ is None:
        return None, ""
    shown = plugin.traceback_of(error)
    return (error, "") if shown is None else (None, f"\n{shown.rstrip()}")
