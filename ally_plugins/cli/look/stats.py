"""`stats` and `top`: what plugins cost and did, over a time from the journal, and live from the running hosts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import click

from ally_plugins.cli.shell.completion import plugin_names
from ally_plugins.cli.shell.fleet_records import fleet_options, fleet_records
from ally_plugins.cli.shell.journal_rows import reading_of
from ally_plugins.cli.shell.recorder import now_ms
from ally_plugins.cli.shell.running_hosts import ANSWER_TIMEOUT
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, inert, is_terminal, paint, print_json, table, when
from ally_plugins.cli.shell.times import parse_since
from ally_plugins.contract.values.errors import NotFoundRefused
from ally_plugins.contract.values.ids import bare_name
from ally_plugins.host.control.client import call_all, hosts_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.cli.shell.state import State
    from ally_plugins.fleet.store import FleetStore
    from ally_plugins.host.control.client import HostAnswer
    from ally_plugins.journal.statistics import HookStatistics, PluginStatistics

__all__ = ["plugin_data", "seconds_text", "stats", "top"]

_SINCE: Final = "24h"
_EVERY_S: Final = 2.0
_HOOKS: Final = ("plugin", "hook", "calls", "p50", "p95", "longest", "denied", "asked", "changed", "failed")
_PLUGINS: Final = ("plugin", "messages", "tokens", "cache breaks", "refused", "crashes", "restarts", "lost events",
                   "memory", "CPU")  # fmt: skip
_LIVE_HOOKS: Final = ("host", "plugin", "hook", "calls", "p50", "p95", "longest", "busy")
_LIVE_PLUGINS: Final = ("host", "plugin", "state", "messages", "refused", "crashes", "restarts", "lost events",
                        "memory", "CPU", "CPU now")  # fmt: skip


@command("stats")
@click.argument("name", required=False, shell_complete=plugin_names)
@click.option("--since", metavar="TIME", default=_SINCE, show_default=True,
              help="Only what is newer: 10m, 2h, 3d, or a time such as 2026-03-01T10:00.")  # fmt: skip
@fleet_options
def stats(state: State, name: str | None, since: str, fleet_place: str | None, fleet_home: str | None) -> None:
    """Show what each plugin, or the one that is named, cost and did: from the journal, without replays.

    For each hook: calls, the time that half and 95 % of them took at most, the longest, and what came of it. For each
    plugin: messages, the tokens that these put into conversations (estimated: a token for four characters), changes
    that cost the provider's prompt cache, its refused calls, crashes, restarts, events it lost, memory and processor.
    Running hosts are asked to record what they have counted first. With --fleet it is the sum over all homes, of what
    they have sent with its content; those that keep contents to themselves are named.

    \b
    Example:
      ally-plugins stats
      ally-plugins stats loop-warner --since 7d
      ally-plugins stats --fleet fleet.db --since 1d
    """
    from ally_plugins.journal.statistics import statistics_of

    after, plugin = parse_since(since, now_ms()), name and bare_name(name)
    with fleet_records(fleet_place, fleet_home) as store:
        if store is not None:
            _show_fleet(state, store, after, plugin, fleet_home)
            return
    without = [answer for answer in _ask(state.home) if answer.result is None]
    for line in _not_answered(without):
        echo(f"{line}; it may have counted more than is recorded", to_stderr=True)
    with reading_of(state.home) as reading:
        found = statistics_of(reading, since=after, plugin=plugin) if reading is not None else {}
    if plugin is not None and not found:
        state.registry.get(plugin)
    if state.as_json:
        plugins = [plugin_data(each, found[each]) for each in sorted(found)]
        print_json({"since": after, "plugins": plugins, "silent_hosts": [each.host.pid for each in without]})
        return
    _show_found(found, after, plugin)


def _show_fleet(state: State, store: FleetStore, since: int, plugin: str | None, home: str | None) -> None:
    """Print the sum over all homes, or what is known of one."""
    from ally_plugins.fleet.readings import fleet_statistics

    known = fleet_statistics(store, since=since, home=home)
    found = {name: each for name, each in known.plugins.items() if plugin in {None, name}}
    if plugin is not None and not found and not any(store.records(names=plugin, limit=1)):
        raise NotFoundRefused(f"no home of the fleet has sent anything of a plugin {plugin!r}")
    if state.as_json:
        plugins = [plugin_data(each, found[each]) for each in sorted(found)]
        print_json({"since": since, "plugins": plugins, "without_content": known.without_content})
        return
    if known.without_content:
        names = inert(", ".join(known.without_content))
        text = "sent without their content, as their level in fleet.toml says, and not counted: the records of"
        echo(f"{text} {names}", to_stderr=True)
    _show_found(found, since, plugin)


def _show_found(found: Mapping[str, PluginStatistics], after: int, plugin: str | None) -> None:
    if not found:
        echo(f"since {when(after)} nothing is recorded of {inert(plugin) if plugin is not None else 'any plugin'}")
        return
    echo(f"since {when(after)}")
    _show(_HOOKS, (row for each in sorted(found) for row in _hook_rows(each, found[each])))
    _show(_PLUGINS, (_plugin_row(each, found[each]) for each in sorted(found)))


def _show(headings: Sequence[str], rows: Iterable[tuple[str, ...]]) -> None:
    shown = table(headings, list(rows))
    if shown:
        echo()
    for line in shown:
        echo(line)


def _hook_rows(name: str, plugin: PluginStatistics) -> Iterator[tuple[str, ...]]:
    for hook, each in sorted(plugin.hooks.items()):
        numbers = (each.denied, each.asked, each.changed, each.failed)
        failed = paint(str(each.failed), fg="red") if each.failed else "0"
        yield (inert(name), inert(hook), *_times(hook_data(each)), *map(str, numbers[:-1]), failed)


def _times(hook: Mapping[str, Any]) -> tuple[str, ...]:
    if not hook.get("calls"):  # by the journal of a version that did not count it
        return ("-",) * 4
    return (f"{hook['calls']:,}", *(seconds_text(hook.get(part, 0)) for part in ("p50", "p95", "longest")))


def _plugin_row(name: str, plugin: PluginStatistics) -> tuple[str, ...]:
    breaks = f"{plugin.cache_breaks}" + (f" ({plugin.uncached_tokens:,} tokens)" if plugin.uncached_tokens else "")
    counts = (plugin.refused, plugin.crashes, plugin.restarts, plugin.dropped)
    return (inert(name), str(plugin.messages), f"{plugin.tokens:,}", breaks, *map(str, counts),
            _bytes(plugin.memory), _cpu(plugin.cpu))  # fmt: skip


def hook_data(hook: HookStatistics) -> dict[str, Any]:
    """Return a hook's numbers as JSON values; times are in seconds."""
    time_ = hook.time
    return {"calls": time_.calls, "p50": time_.quantile(0.5), "p95": time_.quantile(0.95), "longest": time_.longest,
            "seconds": time_.seconds, "denied": hook.denied, "asked": hook.asked, "changed": hook.changed,
            "failed": hook.failed}  # fmt: skip


def plugin_data(name: str, plugin: PluginStatistics) -> dict[str, Any]:
    """Return a plugin's numbers as JSON values."""
    import attrs

    hooks = [{"hook": hook, **hook_data(each)} for hook, each in sorted(plugin.hooks.items())]
    return {"name": name, **attrs.asdict(plugin, filter=lambda field, _: field.name != "hooks"), "hooks": hooks}


# --- live


@command("top")
@click.argument("name", required=False, shell_complete=plugin_names)
@click.option("--every", type=click.FloatRange(min=0.1), default=_EVERY_S, metavar="SECONDS", show_default=True,
              help="How long to wait before the next look.")  # fmt: skip
@click.option("--count", type=click.IntRange(min=0), metavar="N",
              help="End after so many looks; 0 for never, which is so on a terminal. Elsewhere it is one.")  # fmt: skip
def top(state: State, name: str | None, every: float, count: int | None) -> None:
    """Show what each plugin has cost in the hosts that run, since its start there, until Ctrl-C.

    `busy` is the part of the time since the last look that the hook ran, `CPU now` the part of one processor that the
    plugin's processes used. With --json each look is one line.

    \b
    Example:
      ally-plugins top
      ally-plugins top loop-warner --every 0.5
      ally-plugins top --count 10 --json
    """
    redraws = is_terminal("stdout") and not state.as_json
    left = count if count is not None else (0 if redraws else 1)
    plugin, before, looked_at = name and bare_name(name), _Look({}), time.monotonic()
    while True:
        answers, now = _ask(state.home), time.monotonic()
        look = _Look({answer.host.pid: answer.result for answer in answers if answer.result is not None}, plugin)
        if redraws:
            click.clear()
        _show_look(state, look, before, now - looked_at, [each for each in answers if each.result is None])
        before, looked_at, left = look, now, left - 1
        if left == 0:
            return
        time.sleep(every)


class _Look:
    """What the hosts said at one time, by the host's process."""

    def __init__(self, hosts: Mapping[int, Mapping[str, Any]], plugin: str | None = None) -> None:
        self.hosts = {
            pid: [each for each in host.get("plugins", ()) if plugin is None or each.get("name") == plugin]
            for pid, host in hosts.items()
        }
        self.cpu = {(pid, each["name"]): each["cpu"] for pid, each in self.plugins() if each.get("cpu") is not None}
        self.busy = {(pid, each["name"], hook["hook"]): hook.get("seconds", 0) for pid, each, hook in self.hooks()}

    def plugins(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        for pid, plugins in self.hosts.items():
            for plugin in plugins:
                yield pid, plugin

    def hooks(self) -> Iterator[tuple[int, Mapping[str, Any], Mapping[str, Any]]]:
        for pid, plugin in self.plugins():
            for hook in plugin.get("hooks", ()):
                yield pid, plugin, hook


def _show_look(state: State, look: _Look, before: _Look, seconds: float, without: Sequence[HostAnswer]) -> None:
    if state.as_json:
        hosts = [{"pid": pid, "plugins": plugins} for pid, plugins in look.hosts.items()]
        print_json({"at": now_ms(), "hosts": hosts, "silent_hosts": [each.host.pid for each in without]})
        return
    for line in _not_answered(without):
        echo(line, to_stderr=True)
    if not look.hosts:
        echo("no host runs" if not without else "no host answers")
        return
    echo(f"{when(now_ms())}, {len(look.hosts)} host{'s' if len(look.hosts) > 1 else ''}")
    _show(_LIVE_HOOKS, (_live_hook(pid, each, hook, before, seconds) for pid, each, hook in look.hooks()))
    _show(_LIVE_PLUGINS, (_live_plugin(pid, each, before, seconds) for pid, each in look.plugins()))


def _live_hook(
    pid: int, plugin: Mapping[str, Any], hook: Mapping[str, Any], before: _Look, seconds: float
) -> tuple[str, ...]:
    used = hook.get("seconds", 0) - before.busy.get((pid, plugin["name"], hook["hook"]), 0)
    return (str(pid), inert(plugin["name"]), inert(hook["hook"]), *_times(hook),
            _part(used, seconds) if before.hosts else "-")  # fmt: skip


def _live_plugin(pid: int, plugin: Mapping[str, Any], before: _Look, seconds: float) -> tuple[str, ...]:
    from .list import paint_state

    cpu, earlier = plugin.get("cpu"), before.cpu.get((pid, plugin["name"]))
    counts = (str(plugin.get(each, 0)) for each in ("messages", "refused", "crashes", "restarts", "dropped"))
    now = _part(cpu - earlier, seconds) if cpu is not None and earlier is not None else "-"
    return (str(pid), inert(plugin["name"]), paint_state(inert(plugin.get("state", "-"))), *counts,
            _bytes(plugin.get("memory")), _cpu(cpu), now)  # fmt: skip


def _not_answered(without: Iterable[HostAnswer]) -> Iterator[str]:
    for each in without:
        yield (
            f"host {each.host.pid} does not answer" if each.is_silent else f"host {each.host.pid}: {inert(each.error)}"
        )


def _ask(home: Home) -> list[HostAnswer]:
    """Have the running hosts record what they have counted, and return their answers."""
    hosts = hosts_of(home)
    return call_all(hosts, "usage", None, ANSWER_TIMEOUT) if hosts else []


# --- numbers as text


def seconds_text(seconds: float) -> str:
    """Return a length of time to three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def _bytes(number: float | None) -> str:
    return "-" if number is None else f"{number / 1e6:.0f} MB"


def _cpu(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"


def _part(used: float, seconds: float) -> str:
    return f"{max(used, 0) / max(seconds, 1e-9):.1%}"
