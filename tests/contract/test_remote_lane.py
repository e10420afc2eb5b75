"""The deadlines of requests to a process, of which one timer serves all, and what becomes of those taken back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import wraps
from typing import Any

import pytest

from ally_plugins.contract.values.errors import TimedOut
from ally_plugins.host.daemons.lane import RemoteLane
from ally_plugins.runtime.lanes.link import DaemonGone, PendingAnswer, RemoteHook
from ally_plugins.runtime.lanes.observers import Observers
from tests.kit.waiting import go

HOOK = RemoteHook("gate", lambda _: {}, lambda _, answer: answer)


class Wire:
    """A link whose daemon answers when the test says so."""

    takes_lines = True
    can_write = True

    def __init__(self) -> None:
        self.sent: list[tuple[Mapping[str, Any], PendingAnswer]] = []
        self.taken_back: list[PendingAnswer] = []

    def request(self, method: str, params: Mapping[str, Any]) -> asyncio.Future[Any]:
        assert method == "gate"
        answer = PendingAnswer(self.taken_back.append)
        self.sent.append((params, answer))
        return answer

    def answer(self, number: int, value: Any) -> None:
        answer = self.sent[number][1]
        answer.set_result(value)
        answer.announce()

    def write(self, lines: bytes) -> None:
        raise AssertionError(lines)

    def write_events(self, events: Sequence[Any]) -> None:
        raise AssertionError(events)

    def close(self, reason: str = "") -> None:
        raise AssertionError(reason)


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a test of a coroutine that is one."""

    @wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        go(test(*arguments, **named))

    return run


def connected() -> tuple[RemoteLane, Wire]:
    lane, wire = RemoteLane("p", Observers(types=frozenset())), Wire()
    lane.start()
    lane.connect(wire)
    lane.is_ready = True
    return lane, wire


def ask(lane: RemoteLane, deadline: float | None) -> asyncio.Future[Any]:
    return lane.submit("ally_gate_tool_call", HOOK, (), deadline=deadline)


@on_a_loop
async def test_each_request_is_answered_by_its_own_deadline_in_whatever_order_they_are_made() -> None:
    lane, wire = connected()
    ended: list[int] = []
    asked = [ask(lane, deadline) for deadline in (60.0, 0.06, 0.02, None, 0.04)]
    for future in asked:
        future.add_done_callback(lambda done: ended.append(asked.index(done)))
    found = await asyncio.gather(*(asked[i] for i in (1, 2, 4)), return_exceptions=True)
    assert all(isinstance(error, TimedOut) for error in found)
    assert str(found[0]) == "ally_gate_tool_call did not answer within 0.06 s"
    assert ended == [2, 4, 1]
    assert [asked[0].done(), asked[3].done()] == [False, False]
    assert wire.taken_back == [wire.sent[i][1] for i in (2, 4, 1)]
    wire.answer(0, "yes")
    wire.answer(3, "no")
    assert await asked[0] == "yes"
    assert await asked[3] == "no"


@on_a_loop
async def test_a_deadline_holds_behind_others_that_were_answered_in_time() -> None:
    lane, wire = connected()
    early = [ask(lane, 0.01) for _ in range(3)]
    late = ask(lane, 0.03)
    for number in range(3):
        wire.answer(number, number)
    assert await asyncio.gather(*early) == [0, 1, 2]
    with pytest.raises(TimedOut):
        await late


@on_a_loop
async def test_what_is_left_of_a_deadline_is_sent_with_the_request() -> None:
    lane, wire = connected()
    wire.can_write = False
    asked = ask(lane, 5.0)
    await asyncio.sleep(0.02)
    assert not wire.sent
    wire.can_write = True
    lane.wake()
    assert 4.0 < wire.sent[0][0]["deadline"] < 4.99
    wire.answer(0, None)
    await asked


@on_a_loop
async def test_a_request_that_waits_for_a_process_that_reads_nothing_is_answered_by_its_deadline_too() -> None:
    lane, wire = connected()
    wire.can_write = False
    with pytest.raises(TimedOut):
        await ask(lane, 0.01)
    wire.can_write = True
    lane.wake()
    assert not wire.sent


@on_a_loop
async def test_what_is_taken_back_is_cancelled_there_and_then() -> None:
    lane, wire = connected()
    asked = ask(lane, 5.0)
    asked.cancel()
    assert wire.taken_back == [wire.sent[0][1]]
    assert wire.sent[0][1].cancelled()


@pytest.mark.parametrize("how", ["disconnect", "abandon"])
@on_a_loop
async def test_where_the_process_or_the_lane_ends_nothing_waits_on(how: str) -> None:
    lane, wire = connected()
    asked = [ask(lane, 0.01), ask(lane, None)]
    if how == "disconnect":
        lane.disconnect("has ended")
    else:
        lane.abandon()
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(error) for error in found} == {DaemonGone if how == "disconnect" else TimedOut}
    assert wire.taken_back == [answer for _, answer in wire.sent]
    await asyncio.sleep(0.02)  # the deadline of the first, which is nobody's any more
