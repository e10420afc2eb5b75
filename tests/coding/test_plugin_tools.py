"""Plugins' tools in coding agents: a call runs once, where gates have seen it, and in its own conversation."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from ally_plugins import Ask, Deny, Host, Replace, ToolCall, ToolResult, evolve, tool
from ally_plugins.adapters.coding.dialects import DIALECTS
from ally_plugins.adapters.coding.serving import conversations as module
from ally_plugins.adapters.coding.serving.agent_process import AgentProcess
from ally_plugins.adapters.coding.serving.conversations import Conversations
from ally_plugins.adapters.coding.tools.plugin_tools import CALL, LIST, offered_tools
from ally_plugins.contract.values.eventjson import event_data
from ally_plugins.journal.process_identity import start_ticks
from ally_plugins.testing.agents.reactions import Reaction, react
from tests.kit.hosts import make_plugin, setup
from tests.kit.waiting import go, until

from .agents import recorded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ally_plugins import Event

AGENT, OTHER = AgentProcess(101, 1), AgentProcess(102, 1)
_GUARDS = ("ally_gate_tool_call", "ally_transform_tool_input", "ally_transform_tool_output")
TAKE_TOOLS = sorted(name for name, dialect in DIALECTS.items() if dialect.tool_prefix)
BEFORE = {"gemini": "BeforeTool", "copilot": "preToolUse", "opencode": "tool.execute.before"}
SESSION = {"copilot": "sessionId"}


@tool
async def shout(self: Any, word: str) -> str:
    """Shout a word."""
    self.ran.append((word, self.ally.session))
    return word.upper()


@tool
async def fail(self: Any, word: str) -> ToolResult:
    """Fail, and say a word."""
    self.ran.append((word, self.ally.session))
    return ToolResult(success=False, error=f"no {word}")


@tool
async def erase(self: Any, word: str) -> str:
    """Erase a word."""
    self.ran.append((word, self.ally.session))
    return "erased"


def shouts(self: Any, call: ToolCall) -> Deny | None:
    self.seen.append(call)
    return Deny("not that word") if call.arguments.get("word") == "hush" else None


def redacts(self: Any, call: ToolCall, result: ToolResult) -> Replace[ToolResult] | None:  # noqa: ARG001
    error = None if result.error is None else result.error.replace("secret", "***")
    return Replace(evolve(result, output=result.output.replace("SECRET", "***"), error=error))


class Talk:
    """One conversation of an agent in which plugins' tools are called."""

    def __init__(self, host: Host, agent: str, session: str = "s1", process: AgentProcess | None = AGENT) -> None:
        self.host, self.agent, self.session, self.process = host, agent, session, process
        self.conversations = Conversations(host)
        self.emitted: list[Event] = []
        host.stream.subscribe("*", self.emitted.append)

    def named(self, own: str) -> str:
        return DIALECTS[self.agent].tool_prefix + own

    async def before(self, own: str, word: str, call_id: str = "c1") -> Reaction:
        event = BEFORE.get(self.agent, "PreToolUse")
        found = json.loads(json.dumps(next(each["payload"] for each in recorded(self.agent) if each["event"] == event)))
        if self.agent == "opencode":
            found["input"] |= {"tool": self.named(own), "sessionID": self.session, "callID": call_id}
            found["output"]["args"] = {"word": word}
        elif self.agent == "copilot":
            found |= {"toolName": self.named(own), "toolArgs": {"word": word}, "sessionId": self.session}
        else:
            found |= {"tool_name": self.named(own), "tool_input": {"word": word}, "session_id": self.session}
            found |= {"tool_use_id": call_id} if self.agent in {"claude", "codex"} else {}
        return await self.hook(event, found)

    async def hook(self, event: str, payload: dict[str, Any]) -> Reaction:
        data = json.dumps(payload).encode()
        reply = await self.conversations.reply(self.agent, event, data, 20.0, self.process)
        return react(self.agent, event, payload, (reply.exit_code, reply.stdout, reply.stderr))

    async def call(self, own: str, process: AgentProcess | None = AGENT, **arguments: Any) -> tuple[str, bool]:
        """Return the text that the model gets of a call through MCP, and whether it is an error."""
        asked = json.dumps({"name": own, "arguments": arguments}).encode()
        reply = await self.conversations.reply(self.agent, CALL, asked, 20.0, process)
        assert reply.exit_code == 0, reply.stderr
        said = json.loads(reply.stdout)
        return said["content"][0]["text"], said["isError"]

    def types(self) -> list[str]:
        return [event.type for event in self.emitted if event.type.startswith("TOOL_CALL")]


@asynccontextmanager
async def talk_of(agent: str, **members: Any) -> AsyncIterator[tuple[Talk, Any]]:
    """Return a conversation with an agent, and the plugin behind it, which counts what its gate saw and what ran."""
    made: list[Any] = []

    def start(self: Any) -> None:
        self.ran = []
        made.append(self)

    given = {"ally_start": start, "ally_gate_tool_call": shouts, "shout": shout, **members}
    grants = ["tools", *(each.removeprefix("ally_").replace("_", ":", 1) for each in given if each in _GUARDS)]
    plugin = setup(make_plugin(**given), grants).under("p")
    async with Host(home=None, discover=False, plugins={"p": plugin}) as host:
        yield Talk(host, agent), made[0]


@pytest.mark.parametrize("agent", TAKE_TOOLS)
def test_a_call_that_the_hook_let_run_runs_once_and_is_decided_once(agent: str) -> None:
    async def main() -> None:
        async with talk_of(agent) as (talk, plugin):
            assert not (await talk.before("shout", "hello")).stopped
            assert await talk.call("shout", word="hello") == ("HELLO", False)
            assert plugin.ran == [("hello", f"{agent}-s1")]
            (seen,) = plugin.seen
            assert (seen.tool_name, seen.common_name) == (talk.named("shout"), "shout")
            assert talk.types() == ["TOOL_CALL_START"]  # its end comes with the agent's next hook

    go(main())


@pytest.mark.parametrize("agent", TAKE_TOOLS)
def test_a_call_that_the_hook_refused_does_not_run_when_it_comes_all_the_same(agent: str) -> None:
    async def main() -> None:
        async with talk_of(agent) as (talk, plugin):
            assert (await talk.before("shout", "hush")).stopped
            text, is_error = await talk.call("shout", word="hush")
            assert is_error
            assert "not that word" in text
            assert plugin.ran == []

    go(main())


def test_other_arguments_than_the_hook_was_shown_are_decided_anew() -> None:
    async def main() -> None:
        async with talk_of("claude") as (talk, plugin):
            await talk.before("shout", "hello")
            assert (await talk.call("shout", word="hush"))[1]
            assert plugin.ran == []
            assert await talk.call("shout", word="hello") == ("HELLO", False)

    go(main())


def test_a_second_call_with_the_arguments_of_one_that_was_let_run_is_decided_by_itself() -> None:
    async def main() -> None:
        async with talk_of("claude") as (talk, plugin):
            await talk.before("shout", "hello")
            assert await talk.call("shout", word="hello") == ("HELLO", False)
            assert await talk.call("shout", word="hello") == ("HELLO", False)
            assert len(plugin.seen) == 2
            assert talk.types() == ["TOOL_CALL_START", "TOOL_CALL_START", "TOOL_CALL_END"]

    go(main())


def test_what_plugins_made_of_the_arguments_is_what_runs_without_a_second_decision() -> None:
    def lowers(self: Any, call: ToolCall) -> Replace[ToolCall]:  # noqa: ARG001
        return Replace(evolve(call, arguments={"word": str(call.arguments["word"]).lower()}))

    async def main() -> None:
        async with talk_of("claude", ally_transform_tool_input=lowers) as (talk, plugin):
            assert (await talk.before("shout", "HELLO")).value == {"word": "hello"}
            assert await talk.call("shout", word="hello") == ("HELLO", False)
            assert len(plugin.seen) == 1

    go(main())


@pytest.mark.parametrize("process", [AGENT, None])
def test_without_any_hook_of_the_agent_no_tool_runs(process: AgentProcess | None) -> None:
    async def main() -> None:
        async with talk_of("claude") as (talk, plugin):
            text, is_error = await talk.call("shout", process, word="hello")
            assert is_error
            assert "no hook of this claude has come" in text
            assert plugin.ran == []

    go(main())


def test_a_process_that_no_hook_came_from_calls_no_tool_in_anothers_conversation() -> None:
    async def main() -> None:
        async with talk_of("claude") as (talk, plugin):
            await talk.before("shout", "hello")
            assert (await talk.call("shout", OTHER, word="hello"))[1]
            assert plugin.ran == []

    go(main())


def test_of_two_agents_at_once_each_calls_in_its_own_conversation() -> None:
    async def main() -> None:
        async with talk_of("claude") as (talk, plugin):
            for process, session in ((AGENT, "one"), (OTHER, "two")):
                talk.process, talk.session = process, session
                await talk.before("shout", "hello")
            await talk.call("shout", AGENT, word="hello")
            await talk.call("shout", OTHER, word="hello")
            assert [session for _, session in plugin.ran] == ["claude-one", "claude-two"]

    go(main())


def test_of_two_conversations_in_one_process_the_one_whose_hook_asked_is_called_in() -> None:
    async def main() -> None:
        async with talk_of("opencode") as (talk, plugin):
            for session in ("one", "two"):
                talk.session = session
                await talk.before("shout", f"hello {session}")
            await talk.call("shout", word="hello one")
            assert plugin.ran == [("hello one", "opencode-one")]

    go(main())


@pytest.mark.parametrize("agent", TAKE_TOOLS)
def test_a_tool_that_wants_the_person_is_asked_about_where_the_agent_asks_and_denied_elsewhere(
    agent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offered(host: Host, dialect: Any) -> dict[str, Any]:  # as a manifest of Code-Ally's has it
        return {
            name: attrs.evolve(each, requires_confirmation=True) for name, each in offered_tools(host, dialect).items()
        }

    monkeypatch.setattr(module, "offered_tools", offered)

    async def main() -> None:
        async with talk_of(agent, erase=erase) as (talk, plugin):
            found = await talk.before("erase", "all")
            assert found.asks == DIALECTS[agent].asks_person
            assert found.stopped != found.asks
            text, is_error = await talk.call("erase", word="all, and more")  # which no hook has asked about
            assert is_error
            assert "wants the person to agree" in text
            assert plugin.ran == []

    go(main())


def test_a_gate_that_asks_about_a_call_that_no_hook_saw_denies_it() -> None:
    def asks(self: Any, call: ToolCall) -> Ask:  # noqa: ARG001
        return Ask("really?")

    async def main() -> None:
        async with talk_of("claude", ally_gate_tool_call=asks) as (talk, plugin):
            await talk.before("shout", "hello")
            assert (await talk.call("shout", word="other"))[1]
            assert plugin.ran == []

    go(main())


def test_an_output_that_no_later_hook_could_change_passes_the_plugins_before_the_agent_has_it() -> None:
    async def main() -> None:
        both = {"fail": fail, "ally_transform_tool_output": redacts}
        async with talk_of("claude", **both) as (talk, _):  # which shows what failed whatever its hook is told
            await talk.before("fail", "secret")
            assert await talk.call("fail", word="secret") == ("no ***", True)
            await talk.before("shout", "secret", "c2")
            assert await talk.call("shout", word="secret") == ("SECRET", False)  # its hook after the tool redacts it

    go(main())


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (b"{}", "expected the name of a tool"),
        (b'{"name": "shout", "arguments": []}', "arguments in an object"),
        (b"nonsense", "no JSON"),
        (b'{"name": "shout", "arguments": {"word": 1e999}}', ""),
    ],
)
def test_a_call_that_is_none_runs_nothing_and_says_why(asked: bytes, says: str) -> None:
    async def main() -> None:
        async with talk_of("claude") as (talk, plugin):
            await talk.before("shout", "hello")
            reply = await talk.conversations.reply("claude", CALL, asked, 20.0, AGENT)
            assert reply.exit_code == 2
            assert says in reply.stderr
            assert plugin.ran == []

    go(main())


@pytest.mark.parametrize("arguments", [{}, {"word": 3}, {"word": "a", "more": 1}])
def test_arguments_that_do_not_fit_the_tool_are_an_error_for_the_model(arguments: dict[str, Any]) -> None:
    async def main() -> None:
        async with talk_of("claude") as (talk, plugin):
            await talk.before("shout", "hello")
            assert (await talk.call("shout", **arguments))[1]
            assert plugin.ran == []

    go(main())


def test_the_list_has_each_tool_with_its_schema_before_any_hook_came() -> None:
    async def main() -> None:
        async with talk_of("claude") as (talk, _):
            said = json.loads((await talk.conversations.reply("claude", LIST, b"{}", 20.0)).stdout)
            (found,) = said["tools"]
            assert (found["name"], found["description"]) == ("shout", "Shout a word.")
            assert found["inputSchema"]["properties"] == {"word": {"type": "string"}}

    go(main())


def test_a_long_name_is_cut_so_that_the_agents_prefix_fits_and_is_found_again() -> None:
    async def main() -> None:
        async with talk_of("claude") as (talk, plugin):
            long = "s" * 64
            await plugin.ally.register_tool(plugin.shout, name=long, description="Shout.")
            await plugin.ally.register_tool(plugin.shout, name=long[:-1] + "t", description="Shout.")
            names = [name for name in offered_tools(talk.host, DIALECTS["claude"]) if name != "shout"]
            assert len(names) == 2
            assert all(len(talk.named(name)) <= 64 for name in names)
            await talk.before(names[0], "hello")
            assert await talk.call(names[0], word="hello") == ("HELLO", False)

    go(main())


def test_cancelling_a_call_cancels_the_tool() -> None:
    ended: list[str] = []

    @tool
    async def wait(self: Any, word: str) -> str:
        """Wait for ever."""
        self.ran.append(word)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(word)
            raise
        return "never"

    async def main() -> None:
        async with talk_of("claude", wait=wait) as (talk, plugin):
            await talk.before("wait", "hello")
            calling = asyncio.ensure_future(talk.call("wait", word="hello"))
            await until(lambda: plugin.ran)
            calling.cancel()
            await until(lambda: ended)

    go(main())


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells nothing of processes")
def test_the_conversation_of_an_agent_that_was_killed_ends_and_one_that_runs_stays() -> None:
    async def main() -> None:
        gone = await asyncio.create_subprocess_exec("sleep", "60")
        start = start_ticks(gone.pid)
        assert start is not None
        async with talk_of("claude") as (talk, _):
            talk.process = AgentProcess(gone.pid, start)
            await talk.before("shout", "hello")
            await talk.conversations.close_silent(gone_after=0)
            assert talk.host.sessions.keys() == {"claude-s1"}
            gone.kill()
            await gone.wait()
            await talk.conversations.close_silent(gone_after=0)
            assert not talk.host.sessions
            ends = [event_data(event) for event in talk.emitted if event.type in {"TOOL_CALL_END", "SESSION_END"}]
            assert "its result never came: the agent has ended" in str(ends[0])
            assert "the agent has ended, and did not say so" in str(ends[1])

    go(main())


@pytest.mark.skipif(sys.platform != "linux", reason="the system tells nothing of processes")
def test_where_an_agent_does_not_say_its_folder_at_first_the_one_of_its_process_is_taken() -> None:
    async def main() -> None:
        async with talk_of("goose") as (talk, _):
            talk.process = AgentProcess(os.getpid(), start_ticks(os.getpid()) or 0)
            start = next(each["payload"] for each in recorded("goose") if each["event"] == "SessionStart")
            await talk.hook("SessionStart", start)
            (begun,) = [event_data(event) for event in talk.emitted if event.type == "SESSION_START"]
            assert str(Path.cwd()) in str(begun)

    go(main())


def test_opencodes_folder_is_known_from_whichever_hook_comes_first() -> None:
    async def main() -> None:
        async with talk_of("opencode") as (talk, _):
            prompt = next(each["payload"] for each in recorded("opencode") if each["event"] == "chat.message")
            await talk.hook("chat.message", {**prompt, "directory": "/of/the/project"})
            (begun,) = [event_data(event) for event in talk.emitted if event.type == "SESSION_START"]
            assert "/of/the/project" in str(begun)

    go(main())


def test_a_call_that_no_hook_saw_passes_the_hosts_own_gate_too() -> None:
    async def main() -> None:
        async with talk_of("claude") as (talk, plugin):
            await talk.before("shout", "hello")
            text, is_error = await talk.call("shout", word=str(Path.home() / ".claude" / "settings.json"))
            assert is_error
            assert "which says how this agent is guarded" in text
            assert plugin.ran == []
            assert len(plugin.seen) == 1  # no plugin is asked then

    go(main())
