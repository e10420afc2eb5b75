"""A child of the tests: a host that feeds the plugin "p" until it is killed, or told to end; it tells what was done."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from ally_plugins.catalog.home.folder import Home
from ally_plugins.contract.values.codec import encoded
from ally_plugins.contract.values.events import ToolCallEnd, stamp
from ally_plugins.host.daemons.lane import RemoteLane
from ally_plugins.host.durable.feeds import Feeds
from ally_plugins.journal.journal import Journal
from ally_plugins.policy.permissions import GrantSet
from ally_plugins.runtime.lanes.lane import Lane
from ally_plugins.runtime.lanes.observers import Implementation, Observers
from ally_plugins.runtime.lanes.plugin import Plugin, PluginOptions, RunState


def tell(text: str) -> None:
    os.write(1, f"{text}\n".encode())


class Link:
    """A daemon that takes its time for each event, and acknowledges it."""

    takes_lines = True
    can_write = True

    def __init__(self) -> None:
        self.queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def write(self, lines: bytes) -> None:
        for line in lines.splitlines():
            self.queue.put_nowait(json.loads(line)["params"])

    async def work(self, feeds: Feeds) -> None:
        while True:
            params = await self.queue.get()
            tell(f"heard {params['id']}")
            await feeds.acknowledge("p", params["offset"])
            tell(f"done {params['id']}")

    def close(self) -> None:
        """Nothing to let go of."""

    def request(self, method: str, params: Any) -> Any:
        raise AssertionError(f"{method} {params} was not expected")

    def write_events(self, events: Any) -> None:
        raise AssertionError(f"{events} were not given as lines")


async def hook(event: Any) -> None:
    tell(f"heard {event.id}")
    await asyncio.sleep(0)


def emit(journal: Journal, session: str, count: int) -> None:
    rows = []
    for seq in range(1, count + 1):
        event = ToolCallEnd(tool_name=f"t{seq}")
        stamp(event, seq, 1_000_000 + seq, session, (), None)
        rows.append((session, seq, event.timestamp, event.type, None, encoded(event)))
    journal.add_events(rows)


async def serve(place: str, home: Home, session: str, count: int) -> None:
    """Feed the plugin, emit some events once it has begun, and go on until stdin ends."""
    loop = asyncio.get_running_loop()
    journal = Journal.open(home.journal_file)
    feeds = Feeds(journal, home)
    options = PluginOptions(grants=GrantSet.of(["events:*"]))
    plugin = Plugin(
        "p", options, on_state=lambda _: None, on_crash=lambda *_: None, now=loop.time, state=RunState.RUNNING
    )
    lane: Any
    link = Link()
    if place == "inline":
        plugin.implementations = {"ally_tool_call_end": Implementation.of("p", "ally_tool_call_end", hook, ("event",))}
        lane = Lane("p", Observers(), on_crash=plugin.crashed, deadline=plugin.deadline)
    else:
        lane = RemoteLane("p", Observers())
    lane.start()
    feed = await feeds.add(plugin, lane, {"TOOL_CALL_END"})
    emit(journal, session, count)
    await journal.flush()
    tell("written" if feed.is_begun else "waiting")
    feeds.wake()
    working = loop.create_task(link.work(feeds))
    if place != "inline":
        lane.connect(link)
        lane.is_ready = True
        feeds.connected("p")
    await asyncio.to_thread(sys.stdin.read)
    working.cancel()
    await feeds.close()
    await lane.close()
    await journal.close()


if __name__ == "__main__":
    where, placement, name, number = sys.argv[1:]
    own = Home("test", Path(where))
    own.prepare()
    asyncio.run(serve(placement, own, name, int(number)))
