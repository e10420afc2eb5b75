"""More at once than a process takes: what is the host's own is never refused, in any placement."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from ally_plugins import ToolCall
from ally_plugins.journal.journal import Journal
from ally_plugins.wire.limits import IN_FLIGHT
from tests.kit.waiting import go

if TYPE_CHECKING:
    from tests.kit.placements import Placed

CROWD = IN_FLIGHT + 200


@pytest.mark.slow
def test_more_gates_than_a_process_takes_at_once_are_all_called(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("lives:StartsSlowly")}) as host:
            session = host.session("s")
            rulings = await asyncio.gather(*(session.gate_tool_call(ToolCall("bash")) for _ in range(CROWD)))
            assert {vote.cause for ruling in rulings for vote in ruling.votes} == {"verdict"}
            assert host.plugins["p"].counts.crashes == 0

    go(main())


@pytest.mark.slow
def test_a_gate_that_is_taken_back_while_it_waits_leaves_room_for_the_next(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("lives:StartsSlowly")}) as host:
            session = host.session("s")
            tasks = [asyncio.ensure_future(session.gate_tool_call(ToolCall("bash"))) for _ in range(CROWD)]
            await asyncio.sleep(0)  # so that each has been submitted
            for task in tasks[1:]:
                task.cancel()
            assert (await session.gate_tool_call(ToolCall("bash"))).is_allowed
            assert (await tasks[0]).is_allowed

    go(main())


@pytest.mark.long
@pytest.mark.slow
def test_a_host_with_more_sessions_than_a_process_takes_requests_stops_as_one_with_few(
    placed: Placed, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        journal = Journal.in_memory()
        async with placed.host({"p": placed("lives:StartsSlowly")}, journal=journal) as host:
            for number in range(CROWD):
                host.session(f"s{number}")
        assert [(message.body or {})["content"] for message in journal.pending("s0")] == ["stops"]
        await journal.close()

    caplog.set_level(logging.WARNING)
    go(main())
    assert caplog.messages == []
