"""The composition root: a host author's `Host`, which joins sessions, plugins, bus, journal and state directory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from ally_plugins.catalog.decide.record import given_records
from ally_plugins.catalog.home.agent_processes import GuardedAgents
from ally_plugins.catalog.home.failed_starts import remember_starts
from ally_plugins.catalog.plugin_facts import read_settled
from ally_plugins.catalog.projects.trusted import rules_for
from ally_plugins.catalog.protected_places import protected_places
from ally_plugins.catalog.registry import Registry
from ally_plugins.contract.serves import Serves
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import (
    ConfigError,
    HostError,
    SessionError,
)
from ally_plugins.contract.values.events import Event, SessionStart
from ally_plugins.contract.values.ids import new_id
from ally_plugins.journal.journal import Journal
from ally_plugins.policy.project_rules import NO_RULES, SessionRules
from ally_plugins.runtime.lanes.clock import SystemClock
from ally_plugins.runtime.lanes.marks_file import Marks
from ally_plugins.runtime.lanes.teardown import finished
from ally_plugins.runtime.processes.protection import forbid_inspection

from .bus.bus import PluginMessageBus
from .bus.capabilities import Capabilities, HostAction
from .bus.services import NOT_RUNNING, HostServices
from .health import health_of
from .own_loop import OwnLoop
from .plugins.audit import PluginAudit
from .plugins.daemon_services import HostDaemonServices
from .plugins.plugin_set import PluginSet
from .plugins.usage import PluginUsage
from .sessions.fanout import FanOut
from .sessions.project import named_folder, project_root
from .sessions.session import Session
from .sessions.stream import HostStream
from .signals import SIGNALS, cancel_task
from .startup import ask_for_consent, declare_served, new_marks_file, take_lost_hosts, wanted_records, warn_of_network

if TYPE_CHECKING:
    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.catalog.registry import Plan
    from ally_plugins.contract.values.conversation import ToolResult
    from ally_plugins.contract.values.questions import AskPerson
    from ally_plugins.journal.leases import Lease
    from ally_plugins.policy.protected_places import ProtectedPlace
    from ally_plugins.runtime.lanes.clock import Clock
    from ally_plugins.runtime.lanes.plugin import Plugin
    from ally_plugins.runtime.processes.launcher import Launcher

    from .bus.contributions import Contributions
    from .bus.tasks import Tasks
    from .control.live import LiveControls
    from .control.server import ControlServer
    from .health import Health

__all__ = ["Host"]

P = ParamSpec("P")
T = TypeVar("T")


class Host:
    """The framework inside an agent program. An asynchronous context manager: it runs from enter to exit.

    `app` names the state directory (`ALLY_HOME` overrides it; `home` gives one, `home=None` keeps nothing on disk).
    `plugins` are given by code, by name: a class or factory, or a pair with its PluginRecord; that is the host author's
    consent. `discover=False` loads only those. `serves` is what this host gives its plugins, all that there is by
    default; an adapter says by itself what it serves.
    `has_person` says whether somebody is there to answer an `Ask`; `ask_person` puts plugins' own questions to them
    (an adapter asks its approver, while an agent is at work). `implementation` implements the capability hooks.
    `consent` is called at start for each installed plugin that waits for consent, with what it would get; true agrees
    to exactly that, on the host author's responsibility, and is recorded so. Without it, the answer is no.
    `protect` keeps other processes of the same user, a plugin's among them, from reading this one's memory, environment
    and descriptors (Linux): from the start to the end of the process, which then leaves no core dump and takes no
    profiler or debugger from outside. `ally-plugins chat` does so.
    `telemetry` reports hooks and decisions to OpenTelemetry (extra `otel`): by default where the program has loaded its
    SDK before the host's start. `launcher` is what starts its processes, where that was begun before the host.
    `fleet` is the file that says who this host is to workers that run plugins for many, instead of the home's own.

    A host belongs to the process and the event loop that it was started on: its coroutines, and those of its sessions,
    raise HostError at once when they are awaited on another loop, and every call does in a fork of the process.
    """

    def __init__(  # noqa: PLR0913 - all but one by name, each an option of its own
        self,
        app: str = "ally-plugins",
        *,
        home: Home | Path | str | bool | None = True,
        plugins: Mapping[str, Any] | None = None,
        grants: Mapping[str, Iterable[str]] | None = None,
        discover: bool = True,
        implementation: object | None = None,
        journal: Journal | None = None,
        clock: Clock | None = None,
        has_person: bool = False,
        ask_person: AskPerson | None = None,
        serves: Serves | None = None,
        actions: Iterable[str] = (),
        consent: Callable[[Plan], bool | Awaitable[bool]] | None = None,
        protect: bool = False,
        telemetry: bool | None = None,
        launcher: Launcher | None = None,
        fleet: Path | str | None = None,
    ) -> None:
        self.home = _home(app, home)
        self._fleet_file = fleet
        self.stream = HostStream(self._forward)
        self.services = services = HostServices(
            app,
            clock if clock is not None else SystemClock(),
            Capabilities(implementation),
            serves if serves is not None else Serves(),
            set(actions),
            has_person,
            self.stream,
            ask_person,
        )
        services.records.journal = journal
        self.bus = PluginMessageBus(services)
        self.audit = PluginAudit(services, self._quarantine)
        self.usage = PluginUsage(services, lambda: self.plugins.values())  # noqa: PLW0108 - another dict after each start
        services.tasks.changed = self.audit.task_changed
        self.registry = Registry(self.home) if self.home is not None and discover else None
        self._given = given_records(plugins or {}, grants or {})
        self._consent = consent
        self._is_protected = protect
        self._launcher = launcher
        self._wants_telemetry = telemetry
        self._given_journal = journal
        self._plugin_set: PluginSet | None = None
        self._marks: Marks | None = None
        self._daemon_services: HostDaemonServices | None = None
        self._control: ControlServer | None = None
        self._live: LiveControls | None = None
        self.guarded_agents = GuardedAgents(self.home) if self.home is not None else None

    @override
    def __repr__(self) -> str:
        return f"<Host {self.services.app!r}>"

    # --- life ---

    async def __aenter__(self) -> Self:
        SIGNALS.begin(self, cancel_task())  # before the start: plugins that have started are to be stopped
        try:
            await self.start()
        except BaseException:
            SIGNALS.end(self)
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self.services.is_elsewhere:
            return  # a fork that ends amid the block: what it raises counts, and the host is not its to stop
        try:
            await self.stop()
        finally:
            SIGNALS.end(self)

    async def start(self) -> None:
        """Open the journal and start the plugins. The loop runs on meanwhile, but for imports of plugins' code.

        A plugin that cannot start is marked with the reason, and its granted gates deny. Raises HostError when a
        mandatory plugin cannot start, ConfigError, JournalError and OrderError for what the operator has to mend;
        nothing is left running then, nor after cancelling.
        """
        if self.services.loop is not None:
            raise HostError("this host runs already; make another one")
        if self._is_protected:
            forbid_inspection()  # before a process is started that could look
        self.services.loop, self.services.host_id = OwnLoop(), new_id("h")
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        services = self.services
        if services.records.journal is None:
            await _off_loop(self._open_journal)
        self.journal.is_replay = services.is_replay
        from .control.live import LiveControls  # not needed to import a host
        from .control.server import ControlServer

        # Before the configuration is read: a change that a command makes from here on is not missed.
        self._live = LiveControls(services, self.usage, self.registry, self.home)
        if self.home is not None:
            await _off_loop(warn_of_network, self.home)
            self._control = ControlServer(self.home, self._live, agents=self.guarded_agents)
            await self._control.start()
        if self.registry is not None and self._consent is not None:
            await ask_for_consent(self.registry, self._consent, self.journal, self.clock.time_ms)
        if self.home is not None and not services.is_replay:
            await _off_loop(declare_served, self.home, services.served())
        await self._report_lost_hosts()
        installed = await _off_loop(self._installed)
        self._marks = marks = Marks(self._marks_file)
        await _off_loop(marks.open)
        # From here to the start of the plugins the loop has no turn: a session, which may be opened once there is a set
        # of them, must not find gates missing.
        self._daemon_services = daemon_services = HostDaemonServices(
            services,
            self.home,
            replan=self._replan,
            protected_places=self._protected_places,
            launcher=self._launcher,
            fleet_file=self._fleet_file,
        )
        self._plugin_set = plugin_set = self._new_plugin_set(daemon_services, marks)
        services.open_lanes = plugin_set.lanes
        from .plugins.telemetry import open_telemetry  # not needed to import a host

        services.dispatcher.listener = open_telemetry(plugin_set, wanted=self._wants_telemetry)
        services.handing_over = daemon_services.handing_over
        services.fan_out = FanOut(
            plugin_set.lanes,
            on_work=plugin_set.watchdog.arm,
            on_written=self._events_written,
            is_read=daemon_services.has_feeds,
        )
        self.journal.before_durable.append(services.fan_out.write_before)
        for record in installed:
            plugin_set.add(record)
        for record, factory in self._given:
            plugin_set.add(record, factory, is_given=True)
        await plugin_set.start(self.sessions.values())
        self._live.begin(plugin_set)
        if self.home is not None and not services.is_replay:
            await _off_loop(remember_starts, self.home, list(plugin_set.start_results()))
        # After the starts were remembered: `doctor` then shows why this host does not run.
        for plugin in plugin_set.plugins:
            if plugin.options.mandatory and not plugin.is_running:
                text = f"the mandatory plugin {plugin.name!r} is {plugin.state}: {plugin.reason}"
                raise HostError(text)
        plugin_set.check_served(services.serves)
        plugin_set.warn_of_unserved(services.served())

    def _events_written(self) -> None:
        if self._daemon_services is not None:
            self._daemon_services.wake_feeds()
        self.usage.record_due()

    def _marks_file(self) -> Path | None:
        return new_marks_file(self.home) if self.home is not None else None

    def _new_plugin_set(self, daemon_services: HostDaemonServices, marks: Marks) -> PluginSet:
        home = self.home
        return PluginSet(
            bus=self.bus,
            services=self.services,
            data_dir=home.data_dir if home is not None else None,
            on_state=self.audit.state_changed,
            on_crash=self.audit.crashed,
            daemon_services=daemon_services,
            marks=marks,
            on_blocked=self.audit.blocked,
        )

    async def _report_lost_hosts(self) -> None:
        """Say whose code ran in hosts of this home that ended without stopping."""
        if self.home is not None and not self.services.is_replay:
            for pid, running in await _off_loop(take_lost_hosts, self.home):
                self.audit.lost_host(pid, running)

    def _replan(self) -> None:
        """Compute the order of hooks anew, after a daemon has named its own."""
        if self._plugin_set is not None:
            self._plugin_set.replan()

    def _protected_places(self) -> tuple[ProtectedPlace, ...]:
        """Return what no plugin is given, whatever was granted; for a thread."""
        return self.registry.protected_places() if self.registry is not None else protected_places(self.home, ())

    def _installed(self) -> list[PluginRecord]:
        """Return what is installed and wanted; a plugin given by code under the same name takes its place."""
        if self.registry is None:
            return []
        given = {record.name for record, _ in self._given}
        return wanted_records(self.registry, given, is_replay=self.services.is_replay)

    def _open_journal(self) -> None:
        records = self.services.records
        if self.home is None:
            records.journal = Journal.in_memory()
            return
        self.home.prepare()
        keeping = read_settled(self.home).config.journal.keeping
        records.journal = Journal.open(self.home.journal_file, head=self.home.audit_head_file, keeping=keeping)

    async def stop(self) -> None:
        """Stop tasks and plugins, close the sessions, write what is queued, and close the journal.

        Plugins receive what was emitted, SESSION_END of every open session last. Safe to call twice. No plugin can hold
        it up longer than its deadline for `ally_stop` and a second. Cancelling ends the host
        without waiting for what is left: the journal is closed, plugins that have not stopped are abandoned. Raises
        HostError on another loop than its own, and in a fork of its process.
        """
        services = self.services
        services.check_loop("stop", self)
        try:
            for end in services.before_stop if services.loop is not None else ():
                end()
            # Outside in: no command may change what is being stopped, plugins get the last events while they still run,
            # daemons acknowledge before their feeds end, and the journal, which all of them write to, closes last.
            if self._control is not None:
                await self._control.close()
            if self._live is not None:
                await self._live.close()
            if self._plugin_set is not None:
                await self._drain_sessions()
                # While their processes are there to be looked at.
                self.usage.record()
                await self._plugin_set.stop()
            if self._daemon_services is not None:
                await self._daemon_services.close()
            await self._close_sessions()
        finally:
            # After a cancellation too: what was emitted is written, whatever else has not stopped.
            if services.fan_out is not None:
                services.fan_out.close()
                self.journal.before_durable.remove(services.fan_out.write_before)
            journal, services.records.journal = services.records.journal, self._given_journal
            if journal is not None:
                # One that was given may go on to a host that replays nothing.
                journal.is_replay = False
            if self._marks is not None:
                self._marks.close()
            self._plugin_set = self._control = self._live = self._marks = None
            services.dispatcher.forget_listener()
            services.loop = services.fan_out = None
            services.open_lanes = tuple
            # One that was given is its owner's to close.
            if journal is not None and self._given_journal is None:
                await journal.close()

    async def _close_sessions(self) -> None:
        """Close the sessions at once, so that they share a wait for the disk; one that was taken over has no close."""
        closing = [session.close() for session in list(self.sessions.values())]
        # Each is closed, whatever becomes of the others.
        for error in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(error, BaseException) and not isinstance(error, SessionError):
                raise error

    async def _drain_sessions(self) -> None:
        """Cancel the tasks, and wait a second at most until plugins have received what was emitted."""
        loop = asyncio.get_running_loop()
        for session in self.sessions.values():
            with suppress(SessionError):  # of one that another host has taken
                session.end("the host stops")
        ending = self.tasks.cancel_all("the host stops")
        ending += [loop.create_task(session.drained()) for session in self.sessions.values()]
        if ending:
            done, late = await asyncio.wait(ending, timeout=1.0)
            for task in late:
                task.cancel()
            for task in done:
                if not task.cancelled():
                    task.exception()  # a session that another host has taken; the others have none

    @property
    def app(self) -> str:
        """The name of the state directory."""
        return self.services.app

    @property
    def clock(self) -> Clock:
        """The clock that the host goes by."""
        return self.services.clock

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that the host runs on, None before the start and after the end."""
        own = self.services.loop
        return own.loop if own is not None else None

    @property
    def journal(self) -> Journal:
        """The journal, while the host runs. Raises HostError before and after."""
        return self.services.journal

    @property
    def sessions(self) -> Mapping[str, Session]:
        """The open sessions, by id."""
        return self.services.sessions

    @property
    def tools(self) -> Contributions:
        """The tools that plugins offer now."""
        return self.services.tools

    @property
    def actions(self) -> Contributions:
        """The actions that plugins offer now."""
        return self.services.actions

    @property
    def tasks(self) -> Tasks:
        """The background tasks of plugins."""
        return self.services.tasks

    def _quarantine(self, plugin: str, reason: str) -> None:
        """Write a quarantine to the home; a plugin given by code has no entry there, and one of a replay is over."""
        if self.services.is_replay:
            return
        member = self._plugin_set.members.get(plugin) if self._plugin_set is not None else None
        if self.registry is not None and member is not None and not member.is_given:
            self.registry.quarantine(plugin, reason)

    @property
    def plugins(self) -> Mapping[str, Plugin]:
        """The plugins of this host, by name, running or not."""
        plugin_set = self._plugin_set
        return {plugin.name: plugin for plugin in plugin_set.plugins} if plugin_set is not None else {}

    async def replace(self, record: PluginRecord, reason: str = "replaced by the host's author") -> None:
        """Have a new instance take the place of a plugin that was given by code, with this record.

        The old one goes on until the new one is known to be fit; one in a process hands its events over, so that none
        is missed and none comes twice. Raises UnavailableRefused, which says why, when the new one is not fit, and
        HostError before the start. Cancelling while the old one stops leaves the plugin stopped, and its gates deny.
        """
        self.services.check_loop("replace", self)
        if self._live is None:
            raise HostError("this host does not run")
        await self._live.replace(record, reason)

    def health(self) -> Health:
        """Return how the host is now, for a probe: `failing` while anything is refused that nobody decided about.

        Waits for nothing. Call it on the host's loop; a loop that does not answer is the other half of a probe.
        """
        self.services.check_process("health", self)
        return health_of(self.services, self.plugins.values())

    # --- sessions ---

    def session(
        self,
        session_id: str | None = None,
        *,
        focus: str | None = None,
        serves: Serves | None = None,
        project: Path | str | None = None,
        plugins: Iterable[str] | None = None,
    ) -> Session:
        """Return the session with this id, opened or found again; without an id, a new one.

        `project` is the folder that the conversation is about, of which sandboxed plugins see what they were granted;
        without it that is the `focus`, where this is a folder. It stays the same while the session is open.
        `serves` is what plugins are served in it, where that is not all that this host serves elsewhere.
        `plugins` are the names of those that take part in it, where these are not all: no other one gets events of it,
        is asked about what happens in it, offers tools to its agent, reads or says anything there. Which these were is
        recorded, and they stay the same while the session is open.

        A session found again in the journal goes on counting where it was, its pending messages wait again, and its
        agent's todos are what they last were. It belongs to this host until it is closed: another one can open it then,
        or when this one is dead, or was silent for ten seconds, after which every call of the session here raises
        SessionError. Waits for the disk, some ms.

        Raises SessionError when another host has it, HostError when this host does not run, or runs in another process,
        or a mandatory plugin was granted a gate or transform that is not served in it, or the project is no folder, or
        the open session is about another one, or has other plugins, or `plugins` names one that there is not, or leaves
        out a mandatory one or one with durable events, and JournalError when the journal cannot be read or written.
        """
        self.services.check_process("session", self)
        self.check_served(serves if serves is not None else self.services.serves)
        chosen = None if plugins is None else frozenset(plugins)
        session = self._open_session(session_id, focus, project_root(project, focus), chosen)
        if chosen is not None and chosen != session.plugins:
            have = "all of them" if session.plugins is None else ", ".join(sorted(session.plugins)) or "none"
            raise HostError(f"session {session.id!r} is open with other plugins: {have}")
        if project is not None and session.project != (root := project_root(project, None)):
            raise HostError(f"session {session.id!r} is open for the project {session.project!r}, and not for {root!r}")
        if serves is not None:
            session.serves = self.services.serves & serves
        return session

    def _open_session(
        self, session_id: str | None, focus: str | None, project: str | None, chosen: frozenset[str] | None
    ) -> Session:
        if session_id is not None and (open_session := self.sessions.get(session_id)) is not None:
            # Another host may have taken it while this one was silent.
            self.journal.check_lease(open_session.lease)
            return open_session
        if self._plugin_set is None:
            raise HostError(NOT_RUNNING)
        if session_id is not None and not (isinstance(session_id, str) and session_id and session_id.isprintable()):
            raise HostError(f"session id is {session_id!r:.80}; expected a line of text")
        if chosen is not None:
            self._plugin_set.check_chosen(chosen)
        # A folder that is gone by now is one all the same: whoever removes it would else be held to nothing.
        rules = self._rules_for(project if project is not None else named_folder(focus))
        self._plugin_set.check_mandatory(rules, chosen)
        name = session_id if session_id is not None else new_id("s")
        lease = self._claim(name, is_new=session_id is None)
        try:
            last = self.journal.last_seq(name) if session_id is not None else 0
            session = Session(name, self.services, lease, first_seq=last, project=project, plugins=chosen, rules=rules)
            if session_id is not None:
                # A session whose id was just made has none.
                session.load_pending()
            if last:
                session.restore_todos()
        except BaseException:
            self.journal.release_soon(lease)
            raise
        self.services.take_session(session)
        session.emit(SessionStart(focus=focus, resumed=True if last else None))
        return session

    def _rules_for(self, project: str | None) -> SessionRules:
        """Return what trusted projects narrow in a session about a folder. Raises HostError where that is not known."""
        if self.home is None or self.services.is_replay:
            return NO_RULES if project is None else SessionRules(project)
        try:
            return rules_for(self.home, project)
        except ConfigError as error:
            raise HostError(f"no session opens here: {error}") from error

    def _claim(self, name: str, *, is_new: bool) -> Lease:
        """Take a session for this host. Raises SessionError when another host has it, JournalError."""
        loop, services = self.services.own_loop.loop, self.services

        def fence() -> None:
            if (session := services.sessions.get(name)) is not None and session.lease is lease:
                session.fence()

        def on_lost() -> None:
            with suppress(RuntimeError):  # the loop is closed, and nobody calls the session any more
                loop.call_soon_threadsafe(fence)

        # `fence` runs on the loop, later, when this name has its value.
        lease = self.journal.claim(name, services.host_id, on_lost, is_new=is_new)
        return lease

    def _forward(self, event: Event) -> None:
        """Emit in the only session what the host author emits on the root stream."""
        if len(self.sessions) != 1:
            text = f"{len(self.sessions)} sessions are open; emit with session.emit(event)"
            raise SessionError(text)
        next(iter(self.sessions.values())).emit(event)

    # --- tools and actions ---

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        plugin: str | None = None,
        session_id: str | None = None,
        timeout: float | None = None,
    ) -> ToolResult:
        """Call a plugin's tool: `name`, or `plugin:name` where several have it. `timeout` is in seconds.

        The arguments are checked against its schema first (ArgumentsError). Raises NotFoundRefused for an unknown tool,
        ToolCallError when the tool fails or is too slow. Gates are asked by `Session.run_tool_call`, not here.
        Cancelling cancels an asynchronous handler; a synchronous one runs on in its thread.
        """
        self.services.check_loop("call_tool", self)
        return await self.services.tool_runner.run(self.tools.find(name, plugin), arguments, session_id, timeout)

    def offer_action(self, name: str, handler: HostAction) -> None:
        """Carry out an action of the host's own by `handler(session, request)`, which may be a coroutine function.

        An implementation of `ally_request_action` comes first; one that has no answer (None) leaves it to the handler.
        Daemons that run already may ask for it, though `supports` says no. Raises HostError for a name that is taken.
        """
        self.services.check_process("offer_action", self)
        actions = self.services.capabilities.actions
        if name in actions:
            raise HostError(f"the action {name!r} is offered already; name it otherwise")
        actions[name] = handler
        self.services.host_actions.add(name)

    def check_served(self, serves: Serves) -> None:
        """Refuse an agent that a mandatory plugin could not guard as it was granted. Raises HostError."""
        self.services.check_process("check_served", self)
        if self._plugin_set is not None:
            self._plugin_set.check_served(serves)

    def declare_served(self, serves: Serves) -> None:
        """Take note of what an adapter serves in the sessions that it opens; any thread. Waits for the disk, some ms.

        Plugins that were granted something else are named in the log, in `list` and in `doctor`.
        """
        services = self.services
        services.check_process("declare_served", self)
        if serves in services.adapters_serve:
            return
        services.adapters_serve |= {serves}
        if self._plugin_set is not None:
            self._plugin_set.warn_of_unserved(serves)
            if self.home is not None and not services.is_replay:
                declare_served(self.home, services.served())

    def supports(self, name: str) -> bool:
        """Say whether every session is served an event, gate or transform, or the host has a capability or action."""
        self.services.check_process("supports", self)
        return self.services.supports(name)


async def _off_loop(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run what waits for the disk in a thread; cancelling waits for its end, so that `stop` finds what it has made."""
    return await finished(asyncio.to_thread(function, *args, **kwargs))


def _home(app: str, home: Home | Path | str | bool | None) -> Home | None:  # noqa: FBT001
    from ally_plugins.catalog.home.folder import Home as HomeClass

    if home is None or home is False:
        return None
    if isinstance(home, HomeClass):
        return home
    return HomeClass(app) if home is True else HomeClass(app, Path(home))
