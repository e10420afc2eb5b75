"""The checks themselves: what every plugin should keep to, whatever it does.

Each is a coroutine that is given a trial, raises `Broken` with what is wrong, and returns remarks that are no
faults. How a plugin is fed lies in `exercise`.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from attrs import field, frozen

from ally_plugins.author.findings import Broken
from ally_plugins.contract.hookspecs import HOOKS
from ally_plugins.contract.tools.declared import collect_actions, collect_tools
from ally_plugins.policy.budget import Limits
from ally_plugins.runtime.lanes.loading import check_offered, implementations_of, new_manager
from ally_plugins.runtime.lanes.plugin import RunState

from .exercise import Heartbeat, exercise, feed_events, leftovers, own_tasks
from .harness import PluginHarness
from .subject import Subject

__all__ = ["BLOCK_MS", "CHECKS", "Broken", "Check", "Trial"]

BLOCK_MS: Final = 100.0
"""How long a plugin may hold up the loop, in milliseconds: ten times what a person sees as immediate in a terminal, and
far above what a busy test machine adds."""

_ATTEMPTS: Final = 3  # a busy machine holds up the loop too; a plugin that does so does it every time
_NO_BUDGET: Final = Limits(
    messages_per_minute=0,
    events_per_minute=0,
    context_reads_per_minute=0,
    action_requests_per_minute=0,
    registrations_per_minute=0,
    tasks_per_minute=0,
)
_INBOUND: Final = frozenset({"events", "gate", "transform"})


@frozen
class Trial:
    """What a check is given: the plugin, the settings to run it with, and the limit on blocking (milliseconds)."""

    subject: Subject
    settings: Mapping[str, Any] = field(factory=dict)
    block_ms: float = BLOCK_MS

    def harness(self, **options: Any) -> PluginHarness:
        """Return a harness for this plugin, not yet running."""
        subject = self.subject
        return PluginHarness(
            subject.code, name=subject.name, manifest=subject.manifest, settings=self.settings, **options
        )


Check = Callable[[Trial], Awaitable[list[str]]]


async def _has_a_manifest(trial: Trial) -> list[str]:
    """Check that it describes itself, the host that it needs, and its settings."""
    manifest = trial.subject.manifest
    if manifest is None:
        raise Broken("no ally-plugin.toml lies beside its module; the operator would have nothing to agree to")
    if not manifest.description:
        raise Broken("the manifest has no description")
    if (problem := manifest.host_problem()) is not None:
        raise Broken(problem)
    remarks = [] if manifest.requires_host else ['requires_host is missing; add: requires_host = ">=1,<2"']
    return remarks + [f"setting {each.name!r} has no description" for each in manifest.settings.values()
                      if not each.description]  # fmt: skip


async def _declares_what_it_uses(trial: Trial) -> list[str]:
    """Check that every hook, tool and action that it has stands in the manifest."""
    async with trial.harness() as harness:
        instance, manifest = harness.plugin.instance, trial.subject.manifest
        if manifest is None:
            return []
        implementations_of(new_manager(), harness.name, instance, manifest)
        for kind, specs in (("tool", collect_tools(instance)), ("action", collect_actions(instance))):
            check_offered(harness.name, kind, specs, manifest)
    return []


async def _asks_for_no_more(trial: Trial) -> list[str]:
    """Check that it asks for no event that it has no hook for; for a gate or a transform it would not even load."""
    async with trial.harness() as harness:
        hooks = set(harness.plugin.implementations)
        manifest = trial.subject.manifest
        if manifest is None:
            return []
        events = {info.event_type: name for name, info in HOOKS.items() if info.kind == "observe"}
        surplus = [
            grant.text
            for grant in sorted(manifest.grants)
            if grant.kind == "events" and "ally_event" not in hooks and events.get(grant.topic) not in hooks
        ]
    if surplus:
        raise Broken(f"it asks for {', '.join(surplus)} and has no hook for it; ask for less")
    return []


async def _starts_and_stops(trial: Trial) -> list[str]:
    """Check that it starts, and stops within its deadlines, twice in one program."""
    # Twice: what a plugin keeps in its module or class shows in the second start alone.
    for _ in range(2):
        async with trial.harness() as harness:
            plugin = harness.plugin
        if plugin.state != RunState.STOPPED or harness.crashes:
            raise Broken(f"after the stop it is {plugin.state}: {plugin.reason or '; '.join(harness.crashes)}")
    return []


async def _survives_events(trial: Trial) -> list[str]:
    """Check that it takes every event type, with the least and the oddest data, without a crash."""
    async with trial.harness() as harness:
        await feed_events(harness)
        _expect_no_crash(harness)
    return []


async def _answers_questions(trial: Trial) -> list[str]:
    """Check that its gates and transforms answer every kind of call, result and message, validly and in time."""
    async with trial.harness() as harness:
        outcome = await exercise(harness)
        _expect_no_crash(harness)
        if outcome.failures:
            raise Broken("; ".join(outcome.failures))
    return []


async def _survives_refusal(trial: Trial) -> list[str]:
    """Check that it goes on when every call of its own is refused."""
    grants = trial.subject.record().granted
    inbound = [grant.text for grant in grants.grants if grant.kind in _INBOUND]
    async with trial.harness(grants=inbound) as harness:
        await exercise(harness)
        _expect_no_crash(harness)
    # Without any grant it is given nothing either: what it calls in `ally_start` is refused.
    async with trial.harness(grants=[]) as harness:
        await exercise(harness)
        _expect_no_crash(harness)
    return []


async def _survives_an_empty_budget(trial: Trial) -> list[str]:
    """Check that it goes on when every call of its own is over budget."""
    async with trial.harness(limits=_NO_BUDGET) as harness:
        await exercise(harness)
        _expect_no_crash(harness)
    return []


async def _does_not_block(trial: Trial) -> list[str]:
    """Check that it does not hold up the loop that it shares with the host and all other plugins."""
    longest = 0.0
    for _ in range(_ATTEMPTS):
        async with trial.harness() as harness, Heartbeat() as heart:
            await exercise(harness)
        longest = heart.longest_ms
        if longest <= trial.block_ms:
            return []
    raise Broken(
        f"the loop stood still for {longest:.0f} ms, {trial.block_ms:.0f} at most are in order; "
        "make the hook a plain def, which has a thread of its own, or await more often"
    )


async def _leaves_nothing(trial: Trial) -> list[str]:
    """Check that after the stop no task and no thread of it is left."""
    # Before the harness, so that its own are found too, should they stay.
    threads, tasks = set(threading.enumerate()), own_tasks()
    async with trial.harness() as harness:
        await exercise(harness)
    left = await leftovers(threads, tasks)
    if left:
        raise Broken(f"after the stop there still is {', '.join(left)}; end it in ally_stop")
    return []


async def _gives_the_same_twice(trial: Trial) -> list[str]:
    """Check that the same session, from a fresh start, gives the same messages, events, verdicts and values."""
    outcomes = []
    for _ in range(2):
        async with trial.harness() as harness:
            outcomes.append(await exercise(harness))
    if (difference := outcomes[0].difference(outcomes[1])) is not None:
        raise Broken(f"the second time it gave something else: {difference}")
    return []


async def _keeps_sessions_apart(trial: Trial) -> list[str]:
    """Check that what happens in one session leads to nothing in another one."""
    async with trial.harness() as harness:
        other = harness.host.session("s2")
        await harness.settle()
        await other.drained()
        # Not counted below: what it does in each session that begins tells nothing of another one.
        waiting, emitted = {each.id for each in other.inbox.all()}, len(harness.emitted)
        await exercise(harness)
        await other.drained()
        messages = [
            each.message.content for each in other.inbox.all() if each.plugin == harness.name and each.id not in waiting
        ]
        events = [each.event_type for each in harness.emitted[emitted:] if each.session_id == "s2"]
    if messages or events:
        raise Broken(f"of what happened in one session it told another one: {', '.join([*messages, *events])}")
    return []


async def _tools_are_described(trial: Trial) -> list[str]:
    """Check that a model can tell from the description what each tool is for."""
    async with trial.harness() as harness:
        specs = [*collect_tools(harness.plugin.instance), *collect_actions(harness.plugin.instance)]
        bare = [spec.name for spec in specs if not spec.description]
        vague = [
            f"{spec.name}: {name}"
            for spec in specs
            for name, schema in spec.schema.get("properties", {}).items()
            if not schema.get("description")
        ]
    if bare:
        raise Broken(f"no description: {', '.join(bare)}; write a docstring")
    return [f"the parameter {each} has no description" for each in vague]


CHECKS: Final[Mapping[str, Check]] = {
    "has a manifest": _has_a_manifest,
    "declares what it uses": _declares_what_it_uses,
    "asks for no more than it uses": _asks_for_no_more,
    "describes its tools": _tools_are_described,
    "starts and stops": _starts_and_stops,
    "survives every event": _survives_events,
    "answers every question": _answers_questions,
    "survives being refused": _survives_refusal,
    "survives an empty budget": _survives_an_empty_budget,
    "does not block the loop": _does_not_block,
    "leaves nothing behind": _leaves_nothing,
    "gives the same twice": _gives_the_same_twice,
    "keeps sessions apart": _keeps_sessions_apart,
}
"""Every check by its name; `pytest.mark.parametrize("check", CHECKS)` makes a test of each."""


def _expect_no_crash(harness: PluginHarness) -> None:
    if harness.crashes:
        raise Broken(f"it crashed: {harness.crashes[0]}")
    if not harness.plugin.is_running:
        raise Broken(f"it is {harness.plugin.state}: {harness.plugin.reason}")
