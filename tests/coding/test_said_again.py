"""What plugins say reaches the model beside the call that it is about; what the agent did not take is due again."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Host, ToolCall, ToolResult
from ally_plugins.adapters.coding.client.hook_client import SOCKET
from ally_plugins.adapters.coding.serving import conversation as module
from ally_plugins.adapters.coding.serving.conversations import Conversations
from ally_plugins.adapters.coding.serving.hook_socket import HookSocket
from ally_plugins.adapters.coding.serving.server import HookServer
from ally_plugins.catalog.home.folder import Home
from ally_plugins.testing.agents.reactions import react
from tests.kit.hosts import make_plugin, setup
from tests.kit.waiting import go, until

from .agents import recorded

if TYPE_CHECKING:
    from pathlib import Path

    from ally_plugins.adapters.coding.replies import Reply

CALLS = {
    "claude": ("PreToolUse", "PostToolUse"),
    "codex": ("PreToolUse", "PostToolUse"),
    "gemini": ("BeforeTool", "AfterTool"),
    "copilot": ("preToolUse", "postToolUse"),
    "opencode": ("tool.execute.before", "tool.execute.after"),
    "pi": ("tool_call", "tool_result"),
}
GRANTS = ["events:TOOL_CALL_END", "add_message:user"]
WORDS = '[plugin p] I saw it: "é" \\ 1'


async def speaks(self: Any, event: Any) -> None:
    self.seen.append(event)
    await self.ally.add_message("user", f'I saw it: "é" \\ {len(self.seen)}')


def of(agent: str, event: str, number: int) -> bytes:
    """Return a recorded payload, of the call with this number where the agent gives calls an id."""
    found = next(each["payload"] for each in recorded(agent) if (each["event"], each["case"]) == (event, ""))
    text = json.dumps(found)
    for known in (found.get("tool_use_id"), found.get("toolCallId"), found.get("input", {}).get("callID")):
        text = text.replace(str(known), f"call{number}") if known else text
    return text.encode()


class Agent:
    """An agent that asks a host's conversations, and takes an answer or does not."""

    def __init__(self, host: Host, agent: str) -> None:
        self.host, self.agent, self.conversations = host, agent, Conversations(host)
        self.entered: list[Any] = []
        host.stream.subscribe("PLUGIN_MESSAGE_RECEIVED", self.entered.append)

    async def hook(self, event: str, number: int, within: float = 20.0) -> tuple[str, Reply]:
        raw = of(self.agent, event, number)
        reply = await self.conversations.reply(self.agent, event, raw, within)
        found = react(self.agent, event, json.loads(raw), (reply.exit_code, reply.stdout, reply.stderr))
        return found.context, reply

    async def call(self, number: int, within: float = 20.0) -> tuple[str, Reply]:
        """Return what stands beside a call's result, at the hook after which it is known how the call ended."""
        before, after = CALLS[self.agent]
        words, reply = await self.hook(before, number)
        return (words, reply) if self.agent == "codex" and words else await self.hook(after, number, within)


def host_of(home: Path | None = None, grants: list[str] = GRANTS, **hooks: Any) -> Host:
    given = setup(make_plugin(**{"ally_tool_call_end": speaks, **hooks}), grants).under("p")
    return Host(home=home, discover=False, plugins={"p": given})


@pytest.mark.parametrize("agent", sorted(CALLS))
def test_what_a_plugin_says_of_a_call_stands_beside_that_calls_result_once(agent: str) -> None:
    async def main() -> None:
        async with host_of() as host:
            talk = Agent(host, agent)
            if agent == "codex":  # which says at the next hook how a command ended
                await talk.call(0)
            words, reply = await talk.call(1)
            assert words == WORDS
            assert talk.entered == []
            assert reply.said is not None
            await reply.said.confirm()
            assert len(talk.entered) == 1
            again, _ = await talk.call(2)
            assert words not in again

    go(main())


@pytest.mark.parametrize("agent", sorted(CALLS))
def test_what_the_agent_did_not_take_is_due_again(agent: str) -> None:
    async def main() -> None:
        async with host_of() as host:
            talk = Agent(host, agent)
            if agent == "codex":
                await talk.call(0)
            _, reply = await talk.call(1)
            assert reply.said is not None
            reply.said.take_back()
            await reply.said.confirm()  # too late: it is said again
            assert talk.entered == []
            words, reply = await talk.call(2)
            assert words.splitlines()[0] == WORDS
            assert reply.said is not None
            await reply.said.confirm()
            assert len(talk.entered) == len(words.splitlines())

    go(main())


def test_what_cannot_stand_beside_an_answer_is_said_with_the_next_one() -> None:
    def withholds(self: Any, call: ToolCall, result: ToolResult) -> None:  # noqa: ARG001
        if self.seen == []:
            raise ValueError

    async def main() -> None:
        grants = [*GRANTS, "transform:tool_output"]
        given = setup(
            make_plugin(ally_tool_call_end=speaks, ally_transform_tool_output=withholds),
            grants,
            transform_on_error="block",
        ).under("p")
        async with Host(home=None, discover=False, plugins={"p": given}) as host:
            talk = Agent(host, "copilot")  # takes nothing beside an output that is blocked
            words, reply = await talk.call(1)
            assert (words, reply.said) == ("", None)
            assert "withheld" in reply.stdout
            words, _ = await talk.call(2)
            assert words.splitlines()[0] == WORDS

    go(main())


def test_a_plugin_that_is_slow_to_speak_is_waited_for_within_a_bound_and_then_speaks_with_the_next_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "WORD_SECONDS", 0.05)

    async def main() -> None:
        may_speak = asyncio.Event()

        async def slow(self: Any, event: Any) -> None:
            await may_speak.wait()
            await speaks(self, event)

        async with host_of(ally_tool_call_end=slow) as host:
            talk = Agent(host, "claude")
            assert (await talk.call(1))[0] == ""
            may_speak.set()
            await host.sessions[next(iter(host.sessions))].drained()
            words, _ = await talk.call(2)
            assert words.splitlines()[0] == WORDS

    go(main())


def test_what_was_handed_out_and_not_confirmed_outlives_the_host(tmp_path: Path) -> None:
    async def main() -> None:
        async with host_of(tmp_path) as host:
            words, reply = await Agent(host, "claude").call(1)
            assert words == WORDS
            assert reply.said is not None
        async with host_of(tmp_path) as host:
            words, reply = await Agent(host, "claude").call(2)
            assert words.splitlines()[0] == WORDS
            assert reply.said is not None
            await reply.said.confirm()
        async with host_of(tmp_path, ally_tool_call_end=lambda self, event: None) as host:  # noqa: ARG005
            assert (await Agent(host, "claude").call(3))[0] == ""

    go(main())


def test_a_hook_whose_client_is_gone_before_the_answer_takes_nothing(tmp_path: Path) -> None:
    home = Home("ally-plugins", tmp_path)

    async def main() -> None:
        is_asked, may_answer = asyncio.Event(), asyncio.Event()

        async def waits(self: Any, event: Any) -> None:
            is_asked.set()
            await may_answer.wait()
            await speaks(self, event)

        hook_socket = HookSocket(home)
        assert hook_socket.open()
        async with host_of(ally_tool_call_end=waits) as host:
            server = HookServer(hook_socket, Conversations(host))
            await server.start()
            entered: list[Any] = []
            host.stream.subscribe("PLUGIN_MESSAGE_RECEIVED", entered.append)

            async def connected(event: str, number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                here = os.getcwd()  # noqa: PTH109 - the path may be too long for a socket's address
                os.chdir(home.run_dir)
                try:
                    reader, writer = await asyncio.open_unix_connection(SOCKET)
                finally:
                    os.chdir(here)
                raw = of("claude", event, number)
                writer.write(f"ally1 claude {event} {len(raw)} 20000\n".encode() + raw)
                await writer.drain()
                return reader, writer

            async def asked(event: str, number: int) -> str:
                reader, writer = await connected(event, number)
                said = await reader.read()
                writer.close()
                return said.decode()

            await asked("PreToolUse", 1)
            _, gone = await connected("PostToolUse", 1)
            await is_asked.wait()
            gone.transport.abort()  # its agent has ended it
            may_answer.set()
            await until(lambda: not server._answering)
            assert entered == []
            await asked("PreToolUse", 2)
            said = json.loads((await asked("PostToolUse", 2)).partition("\n")[2])
            assert said["hookSpecificOutput"]["additionalContext"].splitlines()[0] == WORDS
            await until(lambda: len(entered) == 2)
            await server.stop()
        hook_socket.close()

    go(main())


def test_an_answer_that_comes_too_late_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with host_of() as host:
            talk = Agent(host, "gemini")
            await talk.hook("BeforeTool", 1)
            is_written = asyncio.Event()
            written = module.Conversation._written

            def late(self: Any, *given: Any) -> Reply:
                is_written.set()
                return written(self, *given)

            with monkeypatch.context() as patched:
                patched.setattr(module.Conversation, "_written", late)
                asking = asyncio.ensure_future(talk.hook("AfterTool", 1))
                await is_written.wait()
                asking.cancel()  # at the very moment when it is there
                words, _ = await asking
            assert words == ""
            assert (await talk.call(2))[0].splitlines()[0] == WORDS

    go(main())
