"""What a Code-Ally plugin offers besides a daemon: its tools, and the questions before those that want one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from attrs import define

from ally_plugins.catalog.code_ally.plugin import LegacyPlugin
from ally_plugins.catalog.home.files import NO_BYTECODE
from ally_plugins.contract.calls import RegisterTool
from ally_plugins.contract.values.errors import RefusedError
from ally_plugins.contract.values.verdicts import Ask
from ally_plugins.host.bus.bus import PluginMessageBus
from ally_plugins.host.code_ally.executable import Programs
from ally_plugins.host.code_ally.sockets import SocketLink
from ally_plugins.host.code_ally.tools import legacy_tools
from ally_plugins.runtime.lanes.observers import Implementation

from .member import Remote
from .sockets import legacy_environment, legacy_installed

if TYPE_CHECKING:
    from ally_plugins.contract.values.conversation import ToolCall

__all__ = ["LegacyMember"]

_log: Final = logging.getLogger(__name__)


@define(eq=False)
class LegacyMember:
    """One plugin from a `plugin.json`; it lives from its start to its stop, through every restart of its daemon."""

    remote: Remote
    legacy: LegacyPlugin
    bus: PluginMessageBus

    async def offer(self) -> None:
        """Register its tools, and its gate for those that ask first. Raises StartFailed when it is not installed."""
        plugin = self.remote.plugin
        if self.legacy.confirmations:
            gate = Implementation.of(plugin.name, "ally_gate_tool_call", self._gate, ("call",))
            plugin.implementations = {gate.hook: gate}
            plugin.confirms = self.legacy.confirmations
        for handler, described in legacy_tools(self.legacy, self._link, self._programs(), lambda: plugin.state.value):
            try:
                await self.bus.call(plugin, RegisterTool(handler=handler, options=described))
            except RefusedError as refusal:
                _log.info("the tool %r of %r is not offered: %s", described["name"], plugin.name, refusal)

    async def _gate(self, call: ToolCall) -> Any:
        """Ask before a tool that says so (`requiresConfirmation`)."""
        if call.tool_name in self.legacy.confirmations:
            return Ask(f"{self.remote.plugin.name} wants {call.tool_name} to be confirmed each time")
        return None

    def _link(self) -> SocketLink | None:
        link = self.remote.lane.link
        return link if isinstance(link, SocketLink) else None

    def _programs(self) -> Programs | None:
        if all(tool.kind != "executable" for tool in self.legacy.tools):
            return None
        remote = self.remote
        installed = legacy_installed(remote, self.legacy)
        return Programs(
            launcher=remote.side.launcher,
            folder=self.legacy.folder,
            environment=remote.environment({**legacy_environment(remote, self.legacy, installed), **NO_BYTECODE}),
            python=installed.python,
            make_ready=remote.record.make_ready,
        )
