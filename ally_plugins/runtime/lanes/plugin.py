"""One plugin of a running host: its identity, grants, hooks, lane, budget, counters and state.

It holds facts and decides one thing, when crashes end in quarantine; what follows from a change of state (events,
records) is left to the host's callbacks.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from enum import StrEnum
from traceback import format_exception
from typing import TYPE_CHECKING, Any, Final, Protocol

from attrs import Factory, define, field, frozen

from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import RefusedError, TimedOut
from ally_plugins.contract.values.inert import inert
from ally_plugins.contract.values.masking import Secrets
from ally_plugins.journal.receipts import Receipts
from ally_plugins.policy.budget import Limits, PluginBudget
from ally_plugins.policy.hook_times import HookTimes
from ally_plugins.policy.ordering import Orderable
from ally_plugins.policy.permissions import GrantSet
from ally_plugins.policy.restart import CrashCounter

from .link import DaemonError, DaemonGone, NotSent
from .marks import UNMARKED, WORKING, Slot
from .observers import Implementation
from .protocol import AnyLane
from .requests import Crash
from .thread import HookExit
from .wire_tap import WireTap

if TYPE_CHECKING:
    from ally_plugins.policy.verdicts import Cause
    from ally_plugins.runtime.processes.process import Process

__all__ = ["DEADLINES", "Counts", "Plugin", "PluginOptions", "RunState"]

_NO_SECRETS: Final = Secrets()

DEADLINES: Final[Mapping[str, float]] = {"gate": 15.0, "transform": 15.0, "observe": 30.0, "start": 30.0, "stop": 5.0}
"""Seconds that each kind of hook may take (design.md, section 3); the operator may change them by plugin and hook."""


class RunState(StrEnum):
    """Where a plugin of a running host is in its life; the word is the one that events, records and commands have."""

    WAITING = "waiting"
    """For the operator's consent."""
    LOADED = "loaded"
    """Its hooks are known, and none has run."""
    STARTING = "starting"
    RUNNING = "running"
    """Its hooks are called; in no other state are they, but for `ally_stop`."""
    STOPPING = "stopping"
    STOPPED = "stopped"
    BACKOFF = "backoff"
    """Its process has failed, and is started again after a while."""
    FAILED = "failed"
    QUARANTINED = "quarantined"
    """It is out until the operator releases it."""


_CAUSES: Final[dict[RunState, Cause]] = {
    RunState.FAILED: "failed",
    RunState.QUARANTINED: "quarantined",
    RunState.WAITING: "waiting",
    RunState.STARTING: "not_running",
    RunState.BACKOFF: "restarting",
    RunState.STOPPING: "restarting",
}


@frozen(kw_only=True)
class PluginOptions:
    """What the operator, or the host author by code, has settled for one plugin."""

    grants: GrantSet = GrantSet()
    required: frozenset[str] = frozenset()
    """The gates and transforms that were granted by name: where the code lacks one, the plugin does not run."""
    limits: Limits = Limits()
    deadlines: Mapping[str, float] = Factory(dict)
    gate_on_error: str = "deny"
    transform_on_error: str = "drop"
    shadow: bool | frozenset[str] = False
    mandatory: bool = False
    ungated_tools: bool | frozenset[str] = False
    """The tools that a provider may run past its gate, though it is mandatory; true for all."""


@define
class Counts:
    """What a plugin has done so far; `refused` counts refusals by reason."""

    messages: int = 0
    emitted: int = 0
    crashes: int = 0
    refused: Counter[str] = Factory(Counter)


class ProcessKeeper(Protocol):
    """What keeps the process of a plugin running; `host.daemons.supervisor` has the one that does."""

    @property
    def process(self) -> Process | None:
        """The process, None while there is none."""
        ...

    @property
    def started(self) -> int:
        """How often a process was started."""
        ...

    async def stop(self, reason: str) -> None:
        """End the process, with everything that it has started. Never raises; safe to call twice.

        Cancelling it leaves it to the end of the host to kill the process.
        """

    def restart(self, reason: str) -> None:
        """End the process and start it again at once; returns before that is done."""

    def describe(self) -> Mapping[str, Any]:
        """Return its process as JSON values: `pid` and `restarts`; and `projects`, where there is one for each."""
        ...


@define(eq=False, repr=False)
class Plugin:
    """A plugin that the host knows; `implementations` is empty until its code has been loaded.

    `reason` says in words why it is in its state. The `repr` is name and state: what it was built with holds secrets.
    """

    name: str
    options: PluginOptions
    on_state: Callable[[Plugin], None]
    on_crash: Callable[[Plugin, Crash], None]
    now: Callable[[], float]
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    version: str = ""
    project: str | None = None
    """The folder of the project that adds it, None for one of all sessions."""
    thresholds: tuple[float, ...] = ()
    """The levels of context usage, in percent, that it is told of beside those that everybody is."""
    state: RunState = RunState.LOADED
    reason: str = ""
    instance: Any = None
    implementations: Mapping[str, Implementation] = Factory(dict)
    lane: AnyLane | None = None
    supervisor: ProcessKeeper | None = None
    """Keeps its process running, for a plugin that has one of its own."""
    counts: Counts = Factory(Counts)
    times: HookTimes = Factory(HookTimes)
    """How long its hooks took, but for those that a process of its own runs for events, which nobody waits for."""
    receipts: Receipts = Factory(Receipts)
    """The events that it was given and that are not recorded yet."""
    slot: Slot = UNMARKED
    """What of its code runs in this process, for whoever comes after a crash of that."""
    working: set[asyncio.Task[Any]] = Factory(set)
    """Tools, actions and tasks of the plugin that run now, outside the lane."""
    budget: PluginBudget = field(init=False)
    crashes: CrashCounter = field(init=False, factory=CrashCounter)
    confirms: frozenset[str] = frozenset()
    """Its own tools, for which its gate is called whatever it was granted: it can only make them stricter."""
    is_disabled: bool = False
    """Whether the operator has disabled it, so that its gates are not called. In a host that stops they deny."""
    secrets: Secrets = _NO_SECRETS
    """What it was given that must not get into reasons, records and logs: secret settings, keys of the environment."""
    wire: WireTap = Factory(WireTap)
    """What its processes and the host write to each other, while an operator looks."""
    changed_at: float = field(init=False)
    """When it came into its state, in seconds of `now`."""
    _last_timeout: TimedOut | None = None

    def __attrs_post_init__(self) -> None:
        self.budget = PluginBudget(self.name, self.options.limits)
        self.changed_at = self.now()

    @override
    def __repr__(self) -> str:
        return f"<Plugin {self.name!r}: {self.state.value}>"

    @property
    def grants(self) -> GrantSet:
        """What the plugin may do."""
        return self.options.grants

    @property
    def is_running(self) -> bool:
        """Whether its hooks are called."""
        return self.state is RunState.RUNNING and self.lane is not None and self.lane.is_open

    @property
    def guards(self) -> bool:
        """Whether it was granted a gate or transform, or confirms its own tools: then nobody leaves it out."""
        return bool(self.confirms) or any(grant.kind in ("gate", "transform") for grant in self.grants.grants)

    def lacks(self, hook: str) -> bool:
        """Return whether a gate or transform was granted by name and is not there."""
        return hook in self.options.required and hook not in self.implementations

    def why_unavailable(self, hook: str) -> tuple[Cause, str] | None:
        """Return why a hook of it cannot be called: the cause as votes name it, and the reason; None when it can."""
        if not self.is_running:
            ran = self.state is RunState.STARTING and self.supervisor is not None and self.supervisor.started > 1
            return "restarting" if ran else _CAUSES.get(self.state, "not_running"), self.reason
        if hook not in self.implementations:
            return "failed", f"its code has no {hook}"
        return None

    @property
    def orderable(self) -> Orderable:
        """What the order of plugins depends on."""
        return Orderable(self.name, self.before, self.after, self.options.mandatory)

    def deadline(self, hook: str, kind: str = "observe") -> float:
        """Return the seconds that a hook may take: the operator's for the hook, or for its kind, or the default."""
        own = self.options.deadlines
        return own.get(hook, own.get(kind, DEADLINES[kind]))

    def shortest_deadline(self) -> float:
        """Return the least of the deadlines that the watchdog keeps for this plugin."""
        return min([DEADLINES["observe"], *self.options.deadlines.values()])

    def is_shadowed(self, hook: str, topic: str) -> bool:
        """Return whether a gate or transform is in shadow mode: called and recorded, not enforced."""
        shadow = self.options.shadow
        return shadow if isinstance(shadow, bool) else hook in shadow or topic in shadow

    def watch(self, task: asyncio.Task[Any]) -> None:
        """Remember a task that runs the plugin's code, so that it can be ended with the plugin."""
        self.working.add(task)
        task.add_done_callback(self.working.discard)

    @contextmanager
    def at_work(self) -> Generator[None]:
        """Mark that a tool, an action or a task of it runs."""
        slot = self.slot
        # A mark is one byte.
        slot.marks[WORKING] = min(255, slot.marks[WORKING] + 1)
        try:
            yield
        finally:
            slot.marks[WORKING] = max(0, slot.marks[WORKING] - 1)

    def set_state(self, state: RunState, reason: str = "") -> None:
        """Change the state, and call `on_state` if it is another one or has another reason.

        The reason, which may quote the plugin, becomes one inert line without its secrets.
        """
        reason = inert(self.masked(reason))
        if (state, reason) != (self.state, self.reason):
            self.state, self.reason = state, reason
            self.changed_at = self.now()
            self.on_state(self)

    def masked(self, text: str) -> str:
        """Return a text of the plugin's without its secrets: what it raised may quote them."""
        return self.secrets.masked(text)

    def describe(self, error: BaseException) -> str:
        """Return an error as `describe` does, without the plugin's secrets; of one that is cut nothing is left."""
        return describe(error, self.secrets)

    def cause_to_show(self, error: BaseException) -> BaseException | None:
        """Return an error of the plugin's code for a traceback, None when that may not be shown as it is.

        It would quote a secret, or act on a terminal.
        """
        return error if self.traceback_of(error) is None else None

    def traceback_of(self, error: BaseException) -> str | None:
        """Return an error's traceback, masked and inert, where it differs from what Python would print."""
        raw = "".join(format_exception(error))
        shown = inert(self.masked(raw), keep_lines=True)
        return None if shown == raw else shown

    def crashed(self, crash: Crash) -> None:
        """Count what went wrong in a hook or handler; a refusal that was not caught is no crash, nor what was not sent.

        One timeout may be reported twice: when the answer was due, and when the hook ignored its interruption.
        """
        if isinstance(crash.error, (RefusedError, NotSent, DaemonGone)):  # the last is counted once, by the supervisor
            return
        is_known = crash.error is self._last_timeout
        if not is_known:
            self._last_timeout = crash.error if isinstance(crash.error, TimedOut) else None
            self.counts.crashes += 1
            self.on_crash(self, crash)
        if self.state in {RunState.QUARANTINED, RunState.STOPPED}:
            return
        if crash.is_final:
            self._quarantine(f"{crash.hook} ignored its interruption and was abandoned ({self.describe(crash.error)})")
        elif not is_known and self.crashes.crashed(self.now()):
            self._quarantine(
                f"{self.crashes.limit} crashes in {self.crashes.window:g} s, last: {self.describe(crash.error)}"
            )

    def _quarantine(self, why: str) -> None:
        self.set_state(RunState.QUARANTINED, f"{why}; let it out with `ally-plugins release {self.name}`")
        if self.lane is not None:
            self.lane.abandon()


def describe(error: BaseException, secrets: Secrets = _NO_SECRETS) -> str:
    """Return an error as one inert line for people: its type and the first line of its text, cut to 300 characters.

    The `secrets` are masked before anything is cut or escaped: half of one would not be found.
    """
    if isinstance(error, HookExit):
        error = error.raised
    try:
        text = secrets.masked(str(error)).strip().partition("\n")[0]
    except Exception:  # noqa: BLE001 - a plugin's own class of errors may do anything
        text = "its text cannot be read"
    kind = "" if isinstance(error, DaemonError) else type(error).__name__
    line = inert(": ".join(part for part in (kind, text) if part))
    return line if len(line) <= 300 else line[:297] + "..."  # noqa: PLR2004


def orderables(plugins: Iterable[Plugin]) -> list[Orderable]:
    """Return what the order of these plugins depends on."""
    return [plugin.orderable for plugin in plugins]
