"""What plugins have cost and done over a time, added up from their records; what replays recorded does not count."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from attrs import Factory, define

from ally_plugins.contract.hookspecs import HOOKS
from ally_plugins.policy.hook_times import HookTime, times_from_data

from .values import DECISION, RECORDED_AT

if TYPE_CHECKING:
    from .reader import JournalReader
    from .values import StoredMessage, StoredRecord

__all__ = ["KINDS", "HookStatistics", "PluginStatistics", "add_up", "statistics_of"]

KINDS: Final = (DECISION, "crash", "refusal", "prompt_prefix", "usage", "transform")
_GATES: Final = {info.topic: name for name, info in HOOKS.items() if info.kind == "gate"}
CHARACTERS_PER_TOKEN: Final = 4  # the estimate that most tools use for English and code


@define
class HookStatistics:
    """The calls of one hook. `failed` are answers that were none: a crash, a timeout, a plugin that did not run."""

    time: HookTime = Factory(HookTime)
    denied: int = 0
    asked: int = 0
    failed: int = 0
    changed: int = 0
    """How often a transform changed something."""


@define
class PluginStatistics:
    """What one plugin has cost and done.

    `refused` are its own calls that were refused; `tokens` is an estimate of what its delivered messages put into
    conversations; `cache_breaks` how often it changed what requests to the model begin with, and `uncached_tokens` what
    the provider then read anew. `memory` is the most that its processes had, in bytes, `cpu` their seconds.
    """

    hooks: dict[str, HookStatistics] = Factory(dict)
    crashes: int = 0
    restarts: int = 0
    refused: int = 0
    messages: int = 0
    tokens: int = 0
    cache_breaks: int = 0
    uncached_tokens: int = 0
    events: int = 0
    dropped: int = 0
    memory: int | None = None
    cpu: float | None = None

    def hook(self, name: str) -> HookStatistics:
        """Return what is counted of one hook."""
        return self.hooks.setdefault(name, HookStatistics())


def statistics_of(
    reader: JournalReader, *, since: int = 0, until: int | None = None, plugin: str | None = None
) -> dict[str, PluginStatistics]:
    """Add up the records of all plugins, or of one, from `since` to `until` (Unix ms), by plugin.

    Raises JournalError. Reads each record of the time: about 5 s for a million decisions.
    """
    last = math.inf if until is None else until
    first = next(reader.records(since=since, limit=1, with_events=True), None)
    messages = reader.messages(after_n=first.n - 1) if first is not None else ()
    found = add_up(
        (each for each in reader.records(kind=KINDS, since=since) if each.at <= last),
        (each for each in messages if since <= each.accepted_at <= last and each.recorded_at is None),
    )
    return found if plugin is None else {name: each for name, each in found.items() if name == plugin}


def add_up(
    records: Iterable[StoredRecord],
    messages: Iterable[StoredMessage],
    found: dict[str, PluginStatistics] | None = None,
) -> dict[str, PluginStatistics]:
    """Add up messages, and records of `KINDS` whose content is there and which no replay has written, by plugin.

    They are added to what is in `found`, which is returned.
    """
    found = {} if found is None else found
    for record in records:
        if record.data is not None and RECORDED_AT not in record.data:
            _add(found, record, record.data)
    for message in messages:
        _add_message(found.setdefault(message.plugin, PluginStatistics()), message)
    return found


def _add(found: dict[str, PluginStatistics], record: StoredRecord, data: Mapping[str, Any]) -> None:
    def of(name: Any) -> PluginStatistics:
        return found.setdefault(str(name), PluginStatistics())

    if record.kind == DECISION:
        hook = _GATES.get(data.get("kind"), f"gate {data.get('kind')}")
        for vote in _objects(data.get("votes")):
            _add_vote(of(vote.get("plugin")).hook(hook), vote)
    elif record.kind == "transform":
        for change in _objects(data.get("changes")):
            at = of(change.get("plugin")).hook(str(data.get("hook")))
            at.failed += bool(change.get("error"))
            at.changed += bool(change.get("fields"))
    elif record.plugin is not None:
        _add_own(of(record.plugin), record.kind, data)


def _add_vote(hook: HookStatistics, vote: Mapping[str, Any]) -> None:
    cause, verdict = vote.get("cause"), vote.get("verdict")
    hook.time.add(_number(vote.get("elapsed_ms")) / 1000)
    if cause not in {None, "", "verdict"}:
        hook.failed += 1
    else:
        hook.denied += verdict == "deny"
        hook.asked += verdict == "ask"


def _add_own(plugin: PluginStatistics, kind: str, data: Mapping[str, Any]) -> None:
    if kind == "crash":
        plugin.crashes += _count(data)
    elif kind == "refusal":
        plugin.refused += _count(data)
    elif kind == "prompt_prefix" and not data.get("refused"):
        plugin.cache_breaks += 1
        plugin.uncached_tokens += int(_number(data.get("uncached_tokens")))
    elif kind == "usage":
        for hook, time in times_from_data(data.get("hooks")):
            plugin.hook(hook).time.merge(time)
        plugin.restarts += int(_number(data.get("restarts")))
        plugin.events += int(_number(data.get("events")))
        plugin.dropped += int(_number(data.get("dropped")))
        if "memory" in data:
            plugin.memory = max(plugin.memory or 0, int(_number(data["memory"])))
            plugin.cpu = (plugin.cpu or 0.0) + _number(data.get("cpu"))


def _add_message(plugin: PluginStatistics, message: StoredMessage) -> None:
    plugin.messages += 1
    if message.state == "delivered":
        content = (message.body or {}).get("content", "")
        plugin.tokens += math.ceil(len(str(content)) / CHARACTERS_PER_TOKEN)


def _objects(values: Any) -> Iterable[dict[str, Any]]:
    return [each for each in values if isinstance(each, dict)] if isinstance(values, list) else []


def _count(data: Mapping[str, Any]) -> int:
    return max(1, int(_number(data.get("count"))))


def _number(value: Any) -> float:
    """Return a number of a record; 0 for anything else, which another version has written."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) else 0
