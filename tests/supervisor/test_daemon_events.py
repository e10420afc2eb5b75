"""What a daemon hears of a session: in order, only what it may, never its own, and exactly what the journal holds."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import ThoughtComplete, ToolCallEnd, ToolCallStart, UserMessage
from ally_plugins.journal.reader import JournalReader
from tests.kit.waiting import go

if TYPE_CHECKING:
    from tests.supervisor.staging import Theatre

HEARS = "serve(on_event=lambda params: note(params))"
HEARS_SEQ = """
seqs = []
def take(params):
    seqs.append(params["seq"])
    if params["event_type"] == "USER_MESSAGE":
        note(seqs)
serve(on_event=take)
"""


@pytest.mark.slow
def test_events_come_in_the_order_of_their_numbers_and_all_of_them(theatre: Theatre) -> None:
    async def main() -> None:
        async with theatre(HEARS_SEQ, grants=("events:THOUGHT_COMPLETE", "events:USER_MESSAGE")) as stage:
            events = [ThoughtComplete(thinking=str(number)) for number in range(3000)]
            for number, event in enumerate(events):
                stage.session.emit(event)
                if number % 500 == 0:
                    await stage.others_answer()
            stage.session.emit(last := UserMessage(content="last"))
            (seqs,) = await stage.noted()
            assert seqs == [event.seq for event in events] + [last.seq]

    go(main())


@pytest.mark.slow
def test_a_gate_is_asked_after_all_events_that_came_before_it(theatre: Theatre) -> None:
    body = """
heard = [0]
def take(params):
    heard[0] = params["seq"]
serve(hello={"hooks": ["ally_gate_tool_call"], "events": ["THOUGHT_COMPLETE"]}, on_event=take,
      gate=lambda _: (note(heard[0]), {"verdict": "allow"})[1])
"""

    async def main() -> None:
        async with theatre(body, grants=("events:*", "gate:tool_call")) as stage:
            expected = []
            for _ in range(20):
                events = [ThoughtComplete(thinking="x") for _ in range(50)]
                for event in events:
                    stage.session.emit(event)
                expected.append(events[-1].seq)
                assert (await stage.vote()).cause == "verdict"
            assert await stage.noted(20) == expected

    go(main())


def test_what_it_caused_itself_is_not_sent_to_it_and_to_others_it_is(theatre: Theatre) -> None:
    body = """
serve(hello={"tools": [{"name": "say"}]}, on_event=lambda params: note([params["event_type"], params["origin"]]),
      call_tool=lambda params: send(id=1, method="emit_event",
                                    params={"type": "bad:said", "data": {"n": 1}, "session_id": "s"}))
"""
    heard: list[Any] = []

    async def main() -> None:
        grants = ("events:bad:*", "events:good:*", "events:USER_MESSAGE", "emit_event", "tools")
        async with theatre(body, grants=grants) as stage:
            stage.host.stream.subscribe("bad:said", heard.append)
            await stage.host.call_tool("say", session_id="s")
            await stage.until(lambda: heard, "its event")
            stage.session.emit(UserMessage(content="x"))
            assert await stage.noted() == [["USER_MESSAGE", []]]

    go(main())
    assert [event.origin for event in heard] == [("bad",)]


def test_only_what_is_granted_is_sent(theatre: Theatre) -> None:
    async def main() -> None:
        async with theatre(HEARS, grants=("events:TOOL_CALL_END",)) as stage:
            stage.session.emit(UserMessage(content="secret"))
            stage.session.emit(ToolCallStart(tool_name="bash", arguments={"command": "ls"}))
            stage.session.emit(ToolCallEnd(tool_name="bash", success=True))
            await stage.others_answer()
            (event,) = await stage.noted()
            assert event["event_type"] == "TOOL_CALL_END"

    go(main())


def test_an_event_is_what_the_journal_has_of_it(theatre: Theatre, tmp_path: Path) -> None:
    async def main() -> list[Any]:
        async with theatre(
            HEARS, home=tmp_path / "home", grants=("events:USER_MESSAGE", "events:TOOL_CALL_START")
        ) as stage:
            stage.session.emit(UserMessage(content="grüße \u2028 \U0001f600 \x07"))
            stage.session.emit(
                ToolCallStart(tool_name="bash", arguments={"command": "ls", "n": 10**15, "x": None}, call_id="c1")
            )
            notes: list[Any] = await stage.noted(2)
            return notes

    heard = go(main())
    with JournalReader(tmp_path / "home" / "journal.db") as reading:
        kept = [
            json.loads(event.body) for event in reading.events("s") if event.type in {"USER_MESSAGE", "TOOL_CALL_START"}
        ]
    for told, written in zip(heard, kept, strict=True):
        assert told == written
    assert heard[1]["call_id"] == "c1"


def test_events_of_a_backoff_come_after_the_restart_none_missing(theatre: Theatre) -> None:
    async def main() -> None:
        async with theatre(HEARS_SEQ, grants=("events:THOUGHT_COMPLETE", "events:USER_MESSAGE")) as stage:
            os.kill(stage.pid, signal.SIGKILL)
            await stage.reached("backoff")
            expected = []
            for number in range(200):
                stage.session.emit(event := ThoughtComplete(thinking=str(number)))
                expected.append(event.seq)
            await stage.others_answer()
            await stage.reached("running")
            stage.session.emit(last := UserMessage(content="last"))
            assert await stage.noted() == [[*expected, last.seq]]
            assert stage.bad.lane.dropped == 0

    go(main())


@pytest.mark.slow
def test_a_session_that_closes_waits_no_longer_than_a_moment_for_one_that_hangs(theatre: Theatre) -> None:
    async def main() -> None:
        async with theatre("serve(then=linger)") as stage:
            stage.session.emit(UserMessage(content="x"))
            async with asyncio.timeout(40):
                await stage.host.stop()
            assert stage.session.is_closed

    go(main())


def test_several_sessions_are_told_apart(theatre: Theatre) -> None:
    async def main() -> None:
        async with theatre(
            "serve(on_event=lambda p: note([p['session_id'], p['seq']]))", grants=("events:USER_MESSAGE",)
        ) as stage:
            other = stage.host.session("t")
            for number in range(50):
                stage.session.emit(UserMessage(content=str(number)))
                other.emit(UserMessage(content=str(number)))
            notes = await stage.noted(100)
            for name in ("s", "t"):
                seqs = [seq for session, seq in notes if session == name]
                assert seqs == sorted(seqs)
                assert len(seqs) == 50

    go(main())
