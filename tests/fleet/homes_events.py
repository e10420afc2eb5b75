"""What the tests of events beyond one home share: homes with events, a collector, and workers that write them down."""

from __future__ import annotations

import contextlib
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve

from ally_plugins import Daemon, PluginRecord, ToolCallEnd
from ally_plugins.contract.manifest import Manifest
from ally_plugins.contract.values.codec import encoded
from ally_plugins.contract.values.events import stamp
from ally_plugins.fleet.collector import collect
from ally_plugins.fleet.connection import connected
from ally_plugins.fleet.credentials import events_stream
from ally_plugins.fleet.publisher import publish
from ally_plugins.fleet.store import open_store
from ally_plugins.fleet.subscriptions import Subscription
from ally_plugins.journal.journal import Journal
from ally_plugins.policy.permissions import GrantSet
from tests.fleet.conftest import going
from tests.kit.fleets import DIGEST, serving
from tests.kit.hosts import make_record
from tests.kit.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from ally_plugins.fleet.worker import Worker
    from tests.kit.fleets import Server

TYPES = ("TOOL_CALL_END",)

_MANIFEST = Manifest.from_text(
    '[events]\nsubscribe = ["TOOL_CALL_END", "TOOL_CALL_START"]\ndurable = ["TOOL_CALL_END"]\n'
)


def folding(name: str = "p", **options: Any) -> PluginRecord:
    """Return the plugin that writes down what it is given, as its worker's operator has placed it."""
    daemon = Daemon.python("shared_plugin:Fold", env={"PYTHONPATH": str(Path(__file__).parent)})
    made = make_record(name, _MANIFEST, daemon=daemon, **options)
    return evolve(made, config=evolve(made.config, placement="sandbox"))


def subscription(plugin: str = "p", *, digest: str = DIGEST, grants: Sequence[str] = ("events:*",)) -> Subscription:
    """Return what a home has granted the plugin."""
    return Subscription(plugin, digest, TYPES, GrantSet.of(grants))


class EventHome:
    """A home whose journal has events, and what publishes them."""

    def __init__(self, server: Server, folder: Path, name: str = "laptop") -> None:
        self.server = server
        self.name = name
        self.subscriptions = [subscription()]
        self.path = folder / name / "journal.db"
        self.seq = 0
        self.changes: dict[str, Any] = {}
        """Of what `fleet.toml` has."""

    def emit(self, count: int = 1, output: str = "", tool: str = "bash") -> None:
        """Have a session emit events; they are committed when it returns."""
        rows = []
        for _ in range(count):
            self.seq += 1
            event = ToolCallEnd(tool_name=tool, success=True, output=output)
            stamp(event, self.seq, 1_000_000 + self.seq, "s", (), "s:t1")
            rows.append(("s", self.seq, event.timestamp, event.type, None, encoded(event)))
        with contextlib.closing(self.journal()) as journal:
            journal.add_events(rows)
            journal.flush_blocking()

    def journal(self) -> Any:
        """Open its journal; `close` waits."""
        journal = Journal.open(self.path)
        journal.close = journal.close_blocking  # type: ignore[method-assign,assignment]
        return journal

    @property
    def who(self) -> Any:
        """Who it is to the server."""
        return evolve(self.server.who(self.name), **{"level": "body", **self.changes})

    async def send(self) -> None:
        """Publish until all that there is was sent."""
        await publish(self.who, self.path, once=True, subscriptions=self.given)

    def sending(self) -> Any:
        """Publish until cancelled."""
        return publish(self.who, self.path, subscriptions=self.given)

    def given(self) -> list[Subscription]:
        """Return what it has granted now."""
        return self.subscriptions

    def ids(self, first: int = 1) -> set[str]:
        """Return the ids of all events that it has emitted, as a plugin elsewhere is given them."""
        return {f"{self.name}/s:{number}" for number in range(first, self.seq + 1)}


class Notes:
    """What instances of the plugin have written down, those of all workers that had this folder."""

    def __init__(self, *folders: Path) -> None:
        self.folders = folders

    def file(self, name: str) -> Path:
        """Return a file of the plugin's at the first of the workers."""
        return self.folders[0] / "data" / "p" / "events" / name

    def lines(self) -> list[tuple[str, str, str]]:
        """Return the id, tool and output of each event, as often as it came."""
        files = [folder / "data" / "p" / "events" / "seen.txt" for folder in self.folders]
        lines = [line for file in files if file.exists() for line in file.read_text("utf-8").splitlines()]
        return [(id_, tool, output) for id_, tool, output in (line.split(" ", 2) for line in lines)]

    def counts(self) -> Counter[str]:
        """Return how often each event came."""
        return Counter(id_ for id_, _, _ in self.lines())


@asynccontextmanager
async def collecting(server: Server, tmp_path: Path, **options: Any) -> AsyncIterator[None]:
    """Have a collector run."""
    with open_store(str(tmp_path / "collected.db"), create=True) as store:
        await collect(server.who("collector"), store, once=True)  # which makes the stream of the records
        async with going(collect(server.who("collector"), store, **options)):
            yield


@asynccontextmanager
async def consuming(
    server: Server, folder: Path, name: str = "worker-1", *, digest: str = DIGEST, **options: Any
) -> AsyncIterator[Worker]:
    """Have a worker consume, once it has a place in the stream."""
    async with serving(server.who(name), [folding(**options)], digest=digest, folder=folder) as worker:
        async with connected(server.who("collector")) as client:
            await has_place(client, digest)
        yield worker


async def has_place(client: Any, digest: str = DIGEST) -> None:
    """Wait until a worker has a place in the stream."""
    from nats.js.errors import NotFoundError

    found: list[Any] = []

    async def look() -> None:
        with contextlib.suppress(NotFoundError):
            found.append(await client.jetstream().consumer_info(events_stream("p"), digest))

    while not found:
        await until(lambda: True)
        await look()


async def begun(server: Server, tmp_path: Path, *names: str) -> list[EventHome]:
    """Return homes whose subscriptions have begun, so that what they emit now is for the plugin."""
    homes = [EventHome(server, tmp_path, name) for name in names or ("laptop",)]
    for home in homes:
        home.emit(1)
        await home.send()
    return homes


async def seen(notes: Notes, count: int) -> None:
    """Wait until that many events were written down."""
    await until(lambda: len(notes.lines()) >= count, lambda: f"{count} events, found {len(notes.lines())}")
