"""The model asks for what cannot be: each call gets an answer that it can use, and plugins see what really happens."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import ModelAPIError, ModelRetry
from pydantic_ai.exceptions import UnexpectedModelBehavior

from ally_plugins import Deny, ToolCall, hookimpl
from ally_plugins.contract.values.events import (
    AgentEnd,
    AssistantMessage,
    ContextUsageUpdate,
    ToolCallEnd,
    ToolCallStart,
)
from tests.kit.hosts import make_record

from .conversing import GATE_KEEPER, Conversation, agent_with, daemon, staged
from .model_server import ModelServer, Reply

Models = Callable[..., Any]


class Noted:
    """The agent's own tools: they keep what they were run with."""

    def __init__(self) -> None:
        self.ran: list[Any] = []

    def note(self, text: str, number: int = 0) -> str:
        """Note a text."""
        self.ran.append((text, number))
        return f"noted {text!r:.100}"


class Guard:
    """A gate that keeps what it was asked, and denies what says `forbidden`."""

    asked: list[ToolCall]

    def __init__(self, ally: Any) -> None:
        del ally
        self.asked = []

    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> Deny | None:
        self.asked.append(call)
        return Deny("that is forbidden") if "forbidden" in str(call.arguments) else None


def call(arguments: Any, name: str = "note", **more: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments, **more}


BAD = {
    "no such tool": (call({}, "no_such_tool"), "no_such_tool"),
    "a name from another world": (call({}, "x\n\x1b[31m" + "y" * 5000), "x"),
    "an argument is missing": (call({"number": 1}), "text"),
    "an argument of the wrong kind": (call({"text": "t", "number": "many"}), "number"),
    "no JSON": (call("{text: 'hi'}"), "JSON"),
    "cut JSON": (call('{"text": "hi'), ""),
    "a list": (call("[1, 2]"), ""),
    "nothing": (call(""), "text"),
    "not a number": (call('{"text": "t", "number": NaN}'), "number"),
    "too deep": (call('{"text": ' + "[" * 3000 + "]" * 3000 + "}"), ""),
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", BAD)
def test_a_call_that_cannot_be_run_is_answered_and_the_model_does_better(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path, name: str, streamed: Any
) -> None:
    bad, told = BAD[name]
    model_server.add(
        Reply(tools=[{**bad, "id": "bad"}, call({"text": "beside"}, id="good")]),
        Reply(tools=[call({"text": "better"})]),
        Reply("sorry, now it works"),
    )

    async def main() -> None:
        async with staged(tmp_path, guard=Guard) as stage:
            noted = Noted()
            agent, _ = agent_with(stage, model(), [noted.note])
            talk = Conversation(agent, streamed=streamed)
            assert await talk.say("note it") == "sorry, now it works"
            assert [text for text, _ in noted.ran] == ["beside", "better"]
            answers = model_server.requests[1].answers
            assert told in answers["bad"]
            assert answers["good"].startswith("noted 'beside'")
            # What never ran was never told as if it had.
            assert [start.arguments["text"] for start in stage.of(ToolCallStart) if start.call_id != "bad"] == [
                "beside",
                "better",
            ]
            assert all(not end.success for end in stage.of(ToolCallEnd) if end.call_id == "bad")

    go(main())


def test_a_model_that_never_learns_ends_the_turn_and_not_the_conversation(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path
) -> None:
    model_server.add(Reply(tools=[call({})], times=2), Reply("hello again"))

    async def main() -> None:
        async with staged(tmp_path) as stage:
            agent, _ = agent_with(stage, model(), [Noted().note])
            talk = Conversation(agent)
            with pytest.raises(UnexpectedModelBehavior, match="note"):
                await talk.say("note it")
            (end,) = stage.of(AgentEnd)
            assert end.interrupted
            assert "note" in end.interruption_cause
            assert await talk.say("hello?") == "hello again"

    go(main())


@pytest.mark.parametrize("streamed", [False, True])
def test_two_calls_with_one_id_are_two_calls_each_with_its_own_arguments_and_answer(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path, streamed: Any
) -> None:
    calls = [call({"text": text}, id="same") for text in ("forbidden", "harmless", "forbidden too")]
    model_server.add(Reply(tools=calls), Reply("one of them"), Reply("still here"))

    async def main() -> None:
        async with staged(tmp_path, guard=Guard) as stage:
            noted = Noted()
            agent, _ = agent_with(stage, model(), [noted.note])
            talk = Conversation(agent, streamed=streamed)
            assert await talk.say("note them") == "one of them"
            assert noted.ran == [("harmless", 0)]
            answers = model_server.requests[1].answers
            assert ["forbidden" in answer for answer in answers.values()] == [True, False, True]
            ends = {end.call_id: end.denied for end in stage.of(ToolCallEnd)}
            begun = [(start.arguments["text"], ends[start.call_id]) for start in stage.of(ToolCallStart)]
            assert sorted(begun) == [("forbidden", True), ("forbidden too", True), ("harmless", False)]
            assert await talk.say("still there?") == "still here"

    go(main())


@pytest.mark.slow
def test_a_hundred_calls_at_once_each_get_their_own_answer(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path
) -> None:
    calls = [call({"text": f"n{n}" if n % 2 else "forbidden", "number": n}, id=f"c{n}") for n in range(100)]
    model_server.add(Reply(tools=calls), Reply("done"))

    async def main() -> None:
        keeper = make_record("keeper", daemon=daemon(tmp_path, GATE_KEEPER))
        async with staged(tmp_path, guard=Guard, keeper=(keeper.daemon, keeper)) as stage:
            noted = Noted()
            agent, _ = agent_with(stage, model(), [noted.note])
            assert await Conversation(agent).say("note them") == "done"
            answers = model_server.requests[1].answers
            assert len(answers) == 100
            for n in range(100):
                assert (f"noted 'n{n}'" if n % 2 else "forbidden") in answers[f"c{n}"]
            assert sorted(number for _, number in noted.ran) == list(range(1, 100, 2))

    go(main())


@pytest.mark.parametrize("streamed", [False, True])
def test_text_that_no_encoding_has_and_control_characters_go_through(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path, streamed: Any
) -> None:
    odd = "a\ud800b\x00c\x1b[2Jd\u202ee"
    calls = [call({"text": "\x00\x1b[2J"}, id="c1"), *(call({}, name, id=name) for name in ("file", "files", "fail"))]
    model_server.add(Reply(odd, tools=calls), Reply("fine"), Reply("still here"))

    def file() -> str:
        """Return a name that is no UTF-8."""
        return os.fsdecode(b"caf\xe9.txt")

    def files() -> dict[str, Any]:
        """Return such names in a structure."""
        return {"names": [file(), "plain"], file(): 1}

    def fail() -> str:
        """Fail with such a name."""
        raise ModelRetry(f"no {file()} here")

    async def main() -> None:
        keeper = make_record("keeper", daemon=daemon(tmp_path, GATE_KEEPER))
        async with staged(tmp_path, home=tmp_path / "home", guard=Guard, keeper=(keeper.daemon, keeper)) as stage:
            noted = Noted()
            agent, _ = agent_with(stage, model(), [noted.note, file, files, fail])
            talk = Conversation(agent, streamed=streamed)
            assert await talk.say(f"be odd {file()}") == "fine"
            assert noted.ran == [("\x00\x1b[2J", 0)]
            assert model_server.requests[0].texts == ["user: be odd caf\ufffd.txt"]
            assert model_server.requests[1].texts[1] == "assistant: " + odd.replace("\ud800", "\ufffd")
            answers = model_server.requests[1].answers
            assert answers["file"] == "caf\ufffd.txt"
            assert json.loads(answers["files"]) == {"names": ["caf\ufffd.txt", "plain"], "caf\ufffd.txt": 1}
            assert "no caf\ufffd.txt here" in answers["fail"]
            assert [end.output for end in stage.of(ToolCallEnd) if end.tool_name == "file"] == ["caf\ufffd.txt"]
            assert await talk.say("still there?") == "still here"
            assert stage.host.journal.healthy
            await stage.host.sessions["c"].drained()
            assert [plugin.state for plugin in stage.host.plugins.values()] == ["running"] * 3

    go(main())


def test_odd_text_of_an_answer_that_was_cut_off_spoils_no_later_request(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path
) -> None:
    model_server.add(Reply("a\ud800b and so on and on", fault="close", after=3), Reply("still here"))

    async def main() -> None:
        async with staged(tmp_path) as stage:
            agent, _ = agent_with(stage, model())
            talk = Conversation(agent, streamed=True)
            with pytest.raises(ModelAPIError):
                await talk.say("be odd")
            assert await talk.say("still there?") == "still here"
            assert model_server.requests[-1].texts[1].startswith("assistant: a\ufffdb and")

    go(main())


@pytest.mark.slow
def test_a_huge_answer_and_a_huge_result_harm_nobody(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path
) -> None:
    huge = "lorem ipsum " * 400_000  # 4.8 MB; a frame to a daemon has 1 MiB
    model_server.add(
        Reply(huge, tools=[call({"text": "x"}, "huge", id="c1"), call({"text": huge}, id="c2")], piece=1 << 20),
        Reply("that was much"),
        Reply("still here"),
    )

    async def main() -> None:
        keeper = make_record("keeper", daemon=daemon(tmp_path, GATE_KEEPER))
        async with staged(tmp_path, home=tmp_path / "home", keeper=(keeper.daemon, keeper)) as stage:

            def huge_tool(text: str) -> str:
                """Return much."""
                return text + huge

            huge_tool.__name__ = "huge"
            noted = Noted()
            agent, _ = agent_with(stage, model(), [noted.note, huge_tool])
            talk = Conversation(agent, streamed=True)
            assert await talk.say("much, please") == "that was much"
            assert model_server.requests[1].answers["c1"] == "x" + huge
            assert stage.of(AssistantMessage)[0].content == huge
            assert await talk.say("still there?") == "still here"
            assert noted.ran == [(huge, 0)]  # asked and allowed by the daemon
            assert stage.host.plugins["keeper"].state == "running"
            assert stage.host.plugins["keeper"].counts.crashes == 0
            result = await stage.host.call_tool("daemon_tool")
            assert result.output == "from the daemon"

    go(main())


def test_counts_that_make_no_sense_are_not_told(
    go: Any, model_server: ModelServer, model: Models, tmp_path: Path
) -> None:
    model_server.add(Reply("a", usage=None), Reply("b", usage=(10**15, 10**15)), Reply("c"))

    async def main() -> None:
        async with staged(tmp_path) as stage:
            agent, _ = agent_with(stage, model(), context_window=1000)
            talk = Conversation(agent)
            assert [await talk.say("count") for _ in range(3)] == ["a", "b", "c"]
            assert [update.context_usage for update in stage.of(ContextUsageUpdate)] == [100, 1.5]

    go(main())
