"""The real host, which also keeps the crashes and refusals of its plugins for a test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import frozen

from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import RefusedError
from ally_plugins.host.bus.bus import PluginMessageBus
from ally_plugins.host.host import Host
from ally_plugins.host.plugins.audit import PluginAudit

if TYPE_CHECKING:
    from ally_plugins.runtime.lanes.plugin import Plugin
    from ally_plugins.runtime.lanes.requests import Crash

__all__ = ["ObservedHost", "Refusal"]


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
        self.crashes: list[Crash] = []
        self.refusals: list[Refusal] = []
        # In the places of those that the base has made.
        self.bus = _ObservedBus(self)
        self.audit = _ObservedAudit(self)
        # A method of the audit before: bound, it would go on to that one.
        self.services.tasks.changed = self.audit.task_changed


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

    @override
    def refuse(self, plugin: Plugin, what: str, refusal: RefusedError, session_id: str | None = None) -> None:
        self._refusals.append(Refusal(plugin.name, what, refusal))
        super().refuse(plugin, what, refusal, session_id)
