"""Runs the gates and transforms of all plugins, in the order that policy gives.

Gates run concurrently, each in its plugin's lane, under deadlines of their own; transforms run one after the other.
What the answers mean is decided in `policy.verdicts`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast

from attrs import Factory, define, evolve, field, frozen

from ally_plugins.contract.hookspecs import HOOKS
from ally_plugins.contract.values.errors import BudgetRefused, PluginError, ReentryRefused, TimedOut
from ally_plugins.contract.values.scope import SCOPE, Scope
from ally_plugins.contract.values.verdicts import Ask, Deny
from ally_plugins.policy.ordering import Placement, order_for_hook
from ally_plugins.policy.project_rules import ANY_SESSION, NO_RULES, SessionRules
from ally_plugins.policy.verdicts import (
    Cause,
    OnError,
    Vote,
    read_replacement,
    read_verdict,
    verdict_name,
    vote_from_failure,
)

from .deadlocks import Waits
from .link import NonsenseAnswer, NotRunning, NotSent, call_when_done
from .plugin import Plugin, orderables
from .requests import Crash

if TYPE_CHECKING:
    from ally_plugins.contract.values.events import Decision
    from ally_plugins.contract.values.verdicts import Verdict

    from .observers import Implementation

__all__ = ["Dispatcher", "HookCall", "HookEnd", "HookListener", "TransformChange", "Transformed"]

_CAUSES: Final[dict[type, Cause]] = {
    TimedOut: "timeout",
    NonsenseAnswer: "nonsense",
    NotSent: "unshown",
    NotRunning: "not_running",
}

_NOBODY: Final[frozenset[str]] = frozenset()
_ANY_TOOL: Final = (None,)
_WAY_OUT: Final = "start a task for it, or make the call from a tool"

T = TypeVar("T")


@frozen(kw_only=True)
class HookCall:
    """One call of a gate or transform hook, for all plugins that take part.

    `caused_by` is the plugin whose own call led here; its hook is not called. `cause` is the id of what it is about.
    `common_tool` is the tool's other name, where it has one: a grant that names either takes part.
    """

    hook: str
    session_id: str
    tool: str | None = None
    common_tool: str | None = None
    caused_by: str | None = None
    origin: tuple[str, ...] = ()
    cause: str | None = None
    topic: str = field(init=False, default=Factory(lambda self: HOOKS[self.hook].topic or "", takes_self=True))
    """The name that grants use for it."""


@frozen(kw_only=True)
class HookEnd:
    """What came of one plugin's part in a call: for a report, after the fact.

    `verdict` is that of a gate, or what a transform did: `replace` or `unchanged`. With another `cause` than `verdict`
    the hook has failed, and the verdict is what its setting for that made of it. `started_ns` is Unix time.
    """

    plugin: Plugin
    call: HookCall
    verdict: str
    cause: Cause
    started_ns: int
    elapsed_ms: float
    shadow: bool = False
    reason: str = ""


class HookListener(Protocol):
    """What is told of each gate and transform that has ended, and of each decision. It must not raise, nor wait."""

    def hook_ended(self, end: HookEnd) -> None:
        """Take note that a plugin has answered, or failed to."""

    def decided(self, decision: Decision, session_id: str) -> None:
        """Take note of a decision."""

    def close(self) -> None:
        """Take note that the host has stopped."""


@frozen
class TransformChange:
    """What one transform did: the fields that it changed, or why it failed; `shadow` changes were not made."""

    plugin: str
    fields: tuple[str, ...] = ()
    error: str = ""
    shadow: bool = False


@define
class Transformed(Generic[T]):
    """The value at the end of a chain, what each transform did, and which one blocked, if one did.

    `blocked_by` is empty when the host blocks, since nobody could be shown the value.
    """

    value: T
    changes: list[TransformChange] = Factory(list)
    blocked_by: str | None = None
    reason: str = ""

    @property
    def conflicts(self) -> dict[str, tuple[str, ...]]:
        """The fields that several plugins changed, each with their names in order."""
        by_field: dict[str, list[str]] = {}
        for change in self.changes:
            if not change.shadow and not change.error:
                for name in change.fields:
                    by_field.setdefault(name, []).append(change.plugin)
        return {name: tuple(plugins) for name, plugins in by_field.items() if len(plugins) > 1}


class Dispatcher:
    """The plugins of a host and the order of each hook; `replan` after plugins or their states have changed."""

    def __init__(self) -> None:
        self.plugins: dict[str, Plugin] = {}
        self._orders: dict[str, tuple[Plugin, ...]] = {}
        self._waits = Waits()
        self.sets: dict[str, frozenset[str]] = {}
        """By session the plugins that take part in it, for those sessions in which not all do."""
        self.rules: dict[str, SessionRules] = {}
        """By session what trusted projects narrow in it; without an entry nothing."""
        self.has_message_hooks = False
        self.listener: HookListener | None = None

    def replan(self, plugins: Iterable[Plugin]) -> None:
        """Take these plugins from now on. Raises OrderError for a cycle among them."""
        known = {plugin.name: plugin for plugin in plugins}
        every = orderables(known.values())
        orders: dict[str, tuple[Plugin, ...]] = {}
        for info in HOOKS.values():
            if info.kind in {"gate", "transform"}:
                members: dict[str, Placement] = {
                    p.name: _placement(p, info.name) for p in known.values() if _takes_part(p, info.name)
                }
                names = order_for_hook(every, members, mandatory_last=info.kind == "transform")
                orders[info.name] = tuple(known[name] for name in names)
        # Only now, and both: after an OrderError the old ones still hold.
        self.plugins, self._orders = known, orders
        # Looked at for every message: mostly no plugin gates or transforms those of others, and the bus skips both.
        self.has_message_hooks = bool(orders["ally_gate_message"] or orders["ally_transform_plugin_message"])

    def forget_listener(self) -> None:
        """Close the listener, if there is one, and report nothing any more."""
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.close()

    def is_in(self, plugin: str, session_id: str | None) -> bool:
        """Say whether a plugin takes part in a session; outside of one every plugin does."""
        if session_id is None:
            return True
        chosen, found = self.sets.get(session_id), self.plugins.get(plugin)
        if chosen is not None and plugin not in chosen:
            return False
        rules = self.rules.get(session_id)
        if found is None or (rules is None and found.project is None):  # so mostly, and it is looked at for each call
            return True
        return (rules or NO_RULES).has(found.project, plugin, guards=found.guards)

    def may(self, plugin: str, kind: str, session_id: str | None) -> bool:
        """Say whether what a plugin offers may be used in a session: it takes part, and no project narrows that."""
        if not self.is_in(plugin, session_id):
            return False
        rules, found = self.rules.get(session_id or ""), self.plugins.get(plugin)
        if rules is None or found is None or not rules.narrows(plugin):
            return True
        return rules.grants(plugin, found.grants).may(kind)

    def why_unguarded(self, session_id: str) -> str | None:
        """Return why no call may run in a session: a plugin that its project makes mandatory does not guard now."""
        rules = self.rules.get(session_id, NO_RULES)
        for name in rules.mandatory:
            if (why := self._why_unguarded(name, session_id)) is not None:
                text = f"{rules.whose_mandatory(name)}/.ally makes {name!r} mandatory, and it {why}"
                return f"{text}; to see what holds here: ally-plugins project"
        return None

    def _why_unguarded(self, name: str, session_id: str) -> str | None:
        plugin = self.plugins.get(name)
        if plugin is None or plugin.is_disabled:
            return "is not enabled"
        if not self.is_in(name, session_id):
            return "takes no part in this session"
        if not plugin.is_running:
            return f"is {plugin.state}{': ' if plugin.reason else ''}{plugin.reason}"
        if not plugin.guards:
            return "has no gate and no transform"
        return "is in shadow mode" if plugin.options.shadow else None

    def has_any(self, hook: str) -> bool:
        """Return whether any plugin implements a gate or transform; costs one look-up in a dictionary."""
        return bool(self._orders.get(hook))

    def has_participants(self, hook: str) -> bool:
        """Return whether any plugin takes part in a gate or transform; costs one look-up where none implements it."""
        plugins = self._orders.get(hook)
        if not plugins:
            return False
        # Looked at for each step of each session: until one is found, and with no call made for it. Of whatever
        # project a plugin is: without a session it is asked whether there may be any.
        return any(map(_takes_part_now, plugins, repeat(hook), repeat(_ANY_TOOL)))

    def participants(self, call: HookCall) -> list[Plugin]:
        """Return, in hook order, the plugins whose hook is called: those that implement it and were granted it.

        A plugin that was granted a gate and does not run is among them: its vote is a deny.
        """
        plugins = self._orders.get(call.hook)
        if not plugins:
            return []
        tools = (call.tool,) if call.common_tool is None else (call.tool, call.common_tool)
        chosen = self.sets.get(call.session_id)
        # Without a session it is asked whether there may be any.
        rules = self.rules.get(call.session_id, NO_RULES) if call.session_id else ANY_SESSION
        return [
            plugin
            for plugin in plugins
            if plugin.name != call.caused_by
            and (chosen is None or plugin.name in chosen)
            and (plugin.project is None or rules.is_about(plugin.project))
            and _takes_part_now(plugin, call.hook, tools)
        ]

    def unavailable(self, name: str) -> list[str]:
        """Return the gates and transforms that a plugin takes part in and that cannot be called now."""
        return [
            hook
            for hook in self._orders
            for plugin in self.participants(HookCall(hook=hook, session_id=""))
            if plugin.name == name and plugin.why_unavailable(hook) is not None
        ]

    async def ask(
        self, call: HookCall, plugins: Sequence[Plugin], arguments: Callable[[Plugin], tuple[Any, ...]]
    ) -> list[Vote]:
        """Call the gates of these plugins concurrently and return their votes, in the order of `plugins`.

        Each vote is there by the deadline of its plugin. Cancelling it takes the calls back from all gates.

        Raises ReentryRefused when a gate would have to wait for the hook that makes this call.
        """
        poll = _Poll()
        started_ns = 0 if self.listener is None else time.time_ns()
        held = self._refuse_reentry(call, plugins)
        try:
            for plugin in plugins:
                if plugin.why_unavailable(call.hook) is None:
                    future = self._submit(plugin, call, arguments(plugin), "gate")
                    poll.add(plugin.name, future)
                    if held and not future.done():
                        self._waits.begin(held, plugin.name)
                        future.add_done_callback(partial(self._has_answered, held, plugin.name))
            await poll.wait()
        finally:
            poll.cancel()
        waiting, elapsed_ms, on_error = poll.waiting, poll.elapsed_ms, self._gate_on_error
        votes = [
            _vote(plugin, call, waiting.get(plugin.name), elapsed_ms(plugin.name), on_error(plugin, call))
            for plugin in plugins
        ]
        if self.listener is not None:
            for plugin, vote in zip(plugins, votes, strict=True):
                self.listener.hook_ended(_vote_end(plugin, call, vote, started_ns))
        return votes

    async def transform(
        self,
        call: HookCall,
        value: T,
        arguments: Callable[[T], tuple[Any, ...]],
        check: Callable[[T, Any, str], tuple[T, tuple[str, ...]]],
    ) -> Transformed[T]:
        """Run the chain: each transform sees the value that the one before made.

        `check` is given the value, what a transform made of it and the plugin's name; it returns the new value,
        validated, and the names of the fields that differ, or raises. A failing transform is left out
        (`on_error = "drop"`) or ends the chain (`"block"`); so does one that cannot be shown the value, or cannot send
        what it made. Cancelling it interrupts the transform that runs; nothing of the chain is kept.
        Raises ReentryRefused when a transform would have to wait for the hook that makes this call.
        """
        done = Transformed(value)
        plugins = self.participants(call)
        if plugins:
            # For all of them before the first runs: a refusal amid the chain throws away what was done.
            self._refuse_reentry(call, plugins)
        for plugin in plugins:
            start = time.time_ns()
            try:
                new, change = await self._transform_one(plugin, call, done.value, arguments, check)
            except _TransformFailed as failed:
                self._report(plugin, call, start, failed)
                done.changes.append(TransformChange(plugin.name, error=failed.reason, shadow=failed.shadow))
                if (why := failed.blocks(plugin, blocks=self._blocks(plugin, call))) is not None:
                    done.blocked_by = plugin.name
                    done.reason = why
                    return done
                continue
            self._report(plugin, call, start, change)
            if change is not None:
                done.changes.append(change)
                done.value = done.value if change.shadow else new
        return done

    def _report(
        self, plugin: Plugin, call: HookCall, started_ns: int, outcome: _TransformFailed | TransformChange | None
    ) -> None:
        """Tell the listener, if there is one, what a transform did."""
        if self.listener is None:
            return
        failed = outcome if isinstance(outcome, _TransformFailed) else None
        self.listener.hook_ended(
            HookEnd(
                plugin=plugin,
                call=call,
                verdict="replace" if isinstance(outcome, TransformChange) else "unchanged",
                cause="verdict" if failed is None else failed.cause,
                started_ns=started_ns,
                elapsed_ms=max(time.time_ns() - started_ns, 0) / 1e6,
                shadow=plugin.is_shadowed(call.hook, call.topic),
                reason="" if failed is None else failed.reason,
            )
        )

    async def _transform_one(
        self,
        plugin: Plugin,
        call: HookCall,
        value: T,
        arguments: Callable[[T], tuple[Any, ...]],
        check: Callable[[T, Any, str], tuple[T, tuple[str, ...]]],
    ) -> tuple[T, TransformChange | None]:
        shadow = plugin.is_shadowed(call.hook, call.topic)
        if (why := plugin.why_unavailable(call.hook)) is not None:
            raise _TransformFailed(f"it is {plugin.state}: {why[1]}".rstrip(": "), shadow, cause=why[0])
        held = self._refuse_reentry(call, [plugin])  # it may have begun to wait meanwhile
        start = time.perf_counter()
        try:
            future = self._submit(plugin, call, arguments(value), "transform")
            if held and not future.done():
                self._waits.begin(held, plugin.name)
                future.add_done_callback(partial(self._has_answered, held, plugin.name))
            try:
                answer = await future
            finally:
                plugin.times.add(call.hook, time.perf_counter() - start)
            replacement = read_replacement(answer)
            if replacement is None:
                return value, None
            new, fields = check(value, replacement.value, plugin.name)
        except Exception as error:
            _count(plugin, call.hook, error)
            raise _TransformFailed(plugin.describe(error), shadow, error) from error
        return new, TransformChange(plugin.name, fields, shadow=shadow) if fields else None

    def _blocks(self, plugin: Plugin, call: HookCall) -> bool:
        """Return whether a transform that fails blocks: so the operator has it, or a project that cannot do without."""
        return plugin.options.transform_on_error == "block" or self._is_mandatory(plugin, call)

    def _gate_on_error(self, plugin: Plugin, call: HookCall) -> OnError:
        on_error = cast("OnError", plugin.options.gate_on_error)
        return "deny" if on_error != "deny" and self._is_mandatory(plugin, call) else on_error

    def _is_mandatory(self, plugin: Plugin, call: HookCall) -> bool:
        rules = self.rules.get(call.session_id)
        return rules is not None and plugin.name in rules.mandatory

    def _submit(self, plugin: Plugin, call: HookCall, arguments: tuple[Any, ...], kind: str) -> asyncio.Future[Any]:
        deadline, rules = plugin.deadline(call.hook, kind), self.rules.get(call.session_id)
        if rules is not None and rules.rules:
            # Only where being late denies: a guard that has less time and is passed over then would guard less.
            denies = self._gate_on_error(plugin, call) == "deny" if kind == "gate" else self._blocks(plugin, call)
            if denies:
                deadline = rules.deadline(plugin.name, call.hook, kind, deadline)
        return _submit(plugin, call, arguments, deadline)

    def _refuse_reentry(self, call: HookCall, plugins: Iterable[Plugin]) -> frozenset[str]:
        """Return the lanes that wait for this call. Raises ReentryRefused when a plugin waits for one of these."""
        scope = SCOPE.get()
        if scope is None or not scope.held:
            return _NOBODY
        for plugin in plugins:
            if (name := self._waits.find(plugin.name, scope.held)) is not None:
                whose = "the hook that makes this call" if name == plugin.name else f"{name!r}, which waits for it"
                text = f"{call.hook} of {plugin.name!r} would wait for {whose}; {_WAY_OUT}"
                raise ReentryRefused(text, plugin=scope.plugin)
        return scope.held

    def _has_answered(self, held: frozenset[str], name: str, _: asyncio.Future[Any]) -> None:
        self._waits.end(held, name)


class _TransformFailed(Exception):
    def __init__(
        self,
        reason: str,
        shadow: bool,  # noqa: FBT001 - by place, in this module alone
        error: Exception | None = None,
        *,
        cause: Cause | None = None,
    ) -> None:
        super().__init__(reason)
        self.cause: Cause = cause or _CAUSES.get(type(error), "nonsense" if isinstance(error, PluginError) else "crash")
        self.reason = reason
        self.shadow = shadow
        self._is_unshown = isinstance(error, NotSent)
        # It has changed the value and cannot send the new one: the old one may be what it was to redact.
        self._is_oversized = isinstance(error, BudgetRefused)

    def blocks(self, plugin: Plugin, *, blocks: bool) -> str | None:
        """Return why the chain ends with it, None when it goes on; `blocks` is whether any failure ends it."""
        if self.shadow:
            return None
        if self._is_unshown:
            return f"{plugin.name} cannot be shown it: {self.reason}; leave that value out"
        if self._is_oversized:
            why = "what it made of it is too large for it to send"
            return f"{plugin.name} could not check it, and {why}: {self.reason}"
        if blocks:
            return f"{plugin.name} could not check it, and is set to block then: {self.reason}"
        return None


class _Poll:
    """The futures of gates that run concurrently, and when each was done.

    Whoever answers last settles the poll at once; by futures' callbacks it would be a turn of the loop later.
    """

    def __init__(self) -> None:
        self.waiting: dict[str, asyncio.Future[Any]] = {}
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time()
        self._ends: dict[str, float] = {}
        self._all: asyncio.Future[None] | None = None

    def add(self, name: str, future: asyncio.Future[Any]) -> None:
        """Add a gate's future."""
        self.waiting[name] = future
        if future.done():  # it answered at once; a callback would come a turn of the loop later
            self._note(name, future)
        else:
            call_when_done(future, partial(self._note, name))

    async def wait(self) -> None:
        """Wait until all are done; cancelling it leaves them as they are, for `cancel`."""
        if len(self._ends) < len(self.waiting):
            self._all = self._loop.create_future()
            await self._all

    def cancel(self) -> None:
        """Cancel those that are not done."""
        if len(self._ends) < len(self.waiting):
            for future in self.waiting.values():
                future.cancel()

    def elapsed_ms(self, name: str) -> float:
        """Return after how many milliseconds a gate was done; 0 for one that was not called."""
        return (self._ends.get(name, self._start) - self._start) * 1000

    def _note(self, name: str, _: asyncio.Future[Any]) -> None:
        self._ends[name] = self._loop.time()
        if self._all is not None and not self._all.done() and len(self._ends) == len(self.waiting):
            self._all.set_result(None)


def _takes_part_now(plugin: Plugin, hook: str, tools: tuple[str | None, ...]) -> bool:
    """Return whether the hook of a plugin is called, or missed, about a tool that has these names."""
    if plugin.is_disabled:
        return False
    info, grants = HOOKS[hook], plugin.grants
    is_gate, topic = info.kind == "gate", info.topic or ""
    for tool in tools:
        if grants.gates(topic, tool) or tool in plugin.confirms if is_gate else grants.transforms(topic, tool):
            return not plugin.is_running or hook in plugin.implementations or plugin.lacks(hook)
    return False


def _takes_part(plugin: Plugin, hook: str) -> bool:
    """Return whether a plugin takes part at all. One that is not running does, if it was granted it: its gates deny."""
    if hook in plugin.implementations or plugin.lacks(hook):
        return True
    if plugin.instance is not None:
        return False
    topic = HOOKS[hook].topic or ""
    return plugin.grants.gates(topic) if HOOKS[hook].kind == "gate" else plugin.grants.transforms(topic)


def _placement(plugin: Plugin, hook: str) -> Placement:
    implementation = plugin.implementations.get(hook)
    return cast("Placement", implementation.placement) if implementation is not None else None


def _submit(plugin: Plugin, call: HookCall, arguments: tuple[Any, ...], deadline: float) -> asyncio.Future[Any]:
    implementation: Implementation = plugin.implementations[call.hook]
    caller = SCOPE.get()
    # With the lanes that are held already: whoever makes the call waits for this hook as well.
    held = frozenset((plugin.name,)) | (caller.held if caller is not None else frozenset())
    scope = Scope(plugin.name, call.session_id, call.origin, held, cause=call.cause)
    assert plugin.lane is not None  # noqa: S101 - is_running says so
    return plugin.lane.submit(
        call.hook,
        implementation.bind(HOOKS[call.hook].arguments),
        arguments,
        is_async=implementation.is_async,
        scope=scope,
        session_id=call.session_id,
        deadline=deadline,
    )


def _vote(
    plugin: Plugin, call: HookCall, future: asyncio.Future[Any] | None, elapsed_ms: float, on_error: OnError
) -> Vote:
    shadow = plugin.is_shadowed(call.hook, call.topic)
    if future is None:
        cause, reason = plugin.why_unavailable(call.hook) or ("not_running", plugin.reason)
        return vote_from_failure(plugin.name, cause, reason, on_error, shadow=shadow)
    # Only the deadline leaves one cancelled here: a caller that gives up collects no votes.
    plugin.times.add(call.hook, elapsed_ms / 1000)
    if future.cancelled():
        return vote_from_failure(plugin.name, "timeout", "", on_error, shadow=shadow, elapsed_ms=elapsed_ms)
    error = future.exception()
    if error is None:
        try:
            verdict = _masked(plugin, read_verdict(future.result()))
        except PluginError as problem:
            error = problem
        else:
            return Vote(
                plugin=plugin.name,
                verdict=verdict,
                shadow=shadow,
                elapsed_ms=elapsed_ms,
                waives=plugin.grants.may_waive(),
            )
        cause = "nonsense"
    else:
        cause = _CAUSES.get(type(error), "crash")
        if cause == "unshown":  # the setting is for a gate that fails; here whoever makes the call would choose
            on_error = "deny"
    _count(plugin, call.hook, error)
    why = plugin.describe(error)
    return vote_from_failure(plugin.name, cause, why, on_error, shadow=shadow, elapsed_ms=elapsed_ms)


def _vote_end(plugin: Plugin, call: HookCall, vote: Vote, started_ns: int) -> HookEnd:
    return HookEnd(
        plugin=plugin,
        call=call,
        verdict=verdict_name(vote.verdict),
        cause=vote.cause,
        started_ns=started_ns,
        elapsed_ms=vote.elapsed_ms,
        shadow=vote.shadow,
        reason=vote.detail or getattr(vote.verdict, "reason", ""),
    )


def _masked(plugin: Plugin, verdict: Verdict | None) -> Verdict | None:
    """Return a verdict whose reason, which is recorded and shown to person and model, holds no secret of its plugin."""
    if not plugin.secrets or not isinstance(verdict, (Ask, Deny)):
        return verdict
    return evolve(verdict, reason=plugin.masked(verdict.reason))


def _count(plugin: Plugin, hook: str, error: BaseException) -> None:
    plugin.crashed(Crash(plugin.name, hook, error))
