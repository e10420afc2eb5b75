"""The real host, which also keeps the crashes and refusals of its plugins for a test."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import frozen

from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import RefusedError
from ally_plugins.host.bus.bus import PluginMessageBus
from ally_plugins.host.host import Host
from ally_plugins.host.plugins.audit import PluginAudit

if TYPE_CHECKING:
    from ally_plugins.contract.calls import PluginCall
    from ally_plugins.journal.journal import Journal
    from ally_plugins.runtime.lanes.plugin import Plugin
    from ally_plugins.runtime.lanes.requests import Crash

__all__ = ["HeldCalls", "ObservedHost", "Refusal"]

R = TypeVar("R")


@frozen
class Refusal:
    """A call of the plugin's that the bus refused: `call` is its name, such as `add_message`."""

    plugin: str
    call: str
    error: RefusedError


class ObservedHost(Host):
    """A host that keeps crashes and refusals of all its plugins, in order."""

    def __init__(self, **options: Any) -> None:
        # Nothing is discovered: a test is not to depend on what is installed.
        super().__init__("ally-plugins-testing", discover=False, **options)
        self.held: dict[str, HeldCalls] = {}
        self.crashes: list[Crash] = []
        self.refusals: list[Refusal] = []
        # In the places of those that the base has made.
        self.bus = _ObservedBus(self)
        self.audit = _ObservedAudit(self)
        # A method of the audit before: bound, it would go on to that one.
        self.services.tasks.changed = self.audit.task_changed

    @property
    def given_journal(self) -> Journal | None:
        """The journal that whoever made this host has given it, and closes after its end."""
        return self._given_journal

    @given_journal.setter
    def given_journal(self, journal: Journal | None) -> None:
        self._given_journal = self.services.records.journal = journal

    def hold_calls(self, plugin: str) -> HeldCalls:
        """Have a plugin's calls wait from here on, until `release`."""
        held = self.held[plugin] = HeldCalls(self, plugin)
        return held


class HeldCalls:
    """Calls of a plugin that wait. May be made and released in any thread; what waits belongs to the host's loop."""

    def __init__(self, host: ObservedHost, plugin: str) -> None:
        self._host = host
        self._plugin = plugin
        self._released = asyncio.Event()

    async def wait(self) -> None:
        """Wait for the release. Cancelling stops the waiting, as a call that is taken back."""
        await self._released.wait()

    def release(self) -> None:
        """Let those that wait go on, and later ones through."""
        if self._host.held.get(self._plugin) is self:
            del self._host.held[self._plugin]
        loop = self._host.loop
        if loop is not None:
            loop.call_soon_threadsafe(self._released.set)


class _ObservedAudit(PluginAudit):
    def __init__(self, host: ObservedHost) -> None:
        super().__init__(host.services, host._quarantine)  # noqa: SLF001 - the host that this stands in
        self._crashes = host.crashes

    @override
    def crashed(self, plugin: Plugin, crash: Crash) -> None:
        self._crashes.append(crash)
        super().crashed(plugin, crash)


class _ObservedBus(PluginMessageBus):
    def __init__(self, host: ObservedHost) -> None:
        super().__init__(host.services)
        self._refusals = host.refusals
        self._held = host.held

    @override
    async def call(self, plugin: Plugin, call: PluginCall[R]) -> R:
        if (held := self._held.get(plugin.name)) is not None:
            await held.wait()
        return await super().call(plugin, call)

    @override
    def refuse(self, plugin: Plugin, what: str, refusal: RefusedError, session_id: str | None = None) -> None:
        self._refusals.append(Refusal(plugin.name, what, refusal))
        super().refuse(plugin, what, refusal, session_id)
