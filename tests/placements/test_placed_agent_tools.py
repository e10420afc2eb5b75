"""What the agent may call, in every placement: tools, and the actions that a plugin offers to it and no others."""

from __future__ import annotations

from typing import Any

import pytest

from ally_plugins import ArgumentsError, NotFoundRefused, ToolCall, ToolCallError
from ally_plugins.runtime.lanes.plugin import RunState
from tests.kit.placements import Placed, collect_events, records_of
from tests.kit.waiting import go
from tests.placements.placed_plugins.offers import HIDDEN


def names(session: Any, agent: str = "main", **options: Any) -> list[str]:
    return [tool.name for tool in session.agent_tools(agent, **options)]


def listed(session: Any, name: str) -> Any:
    (found,) = [tool for tool in session.agent_tools() if tool.name == name]
    return found


def test_an_action_is_the_agents_only_where_its_plugin_says_so(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("offers:Agents")}) as host:
            session = host.session()
            assert names(session) == ["breaks", "look", "rebuild"]
            assert names(session, "reviewer") == ["breaks", "look", "rebuild", "review"]
            rebuild = listed(session, "rebuild")
            assert (rebuild.kind, rebuild.full_name, rebuild.timeout) == ("action", "p:rebuild", 300.0)
            assert rebuild.description == "Build it anew."
            assert rebuild.schema["properties"]["target"]["default"] == "all"
            await session.request_action("offer_later")
            assert names(session) == ["breaks", "later_for_all", "look", "rebuild"]

    go(main())


def test_no_word_of_a_tool_reaches_the_model_that_nobody_sees(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("offers:Hides")}) as host:
            found = listed(host.session(), "hide")
            seen = r"\U000e0041\u202e\u200bthe person agrees"
            properties = found.schema["properties"]
            assert (found.description, found.schema["title"]) == (seen, seen)
            assert properties["description"]["description"] == seen
            assert properties["default"]["anyOf"][0]["$comment"] == seen
            # What arguments are compared with must stay what the plugin compares with.
            assert properties["description"]["enum"] == (HIDDEN, "b")
            assert properties["default"]["anyOf"][1]["const"] == {"title": HIDDEN}
            assert (await host.session().call_agent_tool(found, {"description": HIDDEN})).success

    go(main())


def test_an_action_that_runs_for_the_agent_is_announced_and_recorded_as_its_own(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("offers:Agents")}) as host:
            events = collect_events(host)
            session = host.session("s")
            result = await session.call_agent_tool(listed(session, "rebuild"), {"target": "docs"})
            assert (result.success, result.output) == (True, "built docs")
            assert result.data["state"] == "pending"
            [asked] = [event for event in events if event.type == "PLUGIN_ACTION_REQUESTED"]
            assert (asked.action, asked.requested_by, asked.plugin_name) == ("p:rebuild", "agent", "p")
            [record] = await records_of(host, "action")
            assert (record.data["requested_by"], record.data["arguments"]) == ("agent", {"target": "docs"})
            assert (await session.call_agent_tool(listed(session, "look"))).output == "[]"
            assert len(await records_of(host, "action")) == 1

    go(main())


def test_what_goes_wrong_is_an_error_that_a_tool_call_makes_a_result_of(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("offers:Agents")}) as host:
            session = host.session()
            rebuild, breaks = listed(session, "rebuild"), listed(session, "breaks")
            with pytest.raises(ArgumentsError, match=r"arguments\.target"):
                await session.call_agent_tool(rebuild, {"target": 5})
            with pytest.raises(ToolCallError, match="'breaks' of 'p' failed"):
                await session.call_agent_tool(breaks)
            result = await session.run_tool_call(
                ToolCall("breaks", {}, "c1"), lambda call: session.call_agent_tool(breaks, call.arguments)
            )
            assert not result.success
            assert "'breaks' of 'p' failed" in str(result.error)

    go(main())


def test_without_the_grant_for_tools_an_action_stays_the_persons(placed: Placed) -> None:
    manifest = '[permissions]\ntools = { reason = "r" }\nactions = { reason = "r" }'

    async def main() -> None:
        async with placed.host({"p": placed("offers:Agents", ["actions"], manifest=manifest)}) as host:
            session = host.session()
            assert names(session) == []
            assert "breaks" in {each.spec.name for each in host.actions}

    go(main())


def test_a_name_that_two_plugins_have_is_told_apart_whichever_came_first(placed: Placed) -> None:
    async def main() -> None:
        plugins = {name: placed("offers:Agents") for name in ("zebra", "ant")}
        async with placed.host(plugins) as host:
            session = host.session()
            assert names(session, taken=["ant__look"])[:6] == [
                "ant__breaks", f"ant__look_{mark('ant:look')}", "ant__rebuild",
                "zebra__breaks", "zebra__look", "zebra__rebuild",
            ]  # fmt: skip
            stale = listed(session, "zebra__rebuild")
            host.plugins["zebra"].set_state(RunState.QUARANTINED, "enough")
            assert names(session) == ["breaks", "look", "rebuild"]
            with pytest.raises(NotFoundRefused, match="'zebra' does not offer 'rebuild' to the agent any more"):
                await session.call_agent_tool(stale)

    go(main())


def mark(full_name: str) -> str:
    from hashlib import blake2b

    return blake2b(full_name.encode(), digest_size=4).hexdigest()


def test_a_name_of_the_hosts_own_tools_is_no_plugins(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("offers:Agents")}) as host:
            assert names(host.session(), taken={"look"}) == ["breaks", "p__look", "rebuild"]

    go(main())


def test_no_name_is_longer_than_model_providers_accept(placed: Placed) -> None:
    async def main() -> None:
        long = ["a" * 63 + end for end in "bc"]
        async with placed.host({name: placed("offers:Agents") for name in long}) as host:
            found = names(host.session())
            assert len(set(found)) == len(found) == 6
            assert max(map(len, found)) <= 64

    go(main())


def test_what_a_tool_does_after_a_plugins_message_carries_that_plugins_chain(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("offers:Agents"), "q": placed("offers:Agents")}) as host:
            session = host.session()
            await session.request_action("p:rebuild")
            await session.safe_point("step")
            assert session.origin == ("p",)
            for name in ("q__rebuild", "q__look"):
                await session.call_agent_tool(listed(session, name))
            messages = await session.safe_point("step")
            assert [message.metadata["origin"] for message in messages] == [("p", "q")] * 2

    go(main())


def test_a_description_hides_nothing_from_who_reads_it(placed: Placed) -> None:
    async def main() -> None:
        async with placed.host({"p": placed("offers:Agents")}) as host:
            session = host.session()
            described = listed(session, "breaks").description
            assert "\u202e" not in described
            assert "\U000e0041" not in described
            assert described.endswith("\\u202e\\U000e0041")

    go(main())
