"""What an adapter leaves out where nobody gets it: no plugin, no listener, and a home that keeps nothing on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ally_plugins import AgentKit, Ally, Context, Host, ToolCall, ToolResult, hookimpl
from tests.kit.waiting import go

if TYPE_CHECKING:
    from pathlib import Path

    from ally_plugins import AgentWork

CALL = ToolCall("agent", {"task": "look"}, "c1")
EMITTED = ["MODEL_REQUEST", "MODEL_RESPONSE", "ASSISTANT_MESSAGE", "CONTEXT_USAGE_UPDATE", "TOOL_CALL_START"]


async def turn(kit: AgentKit, work: AgentWork) -> tuple[Context, list[str]]:
    """Run a turn with a sub-agent in its call; return what is known of the session in it, and what was emitted."""
    session = work.live.session
    before = session.ring.head
    found: list[Context] = []

    async def run(_: ToolCall) -> ToolResult:
        async with kit.work("s", "r2", "helper") as child:
            await child.begin("look")
            found.append(await session.context(["agents", "token_usage", "is_processing"]))
            child.end("seen")
        return ToolResult(success=True)

    work.requested("m", 1)
    work.model_answered("on it", input_tokens=60, window=100)
    assert (await work.run_tool_call(CALL, run)).success
    return found[0], [event.type for event in session.ring.items if event.seq > before]


def test_without_anybody_who_gets_them_events_of_calls_and_requests_are_not_made_and_the_state_is_the_same() -> None:
    async def main(listener: Any) -> tuple[Any, list[str]]:
        async with Host("t", home=None, discover=False) as host:
            if listener is not None:
                host.stream.subscribe("DECISION", listener)
            kit = AgentKit(host=host)
            async with kit.work("s", "r1", "main") as work:
                await work.begin("hello")
                context, types = await turn(kit, work)
                work.end("done")
            agents = [(each.agent_name, each.parent_id, each.path) for each in context.agents or ()]
            return (agents, context.token_usage, context.is_processing), types

    unheard, none = go(main(None))
    heard, some = go(main(print))
    assert unheard == heard
    assert heard[0] == [("main", None, ()), ("helper", "c1", ("r1",))]
    assert heard[1] == 60.0
    assert none == ["AGENT_START", "AGENT_END"]
    assert some[: len(EMITTED) + 1] == [*EMITTED[:4], "CONTEXT_THRESHOLD", EMITTED[4]]


def test_a_journal_on_disk_has_each_event_though_nobody_listens(tmp_path: Path) -> None:
    async def main() -> list[str]:
        async with Host("t", home=tmp_path, discover=False) as host:
            kit = AgentKit(host=host)
            async with kit.work("s", "r1", "main") as work:
                await work.begin("hello")
                await turn(kit, work)
                work.end("done")
            await host.journal.flush()
            return [stored.type for stored in host.journal.reader.events("s")]

    kinds = go(main())
    assert {*EMITTED, "TOOL_CALL_END"} <= {*kinds}


def test_who_listens_later_gets_what_is_emitted_from_then_on_and_no_level_that_was_passed_before() -> None:
    async def main() -> list[str]:
        async with Host("t", home=None, discover=False) as host:
            kit, seen = AgentKit(host=host), list[str]()
            async with kit.work("s", "r1", "main") as work:
                await work.begin("hello")
                await turn(kit, work)
                host.stream.subscribe("*", lambda event: seen.append(event.type))
                await turn(kit, work)
                work.end("done")
            return seen

    seen = go(main())
    assert seen[: len(EMITTED)] == EMITTED


def test_a_plugin_that_gates_is_shown_each_call_of_a_host_without_a_home() -> None:
    asked: list[str | None] = []

    class Gate:
        def __init__(self, ally: Ally) -> None:
            self.ally = ally

        @hookimpl
        async def ally_gate_tool_call(self, call: ToolCall) -> None:
            asked.append(call.call_id)

        @hookimpl
        async def ally_transform_tool_output(self, call: ToolCall) -> None:
            asked.append(f"output of {call.call_id}")

    async def main() -> None:
        async with Host("t", home=None, discover=False, plugins={"gate": Gate}) as host:
            kit = AgentKit(host=host)
            async with kit.work("s", "r1", "main") as work:
                await work.begin("hello")
                await turn(kit, work)
                work.end("done")

    go(main())
    assert asked == ["c1", "output of c1"]
