"""What the tests of durable subscriptions share: a journal with feeds, plugins with real lanes, and a daemon's link."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ally_plugins.catalog.home.folder import Home
from ally_plugins.contract.values.codec import encoded
from ally_plugins.contract.values.events import Event, ToolCallEnd, stamp
from ally_plugins.host.daemons.lane import RemoteLane
from ally_plugins.host.durable.feeds import Feeds
from ally_plugins.journal.journal import Journal
from ally_plugins.policy.permissions import GrantSet
from ally_plugins.runtime.lanes.lane import Lane
from ally_plugins.runtime.lanes.observers import Implementation, Observers
from ally_plugins.runtime.lanes.plugin import Plugin, PluginOptions, RunState
from ally_plugins.runtime.lanes.tables import without_durable

if TYPE_CHECKING:
    from ally_plugins.runtime.lanes.requests import Crash

TYPES = frozenset({"TOOL_CALL_END"})


class FakeLink:
    """A daemon's end: what was written, as events; `can_write` is the test's to say."""

    takes_lines = True

    def __init__(self) -> None:
        self.can_write = True
        self.written: list[dict[str, Any]] = []
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def write(self, lines: bytes) -> None:
        assert lines.endswith(b"\n")
        for line in lines.splitlines():
            message = json.loads(line)
            assert message["method"] == "on_event"
            self.written.append(message["params"])
            self._queue.put_nowait(message["params"])

    async def take(self, count: int) -> list[dict[str, Any]]:
        return [await self._queue.get() for _ in range(count)]

    def request(self, method: str, params: Any) -> Any:
        raise AssertionError(f"{method} {params} was not expected")

    def write_events(self, events: Any) -> None:
        raise AssertionError(f"{events} were not given as lines")

    def close(self) -> None:
        self.can_write = False


class Rig:
    """One host's journal and feeds, in a home or in memory, with plugins that have lanes of their own."""

    def __init__(self, home: Path | None) -> None:
        self.home = Home("test", home) if home is not None else None
        if self.home is not None:
            self.home.prepare()
        self.journal = Journal.open(self.home.journal_file) if self.home is not None else Journal.in_memory()
        self.feeds = Feeds(self.journal, self.home)
        self.lanes: dict[str, Any] = {}
        self.all_lanes: list[Lane] = []
        self.crashes: list[Crash] = []

    async def close(self) -> None:
        await self.feeds.close()
        for lane in self.all_lanes:
            await lane.close()
        await self.journal.close()

    def emit(self, *events: Event, session: str = "s", origin: tuple[str, ...] = ()) -> None:
        """Write events as a session does; numbers go on from those that stand in the journal."""
        rows = []
        for event in events:
            self.seqs[session] = seq = self.seqs.get(session, 0) + 1
            stamp(event, seq, 1_000_000 + seq, session, origin, f"{session}:t1")
            rows.append((session, seq, event.timestamp, event.type, ">".join(origin) or None, encoded(event)))
        self.journal.add_events(rows)
        self.feeds.wake()

    seqs: dict[str, int]

    def plugin(self, name: str = "p", grants: Iterable[str] = ("events:*",)) -> Plugin:
        return Plugin(
            name,
            PluginOptions(grants=GrantSet.of(grants), deadlines={"observe": 20.0}),
            on_state=lambda _: None,
            on_crash=lambda _, crash: self.crashes.append(crash),
            now=asyncio.get_running_loop().time,
            state=RunState.RUNNING,
        )

    async def inline(
        self,
        *,
        name: str = "p",
        types: Iterable[str] = TYPES,
        grants: Iterable[str] = ("events:*",),
        **hooks: Callable[[Any], Any],
    ) -> Plugin:
        """Start an inline plugin with these hooks, and feed it."""
        plugin = self.plugin(name, grants)
        plugin.implementations = {
            hook: Implementation.of(name, hook, function, ("event",)) for hook, function in hooks.items()
        }
        table = without_durable(Observers.compile(plugin.implementations, plugin.grants.receives), types)
        plugin.lane = lane = Lane(name, table, on_crash=plugin.crashed, deadline=plugin.deadline)
        lane.start()
        self.all_lanes.append(lane)
        self.lanes[name] = lane
        await self.feeds.add(plugin, lane, types)
        return plugin

    async def daemon(
        self, *, name: str = "p", types: Iterable[str] = TYPES, grants: Iterable[str] = ("events:*",)
    ) -> Plugin:
        """Start a plugin whose process has not come yet, and feed it."""
        plugin = self.plugin(name, grants)
        plugin.lane = lane = RemoteLane(name, Observers(types=frozenset()))
        lane.start()
        self.lanes[name] = lane
        await self.feeds.add(plugin, lane, types)
        return plugin

    def connect(self, name: str = "p") -> FakeLink:
        """Let a process come."""
        link = FakeLink()
        lane = self.lanes[name]
        lane.connect(link)
        lane.is_ready = True
        self.feeds.connected(name)
        return link

    def disconnect(self, name: str = "p") -> None:
        """Let the process end."""
        self.lanes[name].disconnect("exited with code 9")
        self.feeds.disconnected(name)


class Heard:
    """A hook that notes what it hears."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self._queue: asyncio.Queue[Any] = asyncio.Queue()

    def note(self, event: Any) -> None:
        self.events.append(event)
        self._queue.put_nowait(event)

    async def take(self, count: int) -> list[Any]:
        return [await self._queue.get() for _ in range(count)]

    @property
    def ids(self) -> list[str]:
        return [event.id for event in self.events]

    @property
    def hook(self) -> Callable[[Any], Coroutine[Any, Any, None]]:
        async def heard(event: Any) -> None:
            self.note(event)

        return heard


def ends(count: int, start: int = 0) -> list[Event]:
    return [ToolCallEnd(tool_name=f"t{number}", success=True) for number in range(start, start + count)]


@asynccontextmanager
async def opened(home: Path | None, seqs: dict[str, int]) -> AsyncIterator[Rig]:
    """Start one; `seqs` goes on from one to the next in the same home."""
    rig = Rig(home)
    rig.seqs = seqs
    try:
        yield rig
    finally:
        await rig.close()
