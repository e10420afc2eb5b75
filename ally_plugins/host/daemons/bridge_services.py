"""What a host does for a plugin of another system: its tools, their confirmations, its programs, its daemon.

Implements `catalog.discovery.bridge.BridgeHost`; which of it a plugin needs is decided by its bridge.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

from attrs import define, evolve, field

from ally_plugins.contract.calls import RegisterTool
from ally_plugins.contract.values.errors import CannotExecute, PluginError, PluginLoadError, ToolCallError
from ally_plugins.contract.values.scope import SCOPE
from ally_plugins.contract.values.verdicts import Ask
from ally_plugins.host.bus.bus import PluginMessageBus
from ally_plugins.host.sockets.link import SocketLink
from ally_plugins.runtime.lanes.observers import Implementation
from ally_plugins.runtime.processes.process import ProcessSpec
from ally_plugins.runtime.processes.programs import GRACE, run_program

from .boxes import box_for
from .refusals import refusal_note
from .remote_plugin import RemotePlugin

if TYPE_CHECKING:
    from ally_plugins.catalog.discovery.bridge import Bridge
    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.contract.programs import Program, Ran
    from ally_plugins.contract.values.conversation import ToolCall, ToolResult

__all__ = ["BridgeServices", "open_bridge"]

_log: Final = logging.getLogger(__name__)


async def open_bridge(remote: RemotePlugin, bridge: Bridge, bus: PluginMessageBus) -> None:
    """Open a plugin's bridge in the host and start it, within the deadline of `ally_start`. Raises PluginError.

    Cancelling cancels the bridge's start.
    """
    plugin = remote.plugin
    limit = plugin.deadline("ally_start", "start")
    try:
        remote.bridged = bridge.open(BridgeServices(remote, bus))
        async with asyncio.timeout(limit):
            await remote.bridged.start()
    except PluginError:
        raise
    except TimeoutError:
        raise PluginLoadError(f"its bridge did not start it within {limit:g} s", plugin=plugin.name) from None
    except Exception as error:  # the source's code may raise anything
        raise PluginLoadError(f"its bridge failed: {plugin.describe(error)}", plugin=plugin.name) from error


@define(eq=False)
class BridgeServices:
    """What the bridge of one plugin may use, from the plugin's start to its stop, through restarts of its daemon."""

    remote: RemotePlugin
    bus: PluginMessageBus
    _confirmed_tools: frozenset[str] = field(init=False, default=frozenset())

    @property
    def name(self) -> str:
        """The plugin's name."""
        return self.remote.plugin.name

    @property
    def settings(self) -> Mapping[str, Any]:
        """Its settings, with the values of secrets."""
        return self.remote.record.settings

    @property
    def home(self) -> Home | None:
        """The host's home."""
        return self.remote.services.home

    @property
    def python(self) -> str:
        """The Python that the operator named for it, empty for none."""
        return self.remote.record.python

    @property
    def state(self) -> str:
        """The plugin's state, as the value of `RunState`."""
        return self.remote.plugin.state.value

    @property
    def can_call(self) -> bool:
        """Whether its daemon takes calls now."""
        return isinstance(self.remote.lane.link, SocketLink)

    async def call(self, method: str, arguments: Mapping[str, Any], timeout: float) -> Any:
        """Call a method of its daemon; `timeout` is in seconds.

        Raises ToolCallError. Cancelling closes the connection.
        """
        link = self.remote.lane.link
        if not isinstance(link, SocketLink):
            text = f"{method!r} of {self.name!r} cannot be called: its daemon is {self.state}"
            raise ToolCallError(text, tool=method, plugin=self.name)
        return await link.call(method, arguments, timeout)

    async def offer_tool(self, handler: Callable[..., Awaitable[ToolResult]], described: Mapping[str, Any]) -> None:
        """Register a tool; one that is not granted is skipped and logged, as any plugin's. Cancelling withdraws it."""
        await self.bus.offer(self.remote.plugin, RegisterTool(handler=handler, options=described))

    def ask_before(self, tools: Collection[str]) -> None:
        """Gate these tools with an `Ask`, so that the person confirms each call; replaces those named before."""
        plugin = self.remote.plugin
        gate = Implementation.of(plugin.name, "ally_gate_tool_call", self._gate, ("call",))
        self._confirmed_tools = plugin.confirms = frozenset(tools)
        plugin.implementations = {gate.hook: gate} if tools else {}

    async def _gate(self, call: ToolCall) -> Any:
        # Its grants may have it called for other tools, too.
        if call.tool_name in self._confirmed_tools:
            return Ask(f"{self.name} wants {call.tool_name} to be confirmed each time")
        return None

    def _project(self) -> str | None:
        """Return the project of the session that a program is run for."""
        scope = SCOPE.get()
        return self.remote.services.project_of(scope.session_id) if scope is not None else None

    async def run(self, program: Program) -> Ran:
        """Run a program of the plugin once, to its end. Raises CannotExecute, and TimeoutError with the end of stderr.

        Cancelling ends the program and what it has started.
        """
        remote = self.remote
        # Each time: the files may have changed since the plugin was started, which nobody has agreed to.
        if problem := await asyncio.to_thread(remote.record.make_ready):
            text = f"{program.name!r} is not run: {problem}"
            raise CannotExecute(text, plugin=self.name, program=program.command[0])
        env = remote.environment(program.variables)
        spec = ProcessSpec(
            name=program.name,
            argv=program.command,
            cwd=program.cwd,
            env=env,
            limits=remote.record.limits,
            box=await asyncio.to_thread(
                box_for, remote.record, remote.services, program.command, program.cwd, env, self._project()
            ),
        )
        grace = remote.record.config.process.get("shutdown_grace", GRACE)
        try:
            ran = await run_program(remote.services.launcher, spec, program.given, program.timeout, grace=grace)
        except TimeoutError as error:
            # Made anew, without its cause: the text quotes stderr, which may hold a secret.
            raise TimeoutError(remote.plugin.masked(str(error))) from None
        # For errors only, which are recorded and shown; what it printed is its result, as any tool's.
        stderr = remote.plugin.masked(ran.stderr.decode("utf-8", "replace"))
        return evolve(ran, stderr=f"{stderr.rstrip()}{refusal_note(remote.record, stderr)}".encode())
