"""A plugin in a process of its own: what the host sends it in `initialize`, and what it offers in the answer.

The transports are in `stdio` and `sockets`; starting, watching and ending the process is the supervisor's.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

from ally_plugins import __version__
from ally_plugins.catalog.decide.record import PluginRecord
from ally_plugins.catalog.discovery.bridge import BridgedPlugin
from ally_plugins.contract.hookspecs import HOOKS
from ally_plugins.contract.manifest import HOST_API
from ally_plugins.contract.process_spec import Daemon
from ally_plugins.contract.values.masking import Secret
from ally_plugins.runtime.lanes.loading import check_declared, check_offered, check_required
from ally_plugins.runtime.lanes.observers import Observers
from ally_plugins.runtime.lanes.plugin import DEADLINES, Plugin
from ally_plugins.runtime.lanes.tables import without_durable
from ally_plugins.runtime.processes.environment import child_environment
from ally_plugins.wire.handshake import PROTOCOL, PROTOCOLS
from ally_plugins.wire.host_params import HostInfo, InitializeParams, InitializeResult
from ally_plugins.wire.limits import DEFAULT_LIMITS
from ally_plugins.wire.methods import write_params

from .calls import DaemonCalls
from .hooks import remote_implementations, remote_observers
from .interface import DaemonServices
from .lane import RemoteLane

if TYPE_CHECKING:
    from ally_plugins.contract.tools.declared import Kind  # noqa: TC004 - nobody reads these annotations at run time
    from ally_plugins.host.bus.bus import PluginMessageBus
    from ally_plugins.runtime.lanes.observers import Implementation
    from ally_plugins.runtime.processes.stderrlog import StderrLog  # noqa: TC004
    from ally_plugins.wire.offers import ToolOffer  # noqa: TC004

__all__ = ["DaemonOffers", "RemotePlugin", "new_remote"]

_log: Final = logging.getLogger(__name__)


@define(eq=False)
class RemotePlugin:
    """A plugin with its lane, its calls and its log of stderr; it lives as long as the plugin."""

    plugin: Plugin
    record: PluginRecord
    daemon: Daemon | None
    """None for a plugin of another system that has only programs, run once for each call."""
    is_declared: bool
    services: DaemonServices
    lane: RemoteLane
    calls: DaemonCalls
    log: StderrLog
    project: str | None = None
    """The root of the project whose sessions this process is for; None for one that is for all sessions."""
    session_ids: Callable[[], tuple[str, ...]] | None = None
    """Returns the sessions that it is told of at its start, where these are not all that are open."""
    on_hooks: Callable[[], None] | None = None
    """Called when it has named its hooks; None computes the order of the host's hooks anew."""
    offers: DaemonOffers = field(init=False)
    bridged: BridgedPlugin | None = field(init=False, default=None)
    """The part of a plugin of another system that runs in the host, from its start on."""

    def __attrs_post_init__(self) -> None:
        self.offers = DaemonOffers(self)

    @property
    def parts(self) -> Sequence[RemotePlugin]:
        """What there is of the plugin in processes: this one; see `by_project` for others."""
        return (self,)

    def settle(self, record: PluginRecord) -> None:
        """Use another configuration and other grants from the next start on."""
        self.record = record

    def forget_offers(self) -> None:
        """Forget what was registered: it was removed otherwise."""
        self.offers.forget()

    def initialize_params(self) -> dict[str, Any]:
        """Return the params of `initialize`."""
        plugin = self.plugin
        return write_params(
            InitializeParams(
                protocol=PROTOCOL,
                protocols=PROTOCOLS,
                plugin=plugin.name,
                host=HostInfo(name=self.services.app, version=__version__, api=HOST_API),
                capabilities=self.services.capabilities,
                grants=plugin.grants.texts(),
                settings=dict(self.record.settings),
                secrets=tuple(name for name, value in self.record.settings.items() if isinstance(value, Secret)),
                sessions=self.session_ids() if self.session_ids else self.services.session_ids(plugin.name),
                data_dir=self.services.data_dir_of(plugin.name),
                deadlines={**DEADLINES, **plugin.options.deadlines},
                # What this end reads: a longer line ends the connection.
                limits={"frame_bytes": DEFAULT_LIMITS.frame_bytes},
            )
        )

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the variables of its process: the allow-list, those granted, those of its daemon, and `more`."""
        # `more` last: it has what the transport needs, such as the path to listen at.
        return child_environment(
            os.environ, self.record.variables, {**(self.daemon.env if self.daemon is not None else {}), **(more or {})}
        )

    def update_observers(self) -> None:
        """Have the lane deliver the events that the daemon subscribes to, of those it is granted now."""
        plugin = self.plugin
        found = remote_observers(plugin.name, plugin.implementations, self.offers.wanted, plugin.grants.receives)
        self.lane.observers = without_durable(found, self.record.durable)

    def notify_readable(self) -> None:
        """Have lane and feed write what is due: the daemon is ready, or reads again."""
        self.lane.wake()
        self.services.notify_readable(self.plugin.name)

    def notify_gone(self) -> None:
        """Have the feed forget what it has sent: the process is gone."""
        self.services.notify_gone(self.plugin.name)


@define(eq=False)
class DaemonOffers:
    """What a daemon offers in its answer to `initialize`; what is the same after a restart stays registered."""

    remote: RemotePlugin
    wanted: tuple[str, ...] | None = None
    _tools: dict[tuple[Kind, str], ToolOffer] = field(factory=dict)

    async def accept(self, result: InitializeResult) -> None:
        """Check an answer to `initialize` against the manifest and use it: hooks, events, tools, actions.

        Raises PluginError. Cancelling may leave some tools and actions unregistered: call it again for a new process.
        """
        remote = self.remote
        plugin = remote.plugin
        if result.name is not None and result.name != plugin.name:
            _log.warning("the daemon %r calls itself %r; it goes on as %r", plugin.name, result.name[:80], plugin.name)
        # Checked first: nothing is used of an answer that is refused.
        plugin.implementations = self.check(result)
        # After its hooks: by it the dispatcher knows that it has no others.
        plugin.instance = remote.daemon
        plugin.version = result.version or plugin.version
        self.wanted = result.events
        remote.update_observers()
        (remote.on_hooks or remote.services.replan)()
        await self._register_contributions(result)

    def check(self, result: InitializeResult) -> dict[str, Implementation]:
        """Check an answer to `initialize` against the manifest, and return its hooks. Raises PluginError."""
        remote = self.remote
        plugin = remote.plugin
        implementations = remote_implementations(plugin.name, result.hooks)
        if remote.is_declared:
            for hook in implementations:
                check_declared(plugin.name, HOOKS[hook], remote.record.manifest)
            for kind, offered in (("tool", result.tools), ("action", result.actions)):
                check_offered(plugin.name, kind, offered, remote.record.manifest)
        check_required(plugin.name, plugin.options.required, implementations, "answer")
        return implementations

    async def _register_contributions(self, result: InitializeResult) -> None:
        offered: dict[tuple[Kind, str], ToolOffer] = {("tool", offer.name): offer for offer in result.tools}
        offered |= {("action", offer.name): offer for offer in result.actions}
        # Before the new ones: a tool that has changed has the name of the old one, which would be refused.
        for (kind, name), old in list(self._tools.items()):
            if offered.get((kind, name)) != old:
                await self.remote.calls.unregister(name)
                # After it: one that was cancelled in there is unregistered by the next call.
                del self._tools[kind, name]
        for (kind, name), offer in offered.items():
            if (kind, name) not in self._tools and await self.remote.calls.offer(kind, offer):
                self._tools[kind, name] = offer

    def forget(self) -> None:
        """Forget what was registered: it was removed otherwise."""
        self._tools.clear()


def new_remote(
    plugin: Plugin, record: PluginRecord, bus: PluginMessageBus, services: DaemonServices, *, is_declared: bool
) -> RemotePlugin:
    """Return what a plugin needs to run in a process; nothing of it runs yet."""
    # No event before the answer to `initialize`, which says what it subscribes to.
    lane = RemoteLane(plugin.name, Observers(types=frozenset()), plugin.receipts)
    if record.bridge is not None:
        services.activations.add(plugin.name, record.manifest.activation)
        lane.was_active = partial(services.activations.was_active, plugin.name)
    calls = DaemonCalls(plugin, bus, lane, services.acknowledge)
    log = services.stderr_log(plugin.name)
    log.hide(plugin.secrets)
    return RemotePlugin(plugin, record, record.daemon, is_declared, services, lane, calls, log)
