"""The example of an agent without a framework, on a server with the OpenAI-compatible API."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from openai import AsyncOpenAI

from ally_plugins import Deny, Event, GateRefused, Host, Replace, ToolCall, ToolCallEnd, evolve
from tests.baddays.model_server import ModelServer, Reply
from tests.kit.hosts import make_plugin, make_record
from tests.kit.waiting import go

if TYPE_CHECKING:
    from types import ModuleType

KEY = {"OPENAI_API_KEY": "none"}


@pytest.fixture(scope="module")
def agent() -> ModuleType:
    """Return the example as a module."""
    path = Path(__file__).parents[2] / "examples" / "plain_loop" / "agent.py"
    spec = importlib.util.spec_from_file_location("plain_loop_agent", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def server() -> Iterator[ModelServer]:
    """Return a model server without a script."""
    with ModelServer() as server:
        yield server


def plugin(**hooks: Any) -> dict[str, Any]:
    return {"p": (make_plugin(**hooks), make_record())}


def read(path: str, call_id: str = "c1", name: str = "read_file") -> Reply:
    return Reply(tools=({"id": call_id, "name": name, "arguments": {"path": path}},))


def run(
    agent: ModuleType, server: ModelServer, plugins: dict[str, Any] | None = None, prompt: str = "hello"
) -> tuple[str, list[Event]]:
    """Run one turn with these plugins, and return the answer and the events."""
    events: list[Event] = []

    async def main() -> str:
        async with (
            Host(plugins=plugins or {}, home=None) as host,
            AsyncOpenAI(base_url=server.url, api_key="none") as client,
        ):
            host.stream.subscribe("*", events.append)
            said: str = await agent.run_turn(client, "scripted", host.session(), [], prompt)
            return said

    return go(main()), events


@pytest.mark.slow
def test_a_tool_runs_and_the_model_reads_what_it_returned(
    agent: ModuleType, server: ModelServer, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("forty-two")
    server.add(read(str(tmp_path / "a.txt")), Reply("it says forty-two"))
    answer, events = run(agent, server)
    assert answer == "it says forty-two"
    assert server.requests[1].answers == {"c1": "forty-two"}
    assert [event.type for event in events if event.type.startswith(("AGENT", "TOOL", "USER"))] == [
        "USER_MESSAGE", "AGENT_START", "TOOL_CALL_START", "TOOL_CALL_END", "AGENT_END",
    ]  # fmt: skip


def test_what_a_gate_denies_does_not_run_and_the_model_reads_why(
    agent: ModuleType, server: ModelServer, tmp_path: Path
) -> None:
    def deny(_self: Any, call: ToolCall) -> Deny:
        return Deny(f"not {call.arguments['path']}")

    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    server.add(read(str(secret)), Reply("I may not"))
    _, events = run(agent, server, plugin(ally_gate_tool_call=deny))
    assert f"not {secret}" in server.requests[1].answers["c1"]
    assert "s3cret" not in str(server.requests[1].messages)
    assert [(event.denied, event.success) for event in events if isinstance(event, ToolCallEnd)] == [(True, False)]


@pytest.mark.parametrize("arguments", ["[1]", "{", '{"path": 1e999}', '"text"'])
def test_arguments_that_no_gate_can_be_shown_run_nothing(
    agent: ModuleType, server: ModelServer, arguments: str
) -> None:
    server.add(Reply(tools=({"id": "c1", "name": "read_file", "arguments": arguments},)), Reply("sorry"))
    _, events = run(agent, server)
    assert server.requests[1].answers["c1"].startswith("not run")
    assert [event.denied for event in events if isinstance(event, ToolCallEnd)] == [True]


def test_an_unknown_tool_and_one_that_raises_are_answers(agent: ModuleType, server: ModelServer) -> None:
    server.add(read("/nowhere/at/all"), read("x", "c2", "no_such_tool"), Reply("well"))
    answer, _ = run(agent, server)
    assert answer == "well"
    assert "FileNotFoundError" in server.requests[1].answers["c1"]
    assert "no_such_tool" in server.requests[2].answers["c2"]


def test_messages_of_plugins_enter_behind_the_results_and_a_follow_up_takes_the_turn_on(
    agent: ModuleType, server: ModelServer, tmp_path: Path
) -> None:
    async def speak(self: Any, call: ToolCall) -> None:
        await self.ally.add_message("user", f"{call.tool_name} runs")
        await self.ally.add_message("user", "and now sum up", deliver_as="follow_up")

    (tmp_path / "a").write_text("x")
    server.add(read(str(tmp_path / "a")), Reply("done"), Reply("summed up"))
    answer, _ = run(agent, server, plugin(ally_gate_tool_call=speak))
    assert answer == "summed up"
    assert [message["role"] for message in server.requests[1].messages] == ["user", "assistant", "tool", "user"]
    assert server.requests[1].messages[-1]["content"] == "[plugin p] read_file runs"
    assert server.requests[2].messages[-1]["content"] == "[plugin p] and now sum up"


def test_the_person_s_message_is_what_transforms_made_of_it_or_is_not_sent(
    agent: ModuleType, server: ModelServer
) -> None:
    def shout(_self: Any, message: Any) -> Replace[Any]:
        return Replace(evolve(message, content=message.content.upper()))

    def fail(_self: Any, message: Any) -> None:
        raise ValueError(message.content)

    server.add(Reply("hi"))
    run(agent, server, plugin(ally_transform_user_message=shout))
    assert server.requests[0].texts == ["user: HELLO"]
    blocking = {"p": (make_plugin(ally_transform_user_message=fail), make_record(transform_on_error="block"))}
    with pytest.raises(GateRefused):
        run(agent, server, blocking)
    assert len(server.requests) == 1


def test_a_message_that_a_gate_denies_is_not_sent_and_an_answer_is_not_shown(
    agent: ModuleType, server: ModelServer
) -> None:
    def deny(_self: Any, message: Any) -> Deny:
        return Deny(f"not {message.content}")

    answer, events = run(agent, server, plugin(ally_gate_user_message=deny))
    assert (answer, server.requests) == ("not sent: p: not hello", [])
    assert [event for event in events if event.type in {"USER_MESSAGE", "AGENT_START"}] == []
    server.add(Reply("a secret"))
    answer, events = run(agent, server, plugin(ally_gate_answer=deny))
    assert answer == "the answer is withheld: p: not a secret"
    assert [event for event in events if event.type == "ASSISTANT_MESSAGE"] == []


def test_an_agent_that_may_not_stop_goes_on_with_the_reason_and_a_transformed_answer_is_what_is_kept(
    agent: ModuleType, server: ModelServer
) -> None:
    def go_on(_self: Any, stop: Any) -> Deny | None:
        return Deny("run the tests first") if stop.sent_on == 0 else None

    def shout(_self: Any, message: Any) -> Replace[Any]:
        return Replace(evolve(message, content=message.content.upper()))

    server.add(Reply("done"), Reply("tested"))
    answer, _ = run(agent, server, plugin(ally_gate_stop=go_on, ally_transform_answer=shout))
    assert answer == "TESTED"
    assert server.requests[1].texts[1:] == ["assistant: DONE", "user: [plugin p] run the tests first"]


@pytest.mark.slow
def test_it_runs_as_a_command(server: ModelServer, home: Path, examples: Path) -> None:
    server.add(Reply("hello, person"))
    env = {**os.environ, **KEY, "OPENAI_BASE_URL": server.url}
    command = [sys.executable, "agent.py", "scripted", "hello,", "you"]
    done = subprocess.run(
        command, cwd=examples / "plain_loop", env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "hello, person\n"), done.stderr
    assert server.requests[0].texts == ["user: hello, you"]
    assert home.exists()
