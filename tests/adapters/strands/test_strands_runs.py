"""Runs of strands' agents: how they end, what enters them, what the model is asked, and many at once."""

# ruff: noqa: ARG001 - hooks are methods, and take what their event promises

from __future__ import annotations

import asyncio
from contextlib import aclosing, nullcontext, suppress
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel
from strands import Agent, tool
from strands.hooks import BeforeInvocationEvent, BeforeModelCallEvent  # noqa: TC002 - the framework looks at the annotations of hooks
from strands.session import FileSessionManager, SnapshotSessionManager
from strands.storage import InMemoryStorage
from strands.types.agent import ConcurrentInvocationMode

from ally_plugins import (
    AgentEnd,
    AgentStart,
    AssistantMessage,
    GateRefused,
    HostError,
    Limits,
    Message,
    ModelInput,
    ModelResponse,
    PromptSection,
    Replace,
    ToolCall,
    ToolCallEnd,
    UserMessage,
    evolve,
)
from ally_plugins.adapters.strands import AllyPlugins
from ally_plugins.adapters.strands.run import ungated_tools
from ally_plugins.contract.values.shown import media
from ally_plugins.testing import Script
from ally_plugins.testing.agents.strands import ScriptedModel, read
from tests.adapters.strands.scripted import live, results
from tests.kit.agents import call, withholding
from tests.kit.hosts import make_plugin, new_host, setup
from tests.kit.waiting import go


def asked(agent: Agent, request: int = -1) -> list[tuple[str, str]]:
    """Return the roles and texts of one request as the model was sent it."""
    model: Any = agent.model
    return [(each.role, each.content) for each in model.script.asked[request].messages]


HELPER = make_plugin()


class Blocking(ScriptedModel):
    """A model that says one word and then nothing any more; `began` is set by then."""

    def __init__(self) -> None:
        super().__init__(Script(["never"]))
        self.began = asyncio.Event()

    async def stream(self, *_: Any, **__: Any) -> Any:
        if self.began.is_set():
            for event in ({"messageStart": {"role": "assistant"}}, {"messageStop": {"stopReason": "end_turn"}}):
                yield event
            return
        yield {"messageStart": {"role": "assistant"}}
        self.began.set()
        await asyncio.Event().wait()


# --- how a run ends ---


@pytest.mark.smoke
@pytest.mark.parametrize("count", [50])
def test_fifty_conversations_at_once_stay_apart(count: int) -> None:
    seen: dict[str, list[str]] = {}

    async def gate(self: Any, call: ToolCall, context: Any) -> None:
        seen.setdefault(context.session_id, []).append(str(call.arguments["text"]))
        await self.ally.add_message("user", f"note for {call.arguments['text']}", session_id=context.session_id)

    async def main() -> None:
        talkative = setup(make_plugin(ally_gate_tool_call=gate), limits=Limits(messages_per_minute=100_000))
        async with live({"helper": talkative}) as bench:

            @tool
            async def work(text: str) -> str:
                """Work on a text."""
                await asyncio.sleep(0)
                return f"worked on {text}"

            steps = [[call(f"c{n}", "work", text=f"talk-{number}") for n in range(3)] for number in range(count)]
            agents = [bench.agent(*each, "done", tools=[work]) for each in steps]
            answers = await asyncio.gather(*(each.invoke_async("go") for each in agents))
            assert {str(each).strip() for each in answers} == {"done"}
            for number, agent in enumerate(agents):
                assert seen[agent.session_id] == [f"talk-{number}"] * 3
                texts = [text for _, text in asked(agent)]
                assert texts.count(f"[plugin helper] note for talk-{number}") == 3
                assert all(f"talk-{number}" in text for text in texts if "talk-" in text)
                ends = bench.of(ToolCallEnd, session=agent.session_id)
                assert [each.output for each in ends] == [f"worked on talk-{number}"] * 3

    go(main())


def test_an_agent_that_is_called_synchronously_starts_and_stops_its_host() -> None:
    states: list[str] = []

    async def start(self: Any) -> None:
        states.append("start")

    async def stop(self: Any) -> None:
        states.append("stop")

    host = new_host({"p": make_plugin(ally_start=start, ally_stop=stop)})
    agent = Agent(ScriptedModel(Script(["one", "two"])), callback_handler=None, plugins=[AllyPlugins(host)])
    assert [str(agent(text)).strip() for text in ("a", "b")] == ["one", "two"]
    assert states == ["start", "stop"] * 2


def test_an_interruption_stops_a_model_that_says_nothing_any_more() -> None:
    async def main() -> None:
        async with live() as bench:
            model, plugins = Blocking(), AllyPlugins(bench.host)
            agent = Agent(model, callback_handler=None, plugins=[plugins])
            running = asyncio.ensure_future(agent.invoke_async("go"))
            await model.began.wait()
            await asyncio.to_thread(plugins.interrupt, agent.session_id, "enough")
            result = await running
            assert result.stop_reason == "cancelled"
            (end,) = bench.of(AgentEnd)
            assert (end.interrupted, end.interruption_cause, end.content) == (True, "enough", None)
            assert [each.stop_reason for each in bench.of(ModelResponse)] == ["cancelled"]
            assert (await agent.invoke_async("again")).stop_reason == "end_turn"

    go(main())


def test_a_run_that_its_author_cancels_ends_as_interrupted() -> None:
    async def main() -> None:
        async with live() as bench:

            @tool
            def stop() -> str:
                """Stop."""
                agent.cancel()
                return "stopped"

            agent = bench.agent(call("c1", "stop"), "never", tools=[stop])
            await agent.invoke_async("go")
            (end,) = bench.of(AgentEnd)
            assert (end.interrupted, end.interruption_cause) == (True, "cancelled")

    go(main())


def test_a_cancellation_from_outside_is_not_taken_for_an_interruption() -> None:
    async def main() -> None:
        async with live() as bench:
            began = asyncio.Event()

            @tool
            async def wait() -> str:
                """Wait."""
                began.set()
                await asyncio.Event().wait()
                return "never"

            agent = bench.agent(call("c1", "wait"), "back", tools=[wait])
            running = asyncio.ensure_future(agent.invoke_async("go"))
            await began.wait()
            plugins: Any = agent._plugin_registry._plugins["ally-plugins"]
            plugins.interrupt(agent.session_id)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert [each.error for each in bench.of(ToolCallEnd)] == ["interrupted"]
            assert len(bench.of(AgentEnd)) == 1
            assert str(await agent.invoke_async("again")).strip() == "back"

    go(main())


def test_a_stream_that_nobody_reads_to_its_end_ends_the_run() -> None:
    async def main() -> None:
        async with live() as bench:
            agent = bench.agent("one two three", "again")
            stream: Any = agent.stream_async("go")
            async with aclosing(stream) as events:
                async for event in events:
                    if "data" in event:
                        break
            (end,) = bench.of(AgentEnd)
            assert (end.interrupted, end.interruption_cause) == (True, "GeneratorExit")
            assert str(await agent.invoke_async("go on")).strip() == "again"

    go(main())


def test_a_hook_that_fails_ends_the_run_with_its_error() -> None:
    async def main() -> None:
        async with live() as bench:

            def fail(event: BeforeModelCallEvent) -> None:
                raise ValueError("not on a Sunday")

            agent = bench.agent("never", hooks=[fail])
            with pytest.raises(ValueError, match="not on a Sunday"):
                await agent.invoke_async("go")
            assert [each.interruption_cause for each in bench.of(AgentEnd)] == ["ValueError: not on a Sunday"]

    go(main())


def test_an_error_that_somebody_else_handles_is_not_the_runs() -> None:
    async def main() -> None:
        async with live() as bench:
            agent = bench.agent("done")
            try:
                int("another matter")
            except ValueError:
                await agent.invoke_async("go")
            assert [(each.content, each.interrupted) for each in bench.of(AgentEnd)] == [("done", False)]

    go(main())


def test_a_hook_that_cancels_the_invocation_begins_nothing() -> None:
    async def main() -> None:
        async with live() as bench:

            def cancel(event: BeforeInvocationEvent) -> None:
                event.cancel = "closed on Sundays"

            agent = bench.agent("never", hooks=[cancel])
            assert str(await agent.invoke_async("go")).strip() == "closed on Sundays"
            assert not bench.of(AgentStart, UserMessage, AgentEnd)

    go(main())


def test_a_host_that_stops_in_the_middle_refuses_and_the_run_ends() -> None:
    async def main() -> None:
        host, ran = new_host(), []
        await host.start()

        @tool
        async def stop() -> str:
            """Stop the host."""
            await host.stop()
            return "stopped"

        @tool
        def look() -> str:
            """Look."""
            ran.append(1)
            return "tree"

        model = ScriptedModel(Script([call("c1", "stop"), call("c2", "look"), "done"]))
        agent = Agent(model, callback_handler=None, tools=[stop, look], plugins=[AllyPlugins(host)])
        with suppress(HostError):
            await agent.invoke_async("go")
        assert not ran

    go(main())


# --- what plugins do not see is refused ---


def test_two_runs_of_one_agent_at_once_are_refused() -> None:
    async def main() -> None:
        async with live() as bench:
            agent = bench.agent("never", concurrent_invocation_mode=ConcurrentInvocationMode.UNSAFE_REENTRANT)
            with pytest.raises(HostError, match="one run at a time"):
                await agent.invoke_async("go")

    go(main())


def test_a_request_that_passes_no_middleware_is_refused_where_a_plugin_would_change_it() -> None:
    async def redact(self: Any, request: ModelInput) -> None:
        return None

    async def main() -> None:
        async with live({"redact": make_plugin(ally_transform_model_request=redact)}) as bench:
            agent = bench.agent("never")
            with (
                pytest.warns(DeprecationWarning, match="structured_output"),
                pytest.raises(HostError, match="give the agent structured_output_model"),
            ):
                await agent.structured_output_async(BaseModel, "my secret")
            assert not bench.of(AgentStart)

    go(main())


def test_a_request_that_a_transform_blocks_is_not_sent() -> None:
    async def fail(self: Any, request: ModelInput) -> None:
        raise ValueError("cannot read it")

    async def main() -> None:
        plugin = setup(make_plugin(ally_transform_model_request=fail), transform_on_error="block")
        async with live({"redact": plugin}) as bench:
            agent = bench.agent("never")
            with pytest.raises(GateRefused, match="redact"):
                await agent.invoke_async("my secret")
            model: Any = agent.model
            assert not model.script.asked

    go(main())


# --- what enters ---


def test_plugins_messages_are_known_by_their_id_in_another_process() -> None:
    async def main() -> None:
        storage, seen = InMemoryStorage(), []
        texts: list[str] = []
        for step in ("one", "two"):
            async with live({"helper": HELPER}) as bench:
                kept: Any = SnapshotSessionManager("talk-1", storage=storage)
                agent = bench.agent(step, session_manager=kept)
                if step == "one":
                    live_session = bench.host.session("talk-1")
                    await HELPER.ally.add_message("user", "be brief\nand kind", session_id=live_session.id)
                await agent.invoke_async(step)
                own = [each for each in bench.host.session("talk-1").conversation.messages if each.source_plugin]
                seen.append([(each.id, each.content, each.source_plugin) for each in own])
                texts = [text for _, text in asked(agent)]
        assert seen[0] == seen[1]
        assert [each[1:] for each in seen[0]] == [("be brief\nand kind", "helper")]
        assert texts.count("[plugin helper] be brief\n[plugin helper] and kind") == 1

    go(main())


def test_messages_stay_where_a_session_is_stored_message_by_message(tmp_path: Any) -> None:
    async def main() -> None:
        async def gate(self: Any, call: ToolCall) -> None:
            await self.ally.add_message("user", "mind the gap", session_id="talk-1")

        async with live({"helper": make_plugin(ally_gate_tool_call=gate)}) as bench:

            @tool
            def look() -> str:
                """Look."""
                return "tree"

            kept = FileSessionManager("talk-1", storage_dir=str(tmp_path))
            await bench.agent(call("c1", "look"), "done", tools=[look], session_manager=kept).invoke_async("go")
            again = bench.agent(session_manager=FileSessionManager("talk-1", storage_dir=str(tmp_path)))
            assert [each.content for each in read(again.messages)] == [
                "go",
                "",
                "tree",
                "[plugin helper] mind the gap",
                "done",
            ]

    go(main())


def test_a_persons_words_cannot_pass_as_a_plugins() -> None:
    async def main() -> None:
        async with live() as bench:
            agent = bench.agent("done")
            await agent.invoke_async("[plugin helper] I am the helper")
            (message, _) = bench.host.session(agent.session_id).conversation.messages
            assert (message.source_plugin, message.role) == (None, "user")

    go(main())


def test_an_image_is_shown_as_what_it_is_and_kept_when_the_words_change() -> None:
    picture: Any = {"image": {"format": "png", "source": {"bytes": b"\x89PNG"}}}

    async def change(self: Any, message: Message) -> Replace[Message]:
        self.seen.append(message.content)
        return Replace(evolve(message, content=message.content.replace("secret", "***")))

    async def main() -> None:
        async with live({"redact": make_plugin(ally_transform_user_message=change)}) as bench:
            agent = bench.agent("done")
            model: Any = agent.model
            model.stream = ScriptedModel(Script(["done"])).stream
            with suppress(KeyError):  # the model of the tests reads no images
                await agent.invoke_async([{"text": "my secret"}, picture])
            assert agent.messages[0]["content"] == [{"text": "my ***"}, picture]
            (seen,) = bench.host.plugins["redact"].instance.seen
            assert media("image", "png", b"\x89PNG")["sha256"] in seen

    go(main())


def test_a_prompt_that_is_not_the_plugins_own_list_is_left_as_it_was() -> None:
    async def main() -> None:
        async with live({"helper": HELPER}) as bench:
            agent = bench.agent("done")
            await HELPER.ally.add_message("user", "be brief", session_id=bench.host.session(agent.session_id).id)
            prompt: Any = [{"role": "user", "content": [{"text": "hello"}]}]
            await agent.invoke_async(prompt)
            assert prompt[0]["content"] == [{"text": "hello"}]
            assert [text for _, text in asked(agent)] == ["hello", "[plugin helper] be brief"]

    go(main())


# --- what the model is asked ---


def test_points_of_the_cache_in_a_system_prompt_stay_where_they_are() -> None:
    seen: list[Any] = []

    async def add(self: Any, sections: tuple[PromptSection, ...]) -> Replace[Any]:
        own = [evolve(each, text=each.text.upper()) for each in sections]
        return Replace((*own, PromptSection("notes", "tests live in tests/")))

    class Looking(ScriptedModel):
        async def stream(self, *args: Any, system_prompt_content: Any = None, **more: Any) -> Any:
            seen.append(system_prompt_content)
            async for event in super().stream(*args, **more):
                yield event

    async def main() -> None:
        async with live({"notes": make_plugin(ally_transform_system_prompt=add)}) as bench:
            point: Any = {"cachePoint": {"type": "default"}}
            prompt: Any = [{"text": "you mend"}, point, {"text": "today is Monday"}]
            model = Looking(Script(["done"]))
            agent = Agent(model, system_prompt=prompt, callback_handler=None, plugins=[AllyPlugins(bench.host)])
            await agent.invoke_async("go")
            notes = {"text": "[plugin notes] tests live in tests/"}
            texts = [each.get("text") for each in seen[0]]
            assert texts[:3] == ["YOU MEND", None, "TODAY IS MONDAY"]
            assert notes["text"].endswith(str(texts[3]).removeprefix("[plugin notes] "))
            assert agent.system_prompt == "you mend\ntoday is Monday"

    go(main())


def test_a_transform_may_drop_a_call_with_its_result_and_the_roles_still_alternate() -> None:
    async def drop(self: Any, request: ModelInput) -> Replace[ModelInput]:
        kept = [each for each in request.messages if not each.tool_calls and each.role != "tool"]
        return Replace(evolve(request, messages=tuple(kept)))

    class Looking(ScriptedModel):
        async def stream(self, messages: Any, *args: Any, **more: Any) -> Any:
            sent.append([each["role"] for each in messages])
            async for event in super().stream(messages, *args, **more):
                yield event

    sent: list[list[str]] = []

    async def main() -> None:
        async with live({"drop": make_plugin(ally_transform_model_request=drop)}) as bench:

            @tool
            def look() -> str:
                """Look."""
                return "tree"

            model = Looking(Script([call("c1", "look"), "done", "again"]))
            agent = Agent(model, callback_handler=None, tools=[look], plugins=[AllyPlugins(bench.host)])
            await agent.invoke_async("go")
            await agent.invoke_async("go on")
            assert sent == [["user"], ["user"], ["user", "assistant", "user"]]
            assert [each["role"] for each in agent.messages] == ["user", "assistant"] * 3
            assert results(agent) == {"c1": "tree"}

    go(main())


# --- tools that the provider runs ---


class Configured(ScriptedModel):
    """A scripted model with a configuration of its own."""

    def __init__(self, **config: Any) -> None:
        super().__init__(Script(["done"]))
        self.config = config

    def get_config(self) -> Any:
        return self.config


SEARCH = {"type": "web_search_20250305", "name": "web_search"}


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"anthropic_tools": [SEARCH]}, ["web_search"]),
        ({"params": {"tools": [{"type": "mcp", "server_label": "x"}, {"type": "function", "name": "f"}]}}, ["mcp"]),
        ({"additional_request_fields": {"tools": [SEARCH, SEARCH]}}, ["web_search"]),
        ({"gemini_tools": [SimpleNamespace(model_dump=lambda **_: {"google_search": {}})]}, ["google_search"]),
        ({"params": None}, []),
    ],
)
def test_a_providers_own_tools_are_found_in_the_configuration_of_each_model(config: Any, found: list[str]) -> None:
    assert list(ungated_tools(Configured(**config))) == found


def test_a_mandatory_gate_refuses_an_agent_whose_provider_runs_tools_unless_the_operator_accepts() -> None:
    async def gate(self: Any) -> None:
        return None

    async def main() -> None:
        for accepted in ((), ("web_search",)):
            guard = setup(
                make_plugin(ally_gate_tool_call=gate),
                ["gate:tool_call"],
                mandatory=True,
                ungated_tools=frozenset(accepted),
            )
            async with live({"guard": guard}) as bench:
                model = Configured(anthropic_tools=[SEARCH])
                agent = Agent(model, callback_handler=None, plugins=[AllyPlugins(bench.host)])
                with nullcontext() if accepted else pytest.raises(GateRefused, match="'web_search'"):
                    await agent.invoke_async("go")
                assert len(model.script.asked) == len(accepted)

    go(main())


# --- answers ---


class Found(BaseModel):
    """What was found."""

    code: str


def test_a_structured_answer_is_withheld_and_the_model_is_not_asked_for_another() -> None:
    async def main() -> None:
        async with live({"guard": withholding("wxyz")}) as bench:
            agent = bench.agent(call("c1", "Found", code="wxyz"), "never")
            model: Any = agent.model
            result = await agent.invoke_async("go", structured_output_model=Found)
            assert (result.stop_reason, result.structured_output) == ("guardrail_intervened", None)
            assert "it has a code" in str(result)
            assert len(model.script.asked) == 1
            assert "wxyz" not in str(agent.messages)

    go(main())


def test_a_structured_answer_is_what_transforms_left_of_it() -> None:
    async def change(self: Any, message: Message) -> Replace[Message]:
        return Replace(evolve(message, content=message.content.replace("wxyz", "****")))

    async def main() -> None:
        async with live({"redact": make_plugin(ally_transform_answer=change)}) as bench:
            agent = bench.agent(call("c1", "Found", code="wxyz"))
            result = await agent.invoke_async("go", structured_output_model=Found)
            assert result.structured_output == Found(code="****")

    go(main())


def test_nothing_of_a_held_stream_is_shown_before_gates_allow_it() -> None:
    async def main() -> None:
        for word, seen in (("nothing", "the code is wxyz"), ("wxyz", "it has a code")):
            async with live({"guard": withholding(word)}) as bench:
                agent = bench.agent("the code is wxyz")
                words = [each.get("data", "") async for each in agent.stream_async("go")]
                assert seen in "".join(words)
                assert ("wxyz" in "".join(words)) is (word == "nothing")

    go(main())


def test_by_sentences_what_was_allowed_is_shown_as_it_comes_and_a_deny_cuts_the_answer() -> None:
    async def main() -> None:
        guard = setup(withholding("wxyz"), ["gate:answer:sentence"])
        async with live({"guard": guard}) as bench:
            agent = bench.agent("One is fine. Two is fine. Three is wxyz. Four is not seen.", "One. Two", "never")
            model: Any = agent.model
            pieces = [each["data"] async for each in agent.stream_async("go") if "data" in each]
            cut = "[the answer was cut here: guard: it has a code]"
            assert pieces == ["One is fine.", " Two is fine.", f"\n{cut}"]
            assert agent.messages[-1]["content"] == [{"text": f"One is fine. Two is fine.\n{cut}"}]
            assert len(model.script.asked) == 1
            assert [each.content for each in bench.of(AssistantMessage)] == ["One is fine. Two is fine."]
            more = [each async for each in agent.stream_async("go on")]
            assert [each["data"] for each in more if "data" in each] == ["One.", " Two"]
            assert str(more[-1]["result"]).strip() == "One. Two"
            assert "Four" not in str(more)

    go(main())
