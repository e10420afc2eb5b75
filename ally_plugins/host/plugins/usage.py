"""What the plugins of a running host cost: counted in memory, and recorded once a minute while anything happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from attrs import Factory, define

from ally_plugins.contract.hookspecs import HOOKS
from ally_plugins.host.bus.services import HostServices
from ally_plugins.runtime.lanes.plugin import Plugin
from ally_plugins.runtime.processes.usage import Usage, usage_of

if TYPE_CHECKING:
    from ally_plugins.policy.hook_times import HookTime

__all__ = ["USAGE", "PluginUsage", "usage_of_plugin"]

USAGE: Final = "usage"
"""The kind of the records."""

PERIOD_S: Final = 60.0
"""A record for each plugin and minute in which something happened: as many rows a day as a busy plugin's decisions of
some minutes. What a host that is killed has not recorded yet is lost."""

RECEIPTS: Final = 10_000
"""Events that a plugin was given and that are recorded before the minute is over: a fifth of what is kept."""

_LEAST_CPU_S: Final = 0.05  # a process that only answers pings is no news


@define
class _Seen:
    """What of a plugin's counts was recorded already; `plugin` is another object once it was replaced."""

    plugin: Plugin
    counts: Mapping[str, int]
    cpu: float = 0.0


@define(eq=False)
class PluginUsage:
    """The costs of one host's plugins; belongs to the host's loop."""

    services: HostServices
    plugins: Callable[[], Iterable[Plugin]]
    _seen: dict[str, _Seen] = Factory(dict)
    _recorded_at: float = Factory(time.monotonic)

    def record_due(self) -> None:
        """Record when a minute has passed since the last time; called whenever events were written down."""
        if time.monotonic() - self._recorded_at >= PERIOD_S:
            self.record()
        elif any(plugin.receipts.noted >= RECEIPTS for plugin in self.plugins()):
            self.services.record_receipts()

    def record(self) -> None:
        """Queue a record of each plugin for which something has happened since the last time."""
        now = time.monotonic()
        seconds, self._recorded_at = now - self._recorded_at, now
        self.services.record_receipts()
        if self.services.is_replay:  # by another clock, and for the plugins' use nothing counts that a replay does
            return
        for plugin in self.plugins():
            data = self._since_last(plugin)
            if data is not None:
                self.services.records.write_soon(
                    USAGE, plugin.name, None, None, {"seconds": round(seconds, 1), "version": plugin.version, **data}
                )

    def _since_last(self, plugin: Plugin) -> dict[str, Any] | None:
        seen = self._seen.get(plugin.name)
        if seen is None or seen.plugin is not plugin:
            seen = self._seen[plugin.name] = _Seen(plugin, {})
        # Those of gates stand in the decisions, each with what was decided.
        times = {hook: each for hook, each in plugin.times.take().items() if not _is_gate(hook)}
        counts, usage = _counts(plugin), usage_of_plugin(plugin)
        new = {name: count - seen.counts.get(name, 0) for name, count in counts.items()}
        # Less than before: its process was started anew.
        cpu = 0.0 if usage is None else usage.cpu - (seen.cpu if usage.cpu >= seen.cpu else 0.0)
        is_first = usage is not None and not seen.cpu
        if not (times or any(new.values()) or cpu >= _LEAST_CPU_S or is_first):
            return None
        seen.counts, seen.cpu = counts, usage.cpu if usage is not None else 0.0
        about = {} if usage is None else {"memory": usage.memory, "cpu": round(cpu, 2)}
        return {"hooks": {hook: each.to_data() for hook, each in times.items()}, **new, **about}

    def describe(self) -> list[dict[str, Any]]:
        """Return what each plugin has cost since it was started here, as JSON values; times are in seconds."""
        return [_described(plugin) for plugin in self.plugins()]


def _described(plugin: Plugin) -> dict[str, Any]:
    usage = usage_of_plugin(plugin)
    return {
        "name": plugin.name,
        "version": plugin.version,
        "state": plugin.state.value,
        "hooks": [_hook(hook, each) for hook, each in sorted(plugin.times.all().items())],
        **_counts(plugin),
        "messages": plugin.counts.messages,
        "crashes": plugin.counts.crashes,
        "refused": plugin.counts.refused.total(),
        "memory": None if usage is None else usage.memory,
        "cpu": None if usage is None else round(usage.cpu, 2),
    }


def _hook(hook: str, each: HookTime) -> dict[str, Any]:
    return {"hook": hook, "calls": each.calls, "p50": each.quantile(0.5), "p95": each.quantile(0.95),
            "longest": each.longest, "seconds": each.seconds}  # fmt: skip


def _is_gate(hook: str) -> bool:
    info = HOOKS.get(hook)
    return info is not None and info.kind == "gate"


def _counts(plugin: Plugin) -> dict[str, int]:
    lane = plugin.lane
    process = plugin.supervisor.describe() if plugin.supervisor is not None else {}
    return {"events": lane.delivered if lane is not None else 0, "dropped": lane.dropped if lane is not None else 0,
            "restarts": int(process.get("restarts", 0))}  # fmt: skip


def usage_of_plugin(plugin: Plugin) -> Usage | None:
    """Return what the processes of a plugin use together; None for one that runs in the host's own."""
    if plugin.supervisor is None:
        return None
    about = plugin.supervisor.describe()
    projects = about.get("projects")
    pids = [about.get("pid")] if projects is None else [each.get("pid") for each in projects]
    found = [usage for pid in pids if pid and (usage := usage_of(pid)) is not None]
    return Usage(sum(each.memory for each in found), sum(each.cpu for each in found)) if found else None
