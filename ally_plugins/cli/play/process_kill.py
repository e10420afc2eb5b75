"""The kill in the demo: a plugin's process gets SIGKILL, and the host's reaction and restart are measured."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING, Any, Final

from attrs import asdict, define

if TYPE_CHECKING:
    from ally_plugins.contract.values.events import Event
    from ally_plugins.host.host import Host
    from ally_plugins.host.sessions.session import Session

__all__ = ["KillReport", "kill_and_watch"]

RESTART_TIMEOUT: Final = 30.0
"""Seconds that a restart may take; one that takes longer is reported as one that did not happen."""


@define
class KillReport:
    """What was observed. Times are in seconds from the signal on; what did not happen is None or empty."""

    plugin: str
    reason: str = ""
    noticed_after: float | None = None
    answer_meanwhile: str = ""
    running_after: float | None = None
    answer_afterwards: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, times to the millisecond."""
        return {key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(self).items()}


async def kill_and_watch(host: Host, session: Session, name: str) -> KillReport:
    """Kill a plugin's process, call its gate while it is gone, wait until it runs again, and call the gate once more.

    Takes at most `RESTART_TIMEOUT`; what did not happen by then is missing in the report. Cancelling stops watching;
    the host restarts the process all the same.
    """
    plugin, seen = host.plugins[name], KillReport(name)
    process = plugin.supervisor.process if plugin.supervisor is not None else None
    if process is None:
        seen.reason = plugin.reason
        return seen
    watch = _StateWatch(name)
    # Before the signal: the host may notice within a millisecond.
    unsubscribe = host.stream.subscribe("PLUGIN_STATE", watch.on_event)
    try:
        async with asyncio.timeout(RESTART_TIMEOUT):
            os.kill(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))  # Windows has one way only
            seen.noticed_after, seen.reason = await watch.gone
            seen.answer_meanwhile = await _gate_answer(session)
            seen.running_after, _ = await watch.back
            seen.answer_afterwards = await _gate_answer(session)
    # Not an error: what is missing in the report is what did not happen.
    except TimeoutError:
        seen.reason = seen.reason or "nobody noticed"
    finally:
        unsubscribe()
    return seen


class _StateWatch:
    """Measures when one plugin's state leaves `running`, and when it is back. To be made right before the signal."""

    def __init__(self, plugin: str) -> None:
        loop = asyncio.get_running_loop()
        self.gone: Final[asyncio.Future[tuple[float, str]]] = loop.create_future()
        self.back: Final[asyncio.Future[tuple[float, str]]] = loop.create_future()
        self._plugin = plugin
        self._began = time.perf_counter()

    def on_event(self, event: Event) -> None:
        """Receive a change of any plugin's state."""
        from ally_plugins.contract.values.events import PluginState

        if not isinstance(event, PluginState) or event.plugin_name != self._plugin:
            return
        future = self.back if event.state == "running" else self.gone
        # It may fall and come back several times; the first of each counts.
        if not future.done():
            future.set_result((time.perf_counter() - self._began, event.reason))


async def _gate_answer(session: Session) -> str:
    """Return the ruling of the gates on a harmless call: `allow`, or the reason of the denial."""
    from ally_plugins.contract.values.conversation import ToolCall

    ruling = await session.gate_tool_call(ToolCall("Bash", {"command": "git status"}))
    return "allow" if ruling.is_allowed else str(ruling.reason)
