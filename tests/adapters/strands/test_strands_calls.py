"""Tool calls of strands' agents: interrupts, hooks and middleware of others, tools called directly, agents as tools."""

# ruff: noqa: ARG001, ARG005 - hooks are methods, and take what their event promises

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from strands import ToolContext, tool
from strands.hooks import AfterToolCallEvent, BeforeToolCallEvent  # noqa: TC002 - the framework looks at the annotations of hooks
from strands.middleware import ExecuteToolStage
from strands.session import SnapshotSessionManager
from strands.storage import InMemoryStorage
from strands.tools.executors import SequentialToolExecutor

from ally_plugins import (
    AgentEnd,
    AgentStart,
    Ask,
    Decision,
    Deny,
    PermissionRequest,
    PermissionResponse,
    Replace,
    ToolCall,
    ToolCallEnd,
    ToolCallStart,
    ToolResult,
    evolve,
)
from ally_plugins.testing import Answer
from tests.adapters.strands.scripted import live, results
from tests.kit.agents import call, gate
from tests.kit.hosts import make_plugin
from tests.kit.waiting import go, until

ASKS = gate(lambda call: Ask("is it safe?"))


class Tools:
    """Tools that keep what they were given."""

    def __init__(self) -> None:
        self.ran: list[str] = []

        @tool
        def work(text: str) -> str:
            """Work on a text."""
            self.ran.append(text)
            return f"worked on {text}"

        @tool
        def wipe(text: str) -> str:
            """Wipe a text."""
            self.ran.append(f"wiped {text}")
            return "wiped"

        self.work, self.wipe = work, wipe


def answer_to(result: Any, response: Any) -> Any:
    return [{"interruptResponse": {"interruptId": each.id, "response": response}} for each in result.interrupts]


# --- interrupts ---


@pytest.mark.smoke
@pytest.mark.parametrize(("response", "ran"), [("allow", ["a"]), ("deny", []), (True, []), ({"yes": 1}, [])])
def test_a_question_is_an_interrupt_that_the_agent_is_resumed_from(response: Any, ran: list[str]) -> None:
    async def main() -> None:
        async with live(ASKS) as bench:
            tools = Tools()
            agent = bench.agent(call("c1", "work", text="a"), "done", tools=[tools.work], options={"defer": True})
            first: Any = await agent.invoke_async("go")
            assert first.stop_reason == "interrupt"
            assert first.interrupts[0].reason["reason"] == "guard: is it safe?"
            assert first.interrupts[0].reason["arguments"] == {"text": "a"}
            assert tools.ran == []
            assert not bench.of(ToolCallEnd)
            second = await agent.invoke_async(answer_to(first, response))
            assert str(second).strip() == "done"
            assert tools.ran == ran
            assert len(bench.of(ToolCallStart)) == 1
            (end,) = bench.of(ToolCallEnd)
            assert end.success is bool(ran)
            assert end.denied is not bool(ran)
            assert [each.choice for each in bench.of(PermissionResponse)] == ["allow" if ran else "deny"]
            assert len(bench.of(PermissionRequest)) == 1
            ends = [(each.content, each.interrupted) for each in bench.of(AgentEnd)]
            assert ends == [(None, False), ("done", False)]

    go(main())


def test_of_two_calls_the_one_that_waits_is_asked_about_and_the_other_does_not_run_again() -> None:
    async def main() -> None:
        async with live(gate(lambda call: Ask("b?") if call.arguments["text"] == "b" else None)) as bench:
            tools = Tools()
            both = Answer(calls=tuple(ToolCall("work", {"text": text}, f"c-{text}") for text in "ab"))
            agent = bench.agent(both, "done", tools=[tools.work], options={"defer": True})
            first = await agent.invoke_async("go")
            assert tools.ran == ["a"]
            await agent.invoke_async(answer_to(first, "allow"))
            assert tools.ran == ["a", "b"]
            assert [each.call_id for each in bench.of(ToolCallStart)] == ["c-a", "c-b"]
            assert sorted(each.call_id or "" for each in bench.of(ToolCallEnd)) == ["c-a", "c-b"]

    go(main())


def test_an_answer_holds_for_the_arguments_that_the_person_was_shown() -> None:
    async def main() -> None:
        storage, tools, texts = InMemoryStorage(), Tools(), ["shown", "another", "another", "another"]

        async def change(self: Any, call: ToolCall) -> Any:
            return Replace(evolve(call, arguments={"text": texts[0]}))

        result: Any = None
        shown = []
        for step in ("go", "allow", "allow"):  # each in another process
            async with live({**ASKS, "fickle": make_plugin(ally_transform_tool_input=change)}) as bench:
                kept: Any = SnapshotSessionManager("talk-1", storage=storage)
                steps = [call("c1", "work", text="a"), "done"] if result is None else ["done"]
                agent = bench.agent(*steps, tools=[tools.work], options={"defer": True}, session_manager=kept)
                result = await agent.invoke_async(step if result is None else answer_to(result, step))
            shown += [each.reason["arguments"]["text"] for each in result.interrupts or ()]
            texts.pop(0)
        assert shown == ["shown", "another"]
        assert (str(result).strip(), tools.ran) == ("done", ["another"])

    go(main())


def test_a_call_that_was_agreed_to_runs_with_what_the_person_was_shown() -> None:
    texts = iter(["shown", "another"])

    async def change(self: Any, call: ToolCall) -> Any:
        return Replace(evolve(call, arguments={"text": next(texts)}))

    async def main() -> None:
        async with live({**ASKS, "fickle": make_plugin(ally_transform_tool_input=change)}) as bench:
            tools = Tools()
            agent = bench.agent(call("c1", "work", text="a"), "done", tools=[tools.work], options={"defer": True})
            await agent.invoke_async(answer_to(await agent.invoke_async("go"), "allow"))
            assert tools.ran == ["shown"]

    go(main())


def test_another_process_resumes_the_agent_from_what_was_stored() -> None:
    async def main() -> None:
        storage, tools = InMemoryStorage(), Tools()

        def kept() -> Any:
            return SnapshotSessionManager("talk-1", storage=storage)

        async with live(ASKS) as bench:
            agent = bench.agent(
                call("c1", "work", text="a"), tools=[tools.work], options={"defer": True}, session_manager=kept()
            )
            first = await agent.invoke_async("go")
        async with live(ASKS) as bench:
            agent = bench.agent("done", tools=[tools.work], options={"defer": True}, session_manager=kept())
            result = await agent.invoke_async(answer_to(first, "allow"))
            assert str(result).strip() == "done"
            assert tools.ran == ["a"]
            assert not bench.of(ToolCallStart)  # the other process has emitted it
            assert [each.success for each in bench.of(ToolCallEnd)] == [True]

    go(main())


def test_a_gate_may_deny_what_a_person_has_allowed_meanwhile() -> None:
    verdicts = iter([Ask("is it safe?"), Deny("not any more")])

    async def main() -> None:
        async with live(gate(lambda call: next(verdicts))) as bench:
            tools = Tools()
            agent = bench.agent(call("c1", "work", text="a"), "done", tools=[tools.work], options={"defer": True})
            first = await agent.invoke_async("go")
            await agent.invoke_async(answer_to(first, "allow"))
            assert tools.ran == []
            assert "not any more" in results(agent)["c1"]

    go(main())


def test_a_tools_own_interrupt_passes_and_its_call_ends_once() -> None:
    async def main() -> None:
        async with live() as bench:

            @tool(context=True)
            def book(tool_context: ToolContext) -> str:
                """Book a table."""
                return f"booked for {tool_context.interrupt('when', reason='when?')}"

            agent = bench.agent(call("c1", "book"), "done", tools=[book])
            first: Any = await agent.invoke_async("go")
            assert [each.reason for each in first.interrupts] == ["when?"]
            assert not bench.of(ToolCallEnd)
            await agent.invoke_async(answer_to(first, "noon"))
            assert results(agent)["c1"] == "booked for noon"
            assert len(bench.of(ToolCallStart)) == 1
            assert [each.success for each in bench.of(ToolCallEnd)] == [True]

    go(main())


# --- what others do to a call ---


def test_middleware_that_was_added_later_stands_outside() -> None:
    async def main() -> None:
        async with live(gate(lambda call: Deny("no") if call.arguments["text"] == "evil" else None)) as bench:
            tools = Tools()
            agent = bench.agent(call("c1", "work", text="a"), "done", tools=[tools.work])

            async def change(context: Any, next_fn: Any) -> Any:
                async for event in next_fn(context.replace(tool_use={**context.tool_use, "input": {"text": "evil"}})):
                    yield event

            agent.add_middleware(ExecuteToolStage, change)
            await agent.invoke_async("go")
            assert tools.ran == []
            assert bench.host.plugins["guard"].instance.seen == [("work", {"text": "evil"})]
            assert "not run: " in results(agent)["c1"]

    go(main())


def test_gates_are_shown_the_tool_that_a_hook_has_put_in_the_place_of_another() -> None:
    async def main() -> None:
        async with live(gate(lambda call: Deny("never") if call.tool_name == "wipe" else None)) as bench:
            tools = Tools()

            def swap(event: BeforeToolCallEvent) -> None:
                event.selected_tool = tools.wipe

            agent = bench.agent(call("c1", "work", text="a"), "done", tools=[tools.work], hooks=[swap])
            await agent.invoke_async("go")
            assert tools.ran == []
            assert bench.host.plugins["guard"].instance.seen == [("wipe", {"text": "a"})]

    go(main())


def test_a_call_that_a_hook_repeats_is_gated_each_time() -> None:
    async def main() -> None:
        async with live(gate(lambda call: None)) as bench:
            tools, left = Tools(), [True, False]

            def again(event: AfterToolCallEvent) -> None:
                event.retry = left.pop(0)

            agent = bench.agent(call("c1", "work", text="a"), "done", tools=[tools.work], hooks=[again])
            await agent.invoke_async("go")
            assert tools.ran == ["a", "a"]
            assert len(bench.of(Decision)) == len(bench.of(ToolCallEnd)) == 2

    go(main())


def test_a_hook_that_cancels_a_call_comes_before_the_gates() -> None:
    async def main() -> None:
        async with live(gate(lambda call: None)) as bench:
            tools = Tools()

            def cancel(event: BeforeToolCallEvent) -> None:
                event.cancel_tool = "not today"

            agent = bench.agent(call("c1", "work", text="a"), "done", tools=[tools.work], hooks=[cancel])
            await agent.invoke_async("go")
            assert (tools.ran, bench.of(Decision), results(agent)) == ([], [], {"c1": "not today"})

    go(main())


# --- ways to call a tool ---


def test_a_tool_that_the_host_author_calls_passes_the_gates() -> None:
    async def main() -> None:
        async with live(gate(lambda call: Deny("no b") if call.arguments["text"] == "b" else None)) as bench:
            tools = Tools()
            agent = bench.agent(tools=[tools.work])
            allowed = await asyncio.to_thread(lambda: agent.tool.work(text="a"))
            denied = await asyncio.to_thread(lambda: agent.tool.work(text="b"))
            assert (allowed["status"], denied["status"], tools.ran) == ("success", "error", ["a"])
            assert "no b" in denied["content"][0]["text"]
            assert not bench.of(AgentStart)
            assert [each.denied for each in bench.of(ToolCallEnd)] == [False, True]

    go(main())


def test_a_question_about_such_a_call_is_a_deny() -> None:
    async def main() -> None:
        async with live(ASKS) as bench:
            tools = Tools()
            agent = bench.agent(tools=[tools.work], options={"defer": True})
            found = await asyncio.to_thread(lambda: agent.tool.work(text="a"))
            assert (found["status"], tools.ran) == ("error", [])
            assert [each.denied for each in bench.of(ToolCallEnd)] == [True]

    go(main())


def test_an_executor_of_one_call_after_the_other_passes_the_same_gates() -> None:
    async def main() -> None:
        async with live(gate(lambda call: Deny("no b") if call.arguments["text"] == "b" else None)) as bench:
            tools = Tools()
            three = Answer(calls=tuple(ToolCall("work", {"text": text}, f"c-{text}") for text in "abc"))
            agent = bench.agent(three, "done", tools=[tools.work], tool_executor=SequentialToolExecutor())
            await agent.invoke_async("go")
            assert tools.ran == ["a", "c"]
            assert [each.call_id for each in bench.of(ToolCallEnd)] == ["c-a", "c-b", "c-c"]

    go(main())


def test_an_agent_as_a_tool_is_a_sub_agent_of_the_call() -> None:
    async def main() -> None:
        async with live(
            gate(lambda call: Deny("not there") if call.arguments.get("text") == "evil" else None)
        ) as bench:
            tools = Tools()
            inner = bench.agent(call("i1", "work", text="evil"), "found it", name="helper", tools=[tools.work])
            outer = bench.agent(call("c1", "helper", input="look"), "done", tools=[inner])
            await outer.invoke_async("go")
            start = bench.of(AgentStart, session=outer.session_id)[1]
            assert (start.agent_name, start.task_prompt, start.parent_id) == ("helper", "look", "c1")
            assert tools.ran == []
            assert results(outer)["c1"].strip() == "found it"
            inside = next(each for each in bench.of(ToolCallEnd) if each.call_id == "i1")
            assert (inside.parent_id, inside.session_id) == ("c1", outer.session_id)

    go(main())


def test_an_agent_as_a_tool_that_waits_for_the_person_goes_on_when_its_caller_is_resumed() -> None:
    async def main() -> None:
        async with live(gate(lambda call: Ask("look?") if call.tool_name == "work" else None)) as bench:
            tools, options = Tools(), {"defer": True}
            inner = bench.agent(
                call("i1", "work", text="a"), "found it", name="helper", tools=[tools.work], options=options
            )
            outer = bench.agent(call("c1", "helper", input="look"), "done", tools=[inner], options=options)
            first: Any = await outer.invoke_async("go")
            assert [each.reason["reason"] for each in first.interrupts] == ["guard: look?"]
            result = await outer.invoke_async(answer_to(first, "allow"))
            assert (str(result).strip(), tools.ran) == ("done", ["a"])
            assert sorted(each.call_id or "" for each in bench.of(ToolCallStart)) == ["c1", "i1"]
            assert sorted(each.call_id or "" for each in bench.of(ToolCallEnd)) == ["c1", "i1"]

    go(main())


def test_a_synchronous_agent_in_a_tool_is_a_sub_agent_too() -> None:
    async def main() -> None:
        async with live() as bench:
            inner = bench.agent("found it", name="helper")

            @tool
            def ask(text: str) -> str:
                """Ask the helper."""
                return str(inner(text)).strip()

            outer = bench.agent(call("c1", "ask", text="look"), "done", tools=[ask])
            await outer.invoke_async("go")
            assert [(each.agent_name, each.parent_id) for each in bench.of(AgentStart)] == [
                ("agent", None),
                ("helper", "c1"),
            ]

    go(main())


def test_a_tool_in_the_background_passes_the_gates_before_it_runs() -> None:
    async def main() -> None:
        async with live(gate(lambda call: Deny("no b") if call.arguments["text"] == "b" else None)) as bench:
            tools = Tools()
            both = Answer(calls=tuple(ToolCall("work", {"text": text}, f"c-{text}") for text in "ab"))
            config: Any = {"always": ["work"]}
            agent = bench.agent(both, *["done"] * 4, tools=[tools.work], background_tasks=config)
            await agent.invoke_async("go")
            await agent.shutdown_async()
            assert tools.ran == ["a"]
            assert sorted((each.call_id, each.denied) for each in bench.of(ToolCallEnd)) == [
                ("c-a", False),
                ("c-b", True),
            ]

    go(main())


def test_a_tool_in_the_background_may_outlive_its_run() -> None:
    async def main() -> None:
        async with live({"tagger": make_plugin(ally_transform_tool_output=tag)}) as bench:
            go_on = asyncio.Event()

            @tool
            async def wait() -> str:
                """Wait."""
                await go_on.wait()
                return "waited"

            config: Any = {"always": ["wait"], "wait_for_completion": False}
            agent = bench.agent(call("c1", "wait"), *["done"] * 4, tools=[wait], background_tasks=config)
            await agent.invoke_async("go")
            assert len(bench.of(AgentEnd)) == 1
            assert not bench.of(ToolCallEnd)
            go_on.set()
            await until(lambda: bench.of(ToolCallEnd))
            assert [(each.success, each.output) for each in bench.of(ToolCallEnd)] == [(True, "waited, seen")]
            await agent.shutdown_async()

    async def tag(self: Any, result: ToolResult) -> Any:
        return Replace(evolve(result, output=f"{result.output}, seen"))

    go(main())


def test_a_tool_in_the_background_may_have_a_question_of_its_own() -> None:
    async def main() -> None:
        async with live() as bench:

            @tool(context=True)
            def book(tool_context: ToolContext) -> str:
                """Book a table."""
                return f"booked for {tool_context.interrupt('when', reason='when?')}"

            agent = bench.agent(
                call("c1", "book"),
                *["done"] * 4,
                tools=[book],
                background_tasks={"always": ["book"]},
                options={"defer": True},
            )
            first: Any = await agent.invoke_async("go")
            assert [each.reason for each in first.interrupts] == ["when?"]
            await agent.invoke_async(answer_to(first, "noon"))
            await until(lambda: bench.of(ToolCallEnd))
            assert [each.output for each in bench.of(ToolCallEnd)] == ["booked for noon"]
            assert len(bench.of(ToolCallStart)) == 1
            await agent.shutdown_async()

    go(main())


def test_an_answer_with_a_structure_is_no_call() -> None:
    from pydantic import BaseModel

    class Found(BaseModel):
        """What was found."""

        number: int

    async def main() -> None:
        async with live(gate(lambda call: Deny("nothing"))) as bench:
            agent = bench.agent(call("c1", "Found", number=3))
            result = await agent.invoke_async("go", structured_output_model=Found)
            assert result.structured_output == Found(number=3)
            assert not bench.of(ToolCallStart)

    go(main())


class Mild(str):
    """A text that prints another one."""

    __slots__ = ()

    def __str__(self) -> str:
        return "harmless"


@pytest.mark.parametrize("made", ["plain", "blocks"])
def test_a_result_is_shown_to_transforms_as_the_text_that_the_model_reads(made: str) -> None:
    shown: list[str] = []

    async def redact(self: Any, call: ToolCall, result: ToolResult) -> Any:
        shown.append(result.output)
        return Replace(evolve(result, output="[redacted]")) if "SECRET123" in result.output else None

    @tool
    def look(text: str) -> Any:
        """Look at a text."""
        content = Mild("SECRET123")
        return content if made == "plain" else {"status": "success", "content": [{"text": content}]}

    async def main() -> None:
        async with live({"guard": make_plugin(ally_transform_tool_output=redact)}) as bench:
            agent = bench.agent(call("c1", "look", text="a"), "done", tools=[look])
            await agent.invoke_async("go")
            assert results(agent) == {"c1": "[redacted]"}

    go(main())
    assert shown == ["SECRET123"]
