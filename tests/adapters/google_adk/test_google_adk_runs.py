"""Runs and tool calls of google-adk's agents: confirmations, callbacks of others, agents as tools, and many at once."""

# ruff: noqa: ARG001, ARG002, ARG005 - hooks are methods, and take what their event promises

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.adk.agents import LlmAgent, ParallelAgent
from google.adk.agents._streaming_mode import StreamingMode
from google.adk.agents.live_request_queue import LiveRequestQueue
from google.adk.agents.run_config import RunConfig
from google.adk.code_executors import BaseCodeExecutor
from google.adk.plugins import BasePlugin
from google.adk.runners import Runner
from google.adk.tools.agent_tool import AgentTool
from google.adk.tools.function_tool import FunctionTool
from google.adk.tools.google_search_tool import google_search
from google.genai.types import Content, FunctionResponse, GenerateContentConfig, Part
from pydantic import BaseModel, Field

from ally_plugins import (
    AgentEnd,
    AgentStart,
    Ask,
    AssistantMessage,
    Deny,
    GateRefused,
    HostError,
    Limits,
    Message,
    ModelInput,
    ModelRequest,
    ModelResponse,
    PermissionRequest,
    PermissionResponse,
    Replace,
    ToolCall,
    ToolCallEnd,
    ToolCallStart,
    ToolResult,
    UserMessage,
    evolve,
)
from ally_plugins.adapters.google_adk import AllyPlugins
from ally_plugins.testing import Answer
from ally_plugins.testing.agents.google_adk import said
from tests.adapters.google_adk.scripted import answer_of, live, results
from tests.kit.agents import call, gate, withholding
from tests.kit.hosts import make_plugin, new_host, setup
from tests.kit.waiting import go

ASKS = gate(lambda call: Ask("is it safe?"))


class Tools:
    """A tool that keeps what it was given."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def work(self, text: str) -> str:
        """Work on a text."""
        self.ran.append(text)
        return f"worked on {text}"


def confirmed(events: list[Any], *, yes: bool) -> Content:
    """Return the person's answer to the framework's request for a confirmation."""
    asked = [each for event in events for each in event.get_function_calls() if each.name.startswith("adk_request_")]
    parts = [
        Part(function_response=FunctionResponse(id=each.id, name=each.name, response={"confirmed": yes}))
        for each in asked
    ]
    assert parts
    return Content(role="user", parts=parts)


# --- questions ---


@pytest.mark.smoke
@pytest.mark.parametrize(("yes", "ran"), [(True, ["a"]), (False, [])])
def test_a_question_is_a_confirmation_that_the_run_goes_on_with(yes: bool, ran: list[str]) -> None:  # noqa: FBT001
    async def main() -> None:
        async with live(ASKS) as bench:
            tools = Tools()
            agent = bench.agent(call("c1", "work", text="a"), "done", tools=[tools.work])
            runner = bench.runner(agent, bench.plugins(defer=True))
            first = await bench.run(runner)
            (asked,) = [each for event in first for each in event.actions.requested_tool_confirmations.values()]
            assert (asked.hint, asked.payload["arguments"]) == ("guard: is it safe?", {"text": "a"})
            assert (tools.ran, bench.of(ToolCallEnd)) == ([], [])
            second = await bench.run(runner, confirmed(first, yes=yes))
            assert answer_of(second) == "done"
            assert tools.ran == ran
            assert len(bench.of(ToolCallStart)) == len(bench.of(PermissionRequest)) == 1
            assert [(each.success, each.denied) for each in bench.of(ToolCallEnd)] == [(yes, not yes)]
            assert [each.choice for each in bench.of(PermissionResponse)] == ["allow" if yes else "deny"]
            assert len(bench.of(UserMessage)) == 1

    go(main())


def test_a_confirmation_of_the_tools_own_comes_behind_the_gates_and_its_call_ends_once() -> None:
    async def main() -> None:
        async with live(gate(lambda call: Deny("no b") if call.arguments["text"] == "b" else None)) as bench:
            tools = Tools()
            both = Answer(calls=tuple(ToolCall("work", {"text": text}, f"c-{text}") for text in "ab"))
            agent = bench.agent(both, "done", tools=[FunctionTool(tools.work, require_confirmation=True)])
            runner = bench.runner(agent)
            first = await bench.run(runner)
            assert [each.call_id for each in bench.of(ToolCallEnd)] == ["c-b"]
            second = await bench.run(runner, confirmed(first, yes=True))
            assert (answer_of(second), tools.ran) == ("done", ["a"])
            assert sorted((each.call_id, each.success) for each in bench.of(ToolCallEnd)) == [
                ("c-a", True),
                ("c-b", False),
            ]
            assert len(bench.of(ToolCallStart)) == 2

    go(main())


def test_without_a_person_a_question_is_a_deny() -> None:
    async def main() -> None:
        async with live(ASKS) as bench:
            tools = Tools()
            events = await bench.run(
                bench.runner(bench.agent(call("c1", "work", text="a"), "done", tools=[tools.work]))
            )
            assert tools.ran == []
            assert "is it safe?" in results(events)["c1"]["error"]

    go(main())


# --- what others do to a call ---


def test_gates_are_shown_what_a_callback_of_the_agents_own_has_made_of_the_arguments() -> None:
    def change(tool: Any, args: dict[str, Any], tool_context: Any) -> None:
        args["text"] = f"{args['text']}!"

    async def main() -> None:
        async with live(gate(lambda call: Deny("no b") if "b" in str(call.arguments["text"]) else None)) as bench:
            tools = Tools()
            both = Answer(calls=tuple(ToolCall("work", {"text": text}, f"c-{text}") for text in "ab"))
            agent = bench.agent(both, "done", tools=[tools.work], before_tool_callback=change)
            events = await bench.run(bench.runner(agent))
            assert tools.ran == ["a!"]
            seen = bench.host.plugins["guard"].instance.seen
            assert sorted(each["text"] for _, each in seen) == ["a!", "b!"]
            assert "no b" in results(events)["c-b"]["error"]
            assert sorted((each.call_id, each.denied) for each in bench.of(ToolCallEnd)) == [
                ("c-a", False),
                ("c-b", True),
            ]

    go(main())


def test_a_question_about_such_a_call_is_a_confirmation_too() -> None:
    async def main() -> None:
        async with live(ASKS) as bench:
            tools = Tools()
            agent = bench.agent(
                call("c1", "work", text="a"), "done", tools=[tools.work], before_tool_callback=lambda **_: None
            )
            runner = bench.runner(agent, bench.plugins(defer=True))
            first = await bench.run(runner)
            assert tools.ran == []
            await bench.run(runner, confirmed(first, yes=True))
            assert tools.ran == ["a"]
            assert len(bench.of(ToolCallStart)) == len(bench.of(ToolCallEnd)) == 1

    go(main())


def test_a_plugin_behind_ours_that_changes_arguments_keeps_the_call_from_running() -> None:
    class Change(BasePlugin):
        async def before_tool_callback(self, *, tool: Any, tool_args: dict[str, Any], tool_context: Any) -> None:
            tool_args["text"] = "evil"

    async def main() -> None:
        async with live(gate(lambda call: None)) as bench:
            tools = Tools()
            runner = bench.runner(bench.agent(call("c1", "work", text="a"), "done", tools=[tools.work]))
            runner.plugin_manager.register_plugin(Change(name="change"))
            events = await bench.run(runner)
            assert tools.ran == []
            assert "another plugin changed the arguments" in results(events)["c1"]["error"]

    go(main())


def test_a_refused_call_that_another_plugin_tries_again_is_refused_again() -> None:
    class Again(BasePlugin):
        async def after_tool_callback(
            self, *, tool: Any, tool_args: dict[str, Any], tool_context: Any, result: Any
        ) -> Any:
            return await tool.run_async(args=tool_args, tool_context=tool_context)

    async def main() -> None:
        async with live(gate(lambda call: Deny("no"))) as bench:
            tools = Tools()
            steps = (call("c1", "work", text="a"), "done")
            agent = bench.agent(*steps, tools=[tools.work], before_tool_callback=lambda **_: None)
            events = await bench.run(bench.runner(agent, None, Again(name="again")))
            assert tools.ran == []
            assert results(events)["c1"] == {"error": "not run: guard: no"}

    go(main())


def test_a_plugin_before_ours_may_change_them_and_gates_see_it() -> None:
    class Change(BasePlugin):
        async def before_tool_callback(self, *, tool: Any, tool_args: dict[str, Any], tool_context: Any) -> None:
            tool_args["text"] = "better"

    async def main() -> None:
        async with live(gate(lambda call: None)) as bench:
            tools = Tools()
            agent = bench.agent(call("c1", "work", text="a"), "done", tools=[tools.work])
            await bench.run(bench.runner(agent, None, Change(name="change")))
            assert tools.ran == ["better"]
            assert bench.host.plugins["guard"].instance.seen == [("work", {"text": "better"})]

    go(main())


def test_a_tool_that_is_guarded_runs_in_another_runner_without_plugins() -> None:
    async def main() -> None:
        async with live(gate(lambda call: Deny("no"))) as bench:
            tools = Tools()
            shared = FunctionTool(tools.work)
            for _ in range(2):
                await bench.run(bench.runner(bench.agent(call("c1", "work", text="a"), "done", tools=[shared])))
            alone = bench.agent(call("c1", "work", text="b"), "done", tools=[shared])
            plain = Runner(app_name="test", agent=alone, session_service=bench.sessions)
            await bench.run(plain, session="other")
            assert tools.ran == ["b"]

    go(main())


def test_a_tool_that_does_not_exist_ends_and_the_model_reads_so() -> None:
    async def main() -> None:
        async with live() as bench:
            events = await bench.run(bench.runner(bench.agent(call("c1", "nothing"), "done")))
            assert "nothing" in str(results(events)["c1"]["error"])
            assert [each.success for each in bench.of(ToolCallEnd)] == [False]

    go(main())


# --- agents ---


@pytest.mark.filterwarnings("ignore:The `plugins` argument:DeprecationWarning")  # the framework gives it itself
def test_an_agent_as_a_tool_is_a_sub_agent_of_the_call_and_its_calls_pass_the_gates() -> None:
    async def main() -> None:
        async with live(
            gate(lambda call: Deny("not there") if call.arguments.get("text") == "evil" else None)
        ) as bench:
            tools = Tools()
            inner = bench.agent(call("i1", "work", text="evil"), "found it", name="helper", tools=[tools.work])
            outer = bench.agent(call("c1", "helper", request="look"), "done", tools=[AgentTool(inner)])
            events = await bench.run(bench.runner(outer))

            start = bench.of(AgentStart, session="s")[1]
            assert (start.agent_name, start.task_prompt, start.parent_id) == ("helper", "look", "c1")
            assert (tools.ran, results(events)["c1"]) == ([], {"result": "found it"})
            assert {each.call_id: each.parent_id for each in bench.of(ToolCallEnd, session="s")} == {
                "i1": "c1",
                "c1": None,
            }
            assert len(bench.of(AgentEnd)) == 2

    go(main())


def test_an_agent_that_another_hands_over_to_goes_on_in_the_same_run() -> None:
    async def main() -> None:
        async with live(gate(lambda call: None)) as bench:
            tools = Tools()
            helper = bench.agent(call("i1", "work", text="a"), "found it", name="helper", tools=[tools.work])
            root = LlmAgent(
                name="root",
                model=bench.agent(call("c1", "transfer_to_agent", agent_name="helper")).model,
                sub_agents=[helper],
            )
            events = await bench.run(bench.runner(root))
            assert (answer_of(events), tools.ran) == ("found it", ["a"])
            seen = [name for name, _ in bench.host.plugins["guard"].instance.seen]
            assert seen == ["transfer_to_agent", "work"]
            assert [each.content for each in bench.of(AgentEnd)] == ["found it"]

    go(main())


# --- runs ---


@pytest.mark.smoke
def test_fifty_conversations_at_once_stay_apart() -> None:
    seen: dict[str, list[str]] = {}

    async def ally_gate(self: Any, call: ToolCall, context: Any) -> None:
        seen.setdefault(context.session_id, []).append(str(call.arguments["text"]))
        await self.ally.add_message("user", f"note for {call.arguments['text']}", session_id=context.session_id)

    async def main() -> None:
        talkative = setup(make_plugin(ally_gate_tool_call=ally_gate), limits=Limits(messages_per_minute=100_000))
        async with live({"helper": talkative}) as bench:

            async def work(text: str) -> str:
                """Work on a text."""
                await asyncio.sleep(0)
                return f"worked on {text}"

            names = [f"talk-{number}" for number in range(50)]
            plugins = bench.plugins()
            agents = [
                bench.agent(*(call(f"c{n}", "work", text=name) for n in range(3)), "done", tools=[work])
                for name in names
            ]
            runs = [
                bench.run(bench.runner(agent, plugins), session=name) for name, agent in zip(names, agents, strict=True)
            ]
            for events in await asyncio.gather(*runs):
                assert answer_of(events) == "done"
            for name, agent in zip(names, agents, strict=True):
                assert seen[name] == [name] * 3
                model: Any = agent.model
                texts = [each.content for each in model.script.asked[-1].messages]
                assert texts.count(f"[plugin helper] note for {name}") == 3
                assert all(name in text for text in texts if "talk-" in text)
                assert [each.output for each in bench.of(ToolCallEnd, session=name)] == [f"worked on {name}"] * 3

    go(main())


def test_sessions_of_two_users_with_one_id_are_two() -> None:
    async def main() -> None:
        async with live() as bench:
            runner = bench.runner(bench.agent("one", "two"), AllyPlugins(bench.host))
            for user in ("ann", "bob"):
                await bench.run(runner, f"I am {user}", user=user)
            sessions = [each.session_id for each in bench.of(UserMessage)]
            assert sessions == ["test/ann/s", "test/bob/s"]
            words = [each.content for each in bench.host.session("test/bob/s").conversation.messages]
            assert words == ["I am bob", "two"]

    go(main())


def test_a_run_in_a_thread_starts_and_stops_its_host() -> None:
    states: list[str] = []

    async def start(self: Any) -> None:
        states.append("start")

    async def stop(self: Any) -> None:
        states.append("stop")

    async def main() -> None:
        host = new_host({"p": make_plugin(ally_start=start, ally_stop=stop)})
        async with live() as bench:
            runner = bench.runner(bench.agent("one"), AllyPlugins(host))
            await bench.sessions.create_session(app_name="test", user_id="u", session_id="s")
            message = Content(role="user", parts=[Part(text="go")])
            events = await asyncio.to_thread(lambda: list(runner.run(user_id="u", session_id="s", new_message=message)))
            assert answer_of(events) == "one"
            assert states == ["start", "stop"]

    go(main())


def test_a_run_that_is_cancelled_ends_as_interrupted_and_its_calls_are_answered() -> None:
    async def main() -> None:
        async with live() as bench:
            began = asyncio.Event()

            async def wait() -> str:
                """Wait."""
                began.set()
                await asyncio.Event().wait()
                return "never"

            runner = bench.runner(bench.agent(call("c1", "wait"), "back", tools=[wait]))
            running = asyncio.ensure_future(bench.run(runner))
            await began.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert answer_of(await bench.run(runner, "go on")) == "back"
            assert [each.error for each in bench.of(ToolCallEnd)] == ["interrupted"]
            assert [each.interrupted for each in bench.of(AgentEnd)] == [True, False]
            session = await bench.sessions.get_session(app_name="test", user_id="u", session_id="s")
            assert session is not None
            assert results(session.events) == {"c1": {"error": "interrupted"}}

    go(main())


def test_a_second_turn_of_a_conversation_at_once_is_refused() -> None:
    async def main() -> None:
        async with live() as bench:
            plugins = bench.plugins()

            async def again() -> str:
                """Run again."""
                inner = plugins.run_async(
                    runner, user_id="u", session_id="s", new_message=Content(parts=[Part(text="x")])
                )
                with pytest.raises(HostError, match="is under way"):
                    await anext(inner)
                return "refused"

            runner = bench.runner(bench.agent(call("c1", "again"), "done", tools=[again]), plugins)
            await bench.sessions.create_session(app_name="test", user_id="u", session_id="s")
            message = Content(role="user", parts=[Part(text="go")])
            events = [
                each async for each in plugins.run_async(runner, user_id="u", session_id="s", new_message=message)
            ]
            assert results(events)["c1"] == {"result": "refused"}

    go(main())


def test_a_mandatory_gate_refuses_an_agent_whose_provider_runs_tools_unless_the_operator_accepts() -> None:
    async def ally_gate(self: Any) -> None:
        return None

    async def main() -> None:
        for accepted in ((), ("google_search",)):
            guard = setup(
                make_plugin(ally_gate_tool_call=ally_gate),
                ["gate:tool_call"],
                mandatory=True,
                ungated_tools=frozenset(accepted),
            )
            async with live({"guard": guard}) as bench:
                agent = bench.agent("done", tools=[google_search])
                model: Any = agent.model
                model.model = "gemini-2.5-flash"
                if accepted:
                    await bench.run(bench.runner(agent))
                else:
                    with pytest.raises(RuntimeError, match="google_search") as refused:
                        await bench.run(bench.runner(agent))
                    assert isinstance(refused.value.__cause__, GateRefused)
                assert len(model.script.asked) == len(accepted)
                assert len(bench.of(AgentEnd)) == 1

    go(main())


def test_code_that_the_framework_runs_for_the_model_is_no_call_and_named_as_what_no_gate_sees() -> None:
    class Executor(BaseCodeExecutor):
        def execute_code(self, invocation_context: Any, code_execution_input: Any) -> Any:
            raise NotImplementedError

    async def ally_gate(self: Any) -> None:
        return None

    async def main() -> None:
        guard = setup(make_plugin(ally_gate_tool_call=ally_gate), ["gate:tool_call"], mandatory=True)
        async with live({"guard": guard}) as bench:
            agent = bench.agent("```python\nprint(1)\n```", code_executor=Executor())
            with pytest.raises(RuntimeError, match="code_executor:Executor"):
                await bench.run(bench.runner(agent))

    go(main())


@pytest.mark.filterwarnings("ignore:ParallelAgent is deprecated:DeprecationWarning")
def test_agents_that_run_at_once_each_report_their_answer() -> None:
    async def main() -> None:
        async with live() as bench:
            both = ParallelAgent(name="both", sub_agents=[bench.agent("one", name="a"), bench.agent("two", name="b")])
            await bench.run(bench.runner(both))
            assert sorted(each.content for each in bench.of(AssistantMessage)) == ["one", "two"]
            assert len(bench.of(ModelRequest)) == len(bench.of(ModelResponse)) == 2
            assert [each.interrupted for each in bench.of(AgentEnd)] == [False]

    go(main())


def test_a_live_run_is_refused() -> None:
    async def main() -> None:
        async with live() as bench:
            runner = bench.runner(bench.agent("never"))
            await bench.sessions.create_session(app_name="test", user_id="u", session_id="s")
            queue = LiveRequestQueue()
            queue.close()
            with pytest.raises(RuntimeError, match="use run_async"):
                async for _ in runner.run_live(user_id="u", session_id="s", live_request_queue=queue):
                    pass
            assert not bench.of(AgentStart)

    go(main())


# --- requests ---


def test_plugins_may_change_the_settings_of_a_request_that_are_data() -> None:
    async def cool(self: Any, request: ModelInput) -> Replace[ModelInput]:
        self.seen.append(dict(request.settings))
        return Replace(evolve(request, settings={"temperature": 0.0}))

    async def main() -> None:
        async with live({"cool": make_plugin(ally_transform_model_request=cool)}) as bench:
            seen: list[Any] = []
            given = GenerateContentConfig(temperature=0.7, top_p=0.5)

            def look(callback_context: Any, llm_request: Any) -> None:
                seen.append((llm_request.config.temperature, llm_request.config.top_p))

            agent = bench.agent("done", generate_content_config=given, before_model_callback=look)
            await bench.run(bench.runner(agent))
            assert bench.host.plugins["cool"].instance.seen == [{"temperature": 0.7, "top_p": 0.5}]
            assert seen == [(0.0, None)]
            assert given.temperature == 0.7

    go(main())


# --- answers ---


class Found(BaseModel):
    """What was found."""

    code: str


def test_nothing_of_a_held_stream_is_shown_before_gates_allow_it() -> None:
    async def main() -> None:
        async with live({"guard": withholding("wxyz")}) as bench:
            runner = bench.runner(bench.agent("the code is wxyz", "good bye"))
            await bench.sessions.create_session(app_name="test", user_id="u", session_id="s")
            config = RunConfig(streaming_mode=StreamingMode.SSE)
            turn = runner.run_async(user_id="u", session_id="s", new_message=said("go"), run_config=config)
            events = [each async for each in turn]
            assert "wxyz" not in str(events)
            assert "it has a code" in answer_of(events)
            assert answer_of(await bench.run(runner, "go on")) == "good bye"

    go(main())


def test_by_sentences_what_was_allowed_is_shown_as_it_comes_and_a_deny_cuts_the_answer() -> None:
    async def main() -> None:
        guard = setup(withholding("wxyz"), ["gate:answer:sentence"])
        async with live({"guard": guard}) as bench:
            agent = bench.agent("One is fine. Two is fine. Three is wxyz. Four is not seen.", "One. Two", "never")
            runner = bench.runner(agent)
            await bench.sessions.create_session(app_name="test", user_id="u", session_id="s")
            config = RunConfig(streaming_mode=StreamingMode.SSE)

            async def play(text: str) -> tuple[list[str], str]:
                turn = runner.run_async(user_id="u", session_id="s", new_message=said(text), run_config=config)
                events = [each async for each in turn]
                parts = [each.content.parts or [] for each in events if each.partial and each.content is not None]
                assert "Four" not in str(events)
                return [part.text or "" for some in parts for part in some], answer_of(events[-1:])

            pieces, answer = await play("go")
            assert pieces == ["One is fine.", " Two is fine."]
            assert answer == "One is fine. Two is fine.\n[the answer was cut here: guard: it has a code]"
            assert [each.content for each in bench.of(AssistantMessage)] == ["One is fine. Two is fine."]
            assert await play("go on") == (["One."], "One. Two")

    go(main())


def test_a_structured_answer_of_an_agent_with_tools_is_what_transforms_left_of_it() -> None:
    async def change(self: Any, message: Message) -> Replace[Message]:
        return Replace(evolve(message, content=message.content.replace("wxyz", "****")))

    async def main() -> None:
        async with live({"redact": make_plugin(ally_transform_answer=change)}) as bench:
            agent = bench.agent(
                call("c1", "set_model_response", code="wxyz"), "done", tools=[Tools().work], output_schema=Found
            )
            events = await bench.run(bench.runner(agent))
            assert "wxyz" not in str(events)
            assert "****" in answer_of(events)
            assert not bench.of(ToolCallStart)

    go(main())


def test_an_answer_that_plugins_begin_with_the_words_of_a_thought_keeps_them() -> None:
    def change(self: Any, message: Message) -> Replace[Message]:
        return Replace(evolve(message, content=f"Yes.\n{message.content}"))

    async def main() -> None:
        async with live({"polite": make_plugin(ally_transform_answer=change)}) as bench:
            agent = bench.agent(Answer(text="It is four.", thinking="Yes."))
            assert answer_of(await bench.run(bench.runner(agent))) == "Yes.\nIt is four."

    go(main())


# --- what a tool returns ---


class Problem(BaseModel):
    """A failure that does not print all that it holds."""

    token: str = Field(default="SECRET123", repr=False)


@pytest.mark.parametrize("failure", [Problem(), [Problem()], {"problem": Problem()}, {"a": "SECRET123"}])
def test_a_failure_is_shown_to_transforms_as_the_model_reads_it(failure: Any) -> None:
    async def redact(self: Any, call: ToolCall, result: ToolResult) -> Any:
        if "SECRET123" in (result.error or ""):
            return Replace(evolve(result, error="[redacted]"))
        return None

    def work(text: str) -> Any:
        """Work on a text."""
        return {"error": failure}

    async def main() -> None:
        async with live({"guard": make_plugin(ally_transform_tool_output=redact)}) as bench:
            agent = bench.agent(call("c1", "work", text="a"), "done", tools=[FunctionTool(work)])
            events = await bench.run(bench.runner(agent))
            assert results(events)["c1"] == {"error": "[redacted]"}
            assert not [event for event in events if "SECRET123" in event.model_dump_json()]

    go(main())
