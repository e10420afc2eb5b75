"""`emit`, and dispatch to many plugins, against what pluggy alone would cost.

emit: a ready event into a session with 1, 10 and 50 plugins, whether they are quick or stuck. Dispatch: bursts of 1,000
events to plugins with one asynchronous no-op hook each, with lanes, deadlines, grants, counters and chains on, against
a plain pluggy call of as many synchronous no-op hooks; the journal writes in the background and is measured apart.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from typing import Any, Final

import pluggy

from ally_plugins import Ally, Host, ToolCallEnd, hookimpl
from ally_plugins.contract.hookspecs import PluginHooks
from ally_plugins.contract.markers import PROJECT
from ally_plugins.contract.values.compat import override

BURST: Final = 1_000
ROUNDS: Final = 15


# ruff: noqa: ARG002 - hooks take their event, whatever they do with it


class Quick:
    """An asynchronous hook that does nothing."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally

    @hookimpl
    async def ally_tool_call_end(self, event: ToolCallEnd) -> None:
        """Do nothing."""


class Stuck(Quick):
    """A hook that never comes back by itself."""

    @override
    @hookimpl
    async def ally_tool_call_end(self, event: ToolCallEnd) -> None:
        """Wait for ever."""
        await asyncio.Event().wait()


class Plain:
    """What pluggy calls."""

    @hookimpl
    def ally_tool_call_end(self, event: ToolCallEnd) -> None:
        """Do nothing."""


def _events(count: int = BURST) -> list[ToolCallEnd]:
    return [ToolCallEnd(tool_name="bash", success=True, call_id="c1") for _ in range(count)]


async def _emit(plugin: type[Quick], count: int) -> list[float]:
    """Return the µs that one emit took, a median for each burst."""
    found: list[float] = []
    plugins = {f"p{i}": plugin for i in range(count)}
    async with Host("bench", home=None, discover=False, plugins=plugins) as host:
        session = host.session()
        await session.drained()
        for _ in range(ROUNDS):
            events, emit = _events(), session.emit
            gc.disable()
            start = time.perf_counter()
            for event in events:
                emit(event)
            found.append((time.perf_counter() - start) / BURST * 1e6)
            gc.enable()
            if plugin is Quick:
                await session.drained()
            else:
                await asyncio.sleep(0)
    return found


async def _dispatch(count: int) -> tuple[list[float], list[float]]:
    """Return the µs for each event: through lanes, and through pluggy, round by round in turn."""
    ours: list[float] = []
    bare: list[float] = []
    manager = pluggy.PluginManager(PROJECT)  # its own reading of the markers
    manager.add_hookspecs(PluginHooks)
    for i in range(count):
        manager.register(Plain(), f"p{i}")
    async with Host("bench", home=None, discover=False, plugins={f"p{i}": Quick for i in range(count)}) as host:
        session = host.session()
        await session.drained()
        for _ in range(ROUNDS):
            await host.journal.flush()
            events = _events()
            session.ring.forget_runs()
            for event in events:
                session.emit(event)
            await asyncio.sleep(0)  # the journal takes its copy, and the lanes wake
            gc.disable()
            start = time.perf_counter()
            await session.drained()
            ours.append((time.perf_counter() - start) / BURST * 1e6)
            call = manager.hook.ally_tool_call_end
            start = time.perf_counter()
            for event in events:
                call(event=event)
            bare.append((time.perf_counter() - start) / BURST * 1e6)
            gc.enable()
    return ours, bare


def run() -> list[dict[str, Any]]:
    """Measure and return one row for each promise."""
    rows: list[dict[str, Any]] = []
    for plugin in (Quick, Stuck):
        for count in (1, 10, 50):
            ours = statistics.median(asyncio.run(_emit(plugin, count)))
            name = f"emit, {count} {plugin.__name__.lower()} plugins"
            rows.append({"name": name, "ours": ours, "bare": None, "ratio": None, "target": "<= 2 µs", "unit": "µs"})
    for count in (10, 100):
        mine, bare = (statistics.median(values) for values in asyncio.run(_dispatch(count)))
        rows.append(
            {
                "name": f"dispatch of an event to {count} plugins, against pluggy",
                "ours": mine,
                "bare": bare,
                "ratio": mine / bare,
                "target": "<= 0.5",
                "unit": "µs",
            }
        )
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)
