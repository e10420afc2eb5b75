"""What may go wrong around an agent with plugins: hosts that stop, prompts that are no text, other capabilities."""

# ruff: noqa: ARG001, ARG005 - hooks are methods, and take what their event promises

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, Tool, ToolReturn
from pydantic_ai.capabilities import AbstractCapability, HandleDeferredToolCalls
from pydantic_ai.exceptions import ModelRetry, RunCancelled, ToolFailed
from pydantic_ai.messages import ModelMessage, ModelRequest, ToolCallPart, UserPromptPart

from ally_plugins import (
    AgentEnd,
    AgentStart,
    Ask,
    Context,
    GateRefused,
    Host,
    PermissionResponse,
    Replace,
    ToolCallEnd,
    UserMessage,
    evolve,
)
from ally_plugins.adapters.kit.live_sessions import IDLE_SESSIONS
from ally_plugins.adapters.pydantic_ai import AllyPlugins
from ally_plugins.contract.values.shown import media
from tests.hosts.scripted import Script, answer, live, make_free, returns_of
from tests.kit.hosts import make_plugin
from tests.kit.waiting import go

IMAGE = BinaryContent(b"\x89PNG....", media_type="image/png")


def giving(name: str, value: Any) -> Tool[None]:
    return Tool(lambda: value, name=name)


class Answer(BaseModel):
    """An output of the agent's."""

    number: int


def test_a_host_that_stops_in_the_middle_refuses_and_the_run_ends() -> None:
    async def main() -> None:
        host = Host(home=None, discover=False)
        await host.start()

        async def stop() -> str:
            await host.stop()
            return "stopped"

        steps = Script(answer(ToolCallPart("stop", {}, "c1")), answer(ToolCallPart("look", {}, "c2")), "done")
        tools: list[Any] = [stop, giving("look", "tree")]
        agent = Agent(steps.model, tools=tools, capabilities=[AllyPlugins(host)])
        result = await agent.run("go")
        assert result.output == "done"
        found = returns_of(result.all_messages())
        assert found["c1"].outcome == "failed"  # nobody can say whether its output may be seen
        assert found["c2"].content == "not run: the host of the plugins has stopped, nobody can decide"

    go(main())


def test_two_runs_of_one_conversation_each_have_an_end() -> None:
    async def main() -> None:
        async with live() as bench:
            both = asyncio.Barrier(2)

            async def meet() -> str:
                await both.wait()
                return "met"

            steps = Script(answer(ToolCallPart("meet", {}, "c1")), answer(ToolCallPart("meet", {}, "c2")))
            agent = bench.agent(steps, tools=[meet])
            await asyncio.gather(agent.run("one", conversation_id="s1"), agent.run("two", conversation_id="s1"))
            assert {event.instance_id for event in bench.of(AgentStart)} == {
                event.instance_id for event in bench.of(AgentEnd)
            }
            assert not bench.host.sessions["s1"].conversation.is_processing

    go(main())


def test_a_run_that_a_tool_leaves_behind_is_a_conversation_of_its_own() -> None:
    async def main() -> None:
        async with live() as bench:
            may_go_on = asyncio.Event()
            left: list[asyncio.Task[Any]] = []

            async def later() -> None:
                await may_go_on.wait()
                await bench.agent(Script("later")).run("on my own", conversation_id="s2")

            def leave() -> str:
                return "left"

            async def start() -> str:
                left.append(asyncio.create_task(later()))
                return leave()

            agent = bench.agent(Script(answer(ToolCallPart("start", {}, "c1")), "done"), tools=[start])
            await agent.run("go", conversation_id="s1")
            may_go_on.set()
            await left[0]
            assert [event.content for event in bench.of(UserMessage, "s2")] == ["on my own"]

    go(main())


def test_an_image_stays_with_the_words_that_a_transform_made() -> None:
    shout = make_plugin(ally_transform_user_message=lambda self, message: Replace(evolve(message, content="REDACTED")))

    async def main() -> None:
        async with live({"p": shout}, {"p": ["transform:user_message"]}) as bench:
            steps = Script("nice")
            await bench.agent(steps).run(["look at", IMAGE, "please"])
            (request,) = steps.seen[0]
            assert isinstance(request.parts[0], UserPromptPart)
            assert request.parts[0].content == ["REDACTED", IMAGE]
            assert bench.of(UserMessage)[0].content == "REDACTED"

    go(main())


def test_a_message_that_a_transform_blocks_begins_nothing() -> None:
    def broken(self: Any, message: Any) -> Any:
        raise ValueError("no")

    async def main() -> None:
        blocking = make_free(
            make_plugin(ally_transform_user_message=broken), "transform:user_message", on_error="block"
        )
        async with live({"p": blocking}) as bench:
            steps = Script("never")
            with pytest.raises(GateRefused, match="p"):
                await bench.agent(steps).run("secret")
            assert (steps.seen, bench.of(AgentStart), bench.of(UserMessage)) == ([], [], [])
            assert not bench.host.sessions[next(iter(bench.host.sessions))].conversation.is_processing

    go(main())


@pytest.mark.slow
def test_results_of_every_kind_are_told_in_words_and_come_back_as_they_were() -> None:
    made: dict[str, Any] = {
        "model": Answer(number=1),
        "image": IMAGE,
        "mixed": ["text", IMAGE],
        "nothing": None,
        "infinite": float("inf"),
        "bytes": b"\xff\xfe",
        "returned": ToolReturn({"a": 1}, content=["more", IMAGE], metadata={"x": 1}),
    }

    async def main() -> None:
        async with live() as bench:
            tools = [giving(name, value) for name, value in made.items()]
            many = answer(*(ToolCallPart(name, {}, name) for name in made))
            result = await bench.agent(Script(many, "done"), tools=tools).run("go")
            ends = {event.call_id: event for event in bench.of(ToolCallEnd)}
            assert [(event.call_id, event.error) for event in ends.values() if not event.success] == []
            assert (ends["model"].output, ends["model"].result["data"]) == ('{"number":1}', {"number": 1})
            shown = media("image", "image/png", IMAGE.data)
            assert ends["image"].result["data"] == shown
            assert ends["mixed"].result["data"] == ("text", shown)
            assert ends["nothing"].output == ""
            assert ends["infinite"].output == ""  # the framework says null to the model
            assert ends["returned"].output == f'{{"a":1}}\nmore\n{json.dumps(shown, separators=(",", ":"))}'
            assert "PNG" not in str(bench.events)
            assert returns_of(result.all_messages())["image"].content == IMAGE

    go(main())


def test_transforms_change_what_the_model_reads_of_results_and_failures() -> None:
    def redact(self: Any, call: Any, result: Any) -> Any:
        changes: dict[str, Any] = {"output": result.output.replace("secret", "***")}
        if result.error is not None:
            changes["error"] = result.error.replace("secret", "***")
        if isinstance(result.data, dict):
            changes["data"] = {key: str(value).replace("secret", "***") for key, value in result.data.items()}
        return Replace(evolve(result, **changes))

    def retry() -> str:
        raise ModelRetry("try the secret door")

    def fail() -> str:
        raise ToolFailed("the secret is out")

    async def main() -> None:
        async with live(
            {"p": make_plugin(ally_transform_tool_output=redact)}, {"p": ["transform:tool_output"]}
        ) as bench:
            tools = [
                Tool(lambda: {"key": "secret"}, name="data"),
                Tool(lambda: ToolReturn("a secret", content="and a secret"), name="both"),
                retry,
                fail,
            ]
            many = answer(*(ToolCallPart(name, {}, name) for name in ("data", "both", "retry", "fail")))
            result = await bench.agent(Script(many, "done"), tools=tools).run("go")
            found = returns_of(result.all_messages())
            assert found["data"].content == {"key": "***"}
            assert found["both"].content == "a ***\nand a ***"
            assert (found["retry"].content, found["retry"].outcome) == ("try the *** door", "retried")
            assert (found["fail"].content, found["fail"].outcome) == ("the *** is out", "failed")
            assert "secret" not in str(result.all_messages()) + str(bench.events)

    go(main())


def test_another_capability_answers_what_nobody_was_there_to_agree_to() -> None:
    careful = make_plugin(ally_gate_tool_call=lambda self, call: Ask("it looks odd"))

    async def main() -> None:
        async with live({"p": careful}, {"p": ["gate:tool_call"]}) as bench:
            handler: AbstractCapability[Any] = HandleDeferredToolCalls(
                handler=lambda ctx, requests: requests.build_results(approve_all=True)
            )
            steps = Script(answer(ToolCallPart("look", {}, "c1")), "done")
            agent = bench.agent(steps, tools=[Tool(lambda: "tree", name="look")], capabilities=[handler])
            result = await agent.run("go")
            assert returns_of(result.all_messages())["c1"].content == "tree"
            assert [event.choice for event in bench.of(PermissionResponse)] == ["allow"]

    go(main())


def test_a_history_that_another_capability_shortens_is_read_anew() -> None:
    puppet = make_plugin()

    class Shorten(AbstractCapability[Any]):
        async def before_model_request(self, ctx: Any, request_context: Any) -> Any:
            ctx.messages[:] = ctx.messages[-1:]
            request_context.messages = list(ctx.messages)
            return request_context

    async def main() -> None:
        async with live({"p": puppet}, {"p": ["get_context:messages"]}) as bench:
            agent = bench.agent(Script("one", "two"), capabilities=[Shorten()])
            first = await agent.run("hello", conversation_id="s1")
            before: Context = await puppet.ally.get_context(["messages"], session_id="s1")
            await agent.run("again", message_history=first.all_messages())
            after: Context = await puppet.ally.get_context(["messages"], since=before.cursor, session_id="s1")
            assert after.is_reset
            assert [message.content for message in after.messages or ()] == ["again", "two"]

    go(main())


def test_context_is_read_by_what_is_new() -> None:
    puppet = make_plugin()

    async def main() -> None:
        async with live({"p": puppet}, {"p": ["get_context:messages", "get_context:is_processing"]}) as bench:
            found: list[Any] = []

            async def look() -> str:
                found.append(await puppet.ally.get_context(["messages", "is_processing"]))
                return "tree"

            agent = bench.agent(Script(answer("I look", ToolCallPart("look", {}, "c1")), "done"), tools=[look])
            await agent.run("hello", conversation_id="s1")
            (within,) = found
            assert [message.content for message in within.messages] == ["hello", "I look"]
            assert within.messages[1].tool_calls[0].tool_name == "look"
            assert within.is_processing
            rest = await puppet.ally.get_context(["messages"], since=within.cursor, session_id="s1")
            assert [(message.role, message.content) for message in rest.messages] == [
                ("tool", "tree"),
                ("assistant", "done"),
            ]

    go(main())


@pytest.mark.slow
def test_sessions_that_are_idle_for_long_are_closed_and_found_again() -> None:
    async def main() -> None:
        async with live() as bench:
            agent = bench.agent(Script())
            for n in range(IDLE_SESSIONS + 3):
                await agent.run("hello", conversation_id=f"s{n}")
            assert len(bench.host.sessions) == IDLE_SESSIONS
            assert "s0" not in bench.host.sessions
            await agent.run("again", conversation_id="s0")
            starts = [event for event in bench.events if event.type == "SESSION_START" and event.session_id == "s0"]
            assert [event.resumed for event in starts] == [None, True]

    go(main())


def test_structured_output_and_output_tools_end_a_turn_as_text_does() -> None:
    said: list[str] = []

    async def once(self: Any, event: Any) -> None:
        if not said:
            said.append("x")
            await self.ally.add_message("user", "are you sure?", deliver_as="follow_up")

    async def main() -> None:
        may = {"p": ["events:*", "add_message:user"]}
        async with live({"p": make_plugin(ally_model_response=once)}, may) as bench:
            steps = Script(
                lambda messages, info: answer(ToolCallPart(info.output_tools[0].name, {"number": 1}, "o1")),
                lambda messages, info: answer(ToolCallPart(info.output_tools[0].name, {"number": 2}, "o2")),
            )
            agent = bench.agent(steps, output_type=Answer)
            async with agent.iter("go", conversation_id="s1") as run:
                async for _ in run:
                    if "s1" in bench.host.sessions:
                        await bench.host.sessions["s1"].drained()
            assert run.result is not None
            assert run.result.output == Answer(number=2)
            assert bench.of(AgentEnd)[0].content == '{"number":2}'
            assert "[plugin p] are you sure?" in steps.texts()

    go(main())


def test_an_interruption_while_the_model_is_asked_leaves_a_history_to_go_on_with() -> None:
    from pydantic_ai.models.function import FunctionModel

    async def main() -> None:
        async with live() as bench:
            asked = asyncio.Event()

            async def never(messages: list[ModelMessage], info: Any) -> Any:
                asked.set()
                await asyncio.Event().wait()

            plugins = AllyPlugins(bench.host)
            agent = Agent(FunctionModel(never), capabilities=[plugins])
            run = asyncio.ensure_future(agent.run("hello", conversation_id="s1"))
            await asked.wait()
            assert plugins.interrupt("s1", "enough")
            with pytest.raises(RunCancelled) as stopped:
                await run
            assert not plugins.interrupt("s1")
            (ended,) = bench.of(AgentEnd)
            assert ended.interruption_cause == "enough"
            steps = Script("ok")
            result = await bench.agent(steps).run("again", message_history=stopped.value.all_messages())
            assert result.output == "ok"
            assert all(isinstance(message, ModelRequest) for message in steps.seen[0])

    go(main())
