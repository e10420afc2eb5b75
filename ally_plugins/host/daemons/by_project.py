"""A plugin that was granted files of the project: one process for each project, since no sandbox can be widened.

To the host it is one plugin with one lane; behind that each process has a lane, calls and a supervisor of its own. A
process is started when the first session of its project opens, and stopped a while after the last one has closed.
Sessions without a project share one, which sees no project. What a process may reach is decided in `boxes`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from attrs import define, evolve, field

from ally_plugins.catalog.decide.record import PluginRecord
from ally_plugins.contract.calls import PluginCall, Register, Unregister
from ally_plugins.contract.process_spec import Daemon
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.conversation import Receipt
from ally_plugins.contract.values.errors import NotFoundRefused, RefusedError, UnavailableRefused
from ally_plugins.contract.values.scope import SCOPE, Scope
from ally_plugins.host.bus.bus import PluginMessageBus
from ally_plugins.runtime.lanes.link import NotRunning
from ally_plugins.runtime.lanes.observers import Observers
from ally_plugins.runtime.lanes.plugin import Plugin, RunState
from ally_plugins.runtime.lanes.requests import Answer, FutureRequest
from ally_plugins.wire.offers import HookOffer

from .calls import DaemonCalls
from .hooks import remote_implementations
from .interface import DaemonServices
from .lane import RemoteLane
from .remote_plugin import RemotePlugin
from .supervisor import Supervisor
from .transports import new_supervisor

if TYPE_CHECKING:
    from ally_plugins.runtime.lanes.ring import Ring
    from ally_plugins.runtime.processes.process import Process


__all__ = ["DURABLE_PROBLEM", "PluginByProject"]

_log: Final = logging.getLogger(__name__)

IDLE: Final = 60.0
"""Seconds that a process stays after the last session of its project: who comes back within a minute finds it warm."""

DURABLE_PROBLEM: Final = (
    "it asks for files of the project and for durable events, which wait for no project in particular; its manifest "
    "must leave out one of the two, or: ally-plugins revoke {} files"
)

_OUT: Final = frozenset({RunState.FAILED, RunState.QUARANTINED, RunState.STOPPED, RunState.BACKOFF, RunState.STOPPING})
"""States in which a process is asked nothing: it may come back, and nobody waits for that."""


@define(eq=False)
class _ProjectProcess:
    """What there is of a plugin for the sessions of one project; lives from the first of them to a while after."""

    project: str | None
    plugin: Plugin
    remote: RemotePlugin
    supervisor: Supervisor
    sessions: set[str] = field(factory=set)
    starting: asyncio.Task[None] | None = None
    idle: asyncio.TimerHandle | None = None

    async def settled(self) -> None:
        """Wait until it runs, or its first try has failed. Cancelling stops the waiting."""
        if self.starting is None:
            await asyncio.sleep(0)  # it is begun in the next turn of the loop, or the plugin is being stopped
        if self.starting is not None:
            await asyncio.wait([self.starting])
            await self.supervisor.settled()


@define(eq=False)
class PluginByProject:
    """Stands where a plugin in one process has its `RemotePlugin`, and its supervisor; lives as long as the plugin."""

    plugin: Plugin
    record: PluginRecord
    daemon: Daemon
    bus: PluginMessageBus
    services: DaemonServices
    is_declared: bool
    lane: ProjectLane = field(init=False)
    processes: dict[str | None, _ProjectProcess] = field(init=False, factory=dict)
    _registered: dict[tuple[str, str], Register] = field(init=False, factory=dict)
    _registering: asyncio.Lock = field(init=False, factory=asyncio.Lock)
    _ending: set[asyncio.Task[None]] = field(init=False, factory=set)
    _ended: int = field(init=False, default=0)
    """How often processes were started that are gone."""
    _loop: asyncio.AbstractEventLoop = field(init=False, factory=asyncio.get_running_loop)

    def __attrs_post_init__(self) -> None:
        self.lane = ProjectLane(self)

    @property
    def parts(self) -> Sequence[RemotePlugin]:
        """What there is of it for each project."""
        return [each.remote for each in self.processes.values()]

    # --- life ---

    async def open(self) -> None:
        """Run: from here on gates are asked. Waits for the processes of the sessions that are open already.

        Until the first process has said which hooks it has, it counts as having those that were granted: each waits for
        the process, within its deadline.
        """
        granted = (HookOffer(name=hook) for hook in self.plugin.options.required)
        self.plugin.implementations = remote_implementations(self.plugin.name, granted)
        self.plugin.instance = self.daemon
        self.plugin.supervisor = self
        self.services.replan()
        self.plugin.set_state(RunState.RUNNING, "")
        for each in list(self.processes.values()):
            await each.settled()

    def attach(self, session_id: str, ring: Ring, after: int | None = None) -> None:
        """Carry a session's events to the process of its project, which is started if there is none."""
        process = self._process_for(self.services.project_of(session_id))
        if process.idle is not None:
            process.idle.cancel()
            process.idle = None
        process.sessions.add(session_id)
        process.remote.lane.attach(session_id, ring, after)
        if process.plugin.state in {RunState.LOADED, RunState.STARTING}:
            self.services.note_start(session_id, process.settled)

    def detach(self, session_id: str) -> None:
        """Carry no more of a session's events; the process is stopped when no other session comes for a while."""
        process = self.of_session(session_id)
        if process is None:
            return
        process.remote.lane.detach(session_id)
        process.sessions.discard(session_id)
        if not process.sessions:
            process.idle = self._loop.call_later(IDLE, self._retire, process)

    def of_session(self, session_id: str | None) -> _ProjectProcess | None:
        """Return the process that an open session goes to."""
        return next((each for each in self.processes.values() if session_id in each.sessions), None)

    def _process_for(self, project: str | None) -> _ProjectProcess:
        process = self.processes.get(project)
        if process is None:
            process = self.processes[project] = self._new_process(project)
            # In the loop's next turn: a session may be opened in another thread.
            self._loop.call_soon_threadsafe(self._start, process)
        return process

    def _new_process(self, project: str | None) -> _ProjectProcess:
        outer = self.plugin
        lane = RemoteLane(outer.name, Observers(types=frozenset()), outer.receipts)
        plugin = Plugin(
            name=outer.name,
            options=outer.options,
            on_state=lambda _: self._note_state(process),
            on_crash=outer.on_crash,
            now=outer.now,
            version=outer.version,
            secrets=outer.secrets,
            lane=lane,
        )
        # One plugin, however many processes: its rates and its crashes are counted together.
        plugin.budget, plugin.counts, plugin.crashes, plugin.working = (
            outer.budget, outer.counts, outer.crashes, outer.working,
        )  # fmt: skip
        # Whoever looks at a plugin sees all of its processes.
        plugin.wire, plugin.receipts = outer.wire, outer.receipts
        calls = _ProjectCalls(plugin, self.bus, lane, self.services.acknowledge, self)
        log = self.services.stderr_log(outer.name)
        remote = RemotePlugin(
            plugin,
            self.record,
            self.daemon,
            self.is_declared,
            self.services,
            lane,
            calls,
            log,
            project=project,
            session_ids=lambda: tuple(process.sessions),
            on_hooks=lambda: self._take_hooks(plugin),
        )
        process = _ProjectProcess(project, plugin, remote, new_supervisor(remote, self.daemon))
        calls.process = process
        plugin.supervisor = process.supervisor
        lane.start()
        return process

    def _start(self, process: _ProjectProcess) -> None:
        if self.processes.get(process.project) is process and self.lane.is_open:
            process.starting = self._loop.create_task(
                process.supervisor.start(), name=f"ally-project-{self.plugin.name}"
            )

    def _retire(self, process: _ProjectProcess) -> None:
        """End the process of a project of which no session is open."""
        if process.sessions or self.processes.get(process.project) is not process:
            return
        self._end_soon(process, "no session of its project is open")

    def _end_soon(self, process: _ProjectProcess, reason: str) -> None:
        del self.processes[process.project]
        self._ended += process.supervisor.started
        task = self._loop.create_task(self._end(process, reason))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, process: _ProjectProcess, reason: str) -> None:
        if process.idle is not None:
            process.idle.cancel()
        await process.supervisor.stop(reason)
        process.remote.lane.abandon()

    # --- as the keeper of its processes ---

    @property
    def process(self) -> Process | None:
        """One of its processes, None while there is none."""
        return next((each.supervisor.process for each in self.processes.values() if each.supervisor.process), None)

    @property
    def started(self) -> int:
        """How often a process was started."""
        return self._ended + sum(each.supervisor.started for each in self.processes.values())

    async def stop(self, reason: str) -> None:
        """End every process; see `Supervisor.stop`."""
        await asyncio.gather(*(self._end(each, reason) for each in self.processes.values()), *self._ending)

    def restart(self, reason: str) -> None:
        """End every process and start it again at once."""
        for each in self.processes.values():
            each.supervisor.restart(reason)

    def describe(self) -> Mapping[str, Any]:
        """Return its processes as JSON values, each with its project."""
        found: list[dict[str, Any]] = [
            {"project": each.project, "state": each.plugin.state.value, "reason": each.plugin.reason,
             "sessions": len(each.sessions), **each.supervisor.describe()}
            for each in self.processes.values()
        ]  # fmt: skip
        first = {"pid": self.process.pid} if self.process is not None else {}
        return {**first, "restarts": sum(each["restarts"] for each in found), "projects": found}

    # --- what its processes say ---

    def _take_hooks(self, plugin: Plugin) -> None:
        """Have the plugin's hooks be those that a process has named: all of them run the same code."""
        self.plugin.implementations, self.plugin.version = plugin.implementations, plugin.version
        self.services.replan()

    def _note_state(self, process: _ProjectProcess) -> None:
        state, outer = process.plugin.state, self.plugin
        if outer.state in {RunState.QUARANTINED, RunState.STOPPED}:
            return
        if state == RunState.QUARANTINED:
            outer.set_state(state, process.plugin.reason)
            self.lane.abandon()
            # Those of other projects may run well, and are the same plugin.
            for other in [each for each in self.processes.values() if each is not process]:
                self._end_soon(other, "it went into quarantine in another project")
            return
        # What goes as it should is no news; the reason names each project where it does not.
        outs = [each for each in self.processes.values() if each.plugin.state in {RunState.FAILED, RunState.BACKOFF}]
        lines = [f"in {each.project or 'no project'} it is {each.plugin.state}: {each.plugin.reason}" for each in outs]
        if outer.state == RunState.RUNNING:
            outer.set_state(RunState.RUNNING, "; ".join(lines))

    def settle(self, record: PluginRecord) -> None:
        """Use another configuration and other grants from the next call, event and start on."""
        self.record = record
        for each in self.processes.values():
            each.plugin.options, each.remote.record = self.plugin.options, record

    def update_observers(self) -> None:
        """Have each process receive the events that it subscribes to, of those that are granted now."""
        for each in self.parts:
            each.update_observers()

    def forget_offers(self) -> None:
        """Forget what was registered: it was removed otherwise."""
        self._registered.clear()
        for each in self.parts:
            each.offers.forget()

    async def register(self, call: Register) -> Receipt | None:
        """Register what a process offers, once for all of them; None where another process has done so already.

        Raises RefusedError. Cancelling withdraws it.
        """
        try:
            key = (call.KIND, call.make_spec().name)
        except RefusedError:
            return await self.bus.call(self.plugin, call)  # which refuses it too, and records that
        # Held over the journal's answer: two processes may offer the same at one time.
        async with self._registering:
            known = self._registered.get(key)
            if known is not None and known.options == call.options:
                return None
            if known is not None:  # its code has changed since the other process was started
                del self._registered[key]
                await self.bus.call(self.plugin, Unregister(name=key[1]))
            receipt = await self.bus.call(self.plugin, evolve(call, handler=self._routed(*key)))
            self._registered[key] = call
            return receipt

    async def unregister(self, process: _ProjectProcess, call: Unregister) -> None:
        """Withdraw what a process offers no more, unless there are others that may."""
        if len(self.processes) > 1 or self.processes.get(process.project) is not process:
            return
        async with self._registering:
            for key in [key for key in self._registered if key[1] == call.name]:
                del self._registered[key]
            await self.bus.call(self.plugin, call)

    def _routed(self, kind: str, name: str) -> Callable[..., Any]:
        async def call(**arguments: Any) -> Any:
            scope = SCOPE.get()
            process = self._for_call(name, scope)
            await process.settled()
            return await process.remote.calls.run(kind, name, arguments)

        # As the handlers in `calls`: nothing of the plugin's runs in the host.
        call.is_remote = True  # type: ignore[attr-defined]
        return call

    def _for_call(self, name: str, scope: Scope | None) -> _ProjectProcess:
        session_id = scope.session_id if scope is not None else None
        found = self.of_session(session_id)
        if found is None and session_id is None and len(self.processes) == 1:
            found = next(iter(self.processes.values()))
        if found is None:
            where = f"for session {session_id!r}" if session_id is not None else "without a session"
            text = f"{name!r} of {self.plugin.name!r} cannot be called {where}: it has a process for each project"
            raise UnavailableRefused(text, plugin=self.plugin.name)
        return found


class _ProjectCalls(DaemonCalls):
    """The calls of one process of several: what it offers is the plugin's, and of sessions it knows its project's."""

    def __init__(self, *rest: Any) -> None:
        *base, self._plugin_by_project = rest
        super().__init__(*base)
        self.process: _ProjectProcess

    @override
    async def _carry_out(self, call: PluginCall[Any]) -> Any:
        shared: PluginByProject = self._plugin_by_project
        if isinstance(call, Register):
            receipt = await shared.register(call)
            # One that another process has registered is recorded already.
            return receipt or Receipt(f"{self._plugin.name}:{call.make_spec().name}", 0, "recorded")
        if isinstance(call, Unregister):
            return await shared.unregister(self.process, call)
        return await super()._carry_out(self._within_project(call))

    def _within_project(self, call: PluginCall[Any]) -> PluginCall[Any]:
        """Hold a call to the sessions of the project. Raises NotFoundRefused for another project's."""
        own, named = self.process.sessions, call.session_id
        every = self._plugin_by_project.services.session_ids
        if named is not None and named not in own and named in every(self._plugin.name):
            raise NotFoundRefused(f"session {named!r:.80} is of another project", plugin=self._plugin.name)
        scope = SCOPE.get()
        if named is None and len(own) == 1 and (scope is None or scope.session_id is None):
            return evolve(call, session_id=next(iter(own)))
        return call


class ProjectLane:
    """The lane that the host sees: each session's events and hooks go on to the lane of its project's process."""

    def __init__(self, owner: PluginByProject) -> None:
        self.plugin = owner.plugin.name
        self._owner = owner
        self._is_open = False
        self.observers = Observers(types=frozenset())

    def _lanes(self) -> Iterator[RemoteLane]:
        yield from (each.remote.lane for each in self._owner.processes.values())

    def _of(self, session_id: str | None) -> RemoteLane | None:
        process = self._owner.of_session(session_id)
        return None if process is None else process.remote.lane

    @property
    def delivered(self) -> int:
        """How many events were delivered, by the processes there are."""
        return sum(lane.delivered for lane in self._lanes())

    @property
    def dropped(self) -> int:
        """How many events were lost."""
        return sum(lane.dropped for lane in self._lanes())

    def change_observers(self, observers: Observers) -> None:
        """Have every process receive these events from the next one on."""
        self.observers = observers
        for lane in self._lanes():
            lane.change_observers(observers)

    @property
    def is_open(self) -> bool:
        """Whether events and requests are taken."""
        return self._is_open

    @property
    def is_busy(self) -> bool:
        """Whether the watchdog has to look: never, as of any daemon's lane."""
        return False

    def check(self, now: float) -> None:
        """Do nothing: a process that hangs fails its health checks."""

    def start(self) -> None:
        """Accept sessions from now on."""
        self._is_open = True

    def attach(self, session_id: str, ring: Ring, after: int | None = None) -> None:
        """Carry a session's events from here on; its project's process is started."""
        self._owner.attach(session_id, ring, after)

    def detach(self, session_id: str) -> None:
        """Carry no more of a session's events."""
        self._owner.detach(session_id)

    def position(self, session_id: str) -> int | None:
        """Return the number of the last event of a session that was written, None when it is not attached."""
        lane = self._of(session_id)
        return None if lane is None else lane.position(session_id)

    def has_handled(self, session_id: str, number: int) -> bool:
        """Say whether the process has confirmed every event of a session up to this number."""
        lane = self._of(session_id)
        return lane is None or lane.has_handled(session_id, number)

    def recent_origin(self, session_id: str) -> tuple[str, ...]:
        """Return the longest chain of plugins that led to what was lately delivered in a session."""
        lane = self._of(session_id)
        return () if lane is None else lane.recent_origin(session_id)

    def is_at(self, scope: Scope) -> bool:
        """Say whether the scope is that of a pending request."""
        return any(lane.is_at(scope) for lane in self._lanes())

    def notify(self, session_id: str) -> bool:
        """Write what is due in a session that has emitted; return false, as any daemon's lane does."""
        lane = self._of(session_id)
        return lane is not None and lane.notify(session_id)

    def submit(
        self,
        hook: str,
        function: Callable[..., Any] | None,
        arguments: tuple[Any, ...] = (),
        *,
        is_async: bool = True,
        scope: Scope | None = None,
        session_id: str | None = None,
        deadline: float | None = None,
    ) -> asyncio.Future[Any]:
        """Send a hook to the process of a session; one that is starting is waited for, within the deadline.

        The future gets the answer, TimedOut, NotSent, or NotRunning where the process does not run.
        """
        process = self._owner.of_session(session_id)
        if process is not None and process.plugin.state not in _OUT:
            lane = process.remote.lane
            return lane.submit(hook, function, arguments, is_async=is_async, scope=scope, session_id=session_id,
                               deadline=deadline)  # fmt: skip
        request = FutureRequest(hook, function, arguments, is_async, scope or Scope(self.plugin, session_id), Answer())
        if function is None:
            request.settle()
        elif process is None:
            request.settle(error=NotRunning("there is no process for this session", plugin=self.plugin))
        else:
            where = f"for {process.project or 'no project'} it is {process.plugin.state}"
            request.settle(error=NotRunning(f"{where}: {process.plugin.reason}", plugin=self.plugin))
        return request.future

    def abandon(self) -> None:
        """Deliver nothing any more; what waits is answered."""
        self._is_open = False
        for lane in self._lanes():
            lane.abandon()

    async def close(self) -> None:
        """Close the lane; what is pending gets TimedOut. Never waits."""
        self.abandon()
