"""The in-process end of a plugin's handle: it stamps the plugin's identity on every call to the bus."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from ally_plugins.runtime.lanes.outbound import LoopCalls

if TYPE_CHECKING:
    from ally_plugins.contract.calls import PluginCall
    from ally_plugins.runtime.lanes.plugin import Plugin

    from .bus import PluginMessageBus

__all__ = ["BusOutbound"]

R = TypeVar("R")


class BusOutbound(LoopCalls):
    """One plugin's way to the bus of its host; implements `handle.Outbound`."""

    def __init__(self, plugin: Plugin, bus: PluginMessageBus, supports: Callable[[str, str], bool]) -> None:
        super().__init__(plugin.name)
        self._plugin = plugin
        self._bus = bus
        self._supports = supports

    def supports(self, name: str, /) -> bool:
        """As `HostServices.supports`, for this plugin."""
        return self._supports(name, self._plugin.name)

    def may_log(self) -> bool:
        """Say whether the plugin may write one more log record now, and count it."""
        return self._bus.may_log(self._plugin)

    def call(self, call: PluginCall[R], /) -> Coroutine[Any, Any, R]:
        """Hand a call to the bus, on the host's loop."""
        return self.carry(self._bus.call(self._plugin, call))
