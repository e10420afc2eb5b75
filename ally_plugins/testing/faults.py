"""What can go wrong around a plugin, made to happen in a test: calls that hang, a full disk, floods, crashes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.author.samples import sample_events
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import HostError, JournalError
from ally_plugins.contract.values.events import EventsDropped, PluginState, ToolCallEnd
from ally_plugins.host.daemons.lane import RemoteLane
from ally_plugins.journal.journal import Journal
from ally_plugins.replay.daemon_waits import wait_for_restarts

if TYPE_CHECKING:
    from ally_plugins.contract.values.events import Event

__all__ = ["BlockingFaults", "Faults", "FaultyJournal"]

_GARBAGE: Final = (
    b"{no json\n",
    b"[]\n",
    b"17\n",
    b'{"jsonrpc":"2.0"}\n',
    b'{"jsonrpc":"2.0","id":999999,"result":1}\n',
)


class FaultyJournal(Journal):
    """A journal whose durable writes take `delay` seconds longer, or fail with `problem`."""

    delay = 0.0
    problem: str | None = None

    @override
    def _put(self, item: Any) -> Any:
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Any] = loop.create_future()
        if self.problem is not None:
            outcome.set_exception(JournalError(self.problem))
            return outcome
        written = super()._put(item)
        if not self.delay:
            return written
        written.add_done_callback(lambda done: loop.call_later(self.delay, _pass_on, done, outcome))
        return outcome


def _pass_on(done: asyncio.Future[Any], outcome: asyncio.Future[Any]) -> None:
    if outcome.done():  # nobody waits any more
        return
    if done.cancelled():
        outcome.cancel()
    elif (error := done.exception()) is not None:
        outcome.set_exception(error)
    else:
        outcome.set_result(done.result())


class Faults:
    """What a test may have go wrong around the plugin of a harness, while that runs."""

    def __init__(self, harness: Any) -> None:
        """Take a `PluginHarness`; its type is not named, since it imports this."""
        self._harness: Final = harness

    @contextmanager
    def hang(self) -> Generator[None]:
        """Give the plugin's own calls no answer meanwhile; at the end those that wait are carried out."""
        hold = self._harness.host.hold_calls(self._harness.name)
        try:
            yield
        finally:
            hold.release()

    @contextmanager
    def slow_disk(self, seconds: float) -> Generator[None]:
        """Have everything that must be on disk before it counts take so many seconds of real time longer."""
        journal = self._journal
        journal.delay = seconds
        try:
            yield
        finally:
            journal.delay = 0.0

    @contextmanager
    def full_disk(self) -> Generator[None]:
        """Have nothing be written: the plugin's calls are refused (UnavailableRefused), and gates deny."""
        journal = self._journal
        journal.problem = "the disk is full, as the test wants it"
        try:
            yield
        finally:
            journal.problem = None

    async def flood(self, count: int = 20_000) -> int:
        """Emit so many events at once, wait until the plugin is through, and return how many it has lost.

        A session's ring holds some eight thousand events; who falls behind it receives EVENTS_DROPPED. Cancelling stops
        the waiting: the events are emitted.
        """
        harness = self._harness
        for number in range(count):
            harness.session.emit(ToolCallEnd(tool_name="bash", success=number % 2 == 0, call_id=f"flood{number}"))
        await harness.settle()
        lane = harness.plugin.lane
        told = [event.count for event in harness.events_of(EventsDropped) if event.plugin_name == harness.name]
        dropped: int = lane.dropped if lane is not None else 0
        lost: int = max(dropped, sum(told))
        return lost

    async def garbage(self) -> None:
        """Give it what nobody should: every event with the oddest data, and a process lines that are no message.

        Cancelling stops in the middle.
        """
        harness = self._harness
        lane = harness.plugin.lane
        if isinstance(lane, RemoteLane) and lane.link is not None:
            for line in _GARBAGE:
                lane.link.write(line)
        await harness.emit(*sample_events())

    async def crash(self) -> None:
        """Kill its process (SIGKILL), and wait until it runs again, or has failed for good.

        Raises HostError for a plugin in the host's own process, which would end with it. Cancelling stops the waiting.
        """
        harness = self._harness
        supervisor = harness.plugin.supervisor
        process = getattr(supervisor, "process", None)
        if process is None:
            text = f"{harness.name!r} has no process of its own; give the harness its folder, as a Path"
            raise HostError(text)
        noticed = asyncio.Event()

        def note(event: Event) -> None:
            if isinstance(event, PluginState) and event.plugin_name == harness.name and event.state != "running":
                noticed.set()

        unsubscribe = harness.host.stream.subscribe("PLUGIN_STATE", note)
        try:
            os.kill(process.pid, signal.SIGKILL)
            await noticed.wait()
        finally:
            unsubscribe()
        await wait_for_restarts(harness.host)

    @property
    def _journal(self) -> FaultyJournal:
        journal = self._harness.host.given_journal
        if not isinstance(journal, FaultyJournal):
            raise HostError("with a home= the journal lies on a disk, which is not the test's to fill; leave it out")
        return journal


class BlockingFaults:
    """The same for a `BlockingHarness`: what takes time blocks."""

    def __init__(self, harness: Any) -> None:
        self._owner: Final = harness
        faults = Faults(harness.harness)
        self._faults: Final = faults
        self.hang: Final = faults.hang
        self.slow_disk: Final = faults.slow_disk
        self.full_disk: Final = faults.full_disk

    def flood(self, count: int = 20_000) -> int:
        """As `Faults.flood`."""
        lost: int = self._owner.run(self._faults.flood(count))
        return lost

    def garbage(self) -> None:
        """As `Faults.garbage`."""
        self._owner.run(self._faults.garbage())

    def crash(self) -> None:
        """As `Faults.crash`."""
        self._owner.run(self._faults.crash())
