"""Events of many homes on bad days: killed at every point, redelivered, far behind, slow, hung. Nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.fleet import event_consumer, event_instance
from ally_plugins.fleet.connection import connected
from ally_plugins.fleet.credentials import events_stream
from ally_plugins.fleet.event_consumer import FETCH
from tests.kit.fleets import DIGEST
from tests.kit.waiting import go, until

from .conftest import going
from .homes_events import EventHome, Notes, begun, collecting, consuming, has_place, seen

if TYPE_CHECKING:
    from collections.abc import Callable

    from ally_plugins.fleet.worker import Worker
    from tests.kit.fleets import Server

pytestmark = pytest.mark.shared

CHILD = Path(__file__).with_name("killed_child.py")
ROOT = Path(__file__).parents[2]


def child(*arguments: object) -> subprocess.Popen[bytes]:
    """Start a process that is to be killed."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, CHILD, *map(str, arguments)], env=env)


async def information(server: Server) -> Any:
    """Return what the server says of the plugin's consumer."""
    async with connected(server.who("collector")) as client:
        return await client.jetstream().consumer_info(events_stream("p"), DIGEST)


async def progressing(done: Callable[[], int], count: int) -> None:
    """Wait until something has come to a number, for as long as it comes nearer."""
    while (before := done()) < count:
        await until(lambda: done() > before, lambda: f"{count}, stopped at {done()}")


def delivered(worker: Worker) -> int:
    """Return how many events a worker's plugin has handled."""
    return worker.consumers["p"].delivered


# --- a home's publisher is killed ---


@pytest.mark.parametrize("is_taken", [False, True], ids=["worker away", "worker there"])
@pytest.mark.parametrize("point", ["before it is sent", "before the answer", "before the mark"])
def test_a_publisher_that_is_killed_loses_nothing_and_sends_nothing_twice(
    server: Server, tmp_path: Path, point: str, *, is_taken: bool
) -> None:
    notes = Notes(tmp_path / "w1")

    async def main() -> None:
        async with collecting(server, tmp_path):
            async with consuming(server, tmp_path / "w1") as worker:
                [home] = await begun(server, tmp_path)
                home.emit(30)
                if is_taken:
                    await killed(home)
                    if point != "before it is sent":
                        await until(lambda: delivered(worker) == 30)
            if not is_taken:
                await killed(home)
            await home.send()
            home.emit(5)
            await home.send()
            async with consuming(server, tmp_path / "w1"):
                await seen(notes, 35)
                await home.send()
            assert (await information(server)).num_pending == 0
            assert notes.counts() == dict.fromkeys(home.ids(2), 1)

    async def killed(home: EventHome) -> None:
        process = child("publish", server.file("laptop"), home.path, point)
        assert await asyncio.to_thread(process.wait) == -signal.SIGKILL

    go(main())


def test_events_that_a_killed_publisher_had_sent_with_others_come_twice_at_most_and_none_is_lost(
    server: Server, tmp_path: Path
) -> None:
    """The message was taken before its mark was written, and more events came since: the next message has both."""
    notes = Notes(tmp_path / "w1")

    async def main() -> None:
        async with collecting(server, tmp_path), consuming(server, tmp_path / "w1") as worker:
            [home] = await begun(server, tmp_path)
            home.emit(3)
            process = child("publish", server.file("laptop"), home.path, "before the mark")
            assert await asyncio.to_thread(process.wait) == -signal.SIGKILL
            await until(lambda: delivered(worker) == 3)
            home.emit(3)
            await home.send()
            await until(lambda: home.ids(2) <= set(notes.counts()))
            assert set(notes.counts()) == home.ids(2)  # which is what a plugin has that folds by id
            assert max(notes.counts().values()) <= 2

    go(main())


# --- the server, and workers ---


@pytest.mark.smoke
def test_while_the_server_is_away_events_wait_and_none_is_lost_when_it_was_killed(
    server: Server, tmp_path: Path
) -> None:
    notes = Notes(tmp_path / "w1")

    async def main() -> None:
        async with collecting(server, tmp_path), consuming(server, tmp_path / "w1"):
            [home] = await begun(server, tmp_path)
            async with going(home.sending()):
                home.emit(300)
                await seen(notes, 1)
                await asyncio.to_thread(server.kill)
                home.emit(300)
                await asyncio.to_thread(server.start)
                await until(lambda: home.ids(2) <= set(notes.counts()), lambda: f"{len(notes.counts())} of 600")
            assert set(notes.counts()) == home.ids(2)

    go(main())


def test_what_a_worker_had_before_it_when_it_was_killed_comes_to_the_next(server: Server, tmp_path: Path) -> None:
    first, both = Notes(tmp_path / "w1"), Notes(tmp_path / "w1", tmp_path / "w2")

    async def main() -> None:
        async with collecting(server, tmp_path):
            process = child("serve", server.file("worker-1"), tmp_path / "w1")
            try:
                async with connected(server.who("collector")) as client:
                    await has_place(client)
                [home] = await begun(server, tmp_path)
                home.emit(600, output="slow")
                await home.send()
                await seen(first, 20)
            finally:
                process.kill()
                await asyncio.to_thread(process.wait)
            assert len(first.lines()) < 600
            home.emit(1)
            await home.send()
            async with consuming(server, tmp_path / "w2", "worker-2") as worker:
                await progressing(lambda: delivered(worker), 601)
            assert set(both.counts()) == home.ids(2)

    go(main())


def test_a_message_that_was_taken_and_not_acknowledged_comes_to_another_worker(server: Server, tmp_path: Path) -> None:
    notes = Notes(tmp_path / "w1")

    async def main() -> None:
        async with collecting(server, tmp_path):
            async with consuming(server, tmp_path / "w1"):
                [home] = await begun(server, tmp_path)
            home.emit(10)
            await home.send()
            async with connected(server.who("worker-2")) as client:  # and gone, without a word
                taking = await client.jetstream().pull_subscribe_bind(durable=DIGEST, stream=events_stream("p"))
                assert await taking.fetch(1, timeout=30)
            async with consuming(server, tmp_path / "w1"):
                await seen(notes, 10)
        assert notes.counts() == dict.fromkeys(home.ids(2), 1)

    go(main())


def test_two_workers_share_the_events_and_each_comes_to_one_of_them(server: Server, tmp_path: Path) -> None:
    both = Notes(tmp_path / "w1", tmp_path / "w2")

    async def main() -> None:
        async with (
            collecting(server, tmp_path),
            consuming(server, tmp_path / "w1") as first,
            consuming(server, tmp_path / "w2", "worker-2") as second,
        ):
            [home] = await begun(server, tmp_path)
            for _ in range(24):
                home.emit(10, output="slow")
                await home.send()
            await progressing(lambda: delivered(first) + delivered(second), 240)
            assert min(delivered(first), delivered(second)) > 0
            assert both.counts() == dict.fromkeys(home.ids(2), 1)

    go(main())


# --- the plugin ---


def test_a_message_over_which_the_plugins_process_ends_comes_again_after_its_restart(
    server: Server, tmp_path: Path
) -> None:
    notes = Notes(tmp_path / "w1")

    async def main() -> None:
        async with collecting(server, tmp_path), consuming(server, tmp_path / "w1") as worker:
            [home] = await begun(server, tmp_path)
            home.emit(10)
            home.emit(1, output="die")  # once
            home.emit(10)
            await home.send()
            await until(lambda: delivered(worker) == 21)
        counts = notes.counts()
        assert set(counts) == home.ids(2)
        assert all(counts[f"laptop/s:{number}"] == 1 for number in range(12, 23))

    go(main())


def test_a_plugin_whose_hooks_fail_again_and_again_is_left_alone_for_a_while_and_not_asked_for_all(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(event_consumer, "REST_S", 0.2)
    notes = Notes(tmp_path / "w1")

    async def main() -> None:
        async with collecting(server, tmp_path), consuming(server, tmp_path / "w1") as worker:
            [home] = await begun(server, tmp_path)
            home.emit(5, output="fail")
            home.emit(5)
            await home.send()
            await until(lambda: "its hooks have failed too often" in caplog.text)
            await until(lambda: len(set(notes.counts())) == 5, lambda: str(notes.counts()))
            assert set(notes.counts()) == home.ids(7)
            # Acknowledged in the end, however many of a message fail whenever they come; and none of the others twice.
            home.emit(2)
            home.emit(12, output="fail")
            home.emit(1)
            await home.send()
            await until(lambda: delivered(worker) == 25, lambda: f"{delivered(worker)} of 25")
            info = await information(server)
            assert (info.num_pending, info.num_ack_pending) == (0, 0)
            assert notes.counts() == dict.fromkeys(home.ids(7) - {f"laptop/s:{number}" for number in range(14, 26)}, 1)

    go(main())


def test_a_plugin_that_is_slow_keeps_what_it_has_and_holds_up_nobody_else(server: Server, tmp_path: Path) -> None:
    notes, others = Notes(tmp_path / "w1"), Notes(tmp_path / "w2")

    async def main() -> None:
        async with collecting(server, tmp_path), consuming(server, tmp_path / "w1") as slow:
            [home] = await begun(server, tmp_path)
            home.emit(160, output="slow")  # 8 s: longer than the server waits for one that says nothing
            await home.send()
            for _ in range(20):
                home.emit(1)
                await home.send()  # nobody waits for it
            # What it has before it is bounded, and all else is at the server.
            await until(lambda: delivered(slow) or len(notes.lines()) > 1)
            info = await information(server)
            assert info.num_ack_pending <= FETCH
            assert info.num_pending > 0
            async with consuming(server, tmp_path / "w2", "worker-2") as quick:
                await progressing(lambda: delivered(slow) + delivered(quick), 180)
                assert others.counts()  # another worker has helped
        assert notes.counts() + others.counts() == dict.fromkeys(home.ids(2), 1)

    go(main())


def test_a_plugin_that_hangs_is_ended_and_what_it_had_comes_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_instance, "LEEWAY_S", 0.5)
    notes = Notes(tmp_path / "w1")
    deadlines = dict.fromkeys(("gate", "transform", "observe", "stop"), 1.0)

    async def main() -> None:
        async with (
            collecting(server, tmp_path),
            consuming(server, tmp_path / "w1", deadlines={**deadlines, "start": 30.0}) as worker,
        ):
            [home] = await begun(server, tmp_path)
            process = worker.process_of("p")
            assert process is not None
            home.emit(200, output="slow")
            await home.send()
            await seen(notes, 5)
            os.kill(process.pid, signal.SIGSTOP)
            await progressing(lambda: delivered(worker), 200)
            assert worker.process_of("p") is not process
        assert set(notes.counts()) == home.ids(2)

    go(main())


# --- far behind ---


def test_a_worker_that_was_away_catches_up_with_all_that_homes_have_sent_meanwhile(
    server: Server, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """A twentieth of a million: what is measured is the rate, which does not change with how much there is."""
    count, notes = 50_000, Notes(tmp_path / "w2")

    async def main() -> None:
        async with collecting(server, tmp_path):
            async with consuming(server, tmp_path / "w1"):
                [home] = await begun(server, tmp_path)
            home.emit(count, output="x" * 300)
            begin = time.monotonic()
            await home.send()
            record_property("published a second", round(count / (time.monotonic() - begin)))
            assert (await information(server)).num_pending < count / 100  # messages of many events
            begin = time.monotonic()
            async with consuming(server, tmp_path / "w2") as worker:
                await progressing(lambda: delivered(worker), count)
            record_property("consumed a second", round(count / (time.monotonic() - begin)))
            assert notes.counts() == dict.fromkeys(home.ids(2), 1)
            assert (await information(server)).num_pending == 0

    go(main(), seconds=600)
