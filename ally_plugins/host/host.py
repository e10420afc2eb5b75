"""The composition root: a host author's `Host`, which joins sessions, plugins, bus, journal and state directory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from ally_plugins.catalog.decide.record import given_records
from ally_plugins.catalog.home.failed_starts import remember_starts
from ally_plugins.catalog.registry import Registry
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import (
    HostError,
    NotFoundRefused,
    SessionError,
    ToolCallError,
    ValidationRefused,
)
from ally_plugins.contract.values.events import EVENT_TYPES, Event, SessionStart
from ally_plugins.contract.values.frozen import EMPTY, freeze
from ally_plugins.contract.values.ids import new_id
from ally_plugins.contract.values.scope import SCOPE, Scope, current_scope
from ally_plugins.journal.journal import Journal
from ally_plugins.runtime.lanes.clock import SystemClock
from ally_plugins.runtime.lanes.dispatch import Dispatcher

from .bus.agenttools import find_offered, offered_to_agent
from .bus.bus import PluginMessageBus
from .bus.capabilities import CAPABILITIES, Capabilities, HostAction
from .bus.offered import Contribution, Contributions, as_tool_result
from .bus.tasks import Tasks
from .own_loop import OwnLoop
from .plugins.audit import Chronicle
from .plugins.members import Crew
from .plugins.services import Outside
from .sessions.activations import SessionActivations
from .sessions.fanout import Pump
from .sessions.session import Session
from .sessions.stream import HostStream
from .startup import ask_for_consent, declare_emitted, wanted_records

if TYPE_CHECKING:
    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.catalog.registry import Plan
    from ally_plugins.contract.tools.agent_tool import AgentTool
    from ally_plugins.contract.values.conversation import ActionRequest, ToolResult
    from ally_plugins.runtime.lanes.clock import Clock
    from ally_plugins.runtime.lanes.plugin import Plugin
    from ally_plugins.runtime.lanes.protocol import AnyLane

    from .control.live import LiveControls
    from .control.server import ControlServer

__all__ = ["Host"]

_log: Final = logging.getLogger(__name__)

_NOT_RUNNING: Final = "this host does not run; use `async with Host(...) as host:`"


class Host:
    """An agent program's side of the framework. An asynchronous context manager: it runs from enter to exit.

    `app` names the state directory (`ALLY_HOME` overrides it; `home` gives one, `home=None` keeps nothing on disk).
    `plugins` are given by code, by name: a class or factory, or a pair with its PluginRecord; that is the host author's
    consent. `discover=False` loads only those. `emits` are the event types that this host emits, all by default.
    `has_person` says whether somebody is there to answer an `Ask`. `implementation` answers the capability hooks.
    `consent` is asked at start for each installed plugin that waits for consent, with what it would get; true agrees to
    exactly that, on the host author's responsibility, and is recorded so. Without it, the answer is no.

    A host belongs to the event loop that it was started on: its coroutines, and those of its sessions, raise HostError
    at once when they are awaited on another one.
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
        emits: Iterable[str] | None = None,
        actions: Iterable[str] = (),
        consent: Callable[[Plan], bool | Awaitable[bool]] | None = None,
    ) -> None:
        self.app: Final = app
        self.home = _home(app, home)
        self.clock: Clock = clock if clock is not None else SystemClock()
        self.has_person = has_person
        self.emits: Final = frozenset(EVENT_TYPES if emits is None else emits)
        self.host_actions: Final = set(actions)
        self.sessions: dict[str, Session] = {}
        self.dispatcher = Dispatcher()
        self.bus = PluginMessageBus(self)
        self.chronicle = Chronicle(self)
        self.tools = Contributions("tool")
        self.actions = Contributions("action")
        self.tasks = Tasks(self.chronicle.task_changed, self.clock.time_ms)
        self.activations = SessionActivations(lambda: self._journal, self.clock.time_ms)
        self.stream = HostStream(self._forward)
        self.registry = Registry(self.home) if self.home is not None and discover else None
        self._given = given_records(plugins or {}, grants or {})
        self._consent = consent
        self._given_journal = journal
        self._journal: Journal | None = journal
        self._crew: Crew | None = None
        self._outside: Outside | None = None
        self._control: ControlServer | None = None
        self._live: LiveControls | None = None
        self._own_loop: OwnLoop | None = None
        self._pump: Pump | None = None
        self._capabilities = Capabilities(implementation)

    @override
    def __repr__(self) -> str:
        return f"<Host {self.app!r}>"

    # --- life ---

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Open the journal and start the plugins.

        A plugin that cannot start is marked with the reason, and its granted gates deny. Raises HostError when a
        mandatory plugin cannot start, ConfigError, JournalError and OrderError for what the operator has to mend;
        nothing is left running then.
        """
        if self._own_loop is not None:
            raise HostError("this host runs already; make another one")
        self._own_loop = OwnLoop()
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        if self._journal is None:
            self._journal = self._open_journal()
        from .control.live import LiveControls  # not needed to import a host
        from .control.server import ControlServer

        self._live = LiveControls(self)
        if self.home is not None:
            self._control = ControlServer(self.home, self._live)
            await self._control.start()
        self._outside = Outside(
            self.app,
            self.home,
            emits=self.emits,
            actions=self.host_actions,
            sessions=self.sessions,
            replan=self._replan,
            activations=self.activations,
            journal=self.journal,
        )
        self._crew = crew = Crew(
            bus=self.bus,
            dispatcher=self.dispatcher,
            supports=self.supports,
            data_dir=self.home.data_dir if self.home is not None else None,
            on_state=self.chronicle.state_changed,
            on_crash=self.chronicle.crashed,
            now=self.clock.steady,
            side=self._outside,
        )
        self._pump = Pump(crew.lanes, on_work=crew.watchdog.arm, side=self._outside)
        self.journal.sources.append(self._pump.write)
        if self.registry is not None and self._consent is not None:
            await ask_for_consent(self.registry, self._consent, self.journal, self.clock.time_ms)
        if self.home is not None:
            declare_emitted(self.home, self.emits)
        for record in self._installed():
            self._crew.add(record)
        for record, factory in self._given:
            self._crew.add(record, factory, is_given=True)
        await self._crew.start(self.sessions.values())
        self._live.begin(self._crew)
        if self.home is not None:
            remember_starts(self.home, self._crew.starts())
        for plugin in self._crew.plugins:
            if plugin.options.mandatory and not plugin.is_running:
                text = f"the mandatory plugin {plugin.name!r} is {plugin.state}: {plugin.reason}"
                raise HostError(text)

    def _replan(self) -> None:
        """Compute the order of hooks anew, when those of a daemon have become known."""
        if self._crew is not None:
            self._crew.replan()

    def _installed(self) -> list[PluginRecord]:
        """Return what is installed and wanted; a plugin given by code under the same name takes its place."""
        if self.registry is None:
            return []
        return wanted_records(self.registry, {record.name for record, _ in self._given})

    def _open_journal(self) -> Journal:
        if self.home is None:
            return Journal.in_memory()
        self.home.prepare()
        return Journal.open(self.home.journal_file, head=self.home.audit_head_file)

    async def stop(self) -> None:
        """Stop tasks and plugins, close the sessions, write what is queued, and close the journal.

        Plugins hear what was emitted, SESSION_END of every open session last. Safe to call twice. No plugin can hold it
        up longer than its deadline for `ally_stop` and a second. Raises HostError on another loop than its own.
        """
        self._check_loop("stop")
        try:
            if self._control is not None:
                await self._control.close()
            if self._live is not None:
                await self._live.close()
            if self._crew is not None:
                await self._hear_out()
                await self._crew.stop()
            if self._outside is not None:
                await self._outside.close()
            for session in list(self.sessions.values()):
                await session.close()
        finally:
            if self._pump is not None:
                self._pump.close()
                self.journal.sources.remove(self._pump.write)
            journal, self._journal = self._journal, self._given_journal
            self._crew = self._own_loop = self._control = self._live = self._pump = None
            if journal is not None and self._given_journal is None:
                await journal.close()

    async def _hear_out(self) -> None:
        """End the tasks, and let plugins hear what was emitted, for a second at most."""
        loop = asyncio.get_running_loop()
        for session in self.sessions.values():
            session.end("the host stops")
        ending = self.tasks.cancel_all("the host stops")
        ending += [loop.create_task(session.drained()) for session in self.sessions.values()]
        if ending:
            _, late = await asyncio.wait(ending, timeout=1.0)
            for task in late:
                task.cancel()

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that the host runs on, None before the start and after the end."""
        return self._own_loop.loop if self._own_loop is not None else None

    @property
    def own_loop(self) -> OwnLoop:
        """The loop that the host runs on, for what belongs to it too. Raises HostError when the host does not run."""
        if self._own_loop is None:
            raise HostError(_NOT_RUNNING)
        return self._own_loop

    def _check_loop(self, call: str) -> None:
        """Refuse a call from another loop. Raises HostError."""
        if self._own_loop is not None:  # else nothing of it waits anywhere
            self._own_loop.check(call, self)

    @property
    def journal(self) -> Journal:
        """The journal, while the host runs. Raises HostError before."""
        if self._journal is None:
            raise HostError(_NOT_RUNNING)
        return self._journal

    @property
    def open_journal(self) -> Journal | None:
        """The journal, None before the start and after the end."""
        return self._journal

    def is_installed(self, plugin: str) -> bool:
        """Say whether a plugin was found installed, rather than given by code."""
        member = self._crew.members.get(plugin) if self._crew is not None else None
        return member is not None and not member.is_given

    @property
    def plugins(self) -> Mapping[str, Plugin]:
        """The plugins that this host knows, by name, running or not."""
        crew = self._crew
        return {plugin.name: plugin for plugin in crew.plugins} if crew is not None else {}

    # --- sessions ---

    def session(self, session_id: str | None = None, *, focus: str | None = None) -> Session:
        """Return the session with this id, opened or found again; without an id, a new one.

        A session found again in the journal goes on counting where it was, and its pending messages wait again. Raises
        HostError when the host does not run, JournalError when the journal cannot be read.
        """
        if session_id is not None and (known := self.sessions.get(session_id)) is not None:
            return known
        if self._crew is None:
            raise HostError(_NOT_RUNNING)
        if session_id is not None and not (isinstance(session_id, str) and session_id and session_id.isprintable()):
            raise HostError(f"session id is {session_id!r:.80}; expected a line of text")
        name = session_id if session_id is not None else new_id("s")
        last = self.journal.last_seq(name) if session_id is not None else 0
        session = Session(name, self, first_seq=last)
        if session_id is not None:
            session.load_pending()
        self.sessions[name] = session
        for lane in self.lanes():
            lane.attach(name, session.ring)
        session.emit(SessionStart(focus=focus, resumed=True if last else None))
        return session

    def close_session(self, session: Session) -> None:
        """Let go of a session that has been drained; `Session.close` calls this."""
        if self._pump is not None:
            self._pump.forget(session)
        for lane in self.lanes():
            lane.detach(session.id)
        self.sessions.pop(session.id, None)
        self.activations.forget(session.id)

    def heard_person(self, session_id: str, text: str, seq: int) -> None:
        """Take what the person said, as event `seq`: it may turn plugins on or off that know tags."""
        self.activations.heard(session_id, text, seq)

    def open_session(self, session_id: str) -> Session | None:
        """Return the open session with this id, None when there is none."""
        return self.sessions.get(session_id)

    def session_for(self, plugin: str, session_id: str | None) -> Session:
        """Return the session that a plugin's call means: the named one, that of its running hook, or the only one."""
        if session_id is None:
            scope = current_scope(plugin)
            session_id = scope.session_id if scope is not None else None
        if session_id is None:
            if len(self.sessions) == 1:
                return next(iter(self.sessions.values()))
            text = f"{len(self.sessions)} sessions are open; outside an event, session_id is required"
            raise ValidationRefused(text, plugin=plugin, field="session_id")
        session = self.sessions.get(session_id) if isinstance(session_id, str) else None
        if session is None:
            raise NotFoundRefused(f"no session {session_id!r:.80} is open", plugin=plugin)
        return session

    def pump(self, session: Session) -> None:
        """Carry a session's events to lanes and journal, once a burst; may be called from any thread."""
        if self._pump is not None:
            self._pump.wake(session)

    def lanes(self) -> Sequence[AnyLane]:
        """Return the lanes of running plugins."""
        return self._crew.lanes() if self._crew is not None else ()

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
        """
        self._check_loop("call_tool")
        return await self._run_tool(self.tools.find(name, plugin), arguments, session_id, timeout)

    async def _run_tool(
        self, tool: Contribution, arguments: Mapping[str, Any] | None, session_id: str | None, timeout: float | None
    ) -> ToolResult:
        name, owner = tool.spec.name, tool.plugin.name
        if not self.activations.is_active(owner, session_id):
            text = f"{name!r} cannot run: {owner!r} is not active in this session; the person says +{owner} for it"
            raise ToolCallError(text, tool=name, plugin=owner)
        caller = SCOPE.get()  # a plugin's hook, when the host runs tools for one; it must not be waited for
        held = caller.held if caller is not None else frozenset()
        session = self.sessions.get(session_id or "")
        origin = session.origin if session is not None else ()
        scope = Scope(owner, session_id, origin, held, cause=new_id("c"))
        return as_tool_result(await tool.run(freeze(dict(arguments or EMPTY)), scope, timeout))

    def agent_tools(self, session_id: str, agent: str, taken: Collection[str]) -> tuple[AgentTool, ...]:
        """Return what an agent of a session may call; see `Session.agent_tools`."""
        return offered_to_agent(
            self.tools,
            self.actions,
            agent=agent,
            taken=taken,
            is_active=lambda plugin: self.activations.is_active(plugin, session_id),
        )

    async def call_agent_tool(
        self, session: Session, tool: AgentTool, arguments: Mapping[str, Any], timeout: float | None
    ) -> ToolResult:
        """Call what an agent of a session may call; see `Session.call_agent_tool`."""
        self._check_loop("call_agent_tool")
        if tool.kind == "tool":
            return await self._run_tool(find_offered(self.tools, tool), arguments, session.id, timeout)
        find_offered(self.actions, tool)
        return as_tool_result(
            await session.request_action(tool.full_name, arguments, by="agent", timeout=timeout or tool.timeout)
        )

    async def run_action(self, session: Session, request: ActionRequest, timeout: float) -> Any:
        """Carry out an action for the person, the agent or the host."""
        self._check_loop("run_action")
        return await self.bus.run_action(session, request, timeout)

    def offer_action(self, name: str, handler: HostAction) -> None:
        """Carry out an action of the host's own by `handler(session, request)`, which may be a coroutine function.

        An implementation of `ally_request_action` comes first; one that has no answer (None) leaves it to the handler.
        Daemons that run already may ask for it, though `supports` says no. Raises HostError for a name that is taken.
        """
        if name in self._capabilities.actions:
            raise HostError(f"the action {name!r} is offered already; name it otherwise")
        self._capabilities.actions[name] = handler
        self.host_actions.add(name)

    # --- capabilities ---

    def supports(self, name: str) -> bool:
        """Say whether this host emits an event type, or has a capability or an action of this name."""
        return name in self.emits or name in CAPABILITIES or name in self.host_actions

    async def capability(self, hook: str, **arguments: Any) -> Any:
        """Call a capability hook: the host author's implementation, and the default where that has no answer."""
        self._check_loop("capability")
        return await self._capabilities.call(hook, **arguments)


def _home(app: str, home: Home | Path | str | bool | None) -> Home | None:  # noqa: FBT001
    from ally_plugins.catalog.home.folder import Home as HomeClass

    if home is None or home is False:
        return None
    if isinstance(home, HomeClass):
        return home
    return HomeClass(app) if home is True else HomeClass(app, Path(home))
