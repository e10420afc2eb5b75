"""Values that JSON cannot say: an event is left out and told as missing, a question denies; neighbours are unharmed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from ally_plugins import (
    Context,
    GateRefused,
    Message,
    PermissionRequest,
    Session,
    ToolCall,
    ToolCallEnd,
    ToolCallError,
    ToolResult,
    hookimpl,
)
from ally_plugins.contract.values.frozen import trusted
from tests.kit.placements import Placed, call, look
from tests.kit.waiting import go


class Hostile:
    """An object that raises whatever is done with it."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__

    def __iter__(self) -> Any:
        raise RuntimeError("no items")


def _looped() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def _deep() -> Any:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    return value


UNSAYABLE: dict[str, Callable[[], Any]] = {
    "an integer of 5000 digits": lambda: 10**5000,
    "a negative one in a list": lambda: [1, {"n": -(10**4400)}],
    "bytes": lambda: b"x",
    "an object": object,
    "an object that raises": Hostile,
    "a key that raises": lambda: {Hostile(): 1},
    "a list that holds itself": _looped,
    "a hundred thousand lists": _deep,
    "a set of bytes": lambda: {b"x"},
}
"""What no process can be told; each is put where nothing is frozen, or behind freezing's back."""


@pytest.mark.parametrize("what", UNSAYABLE)
def test_an_event_that_cannot_be_said_is_told_as_missing_and_the_others_arrive(
    what: str, placed: Placed, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("hooks:HearsDrops"), "q": placed("hooks:HearsDrops")}) as host:
            session = host.session("s1")
            first = session.ring.head + 1
            for _ in range(2):  # in the middle of a burst, and alone
                session.emit(ToolCallEnd(tool_name="before"))
                session.emit(ToolCallEnd(tool_name="poison", output=UNSAYABLE[what]()))
                session.emit(ToolCallEnd(tool_name="after"))
                await session.drained()
            dropped = [["", 1, [[seq, seq]]] if seq % 3 == (first + 1) % 3 else seq for seq in range(first, first + 6)]
            heard = list(range(first, first + 6)) if placed.placement.shares_the_hosts_loop else dropped
            for name in ("p", "q"):
                plugin = host.plugins[name]
                assert await look(host, name) == heard
                assert (plugin.state, plugin.counts.crashes) == ("running", 0)
                assert plugin.lane is not None
                assert plugin.lane.dropped == (0 if placed.placement.shares_the_hosts_loop else 2)
            await host.journal.flush()
            stored = [(each.seq, each.type) for each in host.journal.reader.events("s1") if each.seq >= first]
            kinds = ["TOOL_CALL_END", "EVENTS_DROPPED", "TOOL_CALL_END"] * 2
            assert stored == list(zip(range(first, first + 6), kinds, strict=True))
            assert host.journal.lost == 0

    with caplog.at_level(logging.WARNING, "ally_plugins"):
        go(main())
    (told,) = [record.getMessage() for record in caplog.records]
    assert "(TOOL_CALL_END) is left out" in told
    assert "data.output" in told or "raises" in told


@pytest.mark.parametrize("value", [10**4400, ["t"], "t" * 17_000_000], ids=["integer", "list", "too long"])
@pytest.mark.parametrize("field", ["turn_id", "call_id", "agent_id", "parent_id"])
def test_an_id_that_cannot_be_said_takes_no_event_along_but_its_own(field: str, value: Any, placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("hooks:HearsDrops")}) as host:
            session = host.session("s1")
            session.emit(ToolCallEnd(tool_name="poison", **{field: value}))
            session.emit(ToolCallEnd(tool_name="after"))
            await session.drained()
            last = session.ring.head
            missing = last - 1 if placed.placement.shares_the_hosts_loop else ["", 1, [[last - 1, last - 1]]]
            assert (await look(host))[-2:] == [missing, last]
            assert (await session.gate_tool_call(ToolCall("bash"))).is_allowed
            await host.journal.flush()
            stored = host.journal.reader.event(f"s1:{last - 1}")
            assert stored is not None
            if isinstance(value, int):
                assert stored.type == "EVENTS_DROPPED"
            else:  # what JSON can say stands in the journal as it was given
                assert stored.value()[field] == value

    go(main())


def _bad(call_id: str) -> ToolCall:
    agent: Any = object()  # arguments are looked at when the call is made; who makes it is not
    return ToolCall("bash", {"command": "rm"}, call_id, agent)


def _runs(ran: list[str]) -> Callable[[ToolCall], Any]:
    async def run(call: ToolCall) -> ToolResult:
        ran.append(call.call_id or "")
        bad: Any = 10**5000
        return ToolResult(success=True, output="secret", error=bad)

    return run


@pytest.mark.parametrize("on_error", ["deny", "allow"])
def test_a_gate_that_cannot_be_shown_the_call_denies_and_nobody_is_blamed(on_error: str, placed: Placed) -> None:
    if placed.placement.shares_the_hosts_loop:
        pytest.skip("inline, a gate is shown the value itself")

    async def main() -> None:
        plugins = {
            "p": placed("hooks:Judges", gate_on_error=on_error),
            "q": placed("hooks:JudgesInThread", ["gate:tool_call"]),
        }
        async with placed.host(plugins) as host:
            session = host.session()
            ran: list[str] = []
            good = ToolCall("allow", {"command": "ls"}, "c2")
            # At once: what cannot be written must not end the questions beside it.
            rulings = await asyncio.gather(*(session.gate_tool_call(each) for each in (good, _bad("c1"), good)))
            assert [each.is_allowed for each in rulings] == [True, False, True]
            assert [vote.cause for vote in rulings[1].votes] == ["unshown", "unshown"]
            assert "call.agentId is of the type object" in rulings[1].reason
            result = await session.run_tool_call(_bad("c3"), _runs(ran))
            assert not result.success
            assert "cannot be shown this" in (result.error or "")
            path: Any = 10**5000
            request = PermissionRequest(request_id="r1", tool_name="allow", path=path)
            assert (await session.gate_permission(request)).is_denied
            assert ran == []
            for plugin in host.plugins.values():
                assert (plugin.state, plugin.counts.crashes) == ("running", 0)
            await host.journal.flush()
            assert len(list(host.journal.reader.records(kind="decision"))) == 5

    go(main())


def test_a_transform_that_cannot_be_shown_a_value_withholds_it(placed: Placed) -> None:
    if placed.placement.shares_the_hosts_loop:
        pytest.skip("inline, a transform is shown the value itself")

    async def main() -> None:
        async with placed.host(
            {"p": placed("hooks:Changes", ["transform:tool_input", "transform:tool_output", "transform:user_message"])}
        ) as host:
            session = host.session()
            ran: list[str] = []
            assert "p cannot be shown it" in await _error_of(session, _bad("c1"), _runs(ran))
            assert ran == []
            good = ToolCall("bash", {"command": "ls"}, "c2")
            text = await _error_of(session, good, _runs(ran))
            assert ran == ["c2"]
            assert "the output is withheld: " in text
            assert "error is a whole number of 16610 bits" in text
            at: Any = 10**5000
            with pytest.raises(GateRefused, match=r"cannot be shown .*timestamp is an? .* of 16610 bits"):
                await session.transform_user_message(Message(role="user", content="hi", timestamp=at))
            assert (host.plugins["p"].state, host.plugins["p"].counts.crashes) == ("running", 0)

    go(main())


async def _error_of(session: Session, call: ToolCall, run: Any) -> str:
    result = await session.run_tool_call(call, run)
    assert not result.success
    assert result.output == ""
    assert result.data is None
    return result.error or ""


def test_a_tool_that_cannot_be_given_its_arguments_is_not_run_and_not_blamed(placed: Placed) -> None:
    if placed.placement.shares_the_hosts_loop:
        pytest.skip("inline, a tool is given the value itself")

    async def main() -> None:
        async with placed.host({"p": placed("offers:Large")}) as host:
            host.session()
            with pytest.raises(ToolCallError, match=r"arguments\.value\.n is an integer of 16610 bits"):
                await host.call_tool("take", {"value": trusted({"n": 10**5000})})
            assert host.plugins["p"].counts.crashes == 0
            assert (await host.call_tool("take", {"value": "x"})).data["length"] == 1

    go(main())


class Answers:
    """A host's own implementation, which says what JSON cannot."""

    @hookimpl
    async def ally_get_context(self, session: Session) -> Context:
        bad: Any = 10**5000
        return Context(session_id=session.id, token_usage=bad)

    @hookimpl
    async def ally_request_action(self) -> Any:
        return {"it": Hostile()}


def test_an_answer_that_cannot_be_said_is_an_error_and_the_next_one_comes(placed: Placed) -> None:
    if placed.placement.shares_the_hosts_loop:
        pytest.skip("inline, a plugin is given the value itself")

    async def main() -> None:
        async with placed.host({"p": placed("calls:Caller")}, implementation=Answers(), actions=["x"]) as host:
            host.session("s1")
            for method, arguments in (("get_context", [["token_usage"]]), ("request_action", ["x"])):
                came = await call(host, method, *arguments)
                assert "cannot be said in JSON" in came["text"]
            assert "returned" in await call(host, "add_message", "user", "still here")
            assert (host.plugins["p"].state, host.plugins["p"].counts.crashes) == ("running", 0)

    go(main())


def test_a_call_whose_very_name_cannot_be_recorded_is_denied(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("hooks:Judges"), "q": placed("hooks:Changes")}) as host:
            session = host.session()
            for name in (10**5000, Hostile(), b"c1"):
                bad: Any = name
                ran: list[str] = []
                ruling = await session.gate_tool_call(ToolCall("allow", {"command": "ls"}, bad))
                assert ruling.is_denied
                result = await session.run_tool_call(ToolCall("allow", {"command": "ls"}, bad), _runs(ran))
                assert not result.success
                assert ran == []

    go(main())
