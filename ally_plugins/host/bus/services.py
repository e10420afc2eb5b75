"""What the sessions, the bus and the plugins of one host share: clock, journal, sessions, tools, tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

from ally_plugins.contract.serves import SERVABLE, Serves
from ally_plugins.contract.values.errors import (
    HostError,
    JournalError,
    NotFoundRefused,
    SessionError,
    ValidationRefused,
)
from ally_plugins.contract.values.events import ContextThreshold, Event
from ally_plugins.contract.values.scope import current_scope
from ally_plugins.host.own_loop import OwnLoop
from ally_plugins.host.sessions.activations import SessionActivations
from ally_plugins.host.sessions.fanout import FanOut
from ally_plugins.host.sessions.overrides import Overrides
from ally_plugins.host.sessions.session import Session
from ally_plugins.host.sessions.stream import HostStream
from ally_plugins.journal.values import RECEIVED
from ally_plugins.runtime.lanes.clock import Clock
from ally_plugins.runtime.lanes.dispatch import Dispatcher
from ally_plugins.runtime.lanes.protocol import AnyLane

from .actions import ActionRunner
from .agenttools import ToolRunner
from .capabilities import CAPABILITIES, Capabilities
from .contributions import Contributions
from .questions import Questions
from .records import Records, unrecorded
from .tasks import Tasks

if TYPE_CHECKING:
    from ally_plugins.contract.tools.agent_tool import AgentTool
    from ally_plugins.contract.values.conversation import ActionRequest, ToolResult
    from ally_plugins.contract.values.questions import AskPerson  # noqa: TC004 - nobody reads this annotation at run time
    from ally_plugins.journal.journal import Journal

__all__ = ["NOT_RUNNING", "HostServices"]

SETTLE: Final = 15.0
"""Seconds that a turn waits for plugins' processes that start for it, as long as it would for a gate of theirs."""

NOT_RUNNING: Final = "this host does not run; use `async with Host(...) as host:`"


@define(eq=False)
class HostServices:
    """Made by `Host`, and there as long as it. What only a running host has is set at its start and None before.

    Its methods are those that `sessions.session.SessionServices` names; everything else is used as it is.
    """

    app: str
    clock: Clock
    capabilities: Capabilities
    serves: Serves
    """What the host author says that every session is served."""
    host_actions: set[str]
    """The names of the host's own actions."""
    has_person: bool
    stream: HostStream
    ask_person: AskPerson | None = None
    """What puts plugins' questions to the person, where the host author gave it."""
    adapters_serve: frozenset[Serves] = frozenset()
    """What the adapters say that serve sessions of this host."""
    agents: frozenset[str] = frozenset()
    """The coding agents whose hooks this host takes."""
    is_replay: bool = False
    """Whether what happens is a replay: the records say so, and nothing of it counts for the plugins' live use."""
    dispatcher: Dispatcher = field(factory=Dispatcher)
    sessions: dict[str, Session] = field(factory=dict)
    """Those that are open."""
    records: Records = field(init=False)
    tools: Contributions = field(factory=lambda: Contributions("tool"))
    actions: Contributions = field(factory=lambda: Contributions("action"))
    tasks: Tasks = field(init=False)
    activations: SessionActivations = field(init=False)
    action_runner: ActionRunner = field(init=False)
    questions: Questions = field(init=False)
    tool_runner: ToolRunner = field(init=False)
    overrides: Overrides = field(init=False)
    loop: OwnLoop | None = None
    before_stop: list[Callable[[], None]] = field(factory=list)
    """Called when the host is about to stop, and its sessions still take events; must not raise."""
    host_id: str = ""
    """Names the host in its leases. Set at its start, since a fork may start what its parent has made."""
    fan_out: FanOut | None = None
    open_lanes: Callable[[], Sequence[AnyLane]] = tuple
    starting: dict[str, list[Callable[[], Coroutine[Any, Any, None]]]] = field(factory=dict)
    """By session what waits for a process that starts for it, where a plugin has one for each project."""
    handing_over: Callable[[str], AbstractAsyncContextManager[None]] = lambda _: nullcontext()
    """What lets go of a session in its block, when durable events of it that plugins have begun with are done."""

    def __attrs_post_init__(self) -> None:
        self.records = Records(self.clock)
        self.tasks = Tasks(self.clock.time_ms)
        self.overrides = Overrides(self.clock.steady)
        # By a function: there is no journal before the host's start.
        self.activations = SessionActivations(lambda: self.records.journal, self.clock.time_ms)
        self.action_runner = ActionRunner(
            self.actions, self.host_actions, self.capabilities, self.records, self.dispatcher.may
        )
        self.questions = Questions(self.records)
        self.tool_runner = ToolRunner(
            self.tools,
            self.actions,
            self.dispatcher.may,
            self.activations.is_active,
            self.sessions,
            self.action_runner,
        )

    @property
    def journal(self) -> Journal:
        """The journal, while the host runs. Raises HostError before and after."""
        if self.records.journal is None:
            raise HostError(NOT_RUNNING)
        return self.records.journal

    @property
    def own_loop(self) -> OwnLoop:
        """The loop that the host runs on. Raises HostError when it does not run."""
        if self.loop is None:
            raise HostError(NOT_RUNNING)
        return self.loop

    def check_loop(self, call: str, owner: object) -> None:
        """Refuse a call from another loop or process than that of a running host. Raises HostError."""
        if self.loop is not None:  # else nothing of it waits anywhere
            self.loop.check(call, owner)

    def check_process(self, call: str, owner: object) -> None:
        """Refuse a call from a fork of the process that the host runs in. Raises HostError."""
        if self.loop is not None:
            self.loop.process.check(call, owner)

    @property
    def is_elsewhere(self) -> bool:
        """Whether the host runs in the process of which this one is a fork."""
        return self.loop is not None and not self.loop.process.is_here

    def served(self) -> Serves:
        """Return what every session is served, by all that is known: the host author's word and the adapters'."""
        # What one of them lacks, its sessions lack, and this is promised for every session.
        return reduce(and_, self.adapters_serve, self.serves)

    def supported(self) -> frozenset[str]:
        """Return what every session is served, the host's capabilities and the actions that it has by now."""
        return self.served().names | CAPABILITIES | self.host_actions

    def supports(self, name: str, plugin: str | None = None) -> bool:
        """Say whether the host serves an event, a gate or a transform, or has a capability or an action of this name.

        For a plugin whose hook runs, the session of the hook counts.
        """
        if name in SERVABLE:
            scope = current_scope(plugin) if plugin is not None else None
            session = self.sessions.get(scope.session_id) if scope is not None and scope.session_id else None
            return name in (session.serves if session is not None else self.served())
        return name in CAPABILITIES or name in self.host_actions

    def session_for(self, plugin: str, session_id: str | None) -> Session:
        """Return the session of a plugin's call: the named one, that of its running hook, or the only one.

        Raises ValidationRefused when none is named and several are open, or the plugin takes no part in it, and
        NotFoundRefused when it is not open.
        """
        if session_id is None:
            scope = current_scope(plugin)
            session_id = scope.session_id if scope is not None else None
        if session_id is None:
            own = [each for each in self.sessions.values() if self.dispatcher.is_in(plugin, each.id)]
            if len(own) == 1:
                return own[0]
            text = f"{len(own)} sessions are open; outside an event, session_id is required"
            raise ValidationRefused(text, plugin=plugin, field="session_id")
        session = self.sessions.get(session_id) if isinstance(session_id, str) else None
        if session is None:
            raise NotFoundRefused(f"no session {session_id!r:.80} is open", plugin=plugin)
        if not self.dispatcher.is_in(plugin, session.id):
            text = f"session {session_id!r:.80} was opened without {plugin!r}"
            raise ValidationRefused(text, plugin=plugin, field="session_id")
        return session

    @contextmanager
    def closed_session(self, plugin: str, session_id: str) -> Generator[Session]:
        """Return a session that is not open, for a message to it, which waits on disk until it is opened.

        The session is held for as long as the block takes, so that no other host opens it meanwhile and misses the
        message. Gates are shown it as one that was just opened. Raises NotFoundRefused where another host has it.
        """
        try:
            # Nobody has to learn of a loss: the journal refuses what is written under a lost lease.
            lease = self.journal.claim(session_id, self.host_id, lambda: None)
        except SessionError as error:
            raise NotFoundRefused(f"no session {session_id!r:.80} is open here: {error}", plugin=plugin) from error
        except JournalError as error:
            raise unrecorded(plugin, error) from error
        try:
            session = Session(session_id, self, lease)
            # Nothing may be emitted in it: numbers would begin at 1 again, which are those of events on disk.
            session.is_closed = True
            yield session
        finally:
            self.journal.release_soon(lease)

    # --- what sessions use ---

    def lanes(self) -> Sequence[AnyLane]:
        """Return the lanes of running plugins."""
        return self.open_lanes()

    def own_thresholds(self) -> Iterator[tuple[str, tuple[float, ...]]]:
        """Yield the running plugins that have asked for thresholds of their own, with these."""
        for plugin in self.dispatcher.plugins.values():
            if plugin.thresholds and plugin.is_running and plugin.grants.receives(ContextThreshold.TYPE):
                yield plugin.name, plugin.thresholds

    def wake(self, session: Session, kind: type[Event]) -> None:
        """Carry what a session has emitted to lanes and journal, in the loop's next turn; from any thread."""
        if self.fan_out is not None:
            self.fan_out.wake(session, kind)

    async def settle(self, session_id: str) -> None:
        """Wait until the processes that start for a session run, or their first try has failed: 15 seconds at most.

        Cancelling stops the waiting.
        """
        tasks = [asyncio.ensure_future(wait()) for wait in self.starting.pop(session_id, ())]
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=SETTLE)
        finally:
            for task in tasks:
                task.cancel()

    async def capability(self, hook: str, **arguments: Any) -> Any:
        """Call a capability hook; see `Capabilities.call`."""
        return await self.capabilities.call(hook, **arguments)

    async def run_action(self, session: Session, request: ActionRequest, timeout: float) -> Any:
        """As `ActionRunner.run`, for the person, the agent or the host."""
        return await self.action_runner.run(session, request, timeout)

    def agent_tools(self, session_id: str, agent: str, taken: Collection[str]) -> tuple[AgentTool, ...]:
        """As `ToolRunner.offered`."""
        return self.tool_runner.offered(session_id, agent, taken)

    async def call_agent_tool(
        self, session: Session, tool: AgentTool, arguments: Mapping[str, Any], timeout: float | None
    ) -> ToolResult:
        """As `ToolRunner.call_offered`."""
        return await self.tool_runner.call_offered(session, tool, arguments, timeout)

    def receive_person_message(self, session_id: str, text: str, seq: int) -> None:
        """Apply a message of the person, event `seq`, which may turn plugins on or off in the session. Any thread."""
        self.activations.receive_message(session_id, text, seq)

    def take_session(self, session: Session) -> None:
        """Take a session that is opened, before its first event, which every plugin that takes part in it is to get."""
        if session.plugins is not None:
            # Before anything is asked or carried: a gate that is not asked is to be explained by it.
            self.dispatcher.sets[session.id] = session.plugins
            data = {"plugins": sorted(session.plugins)}
            self.records.write_soon("session_plugins", None, session.id, None, data)
        if session.rules.project is not None or session.rules.rules:
            self.dispatcher.rules[session.id] = session.rules
        self.sessions[session.id] = session
        for lane in self.lanes():
            if session.has_plugin(lane.plugin):
                lane.attach(session.id, session.ring)

    def release_session(self, session: Session) -> None:
        """Forget a session that has been drained and is closed."""
        # The journal gets its last events before the lanes forget it.
        if self.fan_out is not None:
            self.fan_out.forget(session)
        self.record_receipts(session.id)
        for lane in self.lanes():
            lane.detach(session.id)
        self.sessions.pop(session.id, None)
        self.starting.pop(session.id, None)
        self.dispatcher.sets.pop(session.id, None)
        self.dispatcher.rules.pop(session.id, None)
        self.activations.forget(session.id)

    def record_receipts(self, session_id: str | None = None) -> None:
        """Queue records of which plugins were given which events since the last time; in one session, or in all."""
        for plugin in self.dispatcher.plugins.values():
            for session, data in plugin.receipts.take(session_id):
                self.records.write_soon(RECEIVED, plugin.name, session, None, data)

    def find_session(self, session_id: str) -> Session | None:
        """Return the open session with this id, None when there is none."""
        return self.sessions.get(session_id)
