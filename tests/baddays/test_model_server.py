"""The scripted model does what its script says: a real client of the framework sees the answers and the failures."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent, ModelAPIError, ModelHTTPError, UnexpectedModelBehavior
from pydantic_ai.exceptions import AgentRunError
from pydantic_ai.models.openai import OpenAIChatModel

from .model_server import FAULTS, Fault, ModelServer, Reply, Request, problem_of

Models = Callable[..., OpenAIChatModel]


BROKEN = (AgentRunError, AttributeError)
"""What the framework raises for an answer that is none; JSON that means nothing goes through its hands unchecked."""


def double(number: int) -> int:
    """Return twice the number."""
    return 2 * number


async def streamed(agent: Agent[None, str], prompt: str) -> str:
    async def watch(_: Any, events: Any) -> None:
        async for _event in events:
            pass

    return (await agent.run(prompt, event_stream_handler=watch)).output


async def plain(agent: Agent[None, str], prompt: str) -> str:
    return (await agent.run(prompt)).output


@pytest.mark.parametrize("ask", [plain, streamed])
def test_text_tool_calls_and_usage_arrive_as_scripted(
    go: Any, model_server: ModelServer, model: Models, ask: Any
) -> None:
    calls = [{"name": "double", "arguments": {"number": n}, "id": f"c{n}"} for n in (1, 2)]
    model_server.add(Reply("let me see", tools=calls, usage=(100, 20)), Reply("2 and 4, naïvely 日本", usage=(120, 7)))

    async def main() -> None:
        agent = Agent(model(), tools=[double], instructions="be short")
        assert await ask(agent, "double 1 and 2") == "2 and 4, naïvely 日本"

    go(main())
    first, second = model_server.requests
    assert first.texts == ["system: be short", "user: double 1 and 2"]
    assert first.tools == ["double"]
    assert first.headers["authorization"] == "Bearer sk-secret-of-this-test"
    assert second.answers == {"c1": "2", "c2": "4"}
    assert second.texts[2] == "assistant: let me see"
    assert model_server.left == []


def test_the_usage_is_counted(go: Any, model_server: ModelServer, model: Models) -> None:
    model_server.add(Reply("hello", usage=(100, 20)))

    async def main() -> None:
        async with Agent(model()).run_stream("hi") as result:
            await result.get_output()
            assert (result.usage.input_tokens, result.usage.output_tokens) == (100, 20)

    go(main())


@pytest.mark.parametrize("ask", [plain, streamed])
@pytest.mark.parametrize("status", [401, 429, 500])
def test_an_error_has_its_status_and_its_text(
    go: Any, model_server: ModelServer, model: Models, ask: Any, status: int
) -> None:
    model_server.add(Reply(status=status, body='{"error": {"message": "not today"}}'))
    with pytest.raises(ModelHTTPError, match="not today") as raised:
        go(ask(Agent(model()), "hi"))
    assert raised.value.status_code == status


def test_a_reply_for_several_requests_outlasts_a_client_that_tries_again(
    go: Any, model_server: ModelServer, model: Models
) -> None:
    model_server.add(Reply(status=500, times=2, headers={"retry-after-ms": "1"}), Reply("at last"))
    assert go(plain(Agent(model(max_retries=2)), "hi")) == "at last"
    assert len(model_server.requests) == 3


@pytest.mark.parametrize("ask", [plain, streamed])
@pytest.mark.parametrize("fault", ["reset", "close", "garbage", "nonsense", "truncate"])
def test_a_broken_answer_is_an_error_and_the_next_is_whole(
    go: Any, model_server: ModelServer, model: Models, ask: Any, fault: Fault
) -> None:
    model_server.add(Reply("one two three " * 5, fault=fault, after=2), Reply("whole"))

    async def main() -> None:
        agent = Agent(model())
        with pytest.raises(BROKEN):
            await ask(agent, "hi")
        assert await ask(agent, "again") == "whole"

    go(main())


@pytest.mark.parametrize("fault", ["late", "stall"])
def test_what_is_held_waits_until_it_may_go_on(go: Any, model_server: ModelServer, model: Models, fault: Fault) -> None:
    model_server.add(Reply("patience is rewarded", fault=fault, after=2))

    async def main() -> None:
        task = asyncio.create_task(streamed(Agent(model()), "hi"))
        await model_server.held()
        assert not task.done()
        model_server.go_on()
        assert await task == "patience is rewarded"

    go(main())


def test_a_client_that_hangs_up_is_seen(go: Any, model_server: ModelServer, model: Models) -> None:
    model_server.add(Reply("never", fault="stall"))

    async def main() -> None:
        task = asyncio.create_task(streamed(Agent(model()), "hi"))
        await model_server.held()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await model_server.over()
        assert model_server.requests[0].hung_up

    go(main())


def test_a_server_that_is_down_refuses_and_is_the_same_when_it_is_up(
    go: Any, model_server: ModelServer, model: Models
) -> None:
    model_server.add(Reply("back"))

    async def main() -> None:
        agent = Agent(model())
        model_server.down()
        with pytest.raises(ModelAPIError):
            await agent.run("hi")
        model_server.up()
        assert (await agent.run("hi")).output == "back"

    go(main())


def test_replies_are_for_those_they_fit(go: Any, model_server: ModelServer, model: Models) -> None:
    model_server.add(Reply("for b", when="I am b"), Reply("for a", when="I am a"))

    async def main() -> None:
        agent = Agent(model())
        assert [await plain(agent, f"I am {name}") for name in "ab"] == ["for a", "for b"]
        with pytest.raises(ModelHTTPError, match="the script has no reply for this request"):
            await plain(agent, "I am c")

    go(main())
    assert model_server.refused == ["the script has no reply for this request; it ends with 'I am c'"]
    model_server.refused.clear()


def test_another_kind_of_content_and_an_empty_answer(go: Any, model_server: ModelServer, model: Models) -> None:
    page = "<html><body>Sign in to the hotel's network</body></html>"
    model_server.add(Reply(body=page, content_type="text/html"), Reply(""), Reply(""))

    async def main() -> None:
        with pytest.raises(BROKEN):
            await plain(Agent(model()), "hi")
        with pytest.raises(UnexpectedModelBehavior, match="output retries"):
            await plain(Agent(model()), "hi")

    go(main())


CALLED = {"role": "assistant", "tool_calls": [{"id": "a"}, {"id": "b"}]}
ANSWER_A, ANSWER_B = ({"role": "tool", "tool_call_id": name} for name in "ab")
SAID = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([SAID, CALLED, ANSWER_B, ANSWER_A, SAID], ""),
        ([CALLED, ANSWER_A, SAID, ANSWER_B], "message 2 is the user's; expected the answers to ['b']"),
        ([CALLED, ANSWER_A], "the conversation ends without the answers to ['b']"),
        ([CALLED, ANSWER_A, ANSWER_B, ANSWER_A], "message 3 answers 'a'; open are []"),
        ([SAID, {"role": "assistant", "content": None}], "message 1 is the assistant's and says nothing"),
        ([{"role": "assistant", "tool_calls": [{"id": "a"}] * 2}], "message 0 has calls of one id: ['a', 'a']"),
    ],
)
def test_conversations_that_the_real_api_refuses_are_refused(messages: Any, problem: str) -> None:
    assert problem_of(Request("/chat/completions", {}, {"messages": messages})) == problem


def test_names_of_tools_are_those_that_the_real_api_takes() -> None:
    tools = [{"function": {"name": name}} for name in ("fine", "p:tool", "twice", "twice", "x" * 65)]
    problem = problem_of(Request("/chat/completions", {}, {"tools": tools}))
    assert problem == f"tools have names that the API does not take: {['p:tool', 'twice', 'twice', 'x' * 65]}"


def test_a_script_says_what_it_cannot_mean() -> None:
    with pytest.raises(ValueError, match="a reply has \\['txt'\\]; expected some of after, body"):
        Reply.of({"txt": "hi"})
    with pytest.raises(ValueError, match=f"fault is 'nap'; expected one of {', '.join(FAULTS)}"):
        Reply.of({"fault": "nap"})


def test_it_runs_as_a_program(go: Any, tmp_path: Path, model: Models) -> None:
    script, log = tmp_path / "script.json", tmp_path / "log.jsonl"
    script.write_text(json.dumps([{"text": "from the file"}]))
    program = [sys.executable, str(Path(__file__).with_name("model_server.py"))]
    with subprocess.Popen([*program, "--script", script, "--log", log], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        assert go(plain(Agent(model(url=url)), "hi")) == "from the file"
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    assert json.loads(log.read_text())["messages"] == [{"role": "user", "content": "hi"}]
