"""What a test may have go wrong around a plugin, and what a plugin's author sees of it."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import attrs
import pytest

from ally_plugins import Ally, Deny, ToolCallEnd, hookimpl, tool
from ally_plugins.author.new_project import NewProject
from ally_plugins.contract.values.errors import HostError, UnavailableRefused
from ally_plugins.testing import BlockingHarness, PluginHarness
from tests.kit.waiting import go


class Speaker:
    def __init__(self, ally: Ally) -> None:
        self.ally = ally
        self.outcomes: list[str] = []

    @hookimpl
    async def ally_tool_call_end(self, event: ToolCallEnd) -> None:
        if event.call_id is not None:
            return
        try:
            await self.ally.add_message("user", event.tool_name)
            self.outcomes.append("accepted")
        except UnavailableRefused:
            self.outcomes.append("refused")

    @hookimpl
    def ally_gate_tool_call(self) -> Deny | None:
        return None


@dataclasses.dataclass
class Row:
    name: str
    below: list[Any]


@attrs.frozen
class Point:
    x: int
    _y: int = 2


class Worker:
    def __init__(self, ally: Ally) -> None:
        self.ally = ally
        self.steps: list[str] = []

    @hookimpl
    async def ally_tool_call_end(self, event: ToolCallEnd) -> None:
        await self.ally.start_task(event.tool_name, self.work(event.tool_name))

    async def work(self, name: str) -> None:
        self.steps.append(f"{name} begins")
        await self.ally.add_message("user", name)
        if name == "sleeps":
            await asyncio.sleep(3600)
            await self.ally.add_message("user", "an hour later")
        self.steps.append(f"{name} ends")

    @tool
    def row(self) -> Row:
        """Return a dataclass with an attrs value in it."""
        return Row("a", [Row("b", []), Point(1), {"p": (Point(3),)}])


def test_while_the_disk_is_full_calls_are_refused_and_gates_deny() -> None:
    with BlockingHarness(Speaker) as harness:
        with harness.faults.full_disk():
            harness.emit(ToolCallEnd(tool_name="a"))
            assert harness.gate("bash").is_denied
        harness.emit(ToolCallEnd(tool_name="b"))
        assert harness.gate("bash").is_allowed
        assert harness.plugin.instance.outcomes == ["refused", "accepted"]
        assert [each.content for each in harness.pending] == ["b"]
        assert not harness.crashes


def test_on_a_slow_disk_a_message_is_accepted_late() -> None:
    async def main() -> None:
        async with PluginHarness(Speaker) as harness:
            with harness.faults.slow_disk(0.2):
                harness.session.emit(ToolCallEnd(tool_name="a"))
                await asyncio.sleep(0.05)
                assert harness.plugin.instance.outcomes == []
                await harness.settle()
            assert harness.plugin.instance.outcomes == ["accepted"]

    go(main())


def test_a_call_that_hangs_goes_on_at_the_end() -> None:
    async def main() -> None:
        async with PluginHarness(Speaker) as harness:
            with harness.faults.hang():
                harness.session.emit(ToolCallEnd(tool_name="a"))
                for _ in range(20):
                    await asyncio.sleep(0)
                assert not harness.pending
            await harness.settle()
            assert [each.content for each in harness.pending] == ["a"]

    go(main())


def test_in_a_flood_what_was_lost_is_counted() -> None:
    with BlockingHarness(Speaker) as harness:
        lost = harness.faults.flood(12_000)
        assert lost > 0
        assert harness.plugin.lane is not None
        assert harness.plugin.lane.delivered + lost >= 12_000
        assert not harness.crashes


def test_a_process_is_killed_and_comes_back_and_bears_garbage(tmp_path: Path) -> None:
    folder = tmp_path / "loop-warner"
    NewProject(name="loop-warner", kind="daemon", language="sh", has_gate=True).write(folder)
    with BlockingHarness(folder) as harness:
        harness.faults.garbage()
        assert harness.gate("bash", {"command": "ls"}).is_allowed
        harness.faults.crash()
        assert harness.plugin.is_running
        assert harness.gate("bash", {"command": "ls"}).is_allowed
        with pytest.raises(HostError, match="not here"):
            _ = harness.ally


def test_what_runs_in_the_hosts_process_cannot_be_killed() -> None:
    with BlockingHarness(Speaker) as harness, pytest.raises(HostError, match="no process of its own"):
        harness.faults.crash()


def test_settle_waits_for_tasks_and_advance_moves_them() -> None:
    with BlockingHarness(Worker) as harness:
        harness.emit(ToolCallEnd(tool_name="ends"))
        assert harness.plugin.instance.steps == ["ends begins", "ends ends"]
        harness.emit(ToolCallEnd(tool_name="sleeps"))
        assert [each.content for each in harness.pending] == ["ends", "sleeps"]
        harness.advance(3599)
        harness.settle()
        assert [each.content for each in harness.pending] == ["ends", "sleeps"]
        harness.advance(2)
        harness.settle()
        assert [each.content for each in harness.pending] == ["ends", "sleeps", "an hour later"]
        assert not harness.crashes


def test_the_loop_has_its_own_time_back_afterwards() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        before = loop.time()
        async with PluginHarness(Worker) as harness:
            harness.advance(10_000)
            assert loop.time() >= before + 10_000
        assert loop.time() < before + 1_000

    asyncio.run(main())  # without a limit of time, which would be over


def test_a_tool_may_return_dataclasses_and_attrs_values() -> None:
    with BlockingHarness(Worker) as harness:
        data = harness.call_tool("row").data
    assert data == {
        "name": "a",
        "below": ({"name": "b", "below": ()}, {"x": 1, "_y": 2}, {"p": ({"x": 3, "_y": 2},)}),
    }


@pytest.mark.parametrize(("wrong", "right"), [("setings", "settings"), ("shadw", "shadow"), ("granst", "grants")])
def test_a_misspelt_argument_is_told_with_the_nearest_right_one(wrong: str, right: str) -> None:
    given: dict[str, Any] = {wrong: None}
    with pytest.raises(TypeError, match=f"unexpected argument '{wrong}', did you mean '{right}'"):
        PluginHarness(Speaker, **given)
