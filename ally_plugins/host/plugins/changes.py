"""Changes to the plugins of a host that runs: other grants, one plugin more or less, one started anew.

Each keeps the rule that a granted gate denies while its plugin does not run, but for a plugin that the operator has
disabled. Whether a change is called for is decided in `control.live`, and who may call for one by the socket.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import attrs
from attrs import define, field

from ally_plugins.contract.calls import Register
from ally_plugins.contract.grants import BESIDE_THE_HOST
from ally_plugins.contract.tools.declared import collect_actions, collect_tools
from ally_plugins.contract.values.errors import NotFoundRefused, OrderError, UnavailableRefused
from ally_plugins.host.bus.services import HostServices
from ally_plugins.runtime.lanes.observers import Observers
from ally_plugins.runtime.lanes.plugin import Plugin, PluginOptions, RunState

from .plugin_set import PluginMember, PluginSet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.host.daemons.by_project import PluginByProject
    from ally_plugins.host.daemons.remote_plugin import RemotePlugin
    from ally_plugins.policy.permissions import Grant, GrantSet

__all__ = ["PluginChanges"]


@define(eq=False)
class PluginChanges:
    """Changes the plugins of one running host; belongs to the host's loop, and is closed before they are stopped.

    Changes of one plugin must not overlap: the caller holds a lock for each plugin.
    """

    plugin_set: PluginSet
    services: HostServices
    _retiring: set[asyncio.Task[None]] = field(init=False, factory=set)
    _boxed_otherwise: set[str] = field(init=False, factory=set)

    async def close(self) -> None:
        """Wait for plugins that are being stopped: at most their deadline for `ally_stop` and a second.

        Cancelling stops the waiting; the plugins end all the same.
        """
        if self._retiring:
            await asyncio.wait(self._retiring)

    async def apply(self, record: PluginRecord) -> None:
        """Use the record's grants, limits, deadlines and modes from the next call and event on.

        The code that runs and its settings stay; a hook that runs now runs on. Raises NotFoundRefused for an unknown
        plugin and OrderError for a cycle in the order of hooks; nothing is changed then. Cancelling leaves the change
        in force, and what was newly granted may not be registered.
        """
        member = self._member(record.name)
        plugin = member.plugin
        before, settled = plugin.options, member.record
        # Before the order is computed, which depends on grants and on what is mandatory.
        member.settle(record)
        try:
            self.plugin_set.replan()
        except OrderError:
            member.record, plugin.options = settled, before
            raise
        # Only where they differ: the rates start full again with new ones.
        if plugin.options.limits != before.limits:
            plugin.budget.change_limits(plugin.options.limits)
        if plugin.grants != before.grants:
            self._observe(member)
            self._withdraw_revoked(plugin)
            if member.record.placement == "sandbox" and _beside(plugin.grants) != _beside(before.grants):
                self._boxed_otherwise.add(record.name)
        if plugin.options != before:
            _announce(plugin, _difference(before, plugin.options))
        if plugin.is_running:
            await self._register_newly_granted(member, before.grants)

    def lacks_required_hook(self, name: str) -> bool:
        """Say whether a plugin that runs was granted a gate or transform that its code lacks: that gate denies."""
        member = self.plugin_set.members.get(name)
        plugin = member.plugin if member is not None else None
        return plugin is not None and plugin.is_running and any(map(plugin.lacks, plugin.options.required))

    def is_boxed_otherwise(self, name: str) -> bool:
        """Say whether a plugin runs in a sandbox that was made for other grants: none can be changed."""
        return name in self._boxed_otherwise

    async def box_anew(self, name: str) -> None:
        """Stop a plugin in a sandbox, and start it in one that is made for its grants of now; its gates deny between.

        The old process ends first: it may have what was just revoked. Cancelling leaves the plugin stopped. Raises
        NotFoundRefused, and OrderError; nothing is changed then.
        """
        member = self._member(name)
        self._place(member.record, member)
        self._boxed_otherwise.discard(name)
        await self._retire(member.plugin, "what it may do beside the host has changed")
        await self._start(self._member(name))

    async def start_one(self, record: PluginRecord) -> None:
        """Add an installed plugin and start it; it gets the events of all open sessions.

        One that fails is marked with the reason, as at the start of the host, and its granted gates deny. Cancelling
        leaves it for `stop_one` or the end of the host. Raises OrderError; nothing is changed then.
        """
        self._place(record)
        await self._start(self._member(record.name))

    def add_waiting(self, record: PluginRecord) -> None:
        """Add a plugin that is enabled and may not be started yet: its granted gates deny. Raises OrderError."""
        self._place(record)
        plugin = self.plugin_set.members[record.name].plugin
        plugin.on_state(plugin)

    async def stop_one(self, name: str, reason: str) -> None:
        """Stop a plugin, and ask its gates no more: `ally_stop` within its deadline, then its lane.

        It receives no event from here on and its tools are gone; gates and calls that are pending are answered.
        Cancelling stops the waiting, not the stop. Raises NotFoundRefused.
        """
        member = self._member(name)
        plugin = member.plugin
        # First: no gate of it is asked from here on, so that none denies while it stops.
        self._replace_with_stand_in(member, reason)
        if plugin.lane is not None:
            # Already now: its lane goes on until pending gates are answered, and is to carry no event meanwhile.
            plugin.lane.change_observers(Observers())
        self._remove_contributions(name)
        await self._retire(plugin, reason)

    async def restart(self, name: str, record: PluginRecord | None = None, reason: str = "restarted") -> None:
        """Stop a plugin and start a new instance of it, with `record` or as before; its gates deny in between.

        An old one that runs goes on until the new one is known to be fit: its code was imported, its class built and
        its hooks checked; in a process of its own, too. Raises UnavailableRefused when it is not, OrderError and
        NotFoundRefused; nothing is changed then. Where both cannot be there at once (a daemon that listens on a socket,
        a plugin of another system) the old one is stopped first.

        In a process the new one goes on behind the last event that the old one was sent, so that it misses none and
        none comes twice; elsewhere the plugin does not receive the events in between. Cancelling while the old one
        stops leaves the plugin stopped, and its gates deny; before that, the old one goes on.
        """
        member = self._member(name)
        record = record or member.record
        # One that denies for want of a hook is not worth keeping until the new one is fit.
        if member.plugin.is_running and _may_run_beside(record) and not self.lacks_required_hook(name):
            await self._replace(member, record, reason)
        else:
            self._place(record, member)
            await self._retire(member.plugin, reason)
            await self._start(self._member(name))

    def _member(self, name: str) -> PluginMember:
        member = self.plugin_set.members.get(name)
        if member is None:
            raise NotFoundRefused(f"this host has no plugin {name!r}")
        return member

    # --- the parts of a change ---

    def _place(self, record: PluginRecord, like: PluginMember | None = None) -> None:
        """Add a plugin, or replace one of its name, not running yet: from here on its granted gates deny."""
        members, old = self.plugin_set.members, self.plugin_set.members.get(record.name)
        self._add(record, like)
        try:
            self.plugin_set.replan()
        except OrderError:
            if old is None:
                del members[record.name]
            else:
                members[record.name] = old
            raise

    async def _replace(self, old: PluginMember, record: PluginRecord, reason: str) -> None:
        """Have a new instance take the place of one that runs, when it is fit for that."""
        plugin_set, name = self.plugin_set, record.name
        new = plugin_set.make(record, old.factory, is_given=old.is_given)
        self._put(new)  # raises OrderError for what it is to come before and after
        self._put(old)

        async def take_over() -> Mapping[str, int]:
            handled = await old.remote.lane.hand_over() if isinstance(old.remote, _remote_plugin()) else {}
            self._put(new)
            await self._retire(old.plugin, reason)
            return handled

        # The name is the old one's: states of a new one that turns out not to be fit are nobody's business.
        announce, new.plugin.on_state = new.plugin.on_state, lambda _: None
        try:
            await plugin_set.load(new)
        finally:
            new.plugin.on_state = announce
        sessions = self.services.sessions.values()
        if new.remote is not None:
            await plugin_set.start_in_place(new, sessions, take_over)
        elif new.plugin.state == RunState.LOADED:
            await take_over()
            await plugin_set.start_loaded(sessions, [new])
        if plugin_set.members.get(name) is old:
            text = f"{name!r} goes on as it was, since a new one could not take its place: {new.plugin.reason}"
            raise UnavailableRefused(text, plugin=name)

    def _put(self, member: PluginMember) -> None:
        """Put a plugin into the place of another one of its name. Raises OrderError; nothing is changed then."""
        members = self.plugin_set.members
        before, members[member.plugin.name] = members[member.plugin.name], member
        try:
            self.plugin_set.replan()
        except OrderError:
            members[member.plugin.name] = before
            raise

    def _replace_with_stand_in(self, member: PluginMember, reason: str) -> None:
        """Replace a plugin that is to stop by one that takes no part in anything."""
        record = attrs.evolve(member.record, state="disabled", reason=reason)
        self._add(record, member)
        stand_in = self.plugin_set.members[record.name].plugin
        stand_in.is_disabled = True
        stand_in.state, stand_in.reason = RunState.STOPPED, reason  # announced by `_stop`, when the old one has ended
        self.plugin_set.replan()

    def _add(self, record: PluginRecord, like: PluginMember | None) -> None:
        factory, is_given = (like.factory, like.is_given) if like is not None else (None, False)
        self.plugin_set.add(record, factory, is_given=is_given)

    async def _retire(self, plugin: Plugin, reason: str) -> None:
        """Stop a plugin that was replaced; cancelling stops the waiting only."""
        task = asyncio.get_running_loop().create_task(self._stop(plugin, reason), name=f"ally-stop-{plugin.name}")
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
        await asyncio.shield(task)

    async def _stop(self, plugin: Plugin, reason: str) -> None:
        await self.plugin_set.end(plugin, reason, drain_first=True)
        plugin.set_state(RunState.STOPPED, reason)

    async def _start(self, member: PluginMember) -> None:
        await self.plugin_set.start(self.services.sessions.values(), [member])

    def _observe(self, member: PluginMember) -> None:
        """Deliver the events that the plugin is granted now, from the next one on."""
        plugin = member.plugin
        if member.remote is not None:
            member.remote.update_observers()
        elif plugin.lane is not None:
            plugin.lane.change_observers(self.plugin_set.observers_of(member))

    def _withdraw_revoked(self, plugin: Plugin) -> None:
        """Remove tools and actions, and cancel tasks, whose grants were revoked."""
        grants, name = plugin.grants, plugin.name
        if not grants.may("tools"):
            self.services.tools.remove(name)
        if not grants.may("actions"):
            self.services.actions.remove(name)
        if not grants.may("tasks"):
            self.services.tasks.cancel_all("its plugin may start no tasks any more", name)

    def _remove_contributions(self, name: str) -> None:
        """Remove all tools and actions of a plugin."""
        self.services.tools.remove(name)
        self.services.actions.remove(name)

    async def _register_newly_granted(self, member: PluginMember, before: GrantSet) -> None:
        """Register what decorators or `initialize` offered and was not granted until now.

        What was offered and refused later, at run time, is for the plugin to offer again.
        """
        plugin = member.plugin
        new = [kind for kind in _OFFERED if plugin.grants.may(f"{kind}s") and not before.may(f"{kind}s")]
        if member.remote is not None:
            if new:
                await self._register_daemon_offers(plugin, member.remote)
            return
        for kind in new:
            for spec in _OFFERED[kind](plugin.instance):
                await self.plugin_set.bus.offer(plugin, Register.of(spec))

    async def _register_daemon_offers(self, plugin: Plugin, remote: RemotePlugin | PluginByProject) -> None:
        """Register all that a daemon offered in its answer to `initialize`."""
        answers = [(each, getattr(each.lane.link, "initialize_result", None)) for each in remote.parts]
        answered = [(each, result) for each, result in answers if result is not None]
        if answered:
            self._remove_contributions(plugin.name)
            remote.forget_offers()
        for each, result in answered:
            await each.offers.accept(result)


def _remote_plugin() -> type[RemotePlugin]:
    from ally_plugins.host.daemons.remote_plugin import RemotePlugin  # with the wire, only where there are daemons

    return RemotePlugin


def _may_run_beside(record: PluginRecord) -> bool:
    """Say whether a second instance of a plugin may run for a moment beside the first."""
    is_one = record.bridge is None and not record.runs_by_project
    return is_one and (record.daemon is None or record.daemon.transport == "stdio")


def _beside(grants: GrantSet) -> set[Grant]:
    """Return what a plugin may do beside the host, which its sandbox was made for."""
    return {grant for grant in grants.grants if grant.kind in BESIDE_THE_HOST}


_OFFERED: Final = {"tool": collect_tools, "action": collect_actions}


def _difference(before: PluginOptions, after: PluginOptions) -> str:
    """Return a sentence about what has changed, grants by name."""
    old, new = set(before.grants.texts()), set(after.grants.texts())
    changes = [f"+{text}" for text in sorted(new - old)] + [f"-{text}" for text in sorted(old - new)]
    changes += [
        each.name.replace("_", " ")
        for each in attrs.fields(PluginOptions)
        if each.name not in {"grants", "required"} and getattr(before, each.name) != getattr(after, each.name)
    ]
    return f"the operator has changed: {', '.join(changes)}"


def _announce(plugin: Plugin, what: str) -> None:
    """Record and emit a change of configuration as a PLUGIN_STATE; the plugin's state and reason stay."""
    state, reason = plugin.state, plugin.reason
    plugin.set_state(state, what)
    # The sentence was for the record; the state goes on for the reason that it had.
    if plugin.state == state:
        plugin.reason = reason
