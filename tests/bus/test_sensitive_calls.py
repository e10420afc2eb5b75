"""What a gate calls sensitive is in no record, though the start of the call was emitted before the gate was asked."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Allow, Deny, DiffPreview, Session, ToolCall, ToolCallStart, ToolResult, UserMessage
from ally_plugins.host.sessions import undecided
from tests.kit.hosts import make_plugin, new_host
from tests.kit.waiting import go, until

if TYPE_CHECKING:
    from ally_plugins import Host

HELD = "open-sesame"


def call(name: str, number: int = 1) -> ToolCall:
    return ToolCall(name, {"command": f"{HELD} {name}"}, f"c{number}")


async def never(_: ToolCall) -> ToolResult:
    raise AssertionError("a denied call ran")


class Gate:
    """Answers when it is told to: a call of `vault` is sensitive, one of `rm` is denied, others are allowed."""

    def __init__(self) -> None:
        self.asked: set[str] = set()
        self.answers: dict[str, asyncio.Event] = {}

    async def decide(self, _: Any, call: ToolCall) -> Allow | Deny:
        self.asked.add(call.tool_name)
        if call.tool_name in self.answers:
            await self.answers[call.tool_name].wait()
        if call.tool_name == "vault":
            return Deny("no", sensitive=True)
        return Deny("no") if call.tool_name == "rm" else Allow()

    def holds(self, *names: str) -> None:
        self.answers |= {name: asyncio.Event() for name in names}

    def plugin(self) -> Any:
        async def ally_gate_tool_call(plugin: Any, call: ToolCall) -> Allow | Deny:
            return await self.decide(plugin, call)

        return make_plugin(ally_gate_tool_call=ally_gate_tool_call)


async def written(host: Host) -> str:
    """Return all that the journal holds."""
    await host.journal.flush()
    reader = host.journal.reader
    events = [event.written.decode() for session in reader.sessions() for event in reader.events(session.id)]
    return "\n".join([*events, *(str(record.data) for record in reader.records())])


async def run(session: Session, made: ToolCall, **options: Any) -> ToolResult:
    return await session.run_tool_call(made, never, **options)


def test_the_start_and_the_preview_of_a_sensitive_call_are_recorded_without_what_it_holds() -> None:
    async def main() -> None:
        async with new_host({"guard": Gate().plugin()}) as host:
            session, seen = host.session("s"), list[Any]()
            host.stream.subscribe("*", seen.append)
            preview = DiffPreview(tool_name="vault", file_path="a.py", new_content=HELD)
            await run(session, call("vault"), preview=lambda _: preview)
            assert HELD not in await written(host)
            start, diff, *_ = (event.value() for event in host.journal.reader.events("s") if event.seq > 1)
            assert start["event_data"]["arguments"] == {}
            assert "sensitive" in start["event_data"]["unshown"]
            assert (start["id"], start["call_id"], diff["event_data"]["filePath"]) == ("s:2", "c1", "a.py")
            (live,) = (event for event in seen if isinstance(event, ToolCallStart))
            assert HELD in live.arguments["command"], "observers see a call as it is"

    go(main())


def test_a_call_that_is_not_sensitive_is_recorded_whole_when_its_decision_is_there() -> None:
    async def main() -> None:
        async with new_host({"guard": Gate().plugin()}) as host:
            session = host.session("s")
            session.emit(ToolCallStart(tool_name="rm", arguments={"command": f"{HELD} rm"}, call_id="c1"))
            await session.gate_tool_call(call("rm"))
            starts = [event for event in host.journal.reader.events("s") if event.type == "TOOL_CALL_START"]
            assert [event.value()["event_data"]["arguments"] for event in starts] == [{"command": f"{HELD} rm"}]

    go(main())


def test_the_decision_of_a_call_beside_it_and_what_other_sessions_record_do_not_write_it() -> None:
    async def main() -> None:
        gate = Gate()
        plugins = {"guard": gate.plugin(), "other": gate.plugin()}  # the hooks of one plugin never overlap
        grants = {"guard": ["gate:tool_call:vault"], "other": ["gate:tool_call:rm"]}
        async with new_host(plugins, grants=grants) as host:
            session, other = host.session("s"), host.session("other")
            gate.holds("vault")
            pending = asyncio.create_task(run(session, call("vault")))
            await until(lambda: "vault" in gate.asked)
            for beside in (session, other):
                await run(beside, call("rm", 2))
            await asyncio.sleep(3 * 0.02)  # longer than events wait for others
            gate.answers["vault"].set()
            await pending
            text = await written(host)
            assert f"{HELD} vault" not in text
            assert f"{HELD} rm" in text

    go(main())


def test_what_a_session_records_amid_a_decision_has_what_led_to_it_before_it() -> None:
    async def main() -> None:
        gate = Gate()

        async def ally_user_message(plugin: Any) -> None:
            await plugin.ally.add_message("user", "noted")

        plugins = {"guard": gate.plugin(), "speaker": make_plugin(ally_user_message=ally_user_message)}
        async with new_host(plugins) as host:
            session = host.session("s")
            gate.holds("ls")
            pending = asyncio.create_task(session.gate_tool_call(call("ls")))
            session.emit(ToolCallStart(tool_name="ls", arguments={"command": "ls"}, call_id="c1"))
            await until(lambda: "ls" in gate.asked)
            session.emit(UserMessage(content="and then?"))
            await until(lambda: bool(host.journal.pending("s")))
            (message,) = host.journal.pending("s")
            assert host.journal.reader.event(message.cause or "") is not None
            gate.answers["ls"].set()
            await pending

    go(main())


def test_a_gate_that_takes_long_keeps_the_journal_waiting_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undecided, "HOLD_S", 0.05)

    async def main() -> None:
        gate = Gate()
        async with new_host({"guard": gate.plugin()}) as host:
            session = host.session("s")
            gate.holds("ls")
            pending = asyncio.create_task(run(session, call("ls")))
            await until(lambda: host.journal.last_seq("s") == 2)
            assert not pending.done()
            pending.cancel()
            await asyncio.wait([pending])

    go(main())


@pytest.mark.parametrize("how", ["interrupted", "closed", "never asked"])
def test_a_call_that_is_never_decided_is_recorded(how: str) -> None:
    async def main() -> None:
        gate = Gate()
        async with new_host({"guard": gate.plugin()}) as host:
            session = host.session("s")
            gate.holds("ls")
            if how == "interrupted":
                pending = asyncio.create_task(run(session, call("ls")))
                await until(lambda: "ls" in gate.asked)
                pending.cancel()
                await asyncio.wait([pending])
            else:
                session.emit(ToolCallStart(tool_name="ls", arguments={"command": HELD}, call_id="c1"))
            if how == "closed":
                await session.close()
            assert HELD in await written(host)

    go(main())
