"""Plugins' messages in a live conversation: where they enter, that they stay, and that the history stays valid."""

# ruff: noqa: ARG001 - hooks are methods, and take what their event promises

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_ai import Agent, RunContext, Tool
from pydantic_ai.exceptions import RunCancelled
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models.function import FunctionModel

from ally_plugins import AgentEnd, HopLimitRefused, PluginMessageReceived, ToolCallStart
from ally_plugins.adapters.pydantic_ai import AllyPlugins
from ally_plugins.host.sessions.inbox import Waiting
from tests.hosts.scripted import Script, answer, live, make_free, returns_of
from tests.kit.hosts import make_plugin
from tests.kit.waiting import go

MAY = ["add_message:user", "add_message:system", "add_message:assistant", "events:*", "add_message:trigger_turn"]


def told(**kept: Any) -> Any:
    """Return a hook that adds a message when a tool has ended."""

    async def hook(self: Any, event: Any) -> None:
        await self.ally.add_message(kept.pop("role", "user"), kept.pop("text", "watch out"), **kept)

    return hook


def check_history(messages: list[ModelMessage]) -> None:
    """Fail when a model would not take this: each call has its result in the request right after, and no other has."""
    for index, message in enumerate(messages):
        if isinstance(message, ModelResponse):
            wanted = {part.tool_call_id for part in message.parts if isinstance(part, ToolCallPart)}
            following = messages[index + 1] if index + 1 < len(messages) else None
            if wanted:
                assert isinstance(following, ModelRequest)
                found = [part.tool_call_id for part in following.parts if isinstance(part, ToolReturnPart)]
                assert sorted(found) == sorted(wanted)
        else:
            returned = [part for part in message.parts if isinstance(part, ToolReturnPart)]
            if returned:
                assert isinstance(messages[index - 1], ModelResponse)


def test_a_steering_message_enters_behind_all_results_of_the_step_and_stays() -> None:
    steering = make_plugin(ally_tool_call_start=told())

    async def main() -> None:
        async with live({"p": steering}, {"p": MAY}) as bench:

            async def slow() -> str:
                await bench.host.sessions[session].drained()
                return "slow"

            steps = Script(answer(ToolCallPart("slow", {}, "c1"), ToolCallPart("slow", {}, "c2")), "ok")
            session = "s1"
            result = await bench.agent(steps, tools=[slow]).run("go", conversation_id=session)
            assert steps.texts() == ["go", "slow", "slow", "[plugin p] watch out", "[plugin p] watch out"]
            check_history(result.all_messages())
            received, _ = bench.of(PluginMessageReceived)
            assert received.message["metadata"]["sourcePlugin"] == "p"
            assert "[plugin p] watch out" in str(result.all_messages())

    go(main())


def test_a_follow_up_takes_the_ending_turn_further() -> None:
    done: list[bool] = []

    async def once(self: Any, event: Any) -> None:
        if not done:
            done.append(True)
            await self.ally.add_message("user", "and the tests?", deliver_as="follow_up")

    async def main() -> None:
        async with live({"p": make_plugin(ally_assistant_message=once)}, {"p": MAY}) as bench:

            async def slowly(session: str) -> None:
                await bench.host.sessions[session].drained()

            steps = Script("done", "tests too")
            agent = bench.agent(steps)
            waiting = agent.iter("go", conversation_id="s1")
            async with waiting as run:
                async for _ in run:
                    if "s1" in bench.host.sessions:
                        await slowly("s1")
            assert run.result is not None
            assert run.result.output == "tests too"
            assert steps.texts() == ["go", "done", "[plugin p] and the tests?"]
            assert len(bench.of(AgentEnd)) == 1
            check_history(run.result.all_messages())

    go(main())


def test_a_message_for_the_next_turn_comes_with_the_person_s() -> None:
    puppet = make_plugin()

    async def main() -> None:
        async with live({"p": puppet}, {"p": MAY}) as bench:
            steps = Script("one", "two")
            agent = bench.agent(steps)
            first = await agent.run("hello", conversation_id="s1")
            await puppet.ally.add_message("user", "by the way", deliver_as="next_turn", session_id="s1")
            result = await agent.run("again", message_history=first.all_messages())
            assert steps.texts() == ["hello", "one", "again", "[plugin p] by the way"]
            stored = ModelMessagesTypeAdapter.dump_json(result.all_messages())
            assert ModelMessagesTypeAdapter.validate_json(stored) == result.all_messages()

    go(main())


@pytest.mark.parametrize("role", ["user", "system", "assistant"])
def test_a_stored_history_keeps_who_said_it_and_a_second_delivery_is_folded(role: str) -> None:
    puppet = make_plugin()

    async def main() -> None:
        async with live({"p": puppet}, {"p": MAY}) as bench:
            agent = bench.agent(Script("one", "two", "three"))
            first = await agent.run("hello", conversation_id="s1")
            receipt = await puppet.ally.add_message(role, "mind this", session_id="s1")
            again = await agent.run("next", message_history=first.all_messages())
            stored = ModelMessagesTypeAdapter.dump_json(again.all_messages())
            waiting = bench.host.sessions["s1"].conversation.messages[-2]
            assert (waiting.id, waiting.source_plugin, waiting.role) == (receipt.id, "p", role)
            is_system = any(isinstance(part, SystemPromptPart) for each in again.all_messages() for part in each.parts)
            assert is_system is (role == "system")
        async with live({"p": puppet}, {"p": MAY}) as bench:  # after a crash that lost the mark of the delivery
            steps = Script("three")
            agent = bench.agent(steps)
            kept = Waiting(
                id=receipt.id,
                role=role,
                content="mind this",
                metadata=waiting.metadata,
                timestamp=1,
                plugin="p",
                origin=("p",),
                deliver_as="steer",
            )
            bench.host.session("s1").enqueue(kept)
            history = ModelMessagesTypeAdapter.validate_json(stored)
            result = await agent.run("more", message_history=history)
            assert str(result.all_messages()).count("[plugin p] mind this") == 1
            said = [message.id for message in bench.host.sessions["s1"].conversation.messages]
            assert said.count(receipt.id) == 1
            assert len(said) == len(set(said)) == 7

    go(main())


def test_a_message_that_was_lost_with_its_run_comes_with_the_next() -> None:
    puppet = make_plugin()

    async def main() -> None:
        async with live({"p": puppet}, {"p": MAY}) as bench:

            async def note() -> str:
                await puppet.ally.add_message("user", "do not forget")
                return "noted"

            def fail(messages: Any, info: Any) -> Any:
                raise OSError("the model is gone")

            steps = Script(answer(ToolCallPart("note", {}, "c1")), fail, "ok")
            agent = bench.agent(steps, tools=[note])
            with pytest.raises(OSError, match="the model is gone"):
                await agent.run("hello", conversation_id="s1")
            await agent.run("again", conversation_id="s1")
            assert steps.texts() == ["again", "[plugin p] do not forget"]

    go(main())


def test_a_trigger_wakes_the_idle_agent() -> None:
    puppet = make_plugin()

    async def main() -> None:
        async with live({"p": puppet}, {"p": MAY}) as bench:
            steps = Script("one", "two")
            agent = bench.agent(steps)
            plugins = AllyPlugins(bench.host)
            first = await agent.run("hello", conversation_id="s1")
            waiting = asyncio.ensure_future(plugins.wait_for_trigger("s1"))
            await asyncio.sleep(0)
            assert not waiting.done()
            await puppet.ally.add_message("user", "the tests broke", trigger_turn=True, session_id="s1")
            await waiting
            result = await agent.run(message_history=first.all_messages())
            assert (result.output, steps.texts()) == ("two", ["hello", "one", "[plugin p] the tests broke"])
            assert not bench.host.sessions["s1"].triggered.is_set()

    go(main())


def test_a_plugin_that_may_interrupts_and_the_history_can_be_gone_on_with() -> None:
    async def stop(self: Any, event: ToolCallStart) -> None:
        if event.call_id == "c2":
            await self.ally.request_action("interrupt", {"reason": "it loops"})

    async def main() -> None:
        async with live(
            {"p": make_plugin(ally_tool_call_start=stop)}, {"p": [*MAY, "request_action:interrupt"]}
        ) as bench:

            async def quick() -> str:
                return "quick"

            async def wait() -> str:
                await asyncio.Event().wait()
                return "never"

            steps = Script(answer(ToolCallPart("quick", {}, "c1"), ToolCallPart("wait", {}, "c2")), "going on")
            agent = bench.agent(steps, tools=[quick, wait])
            with pytest.raises(RunCancelled) as stopped:
                await agent.run("hello", conversation_id="s1")
            (ended,) = bench.of(AgentEnd)
            assert (ended.interrupted, ended.interruption_cause) == (True, "it loops")
            result = await agent.run("what now?", message_history=stopped.value.all_messages())
            assert result.output == "going on"
            check_history(result.all_messages())
            assert returns_of(result.all_messages())["c1"].content == "quick"
            assert returns_of(result.all_messages())["c2"].outcome == "interrupted"

    go(main())


@pytest.mark.smoke
@pytest.mark.slow
def test_fifty_conversations_at_once_see_nothing_of_each_other() -> None:
    async def echo(self: Any, event: ToolCallStart) -> None:
        context = await self.ally.get_context(["messages"])
        texts = {word for message in context.messages for word in message.content.split() if word.startswith("key-")}
        await self.ally.add_message("user", f"seen {sorted(texts)}")

    may = [*MAY, "get_context:messages"]

    async def main() -> None:
        async with live({"p": make_free(make_plugin(ally_tool_call_start=echo), *may)}) as bench:

            def model(messages: list[ModelMessage], info: Any) -> ModelResponse:
                responses = sum(isinstance(message, ModelResponse) for message in messages)
                made: ModelResponse = answer(ToolCallPart("look", {}, f"c{responses}") if responses < 2 else "done")
                return made

            everybody = asyncio.Barrier(50)

            async def look(ctx: RunContext[None]) -> str:
                await everybody.wait()
                await bench.host.sessions[ctx.conversation_id or ""].drained()
                return "seen"

            agent = Agent(
                FunctionModel(model), tools=[Tool(look, takes_ctx=True)], capabilities=[AllyPlugins(bench.host)]
            )
            results = await asyncio.gather(*(agent.run(f"this is key-{n}", conversation_id=f"s{n}") for n in range(50)))
            for n, result in enumerate(results):
                seen = str(result.all_messages())
                assert f"seen ['key-{n}']" in seen
                assert set(re.findall(r"key-\d+", seen)) == {f"key-{n}"}
                check_history(result.all_messages())

    go(main())


class Injector:
    """Says what Hypothesis wants at the moments that it wants: (deliver_as, role, moment) by tool call."""

    def __init__(self, wanted: list[list[tuple[str, str, str]]]) -> None:
        self.wanted = wanted
        self.count = 0
        self.accepted: set[str] = set()

    async def inject(self, ally: Any, when: str, index: int) -> None:
        for deliver_as, role, moment in self.wanted[index % len(self.wanted)]:
            if moment == when and self.count < 20:
                self.count += 1
                content = f"m{self.count}"
                with suppress(HopLimitRefused):  # it answers what came of its own messages
                    await ally.add_message(role, content, deliver_as=deliver_as)
                    self.accepted.add(content)

    @property
    def start(self) -> Any:
        async def hook(plugin: Any, event: Any) -> None:
            await self.inject(plugin.ally, "start", int(event.call_id[1:]))

        return hook

    @property
    def end(self) -> Any:
        async def hook(plugin: Any, event: Any) -> None:
            await self.inject(plugin.ally, "end", int(event.call_id[1:]))

        return hook

    @property
    def said(self) -> Any:
        async def hook(plugin: Any, event: Any) -> None:
            await self.inject(plugin.ally, "said", 0)

        return hook


@given(
    st.lists(
        st.lists(
            st.tuples(
                st.sampled_from(["steer", "follow_up", "next_turn"]),
                st.sampled_from(["user", "system", "assistant"]),
                st.sampled_from(["start", "end", "within", "said"]),
            ),
            max_size=3,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_whatever_plugins_inject_while_tools_run_in_parallel_the_history_stays_valid(
    injected: list[list[tuple[str, str, str]]],
) -> None:
    injector = Injector(injected)
    busy = make_plugin(
        ally_tool_call_start=injector.start, ally_tool_call_end=injector.end, ally_assistant_message=injector.said
    )

    async def main() -> None:
        async with live({"p": make_free(busy, *MAY)}) as bench:

            async def work(n: int) -> str:
                for _ in range(n):
                    await asyncio.sleep(0)
                await injector.inject(busy.ally, "within", n)
                return f"r{n}"

            two = [
                answer(*(ToolCallPart("work", {"n": n}, f"c{n + 10 * k}") for n in range(len(injected))))
                for k in (1, 2)
            ]
            steps = Script(*two, "done")
            agent = bench.agent(steps, tools=[work])
            result = await agent.run("go", conversation_id="s1")
            result = await agent.run("more", message_history=result.all_messages())
            for seen in steps.seen:
                check_history(seen)
                assert all(type(one) is not type(other) for one, other in pairwise(seen))
            check_history(result.all_messages())
            text = str(result.all_messages())
            for received in bench.of(PluginMessageReceived):
                assert text.count(f"[plugin p] {received.message['content']}'") == 1
            await bench.host.sessions["s1"].drained()
            delivered = {received.message["content"] for received in bench.of(PluginMessageReceived)}
            waiting = {each.content for each in bench.host.sessions["s1"].inbox.all()}
            assert delivered | waiting == injector.accepted

    go(main())
