from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ally_plugins.contract.values.errors import NotFoundRefused
from ally_plugins.journal.audit import verify
from tests.durable.rig import Heard, ends
from tests.kit.waiting import go

CHILD = Path(__file__).with_name("durable_child.py")

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return what starts a host that feeds "p" and emits `count` events in a session of its own."""
    children: list[subprocess.Popen[str]] = []

    def start(placement: str, session: str, count: int) -> subprocess.Popen[str]:
        command = [sys.executable, str(CHILD), str(tmp_path / "home"), placement, session, str(count)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        children.append(child)
        return child

    yield start
    for child in children:
        with child:
            child.kill()


def lines_until(child: subprocess.Popen[str], last: str) -> list[str]:
    found: list[str] = []
    assert child.stdout is not None
    for line in child.stdout:
        found.append(line.rstrip("\n"))
        if found[-1] == last:
            return found
    raise AssertionError(f"{last!r} did not come; the last was {found[-1:]}")


def said(lines: list[str], what: str = "heard") -> list[str]:
    return [line.split()[1] for line in lines if line.startswith(f"{what} ")]


def rest(child: subprocess.Popen[str]) -> list[str]:
    """Return what is left, cut lines not; not `communicate`, which forgets what was read ahead."""
    assert child.stdout is not None
    return child.stdout.read().split("\n")[:-1]


def kill(child: subprocess.Popen[str]) -> list[str]:
    """Kill a host, and return what it had still said."""
    child.kill()
    return rest(child)


def end(child: subprocess.Popen[str]) -> list[str]:
    """Let a host end by itself."""
    assert child.stdin is not None
    child.stdin.close()
    lines = rest(child)
    assert child.wait(60) == 0
    return lines


def test_after_the_kill_of_a_host_nothing_is_missing_and_what_was_acknowledged_does_not_come_again(
    start: Start, tmp_path: Path
) -> None:
    lives = []
    for life, last in enumerate((100, 230, 500)):
        child = start("process", f"s{life}", 500 if life == 0 else 0)
        lines = lines_until(child, f"done s0:{last}")
        lines += end(child) if last == 500 else kill(child)
        lives.append(lines)
    expected = [f"s0:{number}" for number in range(1, 501)]
    assert [one for lines in lives for one in said(lines, "done")] == sorted(
        {one for lines in lives for one in said(lines, "done")}, key=expected.index
    )  # none twice, and in order
    assert sorted({one for lines in lives for one in said(lines)}, key=expected.index) == expected
    for earlier, later in pairwise(lives):
        done = set(said(earlier, "done"))
        assert done.isdisjoint(said(later))
        again = expected.index(said(later)[0])
        assert said(later) == expected[again : again + len(said(later))]
    assert verify(tmp_path / "home" / "journal.db").ok


@pytest.mark.slow
def test_after_the_kill_of_a_host_an_inline_plugin_hears_the_last_ones_again_and_misses_none(start: Start) -> None:
    expected = [f"s0:{number}" for number in range(1, 501)]
    first = start("inline", "s0", 500)
    before = lines_until(first, "heard s0:250") + kill(first)
    second = start("inline", "s1", 0)
    after = lines_until(second, "heard s0:500") + end(second)
    assert said(before) == expected[: len(said(before))]
    again = expected.index(said(after)[0])
    assert again <= len(said(before))
    assert said(after) == expected[again:]
    third = start("inline", "s2", 1)  # a host that ended by itself has written down everything
    assert said(lines_until(third, "heard s2:1")) == ["s2:1"]


@pytest.mark.slow
def test_one_host_at_a_time_feeds_a_plugin_and_another_takes_over_when_that_ends(start: Start, rig: Any) -> None:
    first = start("process", "s0", 30)
    lines_until(first, "done s0:30")

    async def main() -> None:
        ear = Heard()
        async with rig() as host:
            await host.inline(ally_tool_call_end=ear.hook)
            host.emit(*ends(20), session="mine")
            await asyncio.to_thread(lines_until, first, "done mine:20")  # the other hears what this one emits
            assert ear.ids == []
            kill(first)
            host.emit(*ends(5), session="mine")
            await ear.take(5)
            assert ear.ids == [f"mine:{number}" for number in range(21, 26)]

    go(main())


def test_a_host_that_waits_for_another_to_end_knows_no_offset_of_its_events(start: Start, rig: Any, kept: Any) -> None:
    first = start("process", "s0", 3)
    lines_until(first, "done s0:3")
    before = kept()

    async def main() -> None:
        async with rig() as host:
            await host.daemon()
            link = host.connect()
            with pytest.raises(NotFoundRefused):
                await host.feeds.acknowledge("p", before)
            assert link.written == []
        assert kept() == before

    go(main())


@pytest.mark.slow
def test_a_plugin_in_quarantine_in_one_host_is_fed_in_another(rig: Any) -> None:
    async def main() -> None:
        ear = Heard()

        async def bad(event: Any) -> None:
            raise ValueError(event.id)

        async with rig() as first, rig() as second:
            plugin = await first.inline(ally_tool_call_end=bad)
            await second.inline(ally_tool_call_end=ear.hook)
            first.emit(*ends(20))
            await ear.take(20 - plugin.crashes.limit)
            assert plugin.state == "quarantined"
            assert ear.ids == [f"s:{number}" for number in range(plugin.crashes.limit + 1, 21)]

    go(main())


def test_two_hosts_in_one_process_take_turns_too(rig: Any) -> None:
    async def main() -> None:
        one, two = Heard(), Heard()
        async with rig() as second:
            async with rig() as first:
                await first.inline(ally_tool_call_end=one.hook)
                await second.inline(ally_tool_call_end=two.hook)
                first.emit(*ends(5))
                await one.take(5)
            second.emit(*ends(5))
            await two.take(5)
            assert one.ids + two.ids == [f"s:{number}" for number in range(1, 11)]

    go(main())
