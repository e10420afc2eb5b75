"""Questions to the person, in every placement."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.kit.placements import Placed, call, records_of
from tests.kit.waiting import go

if TYPE_CHECKING:
    from ally_plugins import PluginQuestion


def test_a_question_is_asked_and_answered_by_each_way_of_calling(placed: Placed) -> None:
    async def choose_last(question: PluginQuestion) -> str:
        assert question.plugin == "p"
        return question.choices[-1]

    async def main() -> None:
        async with placed.host({"p": placed("calls:Caller", ["tools", "ask"])}, ask_person=choose_last) as host:
            host.session("s")
            assert await call(host, "ask", "go on?", ["go on", "stop"]) == {"returned": "stop"}
            given = {"method": "ask", "arguments": ["go on?"], "keywords": {}}
            assert (await host.call_tool("call_blocking", given, plugin="p")).data == {"returned": "no"}
            assert [each.data["choice"] for each in await records_of(host, "answer")] == ["stop", "no"]

    go(main())


def test_without_a_person_or_a_grant_it_is_refused_in_the_same_words(placed: Placed) -> None:
    async def main() -> None:
        plugins = {"p": placed("calls:Caller", ["tools", "ask"])}
        async with placed.host(plugins) as host:
            host.session("s")
            refused = await call(host, "ask", "go on?")
            assert (refused["raised"], refused["text"]) == (
                "UnavailableRefused",
                "nobody is there to be asked, or nothing here can ask them",
            )
            wrong = await call(host, "ask", "go on?", ["yes", "Yes"])
            assert (wrong["raised"], wrong["field"]) == ("ValidationRefused", "choices")
        async with placed.host({"p": placed("calls:Caller", ["tools"])}) as host:
            host.session("s")
            refused = await call(host, "ask", "go on?")
            assert (refused["raised"], refused["permission"]) == ("PermissionRefused", "ask")

    go(main())


def test_the_end_of_the_call_that_asks_takes_the_question_away(placed: Placed) -> None:
    was_asked, was_taken_away = asyncio.Event(), asyncio.Event()

    async def think(_: PluginQuestion) -> str:
        was_asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            was_taken_away.set()
        return ""

    async def main() -> None:
        async with placed.host({"p": placed("calls:Caller", ["tools", "ask"])}, ask_person=think) as host:
            host.session("s")
            given = {"method": "ask", "arguments": ["go on?"], "keywords": {}}
            calling = asyncio.create_task(host.call_tool("call", given, plugin="p"))
            await was_asked.wait()
            calling.cancel()
            await was_taken_away.wait()

    go(main())
