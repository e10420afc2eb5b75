"""Answers of langchain's agents on their way to the person: nothing is shown that a gate has not allowed."""

# ruff: noqa: ARG001, ARG002, S105 - hooks are methods, and take what their event promises; what a gate looks for is no password

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents.structured_output import ToolStrategy
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel

from ally_plugins import (
    AgentEnd,
    AssistantMessage,
    Deny,
    GateRefused,
    ModelResponse,
    Replace,
    ToolCall,
    ToolCallEnd,
    evolve,
)
from ally_plugins.adapters.langchain import AllyPlugins
from ally_plugins.contract.values.compat import override
from ally_plugins.testing import Answer, Script
from ally_plugins.testing.adapters.script import calls
from ally_plugins.testing.agents.langchain import ScriptedModel
from tests.adapters.langchain.bench import HELLO, ONE, Bench, live, model, new_agent, results
from tests.kit.agents import withholding
from tests.kit.hosts import make_plugin, new_host, setup
from tests.kit.waiting import go

SECRET = "the code is wxyz"


def denying() -> dict[str, Any]:
    async def ally_gate_answer(self: Any, message: Any) -> Deny | None:
        self.seen.append((message.content, message.metadata.get("isStructured")))
        return Deny("it has a code") if "wxyz" in message.content else None

    return {"guard": make_plugin(ally_gate_answer=ally_gate_answer)}


@pytest.mark.parametrize("how", ["messages", "events"])
def test_no_token_of_a_denied_answer_is_streamed(how: str) -> None:
    async def play() -> None:
        async with live(denying()) as bench:
            agent = bench.agent(SECRET, tools=[])
            shown: list[str] = []

            async def read() -> None:
                if how == "messages":
                    async for part, _ in agent.astream(HELLO, ONE, stream_mode="messages"):
                        shown.append(str(part.text))
                else:
                    async for event in agent.astream_events(HELLO, ONE, version="v2"):
                        if event["event"] == "on_chat_model_stream":
                            shown.append(str(event["data"]["chunk"].text))  # noqa: PERF401 - what came before it raises counts

            with pytest.raises(GateRefused, match="it has a code"):
                await read()
            assert "wxyz" not in "".join(shown)

    go(play())


def test_tokens_are_streamed_where_nobody_wants_to_see_the_answer() -> None:
    async def play() -> None:
        async with live() as bench:
            agent = bench.agent("one two three")
            parts = [part async for part, _ in agent.astream(HELLO, ONE, stream_mode="messages")]
            assert [str(part.text) for part in parts if str(part.text)] == ["one ", "two ", "three"]

    go(play())


class Found(BaseModel):
    """What was found."""

    code: str


def found(code: str) -> Answer:
    return Answer(calls=(ToolCall("Found", {"code": code}, "c1"),))


def test_structured_output_is_an_answer() -> None:
    async def play() -> None:
        for code, is_denied in (("wxyz", True), ("0000", False)):
            async with live(denying()) as bench:
                plugins = AllyPlugins(bench.host)
                agent = new_agent(model(found(code)), middleware=[plugins], response_format=ToolStrategy(Found))
                if is_denied:
                    with pytest.raises(GateRefused, match="it has a code"):
                        await agent.ainvoke(HELLO, ONE)
                else:
                    state = await agent.ainvoke(HELLO, ONE)
                    assert state["structured_response"] == Found(code=code)
                assert bench.seen() == [(f'{{"code": "{code}"}}', True)]

    go(play())


def test_structured_output_that_a_transform_would_change_is_withheld() -> None:
    async def ally_transform_answer(self: Any, message: Any) -> Any:
        return Replace(evolve(message, content=message.content.replace("wxyz", "****")))

    async def play() -> None:
        async with live({"redact": make_plugin(ally_transform_answer=ally_transform_answer)}) as bench:
            plugins = AllyPlugins(bench.host)
            agent = new_agent(model(found("wxyz")), middleware=[plugins], response_format=ToolStrategy(Found))
            with pytest.raises(GateRefused, match="structured output"):
                await agent.ainvoke(HELLO, ONE)

    go(play())


def test_a_denied_answer_of_a_sub_agent_is_a_failed_call_that_its_agent_reads() -> None:
    async def play() -> None:
        async with live(denying()) as bench:
            helper = new_agent(model(SECRET), middleware=[AllyPlugins(bench.host)], name="helper")

            @tool
            async def ask(text: str) -> str:
                """Ask the helper."""
                return str((await helper.ainvoke({"messages": [("user", text)]}))["messages"][-1].text)

            state = await bench.agent(calls(("m1", "ask", "go")), "I see", tools=[ask]).ainvoke(HELLO, ONE)
            assert "it has a code" in results(state)["m1"]
            assert "wxyz" not in str(state)
            assert not bench.of(ToolCallEnd)[0].success
            assert [each.content for each in bench.of(AssistantMessage)] == ["I see"]
            assert [each.content for each in bench.of(AgentEnd)][-1] == "I see"

    go(play())


def test_a_run_that_was_refused_goes_on_with_the_next_message() -> None:
    async def play() -> None:
        async with live(denying()) as bench:
            agent = bench.agent(SECRET, "hello again")
            with pytest.raises(GateRefused):
                await agent.ainvoke(HELLO, ONE)
            state = await agent.ainvoke({"messages": [("user", "and now?")]}, ONE)
            assert [str(each.text) for each in state["messages"]] == [
                "hello",
                "[the answer was withheld: guard: it has a code]",
                "and now?",
                "hello again",
            ]

    go(play())


def test_a_denied_answer_of_an_invoked_agent_raises_too() -> None:
    agent = Bench(new_host(denying())).agent(SECRET)
    with pytest.raises(GateRefused, match="it has a code"):
        agent.invoke(HELLO, ONE)


SENTENCES = setup(withholding("wxyz"), ["gate:answer:sentence"])


class Pieces(ScriptedModel):
    """A model whose content is text, and which streams for threads too; `told` are tokens that it tells by itself."""

    told: Any = ()

    @override
    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        whole = self._answer(messages, kwargs)
        for piece in re.findall(r"\S+ ?", whole.text):
            yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
        calls: Any = [
            {"name": each.tool_name, "args": dict(each.arguments), "id": each.call_id} for each in whole.calls
        ]
        usage: Any = {"input_tokens": 1, "output_tokens": whole.output_tokens, "total_tokens": 1 + whole.output_tokens}
        yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_calls=calls, usage_metadata=usage))

    @override
    async def _astream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        for chunk in self._stream(messages, **kwargs):
            yield chunk

    @override
    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        for token in self.told if run_manager is not None else ():
            await run_manager.on_llm_new_token(token, chunk=ChatGenerationChunk(message=AIMessageChunk(content=token)))
        return self._generate(messages, **kwargs)


def talker(bench: Bench, *steps: Any, tools: Any = (), kind: type[ScriptedModel] = Pieces, **options: Any) -> Any:
    """Return an agent whose model speaks in pieces, with a checkpointer."""
    plugins, script = AllyPlugins(bench.host), kind(script=Script(steps), **options)
    return new_agent(script, list(tools), middleware=[plugins], checkpointer=InMemorySaver())


async def _shown(agent: Any, how: str, *, ends_whole: bool = False) -> tuple[list[str], Exception | None]:
    """Return the pieces of text that a reader of a stream has seen, and what the stream has raised."""
    shown: list[str] = []
    try:
        if how == "events":
            async for event in agent.astream_events(HELLO, ONE, version="v2"):
                # Of an answer that is held whole the end of the model's run has all of it.
                assert "wxyz" not in repr(event) or (ends_whole and event["event"] == "on_chat_model_end")
                if event["event"] == "on_chat_model_stream":
                    shown.append(str(event["data"]["chunk"].text))
        elif how == "messages":
            async for part, _ in agent.astream(HELLO, ONE, stream_mode="messages"):
                shown.append(str(part.text))
        else:
            thread = await asyncio.to_thread(lambda: list(_parts(agent)))
            shown += [part for part in thread if isinstance(part, str)]
            assert all(isinstance(part, (str, Exception)) for part in thread)
            return [each for each in shown if each], next((e for e in thread if isinstance(e, Exception)), None)
    except GateRefused as error:
        return [each for each in shown if each], error
    return [each for each in shown if each], None


def _parts(agent: Any) -> Iterator[str | Exception]:
    try:
        for part, _ in agent.stream(HELLO, ONE, stream_mode="messages"):
            yield str(part.text)
    except GateRefused as error:
        yield error


class Refusing(Pieces):
    """A model that says in pieces why it refuses, in one of the two places that providers have for that."""

    place: str = "block"

    def _refusal(self, text: str) -> Any:
        if self.place == "block":
            return AIMessageChunk(content=[{"type": "refusal", "refusal": text, "index": 0}])
        return AIMessageChunk(content="", additional_kwargs={"refusal": text})

    @override
    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        made = self._refusal(self._answer(messages, kwargs).text)
        message = AIMessage(content=made.content, additional_kwargs=made.additional_kwargs)
        return ChatResult(generations=[ChatGeneration(message=message)])

    @override
    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        for piece in re.findall(r"..?", self._answer(messages, kwargs).text):
            yield ChatGenerationChunk(message=self._refusal(piece))


@pytest.mark.parametrize("place", ["block", "beside"])
@pytest.mark.parametrize("guard", [SENTENCES, withholding("wxyz")], ids=["by sentences", "whole"])
@pytest.mark.parametrize("way", ["invoke", "stream"])
def test_why_a_model_refuses_is_its_answer(way: str, guard: Any, place: str) -> None:
    async def play() -> None:
        async with live({"guard": guard}) as bench:
            agent = talker(bench, "I say wxyz", kind=Refusing, place=place)
            shown: list[str] = []

            async def stream() -> None:
                shown.extend([repr(part) async for part, _ in agent.astream(HELLO, ONE, stream_mode="messages")])

            with pytest.raises(GateRefused, match="it has a code"):
                await (agent.ainvoke(HELLO, ONE) if way == "invoke" else stream())
            assert not [each for each in shown if "wx" in each]
            assert "wxyz" not in repr((await agent.aget_state(ONE)).values)
            agreed = talker(bench, "I say no", kind=Refusing, place=place)
            assert "I say no" in repr(await agreed.ainvoke(HELLO, {"configurable": {"thread_id": "t2"}}))

    go(play())


@pytest.mark.parametrize("how", ["messages", "events", "in a thread"])
@pytest.mark.parametrize("kind", [ScriptedModel, Pieces])
def test_by_sentences_what_was_allowed_is_shown_and_a_deny_cuts_the_answer(how: str, kind: type[ScriptedModel]) -> None:
    ran: list[str] = []

    @tool
    async def work(text: str) -> str:
        """Work."""
        ran.append(text)
        return text

    async def play() -> None:
        async with live({"guard": SENTENCES}) as bench:
            text = "One is fine. Two is fine. Three is wxyz. Four is not seen."
            odd = Answer(text=text, calls=calls(("c1", "work", "a")).calls, output_tokens=7)
            agent = talker(bench, "One is fine. So is two", odd, "never", tools=[work], kind=kind)
            is_threads = how == "in a thread" and kind is ScriptedModel  # which streams nothing there: held whole
            assert await _shown(agent, how) == (
                ["One is fine. So is two"] if is_threads else ["One is fine.", " So is two"],
                None,
            )
            shown, error = await _shown(agent, how)
            assert "".join(shown).strip() == ("" if is_threads else "One is fine. Two is fine.")
            assert "it has a code" in str(error)
            kept = (await agent.aget_state(ONE)).values["messages"][-1].text
            assert "wxyz" not in kept
            assert "it has a code" in kept
            assert is_threads or kept == "One is fine. Two is fine.\n[the answer was cut here: guard: it has a code]"
            assert is_threads or bench.of(AssistantMessage)[-1].content.strip() == "One is fine. Two is fine."
            assert bench.of(ModelResponse)[-1].output_tokens == 7
            assert ran == []

    go(play())


def test_a_sentence_is_shown_before_the_model_has_said_the_next() -> None:
    async def play() -> None:
        goes_on = asyncio.Event()

        class Slow(Pieces):
            @override
            async def _astream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
                async for chunk in super()._astream(messages, **kwargs):
                    if "Two" in chunk.text:
                        await goes_on.wait()
                    yield chunk

        async with live({"guard": SENTENCES}) as bench, asyncio.timeout(10):
            agent, shown = talker(bench, "One is fine. Then comes. Two is fine.", kind=Slow), []
            async for part, _ in agent.astream(HELLO, ONE, stream_mode="messages"):
                shown.append(str(part.text))
                goes_on.set()
            assert [each for each in shown if each] == ["One is fine.", " Then comes.", " Two is fine."]

    go(play())


def test_thoughts_come_as_they_do_and_calls_when_the_text_beside_them_was_allowed() -> None:
    @tool
    async def work(text: str) -> str:
        """Work."""
        return f"worked for {text}"

    async def play() -> None:
        async with live({"guard": SENTENCES}) as bench:
            step = Answer(text="I look. Then", thinking="what to do", calls=calls(("c1", "work", "a")).calls)
            agent = talker(bench, step, "done.", tools=[work], kind=ScriptedModel)
            seen: list[str] = []
            async for part, about in agent.astream(HELLO, ONE, stream_mode="messages"):
                blocks = part.content_blocks if about["langgraph_node"] == "model" else []
                seen += [each.get("text") or each["type"] for each in blocks]
            assert seen == ["reasoning", "I look.", " Then", "tool_call_chunk", "done."]
            assert results((await agent.aget_state(ONE)).values) == {"c1": "worked for a"}

    go(play())


def test_gates_are_asked_about_an_answer_that_was_streamed_once_whole() -> None:
    async def ally_gate_answer(self: Any, message: Any) -> None:
        self.seen.append((message.content, message.metadata.get("isPartial", False)))

    async def play() -> None:
        guard = setup(make_plugin(ally_gate_answer=ally_gate_answer), ["gate:answer:sentence"])
        async with live({"guard": guard}) as bench:
            agent = talker(bench, "One is fine. So is two")
            await _shown(agent, "messages")
            assert bench.seen() == [("One is fine.", True), ("One is fine. So is two", False)]

    go(play())


@pytest.mark.parametrize("grants", [None, ["gate:answer:sentence"]])
def test_no_token_that_a_class_of_models_tells_by_itself_is_shown_before_gates_agree(grants: Any) -> None:
    async def play() -> None:
        async with live({"guard": setup(withholding("wxyz"), grants)}) as bench:
            # As a class does that streams where it makes a whole answer; the framework does not ask it to stream.
            agent = talker(bench, SECRET, told=SECRET.split(), disable_streaming=True)
            shown, error = await _shown(agent, "events", ends_whole=grants is None)
            assert shown == []
            assert "it has a code" in str(error)

    go(play())


def test_an_answer_that_a_cache_may_have_is_held_whole_and_a_cut_one_is_not_kept_there() -> None:
    async def play() -> None:
        async with live({"guard": SENTENCES}) as bench:
            script = Script([f"Well then. {SECRET}", "never"])
            speaker = Pieces(script=script, cache=InMemoryCache())
            agent = new_agent(speaker, middleware=[AllyPlugins(bench.host)])
            for _ in range(2):
                shown, error = await _shown(agent, "messages")
                assert "wxyz" not in "".join(shown)
                assert "it has a code" in str(error)
            assert len(script.asked) == 1

    go(play())


@pytest.mark.parametrize("is_first", [False, True])
def test_sentences_wait_for_the_gates_of_each_host_that_holds_them(is_first: bool) -> None:  # noqa: FBT001
    class Others(AllyPlugins):  # type: ignore[misc]  # loaded on demand
        """The framework takes no two of one class."""

    async def play() -> None:
        ours, theirs = SENTENCES, setup(withholding("else"), ["gate:answer:sentence"])
        async with live({"guard": ours}) as bench, new_host({"other": theirs}) as other:
            both: list[Any] = [AllyPlugins(bench.host), Others(other)]
            speaker = Pieces(script=Script([f"One. {SECRET}. Two."]))
            agent = new_agent(speaker, middleware=both if is_first else both[::-1])
            shown, error = await _shown(agent, "messages")
            assert "wxyz" not in "".join(shown)
            assert "it has a code" in str(error)

    go(play())
