"""What may run: gates, the person, the framework's interruptions, and tools that come by other ways."""

# ruff: noqa: ARG002, ARG005 - hooks are methods, and take what their event promises

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from agents import (
    Agent,
    RunContextWrapper,
    RunHooks,
    Runner,
    RunState,
    SQLiteSession,
    UserError,
    WebSearchTool,
    function_tool,
    handoff,
)
from agents.mcp import MCPServer
from agents.testing import ScriptedModel, assistant_message, function_call
from mcp.types import CallToolResult, TextContent
from mcp.types import Tool as MCPTool

from ally_plugins import (
    AgentEnd,
    Ask,
    Decision,
    Deny,
    GateRefused,
    PermissionRequest,
    PermissionResponse,
    Replace,
    ToolCall,
    ToolCallEnd,
    evolve,
)
from ally_plugins.adapters.openai_agents import ungated_tools
from ally_plugins.testing import Answer
from ally_plugins.testing.adapters.script import calls
from tests.adapters.openai_agents.scripted import Bench, live, loop_of_run_sync, requests
from tests.kit.hosts import make_plugin, setup


class Work:
    """A tool that keeps what it ran with."""

    def __init__(self, name: str = "work", **options: Any) -> None:
        self.ran: list[str] = []

        async def work(text: str) -> str:
            self.ran.append(text)
            return f"worked on {text}"

        self.tool = function_tool(work, name_override=name, **options)


WORK = calls(("c1", "work", "a"))
DENY = make_plugin(ally_gate_tool_call=lambda self, call: Deny(f"no {call.tool_name}"))
ASK = make_plugin(ally_gate_tool_call=lambda self, call: Ask("is it safe?"))


async def _never(question: Any) -> str:
    raise NotImplementedError


# --- a person who answers later ---


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_call_that_needs_approval_waits_with_one_start_and_runs_once_when_it_was_approved(is_streamed: bool) -> None:  # noqa: FBT001
    async def main() -> None:
        gate = make_plugin(ally_gate_tool_call=lambda self, call: self.seen.append(call.call_id))
        async with live({"gate": gate}) as bench:
            work = Work(needs_approval=True)
            agent = bench.agent(WORK, "done", tools=[work.tool])
            first = await _run(bench, agent, "go", is_streamed)
            assert work.ran == []
            assert [item.call_id for item in first.interruptions] == ["c1"]
            assert bench.plugins.session("talk").deferred["c1"].call.arguments == {"text": "a"}
            state = first.to_state()
            state.approve(first.interruptions[0])
            second = await _run(bench, agent, state, is_streamed)
            assert (second.final_output, work.ran) == ("done", ["a"])
            assert bench.starts() == ["c1"]
            assert bench.ends() == {"c1": None}
            assert [answer.choice for answer in bench.of(PermissionResponse)] == ["allow"]
            await bench.plugins.session("talk").session.drained()
            assert bench.host.plugins["gate"].instance.seen == ["c1", "c1"], (
                "gates are asked again by the run that runs it"
            )
            assert requests(agent)[1].result_of("c1") == "worked on a"

    asyncio.run(main())


async def _run(bench: Bench, agent: Agent[Any], given: Any, is_streamed: bool) -> Any:  # noqa: FBT001
    session = SQLiteSession("talk")
    if not is_streamed:
        return await bench.plugins.run(agent, given, session=session)
    stream = bench.plugins.run_streamed(agent, given, session=session)
    async for _ in stream.stream_events():
        pass
    return stream


def test_a_call_that_was_rejected_ends_as_denied_and_the_model_reads_why() -> None:
    async def main() -> None:
        async with live() as bench:
            work = Work(needs_approval=True)
            agent = bench.agent(WORK, "done", tools=[work.tool])
            session = SQLiteSession("talk")
            first = await bench.plugins.run(agent, "go", session=session)
            state = first.to_state()
            state.reject(first.interruptions[0], rejection_message="not on a Sunday")
            await bench.plugins.run(agent, state, session=session)
            assert work.ran == []
            (end,) = bench.of(ToolCallEnd)
            assert (end.denied, end.error) == (True, "not run: not on a Sunday")
            assert requests(agent)[1].result_of("c1") == "not on a Sunday"

    asyncio.run(main())


def test_a_question_of_a_gate_waits_where_the_author_says_so_and_is_a_deny_elsewhere() -> None:
    async def main(*, defer: bool | None, waits: bool) -> None:
        async with live({"guard": ASK}, defer=defer) as bench:
            work = Work()
            agent = bench.agent(WORK, "done", tools=[work.tool])
            first = await bench.plugins.run(agent, "go")
            assert work.ran == []
            assert bool(first.interruptions) is waits
            if not waits:
                assert "is it safe?" in (requests(agent)[1].result_of("c1") or "")
                return
            state = first.to_state()
            state.approve(first.interruptions[0])
            await bench.plugins.run(agent, state)
            assert work.ran == ["a"]

    asyncio.run(main(defer=True, waits=True))
    asyncio.run(main(defer=None, waits=False))


def test_a_run_goes_on_in_another_process_with_gates_that_may_deny_what_was_approved() -> None:
    work = Work(needs_approval=True)

    async def begin() -> str:
        async with live() as bench:
            agent = bench.agent(WORK, tools=[work.tool])
            result = await bench.plugins.run(agent, "go")
            return str(result.to_state().to_string())

    async def go_on(text: str, plugins: dict[str, Any]) -> tuple[Bench, Agent[Any]]:
        async with live(plugins) as bench:
            agent = bench.agent("done", tools=[work.tool])
            state: RunState[Any] = await RunState.from_string(agent, text)
            state.approve(state.get_interruptions()[0])
            assert (await bench.plugins.run(agent, state)).final_output == "done"
            return bench, agent

    text = asyncio.run(begin())
    bench, agent = asyncio.run(go_on(text, {"guard": DENY}))
    assert work.ran == []
    assert requests(agent)[0].result_of("c1") == "not run: guard: no work"
    assert bench.starts() == []
    assert bench.ends() == {"c1": "not run: guard: no work"}
    asyncio.run(go_on(text, {}))
    assert work.ran == ["a"]


def test_a_sticky_approval_does_not_answer_the_question_of_a_gate() -> None:
    second = make_plugin(ally_gate_tool_call=lambda self, call: Ask("again?") if call.call_id == "c2" else None)

    async def main() -> None:
        async with live({"guard": second}) as bench:
            work = Work(needs_approval=True)
            agent = bench.agent(WORK, calls(("c2", "work", "b")), "done", tools=[work.tool])
            first = await bench.plugins.run(agent, "go")
            state = first.to_state()
            state.approve(first.interruptions[0], always_approve=True)
            await bench.plugins.run(agent, state)
            assert work.ran == ["a"]
            assert "again?" in (requests(agent)[2].result_of("c2") or "")
            assert bench.ends() == {"c1": None, "c2": "not run: guard: again?"}

    asyncio.run(main())


def test_the_person_is_asked_by_the_approver_about_tools_that_the_framework_marks() -> None:
    async def main() -> None:
        asked: list[Any] = []

        async def approve(question: Any) -> str:
            asked.append((question.call.tool_name, dict(question.call.arguments)))
            return "allow" if question.call.arguments["text"] == "a1" else "deny"

        change = make_plugin(
            ally_transform_tool_input=lambda self, call: Replace(
                evolve(call, arguments={"text": f"{call.arguments['text']}1"})
            )
        )

        async def needs(_context: RunContextWrapper[Any], arguments: dict[str, Any], _call_id: str) -> bool:
            assert arguments["text"].endswith("1"), "it was shown what transforms had changed"
            return True

        async with live({"change": change}, approve=approve) as bench:
            work = Work(needs_approval=needs)
            agent = bench.agent(calls(("c1", "work", "a"), ("c2", "work", "b")), "done", tools=[work.tool])
            result = await bench.plugins.run(agent, "go")
            assert (result.final_output, work.ran) == ("done", ["a1"])
            assert sorted(asked, key=str) == [("work", {"text": "a1"}), ("work", {"text": "b1"})]
            assert sorted(answer.choice for answer in bench.of(PermissionResponse)) == ["allow", "deny"]
            assert len(bench.of(PermissionRequest)) == 2

    asyncio.run(main())


# --- what cannot be shown ---


@pytest.mark.parametrize("defer", [False, True])
@pytest.mark.parametrize("arguments", ['{"text": NaN}', "[1]", '{"text": "a"', "nonsense"])
def test_arguments_that_are_no_object_of_json_are_denied_and_the_run_goes_on(arguments: str, defer: bool) -> None:  # noqa: FBT001
    async def main() -> None:
        async with live({"guard": ASK}, defer=defer) as bench:
            work = Work()
            agent = bench.agent("done", "again", tools=[work.tool])
            agent.model = ScriptedModel([[function_call("work", arguments, call_id="c1")], [assistant_message("done")]])
            result = await bench.plugins.run(agent, "go")
            assert result.final_output == "done"
            assert work.ran == []
            (end,) = bench.of(ToolCallEnd)
            assert end.denied
            assert bench.of(Decision)[0].verdict == "deny"

    asyncio.run(main())


def test_a_tool_without_arguments_may_be_called_with_an_empty_text() -> None:
    @function_tool
    def ping() -> str:
        return "pong"

    async def main() -> None:
        async with live() as bench:
            agent = bench.agent(tools=[ping])
            agent.model = ScriptedModel([[function_call("ping", "", call_id="c1")], [assistant_message("done")]])
            result = await bench.plugins.run(agent, "go")
            assert [item.output for item in result.new_items if item.type == "tool_call_output_item"] == ["pong"]
            assert bench.ends() == {"c1": None}

    asyncio.run(main())


def test_a_call_with_an_empty_text_waits_for_the_person_like_any_other() -> None:
    ran: list[str] = []

    @function_tool(needs_approval=True)
    def wipe() -> str:
        ran.append("wiped")
        return "wiped"

    async def main() -> None:
        async with live() as bench:
            agent = bench.agent(tools=[wipe])
            agent.model = ScriptedModel([[function_call("wipe", "", call_id="c1")], [assistant_message("done")]])
            result = await bench.plugins.run(agent, "go")
            assert [item.call_id for item in result.interruptions] == ["c1"]
            assert ran == []
            state = result.to_state()
            state.approve(result.interruptions[0])
            assert (await bench.plugins.run(agent, state)).final_output == "done"
            assert ran == ["wiped"]
            assert bench.starts() == ["c1"]
            assert bench.ends() == {"c1": None}

    asyncio.run(main())


# --- tools by other ways ---


@pytest.mark.parametrize("kind", ["agent", "handoff", "chosen by a function"])
def test_the_tools_of_an_agent_that_is_reached_by_a_handoff_are_gated(kind: str) -> None:
    async def main() -> None:
        async with live({"guard": DENY}) as bench:
            work = Work()
            second = bench.agent(WORK, "done", name="second", tools=[work.tool])
            target: Any = second
            if kind != "agent":
                target = handoff(second)
            if kind == "chosen by a function":

                async def choose(_context: Any, _input: str) -> Agent[Any]:
                    return second

                target.on_invoke_handoff = choose
                target._agent_ref = None
            agent = bench.agent(Answer(calls=(ToolCall("transfer_to_second", {}, "h1"),)), handoffs=[target])
            result = await bench.plugins.run(agent, "go")
            assert result.last_agent is second
            assert work.ran == []
            assert requests(second)[1].result_of("c1") == "not run: guard: no work"
            assert all("get_all_tools" not in vars(each) for each in (agent, second)), "the agents were left changed"

    asyncio.run(main())


@pytest.mark.smoke
def test_the_tools_of_an_agent_that_is_called_as_a_tool_are_gated_as_its_own() -> None:
    guard = make_plugin(ally_gate_tool_call=lambda self, call: Deny("not that") if call.tool_name == "work" else None)

    async def main() -> None:
        async with live({"guard": guard}) as bench:
            work = Work()
            inner = bench.agent(WORK, "found nothing", name="helper", tools=[work.tool])
            agent = bench.agent(
                Answer(calls=(ToolCall("ask", {"input": "look"}, "t1"),)), "done", tools=[inner.as_tool("ask", "asks")]
            )
            result = await bench.plugins.run(agent, "go")
            assert result.final_output == "done"
            assert work.ran == []
            assert bench.ends() == {"c1": "not run: guard: not that", "t1": None}
            assert requests(agent)[1].result_of("t1") == "found nothing"
            (denied,) = (end for end in bench.of(ToolCallEnd) if end.denied)
            assert denied.agent_id is not None
            assert denied.parent_id == "t1"

    asyncio.run(main())


def test_a_question_within_an_agent_as_a_tool_waits_and_both_calls_end_once() -> None:
    async def main() -> None:
        async with live() as bench:
            work = Work(needs_approval=True)
            inner = bench.agent(WORK, "found it", name="helper", tools=[work.tool])
            made = Answer(calls=(ToolCall("ask", {"input": "look"}, "t1"),))
            agent = bench.agent(made, "done", tools=[inner.as_tool("ask", "asks")])
            first = await bench.plugins.run(agent, "go")
            assert [item.call_id for item in first.interruptions] == ["c1"]
            assert bench.ends() == {}
            state = first.to_state()
            state.approve(first.interruptions[0])
            second = await bench.plugins.run(agent, state)
            assert (second.final_output, work.ran) == ("done", ["a"])
            assert bench.starts() == ["t1", "c1"]
            assert bench.ends() == {"c1": None, "t1": None}
            assert requests(agent)[1].result_of("t1") == "found it"

    asyncio.run(main())


@pytest.mark.parametrize("is_allowed", [False, True])
def test_a_call_of_an_agent_as_a_tool_may_have_the_id_of_the_call_that_it_works_for(is_allowed: bool) -> None:  # noqa: FBT001
    async def main() -> None:
        async with live() as bench:
            work = Work(needs_approval=True)
            inner = bench.agent(WORK, "that is all", name="helper", tools=[work.tool])
            made = Answer(calls=(ToolCall("ask", {"input": "look"}, "c1"),))
            agent = bench.agent(made, "done", tools=[inner.as_tool("ask", "asks")])
            first = await bench.plugins.run(agent, "go")
            state = first.to_state()
            if is_allowed:
                state.approve(first.interruptions[0])
            else:
                state.reject(first.interruptions[0])
            second = await bench.plugins.run(agent, state)
            assert (second.final_output, work.ran) == ("done", ["a"] if is_allowed else [])
            assert [end.denied for end in bench.of(ToolCallEnd) if end.tool_name == "ask"] == [False]

    asyncio.run(main())


def test_an_approval_for_good_is_for_the_tool_of_the_agent_that_was_asked_about() -> None:
    async def main() -> None:
        async with live() as bench:
            mine, theirs = Work(needs_approval=True), Work(needs_approval=True)
            again = [calls((each, "work", each)) for each in ("s1", "s2")]
            second = bench.agent(*again, "done", name="second", tools=[theirs.tool])
            leave = Answer(calls=(ToolCall("transfer_to_second", {}, "h1"),))
            agent = bench.agent(WORK, leave, tools=[mine.tool], handoffs=[second])
            result: Any = await bench.plugins.run(agent, "go")
            for asked in ("c1", "s1"):
                assert [item.call_id for item in result.interruptions] == [asked]
                state = result.to_state()
                state.approve(result.interruptions[0], always_approve=True)
                result = await bench.plugins.run(agent, state)
            assert (result.final_output, mine.ran, theirs.ran) == ("done", ["a"], ["s1", "s2"])

    asyncio.run(main())


def test_an_agent_that_a_tool_runs_by_the_framework_s_runner_is_gated_too() -> None:
    guard = make_plugin(ally_gate_tool_call=lambda self, call: Deny("not that") if call.tool_name == "work" else None)

    async def main() -> None:
        async with live({"guard": guard}) as bench:
            work = Work()
            inner = bench.agent(WORK, "nothing", name="helper", tools=[work.tool])

            @function_tool
            async def delegate() -> str:
                return str((await Runner.run(inner, "look")).final_output)

            @function_tool
            def delegate_in_a_thread() -> str:
                with loop_of_run_sync():
                    return str(Runner.run_sync(inner, "look").final_output)

            made = Answer(calls=(ToolCall("delegate", {}, "t1"),))
            again = Answer(calls=(ToolCall("delegate_in_a_thread", {}, "t2"),))
            agent = bench.agent(made, again, "done", tools=[delegate, delegate_in_a_thread])
            await bench.plugins.run(agent, "go")
            assert work.ran == []
            assert requests(agent)[1].result_of("t1") == "nothing"

    asyncio.run(main())


def test_a_tool_of_an_mcp_server_that_the_framework_calls_is_gated() -> None:
    ran: list[Any] = []

    class Server(MCPServer):
        name = "files"

        async def connect(self) -> None: ...

        async def cleanup(self) -> None: ...

        async def list_tools(self, *_: Any, **__: Any) -> list[Any]:
            schema = {"type": "object", "properties": {"text": {"type": "string"}}}
            return [MCPTool(name="work", description="works", input_schema=schema)]

        async def call_tool(self, tool_name: str, arguments: dict[str, Any] | None, *_: Any, **__: Any) -> Any:
            ran.append(arguments)
            return CallToolResult(content=[TextContent(type="text", text="worked")])

        async def list_prompts(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError

        async def get_prompt(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError

    async def main(plugins: dict[str, Any]) -> str | None:
        async with live(plugins) as bench:
            agent = bench.agent(WORK, "done", mcp_servers=[Server()])
            await bench.plugins.run(agent, "go")
            return requests(agent)[1].result_of("c1")

    assert asyncio.run(main({"guard": DENY})) == "not run: guard: no work"
    assert ran == []
    assert "worked" in (asyncio.run(main({})) or "")
    assert ran == [{"text": "a"}]


def test_what_the_provider_runs_is_listed_as_ungated() -> None:
    second: Agent[Any] = Agent(name="second", tools=[WebSearchTool()])
    third: Agent[Any] = Agent(name="third", handoffs=[handoff(second)])
    agent: Agent[Any] = Agent(name="first", tools=[Work().tool, third.as_tool("ask", "asks")], handoffs=[third])
    assert ungated_tools(agent) == ("web_search",)
    assert ungated_tools(Agent(name="none", tools=[Work().tool])) == ()


def test_a_mandatory_gate_refuses_an_agent_with_tools_of_the_provider_unless_the_operator_accepts() -> None:
    async def main(**config: Any) -> tuple[str, Agent[Any], Agent[Any]]:
        guard = setup(make_plugin(ally_gate_tool_call=lambda self, call: None), mandatory=True, **config)
        async with live({"guard": guard}) as bench:
            second = bench.agent("found it", name="second", tools=[WebSearchTool()])
            agent = bench.agent(Answer(calls=(ToolCall("transfer_to_second", {}, "h1"),)), handoffs=[second])
            try:
                result = await bench.plugins.run(agent, "go")
            except GateRefused as refusal:
                return str(refusal), agent, second
            return result.final_output, agent, second

    outcome, agent, second = asyncio.run(main())
    assert "web_search" in outcome
    assert (len(requests(agent)), len(requests(second))) == (1, 0), "the model was asked with tools that no gate sees"
    outcome, _, second = asyncio.run(main(ungated_tools=frozenset({"web_search"})))
    assert (outcome, len(requests(second))) == ("found it", 1)


def test_a_function_that_the_framework_offers_past_the_guards_stops_the_run() -> None:
    work = Work()

    class Hooks(RunHooks[Any]):
        async def on_agent_start(self, context: Any, agent: Any) -> None:
            async def get_all_tools(_context: Any) -> list[Any]:
                return [work.tool]

            vars(agent)["get_all_tools"] = get_all_tools

    async def main() -> None:
        async with live({"guard": DENY}) as bench:
            agent = bench.agent(WORK, "done", tools=[work.tool])
            with pytest.raises(UserError, match="does not run"):
                await bench.plugins.run(agent, "go", hooks=Hooks())
            assert work.ran == []
            assert bench.of(AgentEnd)[0].interrupted

    asyncio.run(main())
