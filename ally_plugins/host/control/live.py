"""Carries out the requests of commands to a running host: its state, and changes that the operator has made.

The registry has the operator's configuration, `plugins.changes` changes plugins; here is decided which change a new
configuration calls for.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs
from attrs import define, field

from ally_plugins.catalog.home.failed_starts import remember_starts
from ally_plugins.catalog.home.folder import Home
from ally_plugins.catalog.registry import Registry
from ally_plugins.contract.values.errors import NotFoundRefused, UnavailableRefused
from ally_plugins.host.bus.services import HostServices
from ally_plugins.host.plugins.changes import PluginChanges
from ally_plugins.host.plugins.plugin_set import PluginMember, PluginSet
from ally_plugins.host.plugins.usage import PluginUsage
from ally_plugins.policy.permissions import GrantSet
from ally_plugins.runtime.lanes.plugin import RunState

from .offers import describe_offers
from .overrides import allow_call, pause_agent
from .tasks import cancel_task, describe_tasks
from .watched import watched_wire

if TYPE_CHECKING:
    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.runtime.lanes.plugin import Plugin

__all__ = ["LiveControls"]

_log: Final = logging.getLogger(__name__)

PATIENCE: Final = 0.5
"""Seconds after which a start or stop that takes longer is answered as under way: a command waits a second."""

_LONGEST_REASON: Final = 500
"""Characters of a reason in an answer; the journal has all of it."""

_OWN_TERMINAL: Final = "run the command in a terminal of your own"
_OUTSIDE: Final = "run the command in a terminal outside the agent"

_BY_CODE: Final = "the agent itself gives it this plugin, whatever config.toml says"


@define(eq=False)
class LiveControls:
    """What the control socket of one host may do; belongs to the host's loop.

    Made before the host reads its configuration, so that no later change is missed. Requests for changes wait until
    `begin`, and are refused from `close` on.
    """

    services: HostServices
    usage: PluginUsage
    registry: Registry | None
    home: Home | None
    """None for a host that keeps nothing on disk."""
    started_ms: int = field(init=False, factory=lambda: time.time_ns() // 1_000_000)
    """Of the machine's clock: that of a replay stands in another year."""
    _plugin_set: PluginSet | None = field(init=False, default=None)
    _changes: PluginChanges | None = field(init=False, default=None)
    _begun: asyncio.Event = field(init=False, factory=asyncio.Event)
    _reading: asyncio.Lock = field(init=False, factory=asyncio.Lock)
    _locks: dict[str, asyncio.Lock] = field(init=False, factory=dict)
    _starting: dict[str, asyncio.Task[None]] = field(init=False, factory=dict)
    _working: set[asyncio.Task[Any]] = field(init=False, factory=set)
    _is_closed: bool = field(init=False, default=False)

    def begin(self, plugin_set: PluginSet) -> None:
        """Carry changes out from here on: the plugins have been started."""
        self._plugin_set, self._changes = plugin_set, PluginChanges(plugin_set, self.services)
        self._begun.set()

    async def close(self) -> None:
        """Cancel starts and restarts that are under way, so that the plugins can be stopped.

        Takes as long as stopping one plugin at most. Cancelling leaves what is under way to the host's stop.
        """
        # First: what is cancelled below could else begin another change.
        self._is_closed = True
        for task in self._working:
            task.cancel()
        if self._working:
            await asyncio.wait(self._working)
        if self._changes is not None:
            await self._changes.close()

    # --- the requests ---

    def refuse(self, method: str, processes: Sequence[int], agent: str = "") -> str:
        """Record that a plugin's process, or that of an agent, asked for a change, and return why it is refused."""
        members = self._plugin_set.members.values() if self._plugin_set is not None and not agent else ()
        plugin = next((each.plugin.name for each in members if not _pids(each.plugin).isdisjoint(processes)), None)
        if agent:
            who = f"{agent} (process {processes[0]}), which ally-plugins guards"
            text = f"{method} was asked for by {who}, and an agent loosens nothing here; {_OUTSIDE}"
        elif processes:
            who = f"the plugin {plugin!r}" if plugin is not None else f"the process {processes[0]} of a plugin"
            text = f"{method} was asked for by {who}, and plugins change nothing here; {_OWN_TERMINAL}"
        else:
            text = f"{method} was asked for by a process that has ended, or hides; {_OWN_TERMINAL}"
        _log.warning("refused through the control socket: %s", text)
        data = {"call": f"control:{method}", "reason": "permission", "permission": None, "text": text}
        if agent:
            data["agent"] = agent
        # Folded, since it may be asked for a thousand times in a second.
        self.services.records.write_soon("refusal", plugin, None, None, data, fold=("control", method, plugin, agent))
        return text

    def describe(self) -> dict[str, Any]:
        """Return who the host is and the state of its plugins; times are Unix ms."""
        plugins = self._plugin_set.members.values() if self._plugin_set is not None else ()
        return {
            "app": self.services.app,
            "pid": os.getpid(),
            "started": self.started_ms,
            "python": platform.python_version(),
            "is_starting": not self._begun.is_set(),
            "sessions": len(self.services.sessions),
            "plugins": [self._described(member) for member in plugins],
        }

    async def costs(self) -> dict[str, Any]:
        """Record what the plugins have cost, and return it, once that record is on disk; times are in seconds.

        Raises JournalError when it cannot be written. Cancelling stops the waiting.
        """
        self.usage.record()
        await self.services.records.opened().flush()
        return {"app": self.services.app, "pid": os.getpid(), "started": self.started_ms,
                "plugins": self.usage.describe()}  # fmt: skip

    async def apply(self, plugin: str) -> dict[str, Any]:
        """Read the operator's configuration of a plugin again, put it in force, and return what was done.

        Grants and modes are in force when this returns. A start or stop that takes longer than `PATIENCE` goes on, as
        it does when this is cancelled.
        """
        return await self._answer_in_time(plugin, lambda: self._apply(plugin))

    async def restart(self, plugin: str) -> dict[str, Any]:
        """Stop a plugin and start a new instance of it, with the configuration of now; wait for it.

        Raises NotFoundRefused when this host does not have it, UnavailableRefused when it may not be started.
        Cancelling leaves it stopped or cancels its start; its granted gates deny.
        """
        return await self._locked(plugin, lambda: self._restart(plugin))

    async def place(self, plugin: str) -> dict[str, Any]:
        """Have a plugin run where, and with which Python, the operator's configuration says now; wait for it.

        One that runs is replaced as by `restart`. Raises UnavailableRefused when it cannot run there, and goes on where
        it was. Cancelling is as in `restart`.
        """
        await self._begun.wait()
        record, member = await self._load_record(plugin), self._member(plugin)
        is_wanted = record is not None and record.config.enabled
        if not is_wanted or member is None or member.is_given or not member.record.is_enabled:
            return await self.apply(plugin)
        return await self._locked(plugin, lambda: self._move(plugin))

    async def replace(self, record: PluginRecord, reason: str) -> None:
        """Have a new instance take the place of a plugin that was given by code, with this record; wait for it.

        Raises UnavailableRefused when it is not fit for that, and the old one goes on. Cancelling is as in `restart`.
        """
        name = record.name

        async def renew() -> dict[str, Any]:
            await self._start(name, lambda: self._open_changes.restart(name, record, reason))
            return self._answer(name, "restarted")

        answer = await self._locked(name, renew)
        if answer["state"] != RunState.RUNNING.value:
            raise UnavailableRefused(f"{name!r} is {answer['state']}: {answer['reason']}", plugin=name)

    async def release(self, plugin: str) -> dict[str, Any]:
        """Start a plugin again that is in quarantine here; cancelling stops the waiting."""
        return await self._answer_in_time(plugin, lambda: self._locked(plugin, lambda: self._release(plugin)))

    def offers(self, plugin: str) -> dict[str, Any]:
        """Return the tools and actions that a plugin offers now."""
        return describe_offers([*self.services.tools, *self.services.actions], plugin)

    def wire(self, plugin: str, after: int) -> dict[str, Any]:
        """Return the lines between this host and a plugin's process; see `runtime.lanes.wire_tap`.

        Raises NotFoundRefused when this host does not have it, UnavailableRefused where there is nothing to show.
        """
        return watched_wire(self._member(plugin), plugin, after, self.services.records.opened())

    def tasks(self) -> dict[str, Any]:
        """Return the background tasks that run, and those that ended last; times are Unix ms."""
        return describe_tasks(self.services.tasks)

    async def cancel_task(self, task_id: str) -> dict[str, Any]:
        """Cancel a background task and return its state; see `tasks.cancel_task`. Raises NotFoundRefused."""
        return await cancel_task(self.services.tasks, task_id)

    async def allow(self, decision: str) -> dict[str, Any]:
        """Let a denied call of a coding agent run once; see `overrides.allow_call`."""
        return await allow_call(self.services, decision)

    async def pause(self, agent: str, seconds: float) -> dict[str, Any]:
        """Have an agent's gates decide nothing for so long; see `overrides.pause_agent`."""
        return await pause_agent(self.services, agent, seconds)

    # --- which change is called for ---

    async def _apply(self, name: str) -> dict[str, Any]:
        await self._begun.wait()
        async with self._reading:  # else an older configuration could be put in force after a newer one
            record, member = await self._load_record(name), self._member(name)
            if member is not None and member.is_given:
                return self._answer(name, "nothing", _BY_CODE, is_in_effect=False)
            is_wanted = record is not None and record.config.enabled
            if record is not None and member is not None and is_wanted and member.record.is_enabled:
                await self._open_changes.apply(record if record.is_enabled else _narrowed(record, member))
                is_settled = not self._open_changes.is_boxed_otherwise(name)
                if is_settled and not self._open_changes.lacks_required_hook(name):
                    return self._answer(name, "changed", **_not_taken_up(record, member.record))
        # No longer under `_reading`: a start may take as long as its deadline, and other plugins' changes go on.
        if is_wanted and self._open_changes.is_boxed_otherwise(name):
            return await self._locked(name, lambda: self._box_anew(name))
        if is_wanted and self._open_changes.lacks_required_hook(name):
            return await self._locked(name, lambda: self._start_anew(name))
        if is_wanted:
            return await self._locked(name, lambda: self._enable(name))
        return await self._disable(name)

    async def _box_anew(self, name: str) -> dict[str, Any]:
        """Start a plugin again whose sandbox was made for other grants; a new one is made for those of now."""
        if self._open_changes.is_boxed_otherwise(name):
            await self._start(name, lambda: self._open_changes.box_anew(name))
        return self._answer(name, "changed")

    async def _start_anew(self, name: str) -> dict[str, Any]:
        """Start a plugin again that lacks the hook of a gate or transform that it was just granted, which denies now.

        That fails for the reason that it would have at the host's next start, unless its code has the hook by now.
        """
        if self._open_changes.lacks_required_hook(name):
            await self._start(
                name, lambda: self._open_changes.restart(name, None, "it was granted a hook that it lacks")
            )
        return self._answer(name, "changed")

    async def _disable(self, name: str) -> dict[str, Any]:
        if (starting := self._starting.get(name)) is not None:
            # It has the plugin's lock, for as long as the start takes.
            starting.cancel()
        return await self._locked(name, lambda: self._stop(name))

    async def _stop(self, name: str) -> dict[str, Any]:
        # Read anew under the lock: what was asked for may have been taken back while this waited.
        record, member = await self._load_record(name), self._member(name)
        is_wanted = record is not None and record.config.enabled
        if is_wanted or member is None or member.plugin.state == RunState.STOPPED:
            return self._answer(name, "nothing")  # it is as it should be; or another request came after this one
        await self._open_changes.stop_one(name, f"disabled by the operator; to enable it: ally-plugins enable {name}")
        return self._answer(name, "stopped")

    async def _enable(self, name: str) -> dict[str, Any]:
        record, member = await self._load_record(name), self._member(name)
        if record is None or not record.config.enabled or (member is not None and member.record.is_enabled):
            return self._answer(name, "nothing")
        if record.is_enabled:
            await self._start(name, lambda: self._open_changes.start_one(record))
            return self._answer(name, "started")
        if not record.is_missed:  # left out by ALLY_PLUGINS
            return self._answer(name, "nothing", record.reason, is_in_effect=False)
        self._open_changes.add_waiting(record)
        return self._answer(name, "changed")

    async def _restart(self, name: str) -> dict[str, Any]:
        member = self._member(name)
        if member is None:
            raise NotFoundRefused(f"this host has no plugin {name!r}")
        return await self._renew(member, "restarted by the operator", "restarted")

    async def _move(self, name: str) -> dict[str, Any]:
        record, member = await self._load_record(name), self._member(name)
        if record is None or member is None:
            return self._answer(name, "nothing")
        running = member.record
        if record.is_enabled and _place_of(record) == _place_of(running):
            return self._answer(name, "nothing")
        return await self._renew(member, f"moved by the operator: {record.placement}", "moved")

    async def _release(self, name: str) -> dict[str, Any]:
        member = self._member(name)
        if member is None or member.plugin.state != RunState.QUARANTINED:
            return self._answer(name, "nothing")
        return await self._renew(member, "released by the operator", "started")

    async def _renew(self, member: PluginMember, reason: str, did: str) -> dict[str, Any]:
        name, record = member.plugin.name, await self._startable_record(member)
        try:
            await self._start(name, lambda: self._open_changes.restart(name, record, reason))
        except UnavailableRefused as refusal:
            if not member.is_given:
                # The plugin goes on as it was, so that its state does not show the failure; `doctor` does.
                await self._remember([(name, record.version, str(refusal))])
            raise
        return self._answer(name, did)

    async def _startable_record(self, member: PluginMember) -> PluginRecord:
        """Return the record to start a plugin with. Raises UnavailableRefused when it may not be started."""
        if member.is_given:
            return member.record
        name = member.plugin.name
        record = await self._load_record(name)
        if record is None or not record.is_enabled:
            why = f"{record.state}: {record.reason}" if record is not None else "not installed any more"
            raise UnavailableRefused(f"{name!r} cannot be started, since it is {why}", plugin=name)
        return record

    # --- how it is carried out ---

    @property
    def _open_changes(self) -> PluginChanges:
        if self._changes is None or self._is_closed:
            raise UnavailableRefused("the host does not run")
        return self._changes

    def _member(self, name: str) -> PluginMember | None:
        return self._plugin_set.members.get(name) if self._plugin_set is not None else None

    async def _load_record(self, name: str) -> PluginRecord | None:
        """Read a plugin's record from the home, in a thread, since it reads files.

        None when there is no such plugin.
        """
        registry = self.registry
        if registry is None:
            return None
        return await asyncio.get_running_loop().run_in_executor(None, registry.load_one, name)

    async def _start(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Start a plugin, until somebody disables it or the host stops."""

        async def start() -> None:
            await work()

        self._starting[name] = task = asyncio.get_running_loop().create_task(start(), name=f"ally-start-{name}")
        self._track(task)
        try:
            await asyncio.wait([task])
        finally:
            del self._starting[name]
            task.cancel()
        if not task.cancelled():
            task.result()
            if self._plugin_set is not None:
                await self._remember(list(self._plugin_set.start_results()))

    async def _remember(self, starts: list[tuple[str, str, str]]) -> None:
        """Write how starts went to the home, for `list` and `doctor`, as the host does at its own start."""
        home = self.home
        if home is not None:
            await asyncio.get_running_loop().run_in_executor(None, remember_starts, home, starts)

    def _track(self, task: asyncio.Task[Any]) -> None:
        self._working.add(task)
        task.add_done_callback(self._ended)

    async def _locked(self, name: str, work: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        """Do the work once plugins were started, and no other change of this plugin runs."""
        await self._begun.wait()
        async with self._locks.setdefault(name, asyncio.Lock()):
            return await work()

    async def _answer_in_time(self, name: str, work: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        """Wait `PATIENCE` for a change; one that takes longer goes on, and the answer is `pending`."""

        async def carry_out() -> dict[str, Any]:
            return await work()

        task = asyncio.get_running_loop().create_task(carry_out(), name=f"ally-change-{name}")
        self._track(task)
        done, _ = await asyncio.wait([task], timeout=PATIENCE)
        if done and not task.cancelled():
            return task.result()
        return self._answer(name, "pending")

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._working.discard(task)
        if not task.cancelled():
            task.exception()  # its answer had it, if one was waited for; else asyncio would log it

    # --- answers ---

    def _answer(
        self, name: str, did: str, reason: str = "", *, is_in_effect: bool = True, **more: Any
    ) -> dict[str, Any]:
        member = self._member(name)
        about = {"state": "", "reason": ""} if member is None else self._described(member)
        answer = {"plugin": name, "did": did, "in_effect": is_in_effect and did != "pending"}
        return {**answer, "state": about["state"], "reason": reason or about["reason"], **more}

    def _unix_ms(self, steady: float) -> int:
        clock = self.services.clock
        return clock.time_ms() - round((clock.steady() - steady) * 1000)

    def _described(self, member: PluginMember) -> dict[str, Any]:
        plugin, lane = member.plugin, member.plugin.lane
        return {
            "name": plugin.name,
            "placement": member.record.placement,
            "state": plugin.state.value,
            "reason": plugin.reason[:_LONGEST_REASON],
            "since": self._unix_ms(plugin.changed_at),
            "delivered": lane.delivered if lane is not None else 0,
            "dropped": lane.dropped if lane is not None else 0,
            "crashes": plugin.counts.crashes,
            "by_code": member.is_given,
            **_process(plugin),
        }


def _process(plugin: Plugin) -> dict[str, Any]:
    """Return the process id and restarts of a plugin in a process of its own; of each process, where it has several."""
    return {} if plugin.supervisor is None else dict(plugin.supervisor.describe())


def _pids(plugin: Plugin) -> set[Any]:
    """Return the process ids of all processes of a plugin."""
    about = _process(plugin)
    return {about.get("pid"), *(each["pid"] for each in about.get("projects", ()))} - {None}


def _not_taken_up(record: PluginRecord, running: PluginRecord) -> dict[str, Any]:
    """Return what of an operator's configuration a plugin that runs has not taken up, as part of an answer."""
    if not record.is_enabled:
        return {}
    parts = {
        "placement": _place_of(record) != _place_of(running),
        "settings": record.settings != running.settings,
        "code": _code(record) != _code(running),
    }
    found = [name for name, is_other in parts.items() if is_other]
    if not found:
        return {}
    return {"not_taken_up": found, "needs_new_host": "code" in found and running.placement == "inline"}


def _place_of(record: PluginRecord) -> tuple[Any, ...]:
    return record.placement, record.daemon, record.python


def _code(record: PluginRecord) -> tuple[str, str]:
    agreement = record.agreement
    return (agreement.version, agreement.files) if agreement is not None else ("", "")


def _narrowed(record: PluginRecord, member: PluginMember) -> PluginRecord:
    """Return the record of a plugin that runs on though it could not be started now: an update requests more.

    The code that runs is what was agreed to; of its grants it keeps those that are still configured.
    """
    agreed = member.record.agreement
    granted = record.config.grants.intersection(member.record.requested)
    return attrs.evolve(record, granted=granted.intersection(agreed.grants if agreed is not None else GrantSet()))
