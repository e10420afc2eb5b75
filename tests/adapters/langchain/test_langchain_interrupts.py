"""Questions of gates as interrupts of the framework, answers by its resume, and tools with interrupts of their own."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import interrupt

from ally_plugins import (
    AgentEnd,
    Allow,
    Ask,
    Deny,
    PermissionRequest,
    PermissionResponse,
    ToolCallEnd,
    UserMessage,
)
from ally_plugins.testing.adapters.script import calls
from tests.adapters.langchain.bench import (
    CALL,
    HELLO,
    ONE,
    approve,
    gate,
    live,
    question,
    results,
    resume,
)
from tests.kit.waiting import go

ASKS = {"guard": gate(lambda _: Ask("is it safe?"))}


@pytest.fixture
def ran() -> list[str]:
    return []


@pytest.fixture
def work(ran: list[str]) -> Any:
    @tool
    async def work(text: str) -> str:
        """Work."""
        ran.append(text)
        return f"worked on {text}"

    return work


@pytest.mark.smoke
def test_a_gates_question_becomes_an_interrupt_and_the_resume_is_the_persons_answer(work: Any, ran: list[str]) -> None:
    async def play() -> None:
        async with live(ASKS) as bench:
            agent = bench.agent(CALL, "done", tools=[work])
            asked = question(await agent.ainvoke(HELLO, ONE))
            assert asked["action_requests"] == [
                {"name": "work", "args": {"text": "a"}, "description": "guard: is it safe?"}
            ]
            assert (ran, bench.told) == ([], ["start c1"])
            state = await agent.ainvoke(resume("allow"), ONE)
            assert (ran, results(state)) == (["a"], {"c1": "worked on a"})
            assert bench.told == ["start c1", "end c1"]
            assert len(bench.of(PermissionRequest)) == 1
            assert [each.choice for each in bench.of(PermissionResponse)] == ["allow"]
            assert [each.interrupted for each in bench.of(AgentEnd)] == [False, False]
            assert [each.content for each in bench.of(UserMessage)] == ["hello"]

    go(play())


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (approve("reject", message="not today"), "not today"),
        ("deny", "is it safe?"),
        ("yes", "the answer 'yes' is none"),
        (True, "the answer True is none"),
        ({"decisions": []}, "is none"),
        ({"decisions": [{"type": "approve"}, {"type": "approve"}]}, "is none"),
        (approve("edit", edited_action={"name": "remove", "args": {"text": "a"}}), "is none"),
        (approve("respond", message="fine"), "is none"),
    ],
)
def test_whatever_is_no_yes_does_not_run(work: Any, ran: list[str], answer: Any, why: str) -> None:
    async def play() -> None:
        async with live(ASKS) as bench:
            agent = bench.agent(CALL, "done", tools=[work])
            await agent.ainvoke(HELLO, ONE)
            state = await agent.ainvoke(resume(answer), ONE)
            assert ran == []
            assert why in results(state)["c1"]
            (end,) = bench.of(ToolCallEnd)
            assert end.denied
            assert bench.told == ["start c1", "end c1"]
            assert [each.choice for each in bench.of(PermissionResponse)] == ["deny"]

    go(play())


def test_a_yes_of_the_frameworks_own_middleware_is_one(work: Any, ran: list[str]) -> None:
    async def play() -> None:
        async with live(ASKS) as bench:
            agent = bench.agent(CALL, "done", tools=[work])
            await agent.ainvoke(HELLO, ONE)
            await agent.ainvoke(resume(approve()), ONE)
            assert ran == ["a"]

    go(play())


def test_arguments_that_the_person_edits_are_gated_before_they_run(work: Any, ran: list[str]) -> None:
    async def play() -> None:
        verdicts = {"a": Ask("is it safe?"), "b": Allow(), "c": Deny("never c")}
        for edited, expected in (("b", ["b"]), ("c", [])):
            ran.clear()
            async with live({"guard": gate(lambda call: verdicts[call.arguments["text"]])}) as bench:
                agent = bench.agent(CALL, "done", tools=[work])
                await agent.ainvoke(HELLO, ONE)
                action = {"name": "work", "args": {"text": edited}}
                await agent.ainvoke(resume(approve("edit", edited_action=action)), ONE)
                assert ran == expected
                assert bench.seen() == [("work", {"text": "a"}), ("work", {"text": edited})]
                assert bench.told == ["start c1", "end c1"]

    go(play())


def test_edited_arguments_that_no_gate_can_be_shown_do_not_run(work: Any, ran: list[str]) -> None:
    async def play() -> None:
        async with live(ASKS) as bench:
            agent = bench.agent(CALL, "done", tools=[work])
            await agent.ainvoke(HELLO, ONE)
            action = {"name": "work", "args": {"text": float("nan")}}
            state = await agent.ainvoke(resume(approve("edit", edited_action=action)), ONE)
            assert ran == []
            assert "text" in results(state)["c1"]
            assert bench.told == ["start c1", "end c1"]

    go(play())


def test_a_sensitive_tool_asks_by_an_interrupt(work: Any, ran: list[str]) -> None:
    async def play() -> None:
        async with live() as bench:
            agent = bench.agent(CALL, "done", tools=[work], sensitive=["work"])
            assert "work needs permission" in str(question(await agent.ainvoke(HELLO, ONE)))
            await agent.ainvoke(resume("allow"), ONE)
            assert ran == ["a"]

    go(play())


@pytest.mark.parametrize("options", [{"is_kept": False}, {"defer": False}])
def test_where_nobody_can_resume_a_question_is_a_deny(work: Any, ran: list[str], options: Any) -> None:
    async def play() -> None:
        async with live(ASKS) as bench:
            agent = bench.agent(CALL, "done", tools=[work], **options)
            state = await agent.ainvoke(HELLO, ONE)
            assert ran == []
            assert "is it safe?" in results(state)["c1"]

    go(play())


def test_a_gate_may_still_deny_what_the_person_has_agreed_to(work: Any, ran: list[str]) -> None:
    async def play() -> None:
        answers = [Ask("is it safe?"), Deny("the disk is full by now")]
        async with live({"guard": gate(lambda _: answers.pop(0))}) as bench:
            agent = bench.agent(CALL, "done", tools=[work])
            await agent.ainvoke(HELLO, ONE)
            state = await agent.ainvoke(resume("allow"), ONE)
            assert ran == []
            assert "the disk is full by now" in results(state)["c1"]

    go(play())


def test_two_calls_at_once_are_answered_each(work: Any, ran: list[str]) -> None:
    async def play() -> None:
        async with live(ASKS) as bench:
            agent = bench.agent(calls(("c1", "work", "a"), ("c2", "work", "b")), "done", tools=[work])
            state = await agent.ainvoke(HELLO, ONE)
            ids = {each.value["call_id"]: each.id for each in state["__interrupt__"]}
            state = await agent.ainvoke(resume({ids["c1"]: "deny", ids["c2"]: "allow"}), ONE)
            assert ran == ["b"]
            assert results(state)["c2"] == "worked on b"
            assert sorted(bench.told) == ["end c1", "end c2", "start c1", "start c2"]

    go(play())


def test_one_answer_leaves_the_other_question_open(work: Any, ran: list[str]) -> None:
    async def play() -> None:
        async with live(ASKS) as bench:
            agent = bench.agent(calls(("c1", "work", "a"), ("c2", "work", "b")), "done", tools=[work])
            state = await agent.ainvoke(HELLO, ONE)
            ids = {each.value["call_id"]: each.id for each in state["__interrupt__"]}
            state = await agent.ainvoke(resume({ids["c2"]: "allow"}), ONE)
            assert ran == ["b"]
            assert question(state)["call_id"] == "c1"
            await agent.ainvoke(resume({ids["c1"]: "allow"}), ONE)
            assert ran == ["b", "a"]
            assert sorted(bench.told) == ["end c1", "end c2", "start c1", "start c2"]

    go(play())


def test_a_person_who_goes_on_without_an_answer_has_not_agreed(work: Any, ran: list[str]) -> None:
    async def play() -> None:
        async with live(ASKS) as bench:
            agent = bench.agent(CALL, "as you like", tools=[work])
            await agent.ainvoke(HELLO, ONE)
            state = await agent.ainvoke({"messages": [("user", "never mind")]}, ONE)
            assert ran == []
            assert [each.type for each in state["messages"]] == ["human", "ai", "tool", "human", "ai"]
            assert bench.told == ["start c1", "end c1"]
            assert bench.of(ToolCallEnd)[0].denied
            assert [each.content for each in bench.of(UserMessage)] == ["hello", "never mind"]

    go(play())


def test_a_question_is_answered_in_another_process(work: Any, ran: list[str]) -> None:
    async def play() -> None:
        saver = InMemorySaver()
        async with live(ASKS) as bench:
            agent = bench.agent(CALL, tools=[work])
            agent.checkpointer = saver
            await agent.ainvoke(HELLO, ONE)
        async with live(ASKS) as bench:
            agent = bench.agent("done", tools=[work])
            agent.checkpointer = saver
            await agent.ainvoke(resume("allow"), ONE)
            assert ran == ["a"]
            assert bench.seen() == [("work", {"text": "a"})] * 2  # before the answer, and with it

    go(play())


class OwnInterrupt:
    """A tool with an interrupt of its own."""

    def __init__(self) -> None:
        self.answers: list[Any] = []

    @property
    def tool(self) -> Any:
        @tool
        async def work(text: str) -> str:
            """Work."""
            self.answers.append(interrupt(f"which {text}?"))
            return f"worked on {self.answers[-1]}"

        return work


def test_an_interrupt_of_a_tool_passes_and_is_no_failed_call() -> None:
    async def play() -> None:
        own = OwnInterrupt()
        async with live({"guard": gate(lambda _: None)}) as bench:
            agent = bench.agent(CALL, "done", tools=[own.tool])
            assert question(await agent.ainvoke(HELLO, ONE)) == "which a?"
            assert bench.told == ["start c1"]
            state = await agent.ainvoke(resume("the first"), ONE)
            assert own.answers == ["the first"]
            assert results(state) == {"c1": "worked on the first"}
            assert bench.told == ["start c1", "end c1"]
            (end,) = bench.of(ToolCallEnd)
            assert (end.success, end.output) == (True, "worked on the first")
            assert bench.seen() == [("work", {"text": "a"})]  # what was decided stands: it is the same call

    go(play())


def test_the_persons_answer_never_reaches_the_tools_own_question() -> None:
    async def play() -> None:
        own = OwnInterrupt()
        async with live(ASKS) as bench:
            agent = bench.agent(CALL, "done", tools=[own.tool])
            await agent.ainvoke(HELLO, ONE)
            assert question(await agent.ainvoke(resume("allow"), ONE)) == "which a?"
            await agent.ainvoke(resume("the first"), ONE)
            assert own.answers == ["the first"]
            assert bench.told == ["start c1", "end c1"]

    go(play())


def test_a_tool_that_waits_is_ended_when_the_conversation_goes_on_without_it() -> None:
    async def play() -> None:
        own = OwnInterrupt()
        async with live() as bench:
            agent = bench.agent(CALL, "as you like", tools=[own.tool])
            await agent.ainvoke(HELLO, ONE)
            await agent.ainvoke({"messages": [("user", "never mind")]}, ONE)
            assert own.answers == []
            (end,) = bench.of(ToolCallEnd)
            assert (end.success, end.denied) == (False, False)

    go(play())


def test_a_question_of_a_sub_agent_is_the_whole_agents(work: Any, ran: list[str]) -> None:
    async def play() -> None:
        async with live({"guard": gate(lambda _: Ask("is it safe?"))}) as bench:
            helper = bench.agent(CALL, "helped", tools=[work], is_kept=False)

            @tool
            async def ask_helper(text: str) -> str:
                """Ask the helper."""
                return str((await helper.ainvoke({"messages": [("user", text)]}))["messages"][-1].text)

            agent = bench.agent(calls(("m1", "ask_helper", "go")), "done", tools=[ask_helper])
            assert question(await agent.ainvoke(HELLO, ONE))["call_id"] == "m1"
            assert question(await agent.ainvoke(resume("allow"), ONE))["call_id"] == "c1"
            state = await agent.ainvoke(resume("allow"), ONE)
            assert (ran, results(state)) == (["a"], {"m1": "helped"})
            assert bench.told == ["start m1", "start c1", "end c1", "end m1"]

    go(play())
