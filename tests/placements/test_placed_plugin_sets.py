"""Sessions in which not all plugins take part: those that are left out see, say and offer nothing there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Deny, Message, ToolCall, ToolCallEnd, ToolCallError, action, tool
from ally_plugins.contract.manifest import Manifest
from ally_plugins.contract.values.errors import HostError, NotFoundRefused
from tests.kit.hosts import make_plugin, make_record, new_host, setup
from tests.kit.placements import Placed, look, records_of
from tests.kit.waiting import go

if TYPE_CHECKING:
    from pathlib import Path

    from ally_plugins import Host

CALL = ToolCall("bash", {"command": "rm"}, "c1")


def test_events_of_a_session_come_to_the_plugins_that_take_part_in_it_only(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("hooks:HearsAll"), "q": placed("hooks:HearsAll")}) as host:
            for session in (host.session("both"), host.session("one", plugins=["q"])):
                session.emit(ToolCallEnd(tool_name="bash"))
                await session.drained()
            assert (await look(host, "p")).count("TOOL_CALL_END") == 1
            assert (await look(host, "q")).count("TOOL_CALL_END") == 2
            (record,) = await records_of(host, "session_plugins")
            assert (record.session_id, record.data) == ("one", {"plugins": ["q"]})

    go(main())


def test_what_a_plugin_that_is_left_out_calls_in_the_session_is_refused(placed: Placed) -> None:
    calls = (("get_context", [["messages"]]), ("add_message", ["user", "hi"]), ("emit_event", ["note", {}]))

    async def main() -> None:
        async with placed.host({"p": placed("calls:Caller"), "q": placed("hooks:HearsAll")}) as host:
            theirs = host.session("theirs", plugins=["q"])
            for method, arguments in calls:
                for keywords, says in (
                    ({}, "0 sessions are open"),
                    ({"session_id": "theirs"}, "session 'theirs' was opened without 'p'"),
                ):
                    given = {"method": method, "arguments": arguments, "keywords": keywords}
                    said = (await host.call_tool("call", given, plugin="p")).data
                    assert (said["raised"], says in said["text"]) == ("ValidationRefused", True), said
            assert not theirs.inbox.all()

    go(main())


class Offers:
    """Has a tool and an action."""

    def __init__(self, ally: Any) -> None:
        pass

    @tool
    async def shout(self) -> str:
        """Shout."""
        return "!"

    @action
    async def tidy(self) -> str:
        """Tidy up."""
        return "tidied"


async def hear(_: Any) -> None:
    pass


def deny(_: Any, call: ToolCall) -> Deny:
    return Deny(f"no {call.tool_name}")


async def is_denied(host: Host, session_id: str, **options: Any) -> bool:
    return (await host.session(session_id, **options).gate_tool_call(CALL)).is_denied


def test_a_gate_that_is_left_out_is_not_asked_nor_are_its_tools_and_actions_offered() -> None:
    async def main() -> None:
        guard = setup(make_plugin(ally_gate_tool_call=deny))
        async with new_host({"guard": guard, "offers": Offers}) as host:
            assert await is_denied(host, "all")
            assert not await is_denied(host, "few", plugins=["offers"])
            few, none = host.session("few"), host.session("none", plugins=[])
            assert [each.name for each in few.agent_tools()] == ["shout"]
            assert none.agent_tools() == ()
            with pytest.raises(ToolCallError, match="session 'none' was opened without 'offers'"):
                await host.call_tool("shout", session_id="none")
            with pytest.raises(NotFoundRefused, match="without which session 'none' was opened"):
                await none.request_action("offers:tidy")
            assert await few.request_action("offers:tidy") == "tidied"
            await few.close()
            assert await is_denied(host, "few")  # opened again, it has all

    go(main())


def test_a_message_waits_while_its_plugin_is_left_out_of_the_session(tmp_path: Path) -> None:
    talker = make_plugin()

    async def said(host: Host, **options: Any) -> list[str]:
        messages: list[Message] = list(await host.session("s", **options).safe_point("step"))
        return [message.content for message in messages]

    async def main() -> None:
        async with new_host({"talker": talker, "other": make_plugin()}, home=tmp_path) as host:
            session = host.session("s")
            await talker.ally.add_message("user", "later")
            await session.close()
            assert await said(host, plugins=["other"]) == []
            await host.session("s").close()
            assert await said(host) == ["later"]

    tmp_path.chmod(0o700)
    go(main())


def test_a_plugin_with_durable_events_which_come_from_every_session_is_not_left_out() -> None:
    async def main() -> None:
        manifest = Manifest.from_text('[events]\nsubscribe = ["TOOL_CALL_END"]\ndurable = ["TOOL_CALL_END"]\n')
        plugin = make_plugin(ally_tool_call_end=hear), make_record("p", manifest)
        async with new_host({"p": plugin}) as host:
            with pytest.raises(HostError, match="plugins leaves out 'p', which has durable events of every session"):
                host.session("s", plugins=[])

    go(main())


@pytest.mark.parametrize(
    ("options", "chosen", "says"),
    [
        ({}, ["gaurd"], "plugins names 'gaurd', did you mean 'guard'"),
        ({"mandatory": True}, [], "plugins leaves out 'guard', which is mandatory"),
    ],
    ids=["unknown", "mandatory"],
)
def test_a_set_that_cannot_be_is_refused_and_opens_nothing(
    options: dict[str, Any], chosen: list[str], says: str
) -> None:
    async def main() -> None:
        async with new_host({"guard": setup(make_plugin(), **options)}) as host:
            with pytest.raises(HostError, match=says):
                host.session("s", plugins=chosen)
            assert dict(host.sessions) == {}
            host.session("s")
            with pytest.raises(HostError, match="session 's' is open with other plugins: all of them"):
                host.session("s", plugins=["guard"])
            assert host.session("s").plugins is None

    go(main())
