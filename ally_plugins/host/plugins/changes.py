"""Changes to the plugins of a host that runs: other grants, one plugin more or less, one started anew.

Each keeps the rule that a granted gate denies while its plugin does not run, but for a plugin that the operator has
disabled. Whether a change is called for is decided in `control.live`, and who may call for one by the socket.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

import attrs
from attrs import define, field

from ally_plugins.contract.tools.declared import collect_actions, collect_tools
from ally_plugins.contract.values.errors import NotFoundRefused, OrderError
from ally_plugins.host.bus.services import HostServices
from ally_plugins.runtime.lanes.lane import Lane
from ally_plugins.runtime.lanes.observers import Observers
from ally_plugins.runtime.lanes.plugin import Plugin, PluginOptions, RunState

from .members import Crew, Member

if TYPE_CHECKING:
    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.host.daemons.member import Remote
    from ally_plugins.policy.permissions import GrantSet
    from ally_plugins.runtime.lanes.protocol import AnyLane

__all__ = ["CrewChanges"]

_log: Final = logging.getLogger(__name__)


@define(eq=False)
class CrewChanges:
    """Changes the crew of one running host; belongs to the host's loop, and ends before the crew is stopped.

    One change of a plugin at a time: the caller sees to that.
    """

    crew: Crew
    services: HostServices
    _retiring: set[asyncio.Task[None]] = field(init=False, factory=set)

    async def close(self) -> None:
        """Wait for plugins that are being stopped: at most their deadline for `ally_stop` and a second."""
        if self._retiring:
            await asyncio.wait(self._retiring)

    async def apply(self, record: PluginRecord) -> None:
        """Use the record's grants, limits, deadlines and modes from the next call and event on.

        The code that runs and its settings stay; a hook that runs now runs on. Raises OrderError; nothing is changed
        then.
        """
        member = self._member(record.name)
        plugin = member.plugin
        before, settled = plugin.options, member.record
        member.settle(record)
        try:
            self.crew.replan()
        except OrderError:
            member.record, plugin.options = settled, before
            raise
        if plugin.options.limits != before.limits:
            plugin.budget.change_limits(plugin.options.limits)
        if plugin.grants != before.grants:
            self._observe(member)
            self._withdraw(plugin)
        if plugin.options != before:
            _announce(plugin, _difference(before, plugin.options))
        if plugin.is_running:
            await self._offer_again(member, before.grants)

    def lacks_a_hook(self, name: str) -> bool:
        """Say whether a plugin that runs was granted a gate or transform that its code lacks: that gate denies."""
        member = self.crew.members.get(name)
        plugin = member.plugin if member is not None else None
        return plugin is not None and plugin.is_running and any(map(plugin.lacks, plugin.options.required))

    async def start_one(self, record: PluginRecord) -> None:
        """Take on an installed plugin and start it; all open sessions are its sessions too.

        One that fails is marked with the reason, as at the start of the host, and its granted gates deny. Cancelling
        leaves it for `stop_one` or the end of the host. Raises OrderError; nothing is changed then.
        """
        self._place(record)
        await self._start(self._member(record.name))

    def let_wait(self, record: PluginRecord) -> None:
        """Take on a plugin that is wanted and may not be started: its granted gates deny. Raises OrderError."""
        self._place(record)
        plugin = self.crew.members[record.name].plugin
        plugin.on_state(plugin)

    async def stop_one(self, name: str, reason: str) -> None:
        """Stop a plugin, and ask its gates no more: `ally_stop` within its deadline, then its lane.

        It hears nothing from here on, and its tools are gone; what was asked of it before is answered. Cancelling does
        not take it back. Raises NotFoundRefused.
        """
        member = self._member(name)
        plugin = member.plugin
        self._put_aside(member, reason)
        if plugin.lane is not None:
            _change_observers(plugin.lane, Observers())
        self._take_back(name)
        await self._retire(plugin, reason)

    async def restart(self, name: str, record: PluginRecord | None = None, reason: str = "restarted") -> None:
        """Stop a plugin and start a new instance of it, with `record` or as before; its gates deny in between.

        Events in between are not heard. Raises OrderError and NotFoundRefused; nothing is changed then.
        """
        member = self._member(name)
        self._place(record or member.record, member)
        await self._retire(member.plugin, reason)
        await self._start(self._member(name))

    def _member(self, name: str) -> Member:
        member = self.crew.members.get(name)
        if member is None:
            raise NotFoundRefused(f"this host has no plugin {name!r}")
        return member

    # --- the parts of a change ---

    def _place(self, record: PluginRecord, like: Member | None = None) -> None:
        """Put a plugin in its place, not running yet: from here on its granted gates deny."""
        members, old = self.crew.members, self.crew.members.get(record.name)
        self._add(record, like)
        try:
            self.crew.replan()
        except OrderError:
            if old is None:
                del members[record.name]
            else:
                members[record.name] = old
            raise

    def _put_aside(self, member: Member, reason: str) -> None:
        """Let a plugin that nobody asks take the place of one that is to stop."""
        record = attrs.evolve(member.record, state="disabled", reason=reason)
        self._add(record, member)
        stand_in = self.crew.members[record.name].plugin
        stand_in.is_disabled = True
        stand_in.state, stand_in.reason = RunState.STOPPED, reason  # said when the one before it has stopped
        self.crew.replan()

    def _add(self, record: PluginRecord, like: Member | None) -> None:
        factory, is_given = (like.factory, like.is_given) if like is not None else (None, False)
        self.crew.add(record, factory, is_given=is_given)

    async def _retire(self, plugin: Plugin, reason: str) -> None:
        """Stop a plugin whose place another one has taken; whoever is cancelled here lets it end on its own."""
        task = asyncio.get_running_loop().create_task(self._stop(plugin, reason), name=f"ally-stop-{plugin.name}")
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
        await asyncio.shield(task)

    async def _stop(self, plugin: Plugin, reason: str) -> None:
        await self.crew.end(plugin, reason, answers_first=True)
        plugin.set_state(RunState.STOPPED, reason)

    async def _start(self, member: Member) -> None:
        await self.crew.start(self.services.sessions.values(), [member])

    def _observe(self, member: Member) -> None:
        """Let the plugin hear what it is granted now."""
        plugin = member.plugin
        if member.remote is not None:
            member.remote.observe()
        elif plugin.lane is not None:
            _change_observers(plugin.lane, self.crew.observers_of(member))

    def _withdraw(self, plugin: Plugin) -> None:
        """End what was offered or begun under grants that are gone."""
        grants, name = plugin.grants, plugin.name
        if not grants.may("tools"):
            self.services.tools.remove(name)
        if not grants.may("actions"):
            self.services.actions.remove(name)
        if not grants.may("tasks"):
            self.services.tasks.cancel_all("its plugin may start no tasks any more", name)

    def _take_back(self, name: str) -> None:
        """Take back all tools and actions of a plugin."""
        self.services.tools.remove(name)
        self.services.actions.remove(name)

    async def _offer_again(self, member: Member, before: GrantSet) -> None:
        """Take on what is offered from the start and was not granted until now; what was offered later is gone."""
        plugin = member.plugin
        new = [kind for kind in _OFFERED if plugin.grants.may(f"{kind}s") and not before.may(f"{kind}s")]
        if member.remote is not None:
            if new:
                await self._take_again(plugin, member.remote)
            return
        for kind in new:
            for spec in _OFFERED[kind](plugin.instance):
                await self.crew.offer(plugin, spec)

    async def _take_again(self, plugin: Plugin, remote: Remote) -> None:
        """Take on all that a daemon offered when it was greeted."""
        hello = getattr(remote.lane.link, "hello", None)
        if hello is not None:
            self._take_back(plugin.name)
            remote.offers.forget()
            await remote.offers.take(hello)


_OFFERED: Final = {"tool": collect_tools, "action": collect_actions}


def _change_observers(lane: AnyLane, observers: Observers) -> None:
    if isinstance(lane, Lane):  # it may be in the middle of a batch
        lane.change_observers(observers)
    else:
        lane.observers = observers


def _difference(before: PluginOptions, after: PluginOptions) -> str:
    """Return in words what has changed, grants by name."""
    old, new = set(before.grants.texts()), set(after.grants.texts())
    words = [f"+{text}" for text in sorted(new - old)] + [f"-{text}" for text in sorted(old - new)]
    words += [
        each.name.replace("_", " ")
        for each in attrs.fields(PluginOptions)
        if each.name not in {"grants", "required"} and getattr(before, each.name) != getattr(after, each.name)
    ]
    return f"the operator has changed: {', '.join(words)}"


def _announce(plugin: Plugin, what: str) -> None:
    """Record and emit a change that is none of the state; the plugin's own reason stays."""
    state, reason = plugin.state, plugin.reason
    plugin.set_state(state, what)
    if plugin.state == state:
        plugin.reason = reason
