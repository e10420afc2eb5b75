"""Which events a plugin was given, and how long it took for each: recorded alike in every placement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ally_plugins import Host, ToolCallEnd, ToolCallStart, UserMessage
from ally_plugins.journal.explanation import receivers
from ally_plugins.journal.values import RECEIVED
from tests.kit.placements import Placed, records_of
from tests.kit.waiting import go

if TYPE_CHECKING:
    from ally_plugins.journal.receipts import Received


async def received(host: Host, event_id: str) -> list[tuple[str, Received]]:
    """Return what is recorded of an event, in the order of the plugins."""
    await host.journal.flush()
    event = host.journal.reader.event(event_id)
    assert event is not None
    return sorted(receivers(host.journal.reader, event), key=lambda found: found[0])


@pytest.mark.parametrize("plugin", ["HearsSlowly", "HearsSlowlyInThread"])
def test_each_event_has_who_received_it_and_how_long_it_took(plugin: str, placed: Placed) -> None:
    async def main() -> None:
        plugins = {
            "slow": placed(f"hooks:{plugin}", ["tools", "events:TOOL_CALL_END", "events:TOOL_CALL_START"]),
            "other": placed("hooks:HearsAll", ["tools", "events:USER_MESSAGE"]),
        }
        async with placed.host(plugins) as host:
            session = host.session("s")
            session.emit(UserMessage(content="hello"))
            await session.drained()
            session.emit(ToolCallStart(tool_name="bash"))
            await session.drained()
            session.emit(ToolCallEnd(tool_name="bash"))
            await session.drained()
            assert await records_of(host, RECEIVED) == []  # a minute is not over
            await session.close()
            ((who, heard),) = [each for each in await received(host, "s:2") if each[1].seconds is not None]
            assert (who, heard.hook, heard.together) == ("other", "ally_event", 1)
            ((who, start),) = [each for each in await received(host, "s:3") if each[1].seconds is not None]
            assert (who, start.hook, start.together) == ("slow", "ally_tool_call_start", 1)
            assert start.seconds is not None
            assert 0.03 <= start.seconds < 5
            # The hook fails: it was given the event all the same.
            assert {who for who, _ in await received(host, "s:4")} == {"slow"}
            assert await received(host, "s:5") == []  # the session's end: neither is granted it

    go(main())
