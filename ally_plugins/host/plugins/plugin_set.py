"""The plugins of a running host: made from records, started, stopped, and put into quarantine.

It owns the lanes and the watchdog. What a plugin may do is decided in `catalog`, and stands in its record; its calls to
the host are the bus's.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import define, evolve, field

from ally_plugins.catalog.decide.record import PluginRecord
from ally_plugins.catalog.registry import load_class
from ally_plugins.contract.calls import Register
from ally_plugins.contract.handle import Ally
from ally_plugins.contract.hookspecs import HOOKS
from ally_plugins.contract.tools.declared import collect_actions, collect_tools
from ally_plugins.contract.values.errors import (
    AllyError,
    HostError,
    PluginError,
    PluginLoadError,
    RefusedError,
    TimedOut,
)
from ally_plugins.contract.values.inert import inert
from ally_plugins.contract.values.masking import Secrets, keys_of
from ally_plugins.contract.values.raised import describe_raised
from ally_plugins.contract.wording import suggest
from ally_plugins.host.bus.bus import PluginMessageBus
from ally_plugins.host.bus.outbound import BusOutbound
from ally_plugins.host.bus.services import HostServices
from ally_plugins.policy.serving import unserved_grants, unserved_refusal, unserved_warning
from ally_plugins.runtime.lanes import runner
from ally_plugins.runtime.lanes.lane import Lane
from ally_plugins.runtime.lanes.loading import (
    build,
    check_offered,
    check_required,
    implementations_of,
    new_manager,
    required_hooks,
)
from ally_plugins.runtime.lanes.loop_watch import Blocker
from ally_plugins.runtime.lanes.marks import HOOK, LOADING
from ally_plugins.runtime.lanes.marks_file import Marks
from ally_plugins.runtime.lanes.observers import Observers
from ally_plugins.runtime.lanes.plugin import Plugin, PluginOptions, RunState
from ally_plugins.runtime.lanes.protocol import AnyLane
from ally_plugins.runtime.lanes.requests import Crash
from ally_plugins.runtime.lanes.tables import without_durable
from ally_plugins.runtime.lanes.teardown import end_tasks
from ally_plugins.runtime.lanes.watchdog import Watchdog

from .blockers import BlockerWatch

if TYPE_CHECKING:
    from ally_plugins.contract.serves import Serves
    from ally_plugins.host.daemons.by_project import PluginByProject  # noqa: TC004 - as the next ones
    from ally_plugins.host.daemons.interface import DaemonServices  # noqa: TC004 - nobody reads these annotations at run time
    from ally_plugins.host.daemons.remote_plugin import RemotePlugin  # noqa: TC004 - nobody reads these annotations at run time
    from ally_plugins.host.sessions.session import Session
    from ally_plugins.policy.project_rules import SessionRules

__all__ = ["PluginMember", "PluginSet", "options_of", "secrets_of"]

_log: Final = logging.getLogger(__name__)

_STATES: Final = {"waiting for consent": RunState.WAITING, "quarantined": RunState.QUARANTINED}


@define(eq=False)
class PluginMember:
    """One plugin with the record it was made from; `factory` is given for plugins that come by code."""

    plugin: Plugin
    record: PluginRecord
    factory: Callable[[Ally], Any] | None = None
    ally: Ally | None = None
    remote: RemotePlugin | PluginByProject | None = None
    """What a plugin has that runs in a process of its own."""
    is_given: bool = False
    """Whether it comes by code, as every one with a factory does."""

    def settle(self, record: PluginRecord) -> None:
        """Use another configuration and other grants; the code that runs, and the settings it was built with, stay.

        Grants are read from `plugin.options` by whatever asks whether something is allowed, and from the record by what
        starts the plugin again; both change here and nowhere else.
        """
        kept = self.record.config  # where and with what the code that runs was started
        config = evolve(
            record.config, placement=kept.placement, interpreter=kept.interpreter, environment=kept.environment
        )
        self.record = evolve(self.record, granted=record.granted, config=config)
        self.plugin.options = options_of(record)
        if self.remote is not None:
            self.remote.settle(self.record)

    @property
    def is_declared(self) -> bool:
        """Whether there is a manifest to hold the code to; by code it may be there for order and settings only."""
        return not self.is_given or bool(self.record.manifest.requests)


@define(eq=False)
class PluginSet:
    """All plugins of one host, from its start to its stop; belongs to the host's loop."""

    bus: PluginMessageBus
    services: HostServices
    data_dir: Callable[[str], Path] | None
    on_state: Callable[[Plugin], None]
    on_crash: Callable[[Plugin, Crash], None]
    daemon_services: DaemonServices
    marks: Marks
    on_blocked: Callable[[Blocker, float], None]
    """Called with what has held up the loop, and for how many seconds, once it turns again."""
    members: dict[str, PluginMember] = field(factory=dict)
    watchdog: Watchdog = field(init=False)
    blockers: BlockerWatch = field(init=False)
    _manager: Any = field(factory=new_manager)
    _lanes: tuple[AnyLane, ...] = ()
    _ending: set[asyncio.Task[None]] = field(factory=set)

    def __attrs_post_init__(self) -> None:
        self.watchdog = Watchdog(lambda: self._lanes, self._shortest_deadline)
        self.blockers = BlockerWatch(
            lambda: [each.plugin for each in self.members.copy().values()], self._packages, self.on_blocked
        )

    @property
    def plugins(self) -> list[Plugin]:
        """Every plugin of this host, running or not."""
        return [member.plugin for member in self.members.values()]

    def lanes(self) -> Sequence[AnyLane]:
        """Return the lanes that are open."""
        return [lane for lane in self._lanes if lane.is_open]

    def add(
        self, record: PluginRecord, factory: Callable[[Ally], Any] | None = None, *, is_given: bool = False
    ) -> None:
        """Make a plugin from its record; nothing of it runs yet. `is_given` says that it comes by code."""
        self.members[record.name] = self.make(record, factory, is_given=is_given)

    def make(
        self, record: PluginRecord, factory: Callable[[Ally], Any] | None = None, *, is_given: bool = False
    ) -> PluginMember:
        """Make a plugin as `add` does, and leave the one of its name in its place."""
        plugin = Plugin(
            name=record.name,
            options=options_of(record),
            on_state=self._state_changed,
            on_crash=self.on_crash,
            now=self.services.clock.steady,
            before=record.manifest.before,
            after=record.manifest.after,
            version=record.version,
            project=record.project,
            thresholds=record.manifest.thresholds,
            secrets=secrets_of(record),
        )
        if not record.is_enabled:
            plugin.state, plugin.reason = _STATES.get(record.state, RunState.FAILED), record.reason
        return PluginMember(plugin, record, factory, is_given=is_given or factory is not None)

    def _packages(self) -> dict[str, str]:
        """Return the plugin of each top-level package that installed plugins have; may be called in any thread."""
        # A copy, made in one step: the loop may add plugins meanwhile.
        inline = [each for each in self.members.copy().values() if not each.is_given and each.remote is None]
        packages = {each.record.entry_point.partition(":")[0].partition(".")[0].strip(): each for each in inline}
        return {package: each.record.name for package, each in packages.items() if package}

    def replan(self) -> None:
        """Compute the order of every hook anew. Raises OrderError for a cycle."""
        self.services.dispatcher.replan(self.plugins)

    async def start(self, sessions: Iterable[Session], wanted: Iterable[PluginMember] | None = None) -> None:
        """Import, build and start the wanted plugins that are enabled, all by default; one that fails is marked.

        Imports run one after the other, in order, since they run the plugins' module code; starts run concurrently.
        Raises OrderError before anything is imported. Cancelling leaves plugins half started: call `stop`.
        """
        members = list(self.members.values() if wanted is None else wanted)
        # Before any import: a cycle is the operator's to mend, and granted gates deny from here on.
        self.replan()
        for member in members:
            if member.record.is_enabled:
                await self.load(member)
        await self.start_loaded(sessions, members)

    async def start_loaded(self, sessions: Iterable[Session], members: Iterable[PluginMember]) -> None:
        """Start those of these plugins that were loaded, as `start` does; cancelling leaves them half started, too."""
        self.replan()  # by the hooks that their code has
        loaded = [member for member in members if member.plugin.state == RunState.LOADED]
        await asyncio.gather(*(self._start(member, sessions) for member in loaded))
        # Once more: by now bridges have named the tools that their plugins' gate is asked about.
        self.replan()

    def unserved(self, serves: Serves) -> Iterator[tuple[Plugin, tuple[str, ...]]]:
        """Yield the plugins that were granted gates or transforms which are not served, each with these grants.

        A plugin that was granted everything counts with what its manifest asks for and what its code has.
        """
        missing = serves.missing
        for member in self.members.copy().values() if missing else ():
            plugin = member.plugin
            found = {*unserved_grants(plugin.grants, member.record.requested, missing)}
            for hook in plugin.implementations:
                info = HOOKS.get(hook)
                name = f"{info.kind}:{info.topic}" if info is not None else ""
                if name in missing and unserved_grants(plugin.grants, plugin.grants, (name,)):
                    found.add(name)
            if found:
                yield plugin, tuple(sorted(found))

    def check_chosen(self, chosen: frozenset[str]) -> None:
        """Refuse a session's plugins that cannot be so. Raises HostError, with the way out."""
        for name in sorted(chosen - self.members.keys()):
            raise HostError(f"plugins names {name!r}, {suggest(name, tuple(self.members))}")
        for name, member in self.members.items():
            if name not in chosen and member.plugin.options.mandatory:
                raise HostError(f"plugins leaves out {name!r}, which is mandatory; name it too")
            # They come from the journal, of all sessions of the home, in whichever host.
            if name not in chosen and member.record.durable and not member.plugin.is_disabled:
                raise HostError(f"plugins leaves out {name!r}, which has durable events of every session; name it too")

    def check_mandatory(self, rules: SessionRules, chosen: frozenset[str] | None) -> None:
        """Refuse a session whose project makes a plugin mandatory that does not guard in it. Raises HostError."""
        for name in sorted(rules.mandatory):
            text = f"{rules.whose_mandatory(name)}/.ally makes {name!r} mandatory, and it"
            member = self.members.get(name)
            if member is None or member.plugin.is_disabled:
                raise HostError(f"{text} is not enabled: ally-plugins enable {name}")
            plugin = member.plugin
            if not plugin.is_running:
                raise HostError(f"{text} is {plugin.state}: {plugin.reason}")
            if not plugin.guards or plugin.options.shadow:
                why = "is in shadow mode" if plugin.guards else "was granted no gate and no transform"
                raise HostError(f"{text} {why}; see ally-plugins info {name}")
            if chosen is not None and name not in chosen:
                raise HostError(
                    f"plugins leaves out {name!r}, which {rules.whose_mandatory(name)}/.ally makes mandatory"
                )

    def check_served(self, serves: Serves) -> None:
        """Refuse to run agents past a mandatory plugin's gate or transform. Raises HostError, with the ways out."""
        for plugin, names in self.unserved(serves):
            if plugin.options.mandatory:
                raise HostError(unserved_refusal(plugin.name, names))

    def warn_of_unserved(self, serves: Serves) -> None:
        """Say in the log which plugins wait in vain for something that is not served."""
        for plugin, names in self.unserved(serves):
            text = unserved_warning(plugin.name, names, is_mandatory=plugin.options.mandatory)
            _log.warning("the plugin %r: %s", plugin.name, text)

    def start_results(self) -> Iterator[tuple[str, str, str]]:
        """Yield the name and version of each installed plugin that was started, and why it failed or ""."""
        for member in self.members.values():
            if not member.is_given and member.record.is_enabled:
                plugin = member.plugin
                yield plugin.name, plugin.version, plugin.reason if plugin.state == RunState.FAILED else ""

    async def load(self, member: PluginMember) -> None:
        """Import and build a plugin, and check its hooks; one that runs in a process is only made ready for that.

        One that fails is marked. Raises KeyboardInterrupt; cancelling leaves the plugin as it was.
        """
        plugin, record = member.plugin, member.record
        if self._manager.has_plugin(plugin.name):  # the instance before this one
            self._manager.unregister(name=plugin.name)
        if member.factory is None and (record.daemon is not None or record.bridge is not None):
            from ally_plugins.host.daemons.remote_plugin import (
                new_remote,  # with the wire and all that, only where there are daemons
            )

            if record.runs_by_project:
                self._load_by_project(member)
            else:
                member.remote = new_remote(
                    plugin, record, self.bus, self.daemon_services, is_declared=member.is_declared
                )
            return
        plugin.slot = self.marks.slot(plugin.name)
        # A module's code may block the loop or end the process; the mark says whose it was.
        plugin.slot.marks[HOOK] = LOADING
        try:
            factory = member.factory if member.factory is not None else load_class(record)
            directory = None if self.data_dir is None else await asyncio.to_thread(self.data_dir, plugin.name)
            outbound = BusOutbound(plugin, self.bus, self.services.supports)
            member.ally = Ally(plugin.name, outbound, settings=record.settings, data_dir=directory)
            instance = build(factory, member.ally)
            manifest = record.manifest if member.is_declared else None
            implementations = implementations_of(self._manager, plugin.name, instance, manifest)
            check_required(plugin.name, plugin.options.required, implementations)
            plugin.implementations = implementations
            plugin.instance = instance  # not before: one without its implementations would seem to have no gate
        except AllyError as error:
            self._fail(plugin, str(error))
        except (KeyboardInterrupt, asyncio.CancelledError):
            raise
        except BaseException as error:  # noqa: BLE001 - the plugin's code may raise anything
            self._fail(plugin, plugin.describe(error))
        finally:
            plugin.slot.marks[HOOK] = 0

    def _load_by_project(self, member: PluginMember) -> None:
        from ally_plugins.host.daemons.by_project import DURABLE_PROBLEM, PluginByProject

        plugin, record = member.plugin, member.record
        if record.durable:
            self._fail(plugin, DURABLE_PROBLEM.format(plugin.name))
        elif record.daemon is not None:
            member.remote = PluginByProject(
                plugin, record, record.daemon, self.bus, self.daemon_services, member.is_declared
            )

    async def _start(self, member: PluginMember, sessions: Iterable[Session]) -> None:
        plugin = member.plugin
        if member.remote is not None:
            await self._open_remote(member, sessions)
            await self._start_remote(plugin, member.remote)
            return
        lane = Lane(
            plugin.name,
            self.observers_of(member),
            on_crash=plugin.crashed,
            deadline=plugin.deadline,
            slot=plugin.slot,
            times=plugin.times,
            receipts=plugin.receipts,
        )
        self.blockers.start()
        self._open(plugin, lane, sessions)
        plugin.set_state(RunState.STARTING)
        try:
            await self._register_decorated(member)
            implementation = plugin.implementations.get("ally_start")
            if implementation is not None:
                await lane.submit(
                    "ally_start",
                    implementation.function,
                    is_async=implementation.is_async,
                    deadline=plugin.deadline("ally_start", "start"),
                )
        except (KeyboardInterrupt, asyncio.CancelledError):
            raise
        except BaseException as error:  # noqa: BLE001 - the plugin's code may raise anything
            # Sentences of ours, before which the class would say nothing to people.
            is_sentence = isinstance(error, (PluginLoadError, RefusedError, TimedOut))
            reason = str(error) if is_sentence else describe_raised(error)
            self._fail(plugin, f"it could not start: {reason}")
            await lane.close()
            return
        if plugin.state == RunState.STARTING:  # a hook may have put it into quarantine meanwhile
            plugin.set_state(RunState.RUNNING)
            await self._feed(member)

    def observers_of(self, member: PluginMember) -> Observers:
        """Return what the lane of an inline plugin carries: what it is granted, without its durable types."""
        found = Observers.compile(member.plugin.implementations, member.plugin.grants.receives)
        return without_durable(found, member.record.durable)

    async def _feed(self, member: PluginMember) -> None:
        plugin, types = member.plugin, member.record.durable
        if types and member.record.placement == "shared":
            # One instance at a worker gets those of all homes; this host's own, over its link, gets none.
            await self.daemon_services.begin_feed_elsewhere(plugin)
        elif types and plugin.lane is not None:
            await self.daemon_services.start_feed(plugin, plugin.lane, types)

    async def start_in_place(
        self, member: PluginMember, sessions: Iterable[Session], take_over: Callable[[], Awaitable[Mapping[str, int]]]
    ) -> None:
        """Start the process of a plugin while another one runs in its place; `take_over` is to end that one.

        It is awaited once the new one has answered `initialize` and what it offers was checked, before `ally_start`,
        and returns the number of the last event that the other one has handled, by session: the new one goes on behind.
        The state says how it went; one that did not come so far has ended. Cancelling before that ends it, too.
        """
        from ally_plugins.host.daemons.remote_plugin import RemotePlugin
        from ally_plugins.host.daemons.transports import new_supervisor

        plugin, remote = member.plugin, member.remote
        # The caller has seen that it runs in one process.
        assert isinstance(remote, RemotePlugin)  # noqa: S101
        assert remote.daemon is not None  # noqa: S101
        announce, plugin.on_state = plugin.on_state, lambda _: None  # what is known by its name is the other one's

        async def enter() -> None:
            plugin.on_state = announce
            await self._open_remote(member, sessions, await take_over())
            # Its state by now, which was set in silence.
            announce(plugin)

        plugin.supervisor = supervisor = new_supervisor(remote, remote.daemon)
        supervisor.take_over = enter
        try:
            await supervisor.start()
        except asyncio.CancelledError:
            # It has not taken the place of the other one, so that nobody else would end it.
            if supervisor.take_over is not None:
                await supervisor.stop("its start was cancelled")
            raise

    async def _open_remote(
        self, member: PluginMember, sessions: Iterable[Session], handled: Mapping[str, int] | None = None
    ) -> None:
        if member.remote is not None:
            self._open(member.plugin, member.remote.lane, sessions, handled)
            await self._feed(member)

    def _open(
        self,
        plugin: Plugin,
        lane: AnyLane,
        sessions: Iterable[Session],
        handled: Mapping[str, int] | None = None,
    ) -> None:
        plugin.lane = lane
        self._lanes = (*self._lanes, lane)
        lane.start()
        for session in sessions:
            if session.has_plugin(plugin.name):
                lane.attach(session.id, session.ring, (handled or {}).get(session.id))

    async def _start_remote(self, plugin: Plugin, remote: RemotePlugin | PluginByProject) -> None:
        """Start a process and wait until it runs, or its first try has failed."""
        from ally_plugins.host.daemons.remote_plugin import RemotePlugin

        if not isinstance(remote, RemotePlugin):
            await remote.open()
            return
        try:
            if remote.daemon is None or remote.daemon.transport == "socket":  # such a one has no way to name hooks
                check_required(plugin.name, plugin.options.required, (), "nowhere")
            if (bridge := remote.record.bridge) is not None:
                from ally_plugins.host.daemons.bridge_services import open_bridge  # only where there is one

                plugin.set_state(RunState.STARTING)
                await open_bridge(remote, bridge, self.bus)
        except PluginError as error:
            self._fail(plugin, f"it could not start: {error}")
            await remote.lane.close()
            return
        if remote.daemon is None:
            plugin.instance = remote
            plugin.set_state(RunState.RUNNING)
            return
        from ally_plugins.host.daemons.transports import new_supervisor

        plugin.supervisor = supervisor = new_supervisor(remote, remote.daemon)
        await supervisor.start()

    async def _register_decorated(self, member: PluginMember) -> None:
        """Register what decorators offer, on the same path as at run time.

        What the manifest does not declare is a load error; what is declared and not granted is skipped.
        """
        plugin = member.plugin
        for kind, specs in (("tool", collect_tools(plugin.instance)), ("action", collect_actions(plugin.instance))):
            if member.is_declared:
                check_offered(plugin.name, kind, specs, member.record.manifest)
            for spec in specs:
                await self.bus.offer(plugin, Register.of(spec))

    def _fail(self, plugin: Plugin, reason: str) -> None:
        hint = f"see `ally-plugins info {plugin.name}`"
        plugin.set_state(RunState.FAILED, reason if "ally-plugins" in reason else f"{reason}; {hint}")
        _log.error("the plugin %r did not start: %s", plugin.name, inert(plugin.masked(reason)))

    async def stop(self) -> None:
        """Stop every plugin, all at once; those that have failed or are in quarantine keep that state.

        Takes as long as the slowest `ally_stop` may, and a second. Cancelling leaves lanes open.
        """
        self.watchdog.close()
        self.blockers.close()
        await asyncio.gather(*map(self._stop, self.plugins), *self._ending)

    async def _stop(self, plugin: Plugin) -> None:
        await self.end(plugin, "the host stops")
        if plugin.state in {RunState.STARTING, RunState.RUNNING, RunState.STOPPING, RunState.BACKOFF}:
            plugin.set_state(RunState.STOPPED)

    async def end(self, plugin: Plugin, reason: str, *, drain_first: bool = False) -> None:
        """End what runs of a plugin: its process, or `ally_stop` within its deadline; then its lane, within a grace.

        With `drain_first` a plugin without an `ally_stop` gets the same time for the gates and events that are pending.
        The caller sets the state afterwards. Cancelling leaves the lane open: call it again.
        """
        if plugin.supervisor is not None:
            await plugin.supervisor.stop(reason)
        lane = plugin.lane
        if lane is None:
            return
        # After the process, which acknowledges until it ends; before an inline `ally_stop`, which no event follows.
        await self.daemon_services.stop_feed(plugin)
        hook = plugin.implementations.get("ally_stop")
        if plugin.is_running and plugin.supervisor is None and (hook is not None or drain_first):
            future = lane.submit(
                "ally_stop",
                hook.function if hook is not None else None,
                is_async=hook is not None and hook.is_async,
                deadline=plugin.deadline("ally_stop", "stop"),
            )
            await asyncio.wait([future])
            if (error := future.exception()) is not None:
                _log.warning("ally_stop of %r failed: %s", plugin.name, plugin.describe(error))
        # Together: each may take its whole grace.
        await asyncio.gather(lane.close(), end_tasks(plugin.working, runner.GRACE))
        self._lanes = tuple(each for each in self._lanes if each is not lane)

    def _state_changed(self, plugin: Plugin) -> None:
        self.on_state(plugin)
        supervisor = plugin.supervisor
        if plugin.state == RunState.FAILED and supervisor is not None:
            # Another host of the same home may deliver the plugin's durable events now.
            self._run_in_background(self.daemon_services.stop_feed(plugin))
        if plugin.state == RunState.QUARANTINED and supervisor is not None and supervisor.process is not None:
            # Not for the supervisor's own failures, after which no process is left; what its hooks did is the reason.
            self._run_in_background(supervisor.stop("it is in quarantine"))

    def _run_in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what follows from a change of state, whose callback cannot wait; `stop` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _shortest_deadline(self) -> float:
        return min((plugin.shortest_deadline() for plugin in self.plugins), default=30.0)


def options_of(record: PluginRecord) -> PluginOptions:
    """Return what the operator, or the host author by code, has settled for a plugin."""
    config = record.config
    return PluginOptions(
        grants=record.granted,
        required=required_hooks(record.granted, record.requested),
        limits=config.limits,
        deadlines=config.deadlines,
        gate_on_error=config.gate_on_error,
        transform_on_error=config.transform_on_error,
        shadow=config.shadow,
        mandatory=config.mandatory,
        ungated_tools=config.ungated_tools,
    )


def secrets_of(record: PluginRecord) -> Secrets:
    """Return what a plugin is given and must not be read in texts: secret settings, and keys in its environment."""
    granted = {name: os.environ[name] for name in record.variables if name in os.environ}
    added = record.daemon.env if record.daemon is not None else {}
    return Secrets.of_settings(record.settings) | Secrets(keys_of(granted) | keys_of(added))
