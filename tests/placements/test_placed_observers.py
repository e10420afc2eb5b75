"""What observers hear, in every placement: the same events, as equal values, in the same order."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from ally_plugins import ContextUsageUpdate, ToolCall, ToolCallEnd, ToolCallStart, UserMessage
from ally_plugins.author.samples import sample_events
from ally_plugins.contract.values.event_types import hook_name
from ally_plugins.contract.values.events import EVENT_TYPES, PluginEvent
from tests.kit.placements import Placed, call, collect_events, look, records_of
from tests.kit.waiting import go, until
from tests.placements.placed_plugins.hooks import describe


def end(name: str = "bash") -> ToolCallEnd:
    return ToolCallEnd(tool_name=name)


def expected(events: list[Any]) -> list[Any]:
    """Return what a plugin with every observe hook is to note: for each event its own hook, then the general one."""
    notes = []
    for event in events:
        own = [] if isinstance(event, PluginEvent) else [hook_name(event.type)]
        notes += [[hook, describe(event), event.session_id] for hook in [*own, "ally_event"]]
    found: list[Any] = orjson.loads(orjson.dumps(notes))
    return found


@pytest.mark.parametrize("plugin", ["Hears", "HearsInThread"])
def test_every_hook_hears_its_events_with_equal_values_and_stamps(plugin: str, placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed(f"hooks:{plugin}")}) as host:
            events = collect_events(host)
            session, other = host.session("s", focus="/home"), host.session("two words")
            await session.safe_point("turn_start")
            for event in sample_events():
                session.emit(event)
            other.emit(ToolCallEnd(tool_name="bash", extra={"newField": [1, {"a": None}]}))
            await session.drained()
            await other.drained()
            seen = await look(host)
            assert {note[0] for note in seen} == {"ally_event", *map(hook_name, EVENT_TYPES)}
            for name in (session.id, other.id):
                of_session = [event for event in events if event.session_id == name]
                assert [note for note in seen if note[2] == name] == expected(of_session)

    go(main())


def test_a_hook_need_not_take_the_event(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("hooks:HearsNothingOfIt")}) as host:
            session = host.session()
            session.emit(ToolCallStart(tool_name="bash"))
            session.emit(end())
            await session.drained()
            assert await look(host) == ["start", "end"]

    go(main())


def test_only_granted_events_are_delivered(placed: Placed) -> None:
    async def main() -> None:
        plugins = {
            "none": placed("hooks:HearsAll", ["tools"]),
            "one": placed("hooks:HearsAll", ["tools", "events:TOOL_CALL_END"]),
            "own": placed("hooks:HearsAll", ["tools", "events:p:*"]),
            "exact": placed("hooks:HearsAll", ["tools", "events:p:news"]),
            "p": placed("calls:Caller", ["tools", "emit_event"]),
        }
        async with placed.host(plugins) as host:
            session = host.session()
            session.emit(ToolCallStart(tool_name="bash"))
            session.emit(end())
            await host.call_tool("emit_both", plugin="p")
            await session.drained()
            assert {name: await look(host, name) for name in plugins if name != "p"} == {
                "none": [],
                "one": ["TOOL_CALL_END"],
                "own": ["p:news", "p:olds"],
                "exact": ["p:news"],
            }

    go(main())


def test_a_plugin_does_not_hear_its_own_event_and_others_do(placed: Placed) -> None:
    async def main() -> None:
        plugins = {"p": placed("calls:Caller"), "other": placed("hooks:HearsAll")}
        async with placed.host(plugins) as host:
            session = host.session()
            answer = await call(host, "emit_event", "news", {"n": 1})
            assert answer["returned"]["state"] == "recorded"
            await session.drained()
            assert await look(host, "other") == ["SESSION_START", "p:news", "PLUGIN_EVENT_EMITTED"]
            assert await look(host, "p") == ["SESSION_START"]

    go(main())


def test_what_was_lost_is_told_with_its_exact_numbers(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("hooks:HearsDrops")}) as host:
            session = host.session()
            await session.drained()
            session.ring.capacity = 8
            first = session.ring.head + 1
            for _ in range(100):
                session.emit(end())
            await session.drained()
            seen = await look(host)
            kept = [each for each in seen if not isinstance(each, list)]
            (told,) = [each for each in seen if isinstance(each, list)]
            assert seen[0] == told  # before what came after
            assert told == ["p", kept[0] - first, [[first, kept[0] - 1]]]
            assert kept == list(range(kept[0], first + 100))
            lane = host.plugins["p"].lane
            assert lane is not None
            assert lane.dropped == kept[0] - first

    go(main())


def test_a_crash_is_counted_and_recorded_with_its_event_and_the_next_event_is_heard(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("hooks:Observes")}) as host:
            session = host.session("s")
            for name in ("error", "exit", "cancelled"):
                session.emit(end(name))
            session.emit(ToolCallStart(tool_name="error"))
            session.emit(end("fine"))
            await session.drained()
            assert await look(host) == ["error", "exit", "cancelled", "error in thread", "fine"]
            assert host.plugins["p"].counts.crashes == 4
            assert host.plugins["p"].state == "running"
            crashes = await records_of(host, "crash")
            assert [(r.plugin, r.session_id, r.data["hook"], r.data["event"]) for r in crashes] == [
                ("p", "s", "ally_tool_call_end", "s:2"),
                ("p", "s", "ally_tool_call_end", "s:3"),
                ("p", "s", "ally_tool_call_end", "s:4"),
                ("p", "s", "ally_tool_call_start", "s:5"),
            ]
            said = [record.data["error"] for record in crashes]
            words = ["ValueError: a broken thing", "SystemExit: 3", "Cancelled", "ValueError: a broken thing"]
            for text, expected_words in zip(said, words, strict=True):
                assert placed.raised(expected_words) in text

    go(main())


def test_a_refusal_that_an_observer_does_not_catch_is_no_crash(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("hooks:Observes", ["tools", "events:*"])}) as host:
            session = host.session("s")
            session.emit(end("refused"))
            session.emit(ToolCallStart(tool_name="refused"))
            session.emit(end("fine"))
            await session.drained()
            assert await look(host) == ["refused", "refused in thread", "fine"]
            assert host.plugins["p"].counts.crashes == 0
            assert host.plugins["p"].counts.refused == {"permission": 2}
            assert {r.data["permission"] for r in await records_of(host, "refusal")} == {"add_message:system"}

    go(main())


def test_five_crashes_in_a_minute_are_the_end_and_everybody_is_told(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("hooks:Observes")}) as host:
            events = collect_events(host)
            session = host.session("s")
            for _ in range(4):
                session.emit(end("error"))
            await session.drained()
            plugin = host.plugins["p"]
            assert plugin.state == "running"
            session.emit(end("error"))
            await until(lambda: plugin.state == "quarantined")
            assert plugin.reason.startswith("5 crashes in 60 s, last: ValueError")
            assert plugin.reason.endswith("let it out with `ally-plugins release p`")
            ruling = await session.gate_tool_call(ToolCall("bash"))
            assert ruling.is_denied
            assert ruling.votes[0].cause == "quarantined"
            assert ruling.reason.count("ally-plugins release p") == 1
            assert list(host.tools) == []
            states = [(e.plugin_name, e.state) for e in events if e.type == "PLUGIN_STATE"]
            assert ("p", "quarantined") in states
            session.emit(end())
            await session.drained()  # nobody waits for it any more
            recorded = [r.data["state"] for r in await records_of(host, "plugin_state", plugin="p")]
            assert recorded[-1] == "quarantined"

    go(main())


def test_hooks_never_overlap_and_questions_come_after_the_events_before_them(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("hooks:Overlaps")}) as host:
            session = host.session()
            for _ in range(5):
                session.emit(end())
            first = asyncio.ensure_future(session.gate_tool_call(ToolCall("gate")))
            second = asyncio.ensure_future(session.transform_tool_input(ToolCall("transform")))
            await asyncio.sleep(0)
            for _ in range(5):
                session.emit(end())
            await asyncio.gather(first, second)
            await session.drained()
            seen = await look(host)
            assert {most for _, most in seen} == {1}
            order = [what for what, _ in seen]
            numbers = [what for what in order if isinstance(what, int)]
            assert numbers == sorted(numbers)
            assert set(order[: order.index("gate")]) >= {2, 3, 4, 5, 6}
            assert set(order[: order.index("transform")]) >= {2, 3, 4, 5, 6}

    go(main())


def test_a_session_that_is_closed_is_heard_to_its_end(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("hooks:HearsAll")}) as host:
            session = host.session("s")
            session.emit(UserMessage(content="hello"))
            await session.close()
            again = host.session("s")
            await again.drained()
            assert await look(host) == ["SESSION_START", "USER_MESSAGE", "SESSION_END", "SESSION_START"]

    go(main())


def test_a_threshold_that_a_plugin_asked_for_comes_to_it_and_to_no_other(placed: Placed) -> None:
    asks = '[events]\nsubscribe = ["*"]\nthresholds = [33.5, 66]\n[permissions]\ntools = { reason = "r" }\n'

    async def main() -> None:
        plugins = {"p": placed("hooks:HearsThresholds", ["tools", "events:*"], manifest=asks),
                   "q": placed("hooks:HearsThresholds", ["tools", "events:*"])}  # fmt: skip
        async with placed.host(plugins) as host:
            session = host.session("s")
            for usage in (10, 40, 70):
                session.emit(ContextUsageUpdate(context_usage=usage))
            await session.drained()
            assert await look(host, "p") == [33.5, 50.0, 66.0]
            assert await look(host, "q") == [50.0]

    go(main())
