"""Runs: their messages, sessions, requests, guardrails and ends, streamed or not; what the host author adds stays."""

# ruff: noqa: ARG001, ARG002, ARG005 - hooks are methods, and take what their event promises

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrail,
    InputGuardrailTripwireTriggered,
    ModelSettings,
    OutputGuardrail,
    RunConfig,
    RunHooks,
    Runner,
    RunResultStreaming,
    SQLiteSession,
    ToolGuardrailFunctionOutput,
    ToolInputGuardrail,
    UserError,
    function_tool,
)
from agents.run import set_default_agent_runner
from agents.run_config import CallModelData, ModelInputData
from openai.types.responses import ResponseOutputMessage, ResponseOutputRefusal
from pydantic import BaseModel

from ally_plugins import (
    AgentEnd,
    AgentStart,
    AssistantMessage,
    BlockingHost,
    Deny,
    ModelResponse,
    PromptSection,
    Replace,
    ThoughtComplete,
    ToolCall,
    ToolCallEnd,
    UserMessage,
    evolve,
)
from ally_plugins.adapters.kit.answers import AnswerRefused
from ally_plugins.adapters.openai_agents import AllyPlugins, RunInterrupted
from ally_plugins.testing import Answer, Script
from ally_plugins.testing.adapters.script import calls
from ally_plugins.testing.agents.openai_agents import FollowingModel
from tests.adapters.openai_agents.scripted import Bench, live, loop_of_run_sync, requests, texts
from tests.kit.agents import withholding
from tests.kit.hosts import make_plugin, new_host, setup

WORK = calls(("c1", "work", "a"))
HELPER = make_plugin()


def speaking(content: str, **options: Any) -> Any:
    """Return a tool in which the plugin `helper` adds a message to the conversation `talk`."""

    @function_tool
    async def work(text: str) -> str:
        await HELPER.ally.add_message("user", content, session_id="talk", **options)
        return f"worked on {text}"

    return work


# --- plugins' messages ---


@pytest.mark.smoke
def test_a_message_is_among_the_items_of_the_result_where_the_model_read_it() -> None:
    async def main() -> None:
        async with live({"helper": HELPER}) as bench:
            agent = bench.agent(WORK, "done", "again", tools=[speaking("look here")])
            config = RunConfig(group_id="talk")
            result = await bench.plugins.run(agent, "go", run_config=config)
            items = result.to_input_list()
            kinds = [item.get("type") or item.get("role") for item in items]
            assert kinds == ["user", "function_call", "function_call_output", "user", "message"]
            assert requests(agent)[1].messages[-1].content == "[plugin helper] look here"
            await bench.plugins.run(agent, [*items, {"role": "user", "content": "and now?"}], run_config=config)
            assert texts(requests(agent)[2]) == [
                "user: go", "assistant: ", "tool: worked on a", "user: [plugin helper] look here",
                "assistant: done", "user: and now?",
            ]  # fmt: skip
            (kept,) = (
                each for each in bench.plugins.session("talk").session.conversation.messages if each.source_plugin
            )
            assert kept.content == "look here"
            assert [event.content for event in bench.of(UserMessage)] == ["go", "and now?"]

    asyncio.run(main())


def test_no_model_is_sent_the_marks_of_plugins_messages() -> None:
    seen: list[Any] = []

    class Model(FollowingModel):
        async def get_response(self, system_instructions: Any, input: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: A002
            seen.append(input)
            return await super().get_response(system_instructions, input, *args, **kwargs)

    async def main() -> None:
        async with live({"helper": HELPER}) as bench:
            agent = bench.agent(WORK, "done", tools=[speaking("look here")])
            assert isinstance(agent.model, FollowingModel)
            agent.model = Model(agent.model.script)
            await bench.plugins.run(agent, "go", session=SQLiteSession("talk"))
            assert "look here" in str(seen[1])
            assert "ally_plugins" not in str(seen)

    asyncio.run(main())


def test_a_follow_up_makes_one_result_of_two_answers() -> None:
    async def main(session: Any) -> None:
        async with live({"helper": HELPER}) as bench:
            agent = bench.agent(WORK, "first", "second", tools=[speaking("what of tests?", deliver_as="follow_up")])
            options: dict[str, Any] = {"session": session} if session else {"run_config": RunConfig(group_id="talk")}
            result = await bench.plugins.run(agent, "go", **options)
            assert result.final_output == "second"
            read = [item.get("content") or item.get("type") for item in result.to_input_list()]
            assert len(read) == 6
            assert read[4] == "[plugin helper] what of tests?"
            assert len(result.raw_responses) == 3
            assert result.context_wrapper.usage.requests == 3
            assert texts(requests(agent)[2])[-2:] == ["assistant: first", "user: [plugin helper] what of tests?"]
            (end,) = bench.of(AgentEnd)
            assert end.content == "second"
            if session:
                assert len(await session.get_items()) == 6

    asyncio.run(main(None))
    asyncio.run(main(SQLiteSession("talk")))


def test_a_message_of_a_run_that_waits_for_a_person_is_read_once_when_it_goes_on() -> None:
    async def main() -> None:
        async with live({"helper": HELPER}) as bench:

            @function_tool(needs_approval=True)
            async def ask(text: str) -> str:
                return "asked"

            agent = bench.agent(WORK, calls(("c2", "ask", "b")), "done", "again", tools=[speaking("look here"), ask])
            session = SQLiteSession("talk")
            first = await bench.plugins.run(agent, "go", session=session)
            state = first.to_state()
            state.approve(first.interruptions[0])
            result = await bench.plugins.run(agent, state, session=session)
            assert result.final_output == "done"
            assert texts(requests(agent)[2]) == [
                "user: go", "assistant: ", "tool: worked on a", "user: [plugin helper] look here", "assistant: ",
                "tool: asked",
            ]  # fmt: skip
            await bench.plugins.run(agent, "and now?", session=session)
            assert requests(agent)[3].text.count("look here") == 1
            assert str(result.to_input_list()).count("[plugin helper] look here") == 1

    asyncio.run(main())


def test_messages_are_known_again_in_another_process(tmp_path: Path) -> None:
    async def main(steps: tuple[Any, ...], prompt: str) -> tuple[Any, ...]:
        async with live({"helper": HELPER}) as bench:
            agent = bench.agent(*steps, tools=[speaking("look here")])
            session = SQLiteSession("talk", tmp_path / "sessions.db")
            await bench.plugins.run(agent, prompt, session=session)
            session.close()
            return tuple(bench.plugins.session("talk").session.conversation.messages)

    asyncio.run(main((WORK, "done"), "go"))
    messages = asyncio.run(main(("again",), "and now?"))
    assert [each.content for each in messages if each.source_plugin == "helper"] == ["look here"]


def test_a_conversation_that_the_provider_keeps_is_sent_each_message_once() -> None:
    async def main() -> None:
        async with live({"helper": HELPER}) as bench:
            agent = bench.agent(WORK, calls(("c2", "work", "b")), "done", tools=[speaking("look here")])
            await bench.plugins.run(agent, "go", conversation_id="talk")
            sent = [texts(request) for request in requests(agent)]
            assert sent == [
                ["user: go"],
                ["tool: worked on a", "user: [plugin helper] look here"],
                ["tool: worked on b", "user: [plugin helper] look here"],
            ]
            read = [each.content for each in bench.plugins.session("talk").session.conversation.messages]
            assert read == ["go", "", "worked on a", "look here", "", "worked on b", "look here", "done"]

    asyncio.run(main())


# --- requests ---


def test_what_the_host_author_filters_is_what_plugins_transform_last() -> None:
    async def shout(self: Any, request: Any) -> Any:
        changed = [evolve(each, content=each.content.replace("please", "PLEASE")) for each in request.messages]
        return Replace(evolve(request, messages=tuple(changed)))

    def politely(data: CallModelData[Any]) -> ModelInputData:
        items = [*data.model_data.input, {"role": "user", "content": "please"}]
        return ModelInputData(input=items, instructions="Be kind.")  # type: ignore[arg-type]

    async def main() -> None:
        async with live({"shout": make_plugin(ally_transform_model_request=shout)}) as bench:
            agent = bench.agent("done", instructions="You help.")
            config = RunConfig(call_model_input_filter=politely)
            await bench.plugins.run(agent, "go", run_config=config)
            assert texts(requests(agent)[0]) == ["user: go", "user: PLEASE"]
            assert requests(agent)[0].system == "Be kind."
            assert config.call_model_input_filter is politely

    asyncio.run(main())


def test_transforms_change_settings_for_one_request() -> None:
    async def cooler(self: Any, request: Any) -> Any:
        self.seen.append(dict(request.settings))
        return (
            Replace(evolve(request, settings={**request.settings, "temperature": 0.1})) if len(self.seen) == 1 else None
        )

    async def main() -> None:
        async with live({"cooler": make_plugin(ally_transform_model_request=cooler)}) as bench:

            @function_tool
            def work(text: str) -> str:
                return text

            agent = bench.agent(WORK, "done", tools=[work], model_settings=ModelSettings(temperature=0.9))
            await bench.plugins.run(agent, "go")
            assert [request.settings["temperature"] for request in requests(agent)] == [0.1, 0.9]
            assert bench.host.plugins["cooler"].instance.seen[0]["temperature"] == 0.9

    asyncio.run(main())


def test_a_section_of_the_prompt_comes_with_a_handoff_s_agent_too() -> None:
    async def add(self: Any, sections: Any) -> Any:
        return Replace((*sections, PromptSection("notes", "tests live in tests/")))

    async def main() -> None:
        async with live({"notes": make_plugin(ally_transform_system_prompt=add)}) as bench:
            second = bench.agent("done", name="second", instructions="You mend.")
            made = Answer(calls=(ToolCall("transfer_to_second", {}, "h1"),))
            agent = bench.agent(made, handoffs=[second])
            await bench.plugins.run(agent, "go")
            assert requests(agent)[0].system == "tests live in tests/"
            assert requests(second)[0].system == "You mend.\n\ntests live in tests/"

    asyncio.run(main())


# --- guardrails, hooks and ends ---


def test_a_tripwire_of_the_framework_ends_the_turn_as_an_error() -> None:
    async def trip(_context: Any, _agent: Any, _input: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)

    async def main() -> None:
        async with live() as bench:
            agent = bench.agent(
                "done", input_guardrails=[InputGuardrail(guardrail_function=trip, run_in_parallel=False)]
            )
            with pytest.raises(InputGuardrailTripwireTriggered):
                await bench.plugins.run(agent, "go")
            (end,) = bench.of(AgentEnd)
            assert end.interrupted
            assert "InputGuardrailTripwireTriggered" in (end.interruption_cause or "")
            assert requests(agent) == []

    asyncio.run(main())


def test_what_a_tool_guardrail_rejects_after_the_gates_does_not_run_and_ends() -> None:
    ran: list[str] = []

    def reject(_data: Any) -> ToolGuardrailFunctionOutput:
        return ToolGuardrailFunctionOutput.reject_content("a guardrail says no")

    @function_tool(tool_input_guardrails=[ToolInputGuardrail(guardrail_function=reject)])
    def work(text: str) -> str:
        ran.append(text)
        return text

    async def main() -> None:
        async with live() as bench:
            agent = bench.agent(WORK, "done", tools=[work])
            await bench.plugins.run(agent, "go")
            assert ran == []
            assert requests(agent)[1].result_of("c1") == "a guardrail says no"
            assert bench.starts() == ["c1"]
            (end,) = bench.of(ToolCallEnd)
            assert not end.success

    asyncio.run(main())


def test_a_tool_whose_errors_end_the_run_ends_its_call_and_the_turn() -> None:
    @function_tool(failure_error_function=None)
    def work(text: str) -> str:
        raise ValueError("the disk is full")

    async def main() -> None:
        async with live() as bench:
            agent = bench.agent(WORK, tools=[work])
            with pytest.raises(UserError, match="the disk is full"):
                await bench.plugins.run(agent, "go")
            assert bench.ends() == {"c1": "ValueError: the disk is full"}
            assert "the disk is full" in (bench.of(AgentEnd)[0].interruption_cause or "")

    asyncio.run(main())


def test_a_tool_s_time_limit_is_for_the_tool_and_not_for_who_decides() -> None:
    @function_tool(timeout=0.2)
    async def work(text: str) -> str:
        if text == "slow":
            await asyncio.Event().wait()
        return "worked"

    async def approve(_question: Any) -> str:
        await asyncio.sleep(0.3)
        return "allow"

    async def main() -> None:
        async with live(approve=approve, sensitive=["work"]) as bench:
            agent = bench.agent(WORK, calls(("c2", "work", "slow")), "done", tools=[work])
            await bench.plugins.run(agent, "go")
            assert requests(agent)[1].result_of("c1") == "worked"
            ends = bench.ends()
            assert ends["c1"] is None
            assert "timed out" in (ends["c2"] or "")

    asyncio.run(main())


def test_the_host_author_s_hooks_are_called_and_the_agents_left_as_they_were() -> None:
    class Hooks(RunHooks[Any]):
        def __init__(self) -> None:
            self.seen: list[str] = []

        async def on_agent_start(self, context: Any, agent: Any) -> None:
            self.seen.append("agent start")

        async def on_llm_start(self, *_: Any) -> None:
            self.seen.append("llm start")

        async def on_llm_end(self, *_: Any) -> None:
            self.seen.append("llm end")

        async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
            assert tool is work, "a host author's hook was given a copy"
            self.seen.append(f"tool start {tool.name}")

        async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> None:
            self.seen.append(f"tool end {result}")

        async def on_agent_end(self, context: Any, agent: Any, output: Any) -> None:
            self.seen.append(f"agent end {output}")

    @function_tool
    def work(text: str) -> str:
        return f"worked on {text}"

    async def main() -> None:
        async with live() as bench:
            agent, hooks = bench.agent(WORK, "done", tools=[work]), Hooks()
            result = await bench.plugins.run(agent, "go", hooks=hooks)
            step = ["llm start", "llm end"]
            assert hooks.seen == [
                "agent start",
                *step,
                "tool start work",
                "tool end worked on a",
                *step,
                "agent end done",
            ]
            assert result.last_agent is agent
            assert agent.tools == [work]
            assert "get_all_tools" not in vars(agent)

    asyncio.run(main())


def test_an_output_that_is_no_text_is_the_tool_s_own_where_nobody_transforms_it() -> None:
    change = make_plugin(
        ally_transform_tool_output=lambda self, result: Replace(evolve(result, output=result.output[:6]))
    )

    @function_tool
    def work(text: str) -> Any:
        return {"made": text}

    async def main(plugins: dict[str, Any]) -> tuple[Any, str | None]:
        async with live(plugins) as bench:
            agent = bench.agent(WORK, "done", tools=[work])
            result = await bench.plugins.run(agent, "go")
            (output,) = (item.output for item in result.new_items if item.type == "tool_call_output_item")
            return output, bench.of(ToolCallEnd)[0].output

    assert asyncio.run(main({})) == ({"made": "a"}, "{'made': 'a'}")
    assert asyncio.run(main({"change": change})) == ("{'made", "{'made")


# --- other ways to run ---


def test_run_sync_starts_and_stops_a_host_and_uses_one_in_a_thread_of_its_own() -> None:
    guard = make_plugin(ally_gate_tool_call=lambda self, call: Deny("no"))

    @function_tool
    def work(text: str) -> str:
        raise NotImplementedError

    def agent_of(bench: Bench) -> Agent[Any]:
        return bench.agent(WORK, "done", tools=[work])

    host = new_host({"guard": guard})
    agent = agent_of(Bench(host))
    with loop_of_run_sync():
        assert AllyPlugins(host).run_sync(agent, "go").final_output == "done"
    assert requests(agent)[1].result_of("c1") == "not run: guard: no"
    assert host.loop is None
    options: dict[str, Any] = {"plugins": {"guard": guard}, "home": None, "discover": False}
    with loop_of_run_sync(), BlockingHost("test", **options) as running:
        agent = agent_of(Bench(running.host))
        AllyPlugins(running.host).run_sync(agent, "go")
        assert requests(agent)[1].result_of("c1") == "not run: guard: no"


def test_the_framework_s_own_runner_runs_with_plugins_where_they_are_the_default() -> None:
    async def main() -> None:
        async with live() as bench:
            set_default_agent_runner(bench.plugins)
            try:
                result = await Runner.run(bench.agent("done"), "go", session=SQLiteSession("talk"))
                stream = Runner.run_streamed(bench.agent("streamed"), "go on", session=SQLiteSession("talk"))
                async for _ in stream.stream_events():
                    pass
            finally:
                set_default_agent_runner(None)
            assert (result.final_output, stream.final_output) == ("done", "streamed")
            assert [end.session_id for end in bench.of(AgentEnd)] == ["talk", "talk"]

    asyncio.run(main())


def test_a_run_outside_of_plugins_is_none_of_theirs_meanwhile() -> None:
    async def main() -> None:
        async with live() as bench:
            other = bench.agent("other")

            @function_tool
            async def work(text: str) -> str:
                return text

            agent = bench.agent(WORK, "done", tools=[work])
            await asyncio.gather(bench.plugins.run(agent, "go"), Runner.run(other, "hi"))
            assert [start.agent_name for start in bench.of(AgentStart)] == ["agent"]

    asyncio.run(main())


async def _read(stream: RunResultStreaming) -> None:
    async for _ in stream.stream_events():
        pass


async def _run(bench: Bench, agent: Agent[Any], session: SQLiteSession, *, is_streamed: bool) -> None:
    if not is_streamed:
        await bench.plugins.run(agent, "go", session=session)
        return
    await _read(bench.plugins.run_streamed(agent, "go", session=session))


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_interrupted_run_says_so_and_the_conversation_goes_on(is_streamed: bool) -> None:  # noqa: FBT001
    async def main() -> None:
        async with live() as bench:

            @function_tool
            async def work(text: str) -> str:
                bench.plugins.interrupt("talk", "the person pressed a key")
                await asyncio.Event().wait()
                return "never"

            agent, session = bench.agent(WORK, "back", tools=[work]), SQLiteSession("talk")
            with pytest.raises(RunInterrupted, match="the person pressed a key"):
                await _run(bench, agent, session, is_streamed=is_streamed)
            (end,) = bench.of(AgentEnd)
            assert end.interruption_cause == "the person pressed a key"
            assert bench.ends() == {"c1": "interrupted"}
            assert (await bench.plugins.run(agent, "go on", session=session)).final_output == "back"

    asyncio.run(main())


def test_a_stream_that_is_cancelled_ends_without_an_error_and_the_turn_as_interrupted() -> None:
    async def main() -> None:
        async with live() as bench:

            @function_tool
            async def work(text: str) -> str:
                await asyncio.Event().wait()
                return "never"

            stream = bench.plugins.run_streamed(bench.agent(WORK, tools=[work]), "go")
            assert (stream.final_output, stream.is_complete) == (None, False)
            assert stream.input_guardrail_results == stream.tool_output_guardrail_results == []
            with pytest.raises(AttributeError, match="before its first event"):
                _ = stream.context_wrapper
            stopped = False
            async for event in stream.stream_events():
                assert not stopped, "an event came after the stream was cancelled"
                if event.type == "run_item_stream_event":
                    stream.cancel()
                    stopped = True
            (end,) = bench.of(AgentEnd)
            assert end.interrupted
            assert stream.final_output is None

    asyncio.run(main())


@pytest.mark.parametrize("kept", [{"conversation_id": "c"}, {"previous_response_id": "r"}])
def test_options_that_the_framework_refuses_are_refused_at_once_and_nothing_begins(kept: dict[str, Any]) -> None:
    async def main() -> None:
        async with live() as bench:
            agent, options = bench.agent("never"), {"session": SQLiteSession("talk"), **kept}
            with pytest.raises(UserError, match="Session persistence"):
                bench.plugins.run_streamed(agent, "go", **options)
            with pytest.raises(UserError, match="Session persistence"):
                await bench.plugins.run(agent, "go", **options)
            assert bench.of(AgentStart, UserMessage) == []
            assert requests(agent) == []

    asyncio.run(main())


@pytest.mark.parametrize("mode", ["immediate", "after_turn"])
def test_a_stream_that_is_cancelled_before_it_begins_ends(mode: Any) -> None:
    async def main() -> None:
        async with live() as bench:
            agent = bench.agent("never")
            stream = bench.plugins.run_streamed(agent, "go")
            stream.cancel(mode)
            async with asyncio.timeout(5):
                assert [event async for event in stream.stream_events()] == []
            assert stream.is_complete
            assert requests(agent) == []

    asyncio.run(main())


@pytest.mark.parametrize("is_readers", [False, True])
@pytest.mark.parametrize("pending", ["input guardrail", "output guardrail", "model's end"])
def test_a_stream_ends_when_it_is_cancelled_while_only_what_follows_the_answer_goes_on(
    pending: str,
    is_readers: bool,  # noqa: FBT001
) -> None:
    async def main() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def wait(*_args: Any) -> Any:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async with live() as bench:
            agent = bench.agent("done")
            agent.input_guardrails = [InputGuardrail(wait)] if pending == "input guardrail" else []
            agent.output_guardrails = [OutputGuardrail(wait)] if pending == "output guardrail" else []
            if pending == "model's end":
                vars(agent.model)["_cleanup_on_run_end"] = wait
            stream = bench.plugins.run_streamed(agent, "go")
            reader = asyncio.create_task(_read(stream))
            async with asyncio.timeout(10):
                await begun.wait()
                (reader if is_readers else stream).cancel()
                await asyncio.wait((reader,))
                await ended.wait()
            assert reader.cancelled() is is_readers
            assert [end.interrupted for end in bench.of(AgentEnd)] == [True]
            assert stream.is_complete

    asyncio.run(main())


def test_a_run_whose_guardrail_was_cancelled_ends_interrupted_and_is_not_sent_on() -> None:
    async def ally_gate_stop(self: Any, stop: Any) -> Deny:
        return Deny("go on")

    async def main() -> None:
        waited = asyncio.create_task(asyncio.Event().wait())

        async def wait(*_args: Any) -> Any:
            await waited

        async with live({"sender": make_plugin(ally_gate_stop=ally_gate_stop)}) as bench:
            agent = bench.agent("done", "never", input_guardrails=[InputGuardrail(wait)])
            stream = bench.plugins.run_streamed(agent, "go", session=SQLiteSession("talk"))
            asyncio.get_running_loop().call_later(0.01, waited.cancel)
            async with asyncio.timeout(10):
                await _read(stream)
            assert [end.interrupted for end in bench.of(AgentEnd)] == [True]
            assert stream.final_output is None
            assert len(requests(agent)) == 1

    asyncio.run(main())


def test_what_a_run_raised_is_known_though_its_stream_was_not_read() -> None:
    async def main() -> None:
        async with live() as bench:
            error = ValueError("the provider is away")
            stream = bench.plugins.run_streamed(bench.agent(Answer(error=error)), "go")
            assert stream.run_loop_exception is None
            assert stream.run_loop_task is not None
            await asyncio.wait((stream.run_loop_task,))
            assert stream.run_loop_exception is error

    asyncio.run(main())


@pytest.mark.parametrize("where", ["agent", "configuration"])
def test_output_guardrails_beside_a_conversation_of_the_providers_are_refused_before_a_run_begins(where: str) -> None:
    async def main() -> None:
        async with live() as bench:
            guardrails = [OutputGuardrail(lambda *_: GuardrailFunctionOutput(None, tripwire_triggered=False))]
            agent = bench.agent("never", output_guardrails=guardrails if where == "agent" else [])
            options: dict[str, Any] = {"previous_response_id": "r"}
            if where == "configuration":
                options["run_config"] = RunConfig(output_guardrails=guardrails)
            with pytest.raises(UserError, match="server-managed conversation history"):
                bench.plugins.run_streamed(agent, "go", **options)
            with pytest.raises(UserError, match="server-managed conversation history"):
                await bench.plugins.run(agent, "go", **options)
            assert bench.of(AgentStart, UserMessage) == []

    asyncio.run(main())


def test_a_cancellation_that_a_tool_raises_is_raised_by_the_stream() -> None:
    async def fail(text: str) -> str:
        raise asyncio.CancelledError("the tool's own")

    async def main() -> None:
        async with live() as bench:
            work = function_tool(fail, name_override="work", failure_error_function=None)
            stream = bench.plugins.run_streamed(bench.agent(WORK, tools=[work]), "go")
            with pytest.raises(asyncio.CancelledError):
                [event async for event in stream.stream_events()]
            assert bench.of(AgentEnd)[0].interrupted

    asyncio.run(main())


def test_a_stream_that_nobody_reads_runs_to_its_end() -> None:
    async def main() -> None:
        async with live() as bench:
            stream = bench.plugins.run_streamed(bench.agent("done"), "go")
            assert stream.run_loop_task is not None
            await stream.run_loop_task
            assert stream.final_output == "done"

    asyncio.run(main())


@pytest.mark.parametrize("says", [None, "default"])
def test_what_a_tool_raises_is_a_failure_to_plugins_and_a_text_without_a_reason_to_the_model(says: str | None) -> None:
    def reason(_context: Any, error: Exception) -> str:
        return f"it failed: {error}"

    def fail(text: str) -> str:
        raise ValueError("a private detail")

    options: dict[str, Any] = {} if says else {"failure_error_function": reason}
    work = function_tool(fail, name_override="work", **options)

    async def main() -> None:
        async with live() as bench:
            agent = bench.agent(WORK, "done", tools=[work])
            await bench.plugins.run(agent, "go")
            (end,) = bench.of(ToolCallEnd)
            assert not end.success
            assert end.error == requests(agent)[1].result_of("c1")
            assert ("a private detail" in (end.error or "")) is (says is None)

    asyncio.run(main())


def test_a_streamed_agent_as_a_tool_joins_the_session() -> None:
    async def main() -> None:
        async with live() as bench:
            events: list[Any] = []
            inner = bench.agent("found it", name="helper")
            ask = inner.as_tool("work", "asks", on_stream=events.append)
            agent = bench.agent(Answer(calls=(ToolCall("work", {"input": "look"}, "c1"),)), "done", tools=[ask])
            await bench.plugins.run(agent, "go")
            assert requests(agent)[1].result_of("c1") == "found it"
            assert events
            assert [(start.agent_name, start.task_prompt) for start in bench.of(AgentStart)] == [
                ("agent", None),
                ("helper", "look"),
            ]

    asyncio.run(main())


@pytest.mark.smoke
def test_fifty_conversations_at_once_keep_apart_and_nothing_of_them_stays() -> None:
    async def main() -> None:
        ran: list[str] = []

        @function_tool
        async def work(text: str) -> str:
            await asyncio.sleep(0)
            ran.append(text)
            return f"worked for {text}"

        def answer(request: Any) -> Answer:
            name = next(each.content for each in request.messages if each.role == "user").removeprefix("this is ")
            if request.result_of(f"c-{name}") is None:
                return calls((f"c-{name}", "work", name))
            return Answer(text=f"done in {name}, {len(request.messages)}")

        gate = make_plugin(
            ally_gate_tool_call=lambda self, call: Deny("odd") if call.arguments["text"].endswith("7") else None
        )
        async with live({"gate": gate}) as bench:
            agent = bench.agent(*[answer] * 100, tools=[work])
            names = [f"talk-{number}" for number in range(50)]
            results = await asyncio.gather(
                *(bench.plugins.run(agent, f"this is {name}", session=SQLiteSession(name)) for name in names)
            )
            assert [result.final_output for result in results] == [f"done in {name}, 3" for name in names]
            assert sorted(ran) == sorted(name for name in names if not name.endswith("7"))
            for name in names:
                own = [event for event in bench.events if event.session_id == name]
                assert sum(isinstance(event, ToolCallEnd) for event in own) == 1
                assert sum(isinstance(event, ModelResponse) for event in own) == 2
            assert "get_all_tools" not in vars(agent)

    asyncio.run(main())


# --- answers ---


async def _streamed(bench: Bench, agent: Agent[Any]) -> tuple[str, list[str]]:
    """Return all that a stream has shown, and the types of its raw events."""
    stream, shown, raw = bench.plugins.run_streamed(agent, "go", session=SQLiteSession("talk")), "", []
    with suppress(AnswerRefused):
        async for event in stream.stream_events():
            shown += repr(event)
            if event.type == "raw_response_event":
                raw.append(event.data.type)
    return shown, raw


def test_a_stream_shows_nothing_of_an_answer_before_plugins_have_seen_it() -> None:
    async def main(plugins: dict[str, Any]) -> tuple[str, list[str]]:
        async with live(plugins) as bench:
            agent = bench.agent("the code is wxyz")
            return await _streamed(bench, agent)

    async def deny(self: Any, message: Any) -> Deny:
        return Deny("it has a code")

    async def change(self: Any, message: Any) -> Any:
        return Replace(evolve(message, content=message.content.replace("wxyz", "****")))

    async def allow(self: Any, message: Any) -> None:
        self.seen.append(message.content)

    shown, raw = asyncio.run(main({}))
    assert "wxyz" in shown
    assert raw[-1] == "response.completed"
    assert asyncio.run(main({"guard": make_plugin(ally_gate_answer=allow)}))[1] == raw
    shown, left = asyncio.run(main({"redact": make_plugin(ally_transform_answer=change)}))
    assert "wxyz" not in shown
    assert "****" in shown
    assert left == []
    shown, left = asyncio.run(main({"guard": make_plugin(ally_gate_answer=deny)}))
    assert "wxyz" not in shown
    assert left == []


class InPieces(FollowingModel):
    """A model whose texts come in pieces of some letters."""

    async def stream_response(self, *args: Any, **options: Any) -> Any:
        async for event in super().stream_response(*args, **options):
            if event.type != "response.output_text.delta":
                yield event
                continue
            for start in range(0, len(event.delta), 5):
                yield event.model_copy(update={"delta": event.delta[start : start + 5]})


@pytest.mark.smoke
def test_by_sentences_what_was_allowed_is_shown_as_it_comes_and_a_deny_cuts_the_answer() -> None:
    async def main() -> None:
        guard = setup(withholding("wxyz"), ["gate:answer:sentence"])
        async with live({"guard": guard}) as bench:
            ran: list[str] = []

            @function_tool
            async def work(text: str) -> str:
                ran.append(text)
                return text

            text = "One is fine. Two is fine. Three is wxyz. Four is not seen."
            odd = Answer(text=text, calls=(ToolCall("work", {"text": "a"}, "c1"),), output_tokens=7)
            model = InPieces(Script(["One is fine. So is two", odd, "never"]))
            agent, session = Agent(name="agent", model=model, tools=[work]), SQLiteSession("talk")

            async def read(shown: list[str]) -> None:
                async for event in bench.plugins.run_streamed(agent, "go", session=session).stream_events():
                    assert "Four" not in repr(event)
                    assert "wxyz" not in repr(event)
                    if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                        shown.append(event.data.delta)

            first: list[str] = []
            await read(first)
            assert first == ["One is fine.", " So is two"]
            cut: list[str] = []
            with pytest.raises(AnswerRefused, match="cut here: guard: it has a code"):
                await read(cut)
            assert cut == ["One is fine.", " Two is fine."]
            kept = "One is fine. Two is fine.\n[the answer was cut here: guard: it has a code]"
            assert (await session.get_items())[-1] == {"role": "assistant", "content": kept}
            assert [each.content for each in bench.of(AssistantMessage)][-1] == "One is fine. Two is fine."
            assert bench.of(ModelResponse)[-1].output_tokens == 7
            assert ran == []
            assert len(model.script.asked) == 2

    asyncio.run(main())


@pytest.mark.parametrize("is_structured", [False, True])
def test_what_is_not_read_as_a_stream_of_text_is_asked_about_whole(is_structured: bool) -> None:  # noqa: FBT001
    class Found(BaseModel):
        code: str

    async def note(self: Any, message: Any) -> None:
        self.seen.append(message.content)

    async def main() -> None:
        guard = setup(make_plugin(ally_gate_answer=note), ["gate:answer:sentence"])
        async with live({"guard": guard}) as bench:
            text = '{"code": "One. Two. Three."}' if is_structured else "One. Two. Three."
            agent: Agent[Any] = Agent(
                name="agent", model=InPieces(Script([text])), output_type=Found if is_structured else None
            )
            if is_structured:
                async for _ in bench.plugins.run_streamed(agent, "go").stream_events():
                    pass
            else:
                await bench.plugins.run(agent, "go")
            assert bench.host.plugins["guard"].instance.seen == [text]

    asyncio.run(main())


def test_a_stream_that_is_cancelled_while_a_gate_looks_at_a_sentence_shows_no_more_of_it() -> None:
    asked = asyncio.Event()

    async def hang(self: Any, message: Any) -> None:
        asked.set()
        await asyncio.Event().wait()

    async def main() -> None:
        guard = setup(make_plugin(ally_gate_answer=hang), ["gate:answer:sentence"])
        async with live({"guard": guard}) as bench:
            stream = bench.plugins.run_streamed(Agent(name="agent", model=InPieces(Script(["One. Two."]))), "go")

            async def read() -> None:
                async for event in stream.stream_events():
                    assert "One" not in repr(event)

            reading = asyncio.create_task(read())
            await asked.wait()
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert bench.of(AgentEnd)[-1].interrupted

    asyncio.run(main())


def test_an_answer_that_is_withheld_is_counted_and_nothing_of_it_is_told() -> None:
    async def main() -> None:
        async with live({"guard": withholding("wxyz")}) as bench:
            agent = bench.agent(
                Answer(text="the code is wxyz", thinking="wxyz it is", input_tokens=70, output_tokens=7)
            )
            with pytest.raises(AnswerRefused, match="it has a code"):
                await bench.plugins.run(agent, "go")
            assert [(each.input_tokens, each.output_tokens) for each in bench.of(ModelResponse)] == [(70, 7)]
            assert not bench.of(AssistantMessage, ThoughtComplete)

    asyncio.run(main())


def test_why_a_model_refuses_is_its_answer() -> None:
    class Refusing(FollowingModel):
        async def get_response(self, *args: Any, **kwargs: Any) -> Any:
            response = await super().get_response(*args, **kwargs)
            for item in response.output:
                assert isinstance(item, ResponseOutputMessage)
                item.content = [ResponseOutputRefusal(type="refusal", refusal="I will not say wxyz")]
            return response

    async def main() -> None:
        async with live({"guard": withholding("wxyz")}) as bench:
            session = SQLiteSession("talk")
            agent = Agent(name="agent", model=Refusing(Script(["said"])))
            with pytest.raises(AnswerRefused):
                await bench.plugins.run(agent, "go", session=session)
            assert "wxyz" not in str(await session.get_items())
            assert not bench.of(AssistantMessage)

    asyncio.run(main())


def test_an_answer_with_a_structure_is_shown_as_one_and_its_change_is_the_output() -> None:
    class Found(BaseModel):
        code: str

    async def change(self: Any, message: Any) -> Any:
        self.seen.append(message.metadata.get("isStructured"))
        return Replace(evolve(message, content=message.content.replace("wxyz", "****")))

    async def main() -> None:
        async with live({"redact": make_plugin(ally_transform_answer=change)}) as bench:
            agent = bench.agent('{"code": "wxyz"}', output_type=Found)
            result = await bench.plugins.run(agent, "go")
            assert result.final_output == Found(code="****")
            assert bench.host.plugins["redact"].instance.seen == [True]

    asyncio.run(main())


def test_an_agent_that_a_guardrail_runs_is_a_sub_agent() -> None:
    async def main() -> None:
        async with live() as bench:
            judge = bench.agent("harmless", name="judge")

            async def judged(_context: Any, _agent: Any, _input: Any) -> GuardrailFunctionOutput:
                said = (await Runner.run(judge, "is it?")).final_output
                return GuardrailFunctionOutput(output_info=said, tripwire_triggered=said != "harmless")

            agent = bench.agent("done", input_guardrails=[InputGuardrail(guardrail_function=judged)])
            assert (await bench.plugins.run(agent, "go", session=SQLiteSession("talk"))).final_output == "done"
            started = {start.agent_name: start.is_specialized_agent for start in bench.of(AgentStart)}
            assert started == {"agent": False, "judge": True}
            assert {start.session_id for start in bench.of(AgentStart)} == {"talk"}
            assert len(bench.of(UserMessage)) == 1

    asyncio.run(main())
