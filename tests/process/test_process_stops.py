"""Trees of real processes, whatever starts them: they end as a whole, politely or not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest

from ally_plugins.runtime.processes.launching import is_guardian_possible
from ally_plugins.runtime.processes.process import Exit
from tests.kit.processes import is_alive
from tests.kit.waiting import PATIENCE, until
from tests.process.programs import (
    DEAF,
    FAMILY,
    HIDDEN,
    MAKERS,
    POLITE,
    STORM,
    WIPED,
    end_of,
    launch,
    launching,
    marked,
    python,
    shell,
    talk,
)

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="looks into /proc; the ways themselves are elsewhere too"
)

Ways = pytest.mark.parametrize("way", ["guardian", "direct", "piped"])
Strong = pytest.mark.skipif(not is_guardian_possible(), reason="no guardian on this machine")


@Ways
def test_a_well_behaved_process_ends_in_its_own_way(way: str) -> None:
    async def main() -> None:
        async with launching(way) as launcher:
            process = await launch(launcher, python(POLITE))
            assert await talk(process).line() == "ready"
            assert await process.stop(PATIENCE)
            assert process.exited.result() == Exit(7, None)
            assert talk(process).said == b"bye\n"

    asyncio.run(main())


@Ways
def test_one_that_ignores_sigterm_is_killed_after_its_grace(way: str) -> None:
    async def main() -> None:
        async with launching(way) as launcher:
            process = await launch(launcher, python(DEAF))
            assert await talk(process).line() == "ready"
            assert await process.stop(0.05)
            assert process.exited.result().description == "was killed by SIGKILL"

    asyncio.run(main())


@Ways
def test_a_stopped_one_is_woken_to_be_told(way: str) -> None:
    async def main() -> None:
        async with launching(way) as launcher:
            process = await launch(launcher, python(POLITE))
            assert await talk(process).line() == "ready"
            os.kill(process.pid, signal.SIGSTOP)
            assert await process.stop(PATIENCE)
            assert process.exited.result() == Exit(7, None)

    asyncio.run(main())


@Ways
def test_a_shorter_grace_wins_and_all_who_wait_are_told(way: str) -> None:
    async def main() -> None:
        async with launching(way) as launcher:
            process = await launch(launcher, python(DEAF))
            assert await talk(process).line() == "ready"
            patient = asyncio.create_task(process.stop(3600))
            given_up = asyncio.create_task(process.stop(3600))
            await asyncio.sleep(0)
            given_up.cancel()
            process.kill()
            process.kill()
            assert await asyncio.wait_for(patient, PATIENCE)
            assert await process.stop(3600)
            assert given_up.cancelled()

    asyncio.run(main())


@Ways
def test_a_cancelled_stop_ends_the_tree_all_the_same(way: str) -> None:
    async def main() -> None:
        async with launching(way) as launcher:
            process = await launch(launcher, python(DEAF))
            assert await talk(process).line() == "ready"
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.stop(0.01), 0.001)
            await asyncio.wait_for(process.gone, PATIENCE)
            assert not is_alive(process.pid)

    asyncio.run(main())


@pytest.mark.slow
@Ways
def test_the_whole_family_ends(way: str) -> None:
    async def main() -> None:
        async with launching(way) as launcher:
            process = await launch(launcher, shell(FAMILY))
            assert await talk(process).line() == "ready"
            await until(lambda: len(_session(process.pid)) >= 5)
            assert await process.stop(0)
            assert not _session(process.pid)

    asyncio.run(main())


def _session(leader: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.getsid(int(folder.name)) == leader and is_alive(int(folder.name)):
                found.append(int(folder.name))
    return found


@Strong
@pytest.mark.parametrize("has_died", [False, True])
@pytest.mark.parametrize("hiding", [HIDDEN, WIPED], ids=["double fork", "and a wiped environment"])
def test_what_hides_in_a_new_session_ends_with_its_daemon_only(hiding: str, *, has_died: bool) -> None:
    async def main() -> None:
        async with launching("guardian") as launcher:
            process, other = [await launch(launcher, python(hiding)) for _ in range(2)]
            hidden, others = [int(await talk(daemon).line()) for daemon in (process, other)]
            if has_died:
                os.kill(process.pid, signal.SIGKILL)
                assert await end_of(process) == Exit(None, 9)
                assert is_alive(hidden)
            assert await process.stop(0.5)
            assert not is_alive(hidden)
            assert is_alive(others)
            assert not other.exited.done()
            assert await other.stop(0)
            assert not is_alive(others)

    asyncio.run(main())


@Strong
def test_a_daemon_that_kills_what_keeps_its_tree_together_gains_nothing() -> None:
    async def main() -> None:
        async with launching("guardian") as launcher:
            process, other = [await launch(launcher, python(WIPED)) for _ in range(2)]
            hidden, others = [int(await talk(daemon).line()) for daemon in (process, other)]
            os.kill(parent_of(process.pid), signal.SIGKILL)
            assert await end_of(process) == Exit(None, 9)
            await until(lambda: not is_alive(hidden))
            assert await process.stop(0.5)
            assert is_alive(others)
            assert not other.exited.done()
            again = await launch(launcher, shell("echo again"))
            assert await talk(again).line() == "again"

    asyncio.run(main())


@Strong
def test_a_daemon_that_stops_what_keeps_its_tree_together_is_ended_all_the_same() -> None:
    async def main() -> None:
        async with launching("guardian") as launcher:
            process = await launch(launcher, python(WIPED))
            hidden = int(await talk(process).line())
            os.kill(parent_of(process.pid), signal.SIGSTOP)
            assert await process.stop(0.1)
            assert not is_alive(hidden)
            assert not is_alive(process.pid)

    asyncio.run(main())


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@Strong
def test_a_small_storm_of_forks_ends() -> None:
    async def main() -> None:
        async with launching("guardian") as launcher:
            process = await launch(launcher, python(STORM, MARK="storm-1"))
            assert await talk(process).line() == "ready"
            assert await process.stop(0.02)
            assert not marked(b"MARK=storm-1")

    asyncio.run(main())


@Ways
@pytest.mark.usefixtures("no_leaks")
def test_closing_the_launcher_ends_everything(way: str) -> None:
    async def main() -> None:
        launcher = MAKERS[way]()
        processes = [await launch(launcher, python(DEAF)) for _ in range(5)]
        for process in processes:
            assert await talk(process).line() == "ready"
        await launcher.close()
        assert all(process.exited.done() and process.gone.done() for process in processes)
        assert not any(is_alive(process.pid) for process in processes)
        await launcher.close()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_a_process_that_nothing_ends_does_not_keep_a_direct_launcher_from_closing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with launching("direct") as launcher:
            process = await launch(launcher, python(POLITE))
            with monkeypatch.context() as patch:
                # As one that waits for a dead disk: the signal is sent, and nothing comes of it.
                patch.setattr("ally_plugins.runtime.processes.direct.os.killpg", lambda *_: None)
                patch.setattr("ally_plugins.runtime.processes.direct.UNKILLABLE", 0.1)
                await launcher.close()
            assert "1 processes of plugins do not end" in caplog.text
            assert not process.gone.done()
            process.kill()
            await process.gone

    asyncio.run(main())
