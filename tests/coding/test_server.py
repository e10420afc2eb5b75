"""The socket for hooks: what is asked is answered, also while the host ends, and garbage gets no answer."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Allow, Host, ToolCall
from ally_plugins.adapters.coding.client.hook_client import SOCKET
from ally_plugins.adapters.coding.serving import server as module
from ally_plugins.adapters.coding.serving.conversations import Conversations
from ally_plugins.adapters.coding.serving.hook_socket import HookSocket
from ally_plugins.adapters.coding.serving.server import HookServer
from ally_plugins.catalog.home.folder import Home
from tests.kit.hosts import make_plugin, setup
from tests.kit.waiting import go, until

from .agents import recorded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="tried on Linux only")

PASSES = b"ally1 0 0 0\n"


def line(payload: dict[str, Any], milliseconds: int = 20_000) -> bytes:
    body = json.dumps(payload).encode()
    return f"ally1 claude PreToolUse {len(body)} {milliseconds}\n".encode() + body


def payload(call_id: str) -> dict[str, Any]:
    found = [each["payload"] for each in recorded("claude") if each["event"] == "PreToolUse"]
    return {**found[0], "tool_use_id": call_id}


async def ask(home: Home, data: bytes) -> bytes:
    here = os.getcwd()  # noqa: PTH109 - as below
    os.chdir(home.run_dir)  # the path may be too long for a socket's address
    try:
        reader, writer = await asyncio.open_unix_connection(SOCKET)
    finally:
        os.chdir(here)
    writer.write(data)
    writer.write_eof()
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@asynccontextmanager
async def served(home: Home, **hooks: Any) -> AsyncIterator[HookServer]:
    """Return a server on a host with one plugin."""
    hook_socket = HookSocket(home)
    assert hook_socket.open()
    try:
        given = setup(make_plugin(**hooks), ["gate:tool_call"]).under("p")
        async with Host(home=None, discover=False, plugins={"p": given}) as host:
            server = HookServer(hook_socket, Conversations(host))
            await server.start()
            try:
                yield server
            finally:
                await server.stop()
    finally:
        hook_socket.close()


def allows(self: Any, call: ToolCall) -> Allow:  # noqa: ARG001
    return Allow()


def test_hooks_that_come_by_the_hundred_are_all_answered(tmp_path: Path) -> None:
    home = Home("ally-plugins", tmp_path)

    async def main() -> None:
        async with served(home, ally_gate_tool_call=allows):
            found = await asyncio.gather(*(ask(home, line(payload(f"c{number}"))) for number in range(100)))
            assert set(found) == {PASSES}

    go(main())


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"ally1 claude PreToolUse x 5\n{}",
        b"ally1 claude PreToolUse -2 5\n{}",
        b"ally1 claude PreToolUse 99999999999 5\n{}",
        b"ally1 claude PreToolUse 2 5 5\n{}",
        b"ally1 claude PreToolUse 20 5\n{}",
        b"ally2 claude PreToolUse 2 5\n{}",
        b"\xff" * 100 + b"\n",
        b"x" * 100_000,
    ],
)
def test_what_is_no_hook_gets_no_answer_and_the_next_one_does(odd: bytes, tmp_path: Path) -> None:
    home = Home("ally-plugins", tmp_path)

    async def main() -> None:
        async with served(home, ally_gate_tool_call=allows):
            assert await ask(home, odd) == b""
            assert await ask(home, line(payload("c1"))) == PASSES

    go(main())


def test_a_hook_without_any_time_left_is_closed(tmp_path: Path) -> None:
    home = Home("ally-plugins", tmp_path)

    async def main() -> None:
        async with served(home, ally_gate_tool_call=allows):
            for milliseconds in (0, -5):
                assert (await ask(home, line(payload("c1"), milliseconds))).startswith(b"ally1 2 0 ")

    go(main())


def test_a_host_that_ends_answers_what_it_was_asked_and_closes_what_takes_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home("ally-plugins", tmp_path)
    monkeypatch.setattr(module, "DRAIN_SECONDS", 0.3)
    asked: dict[str, asyncio.Event] = {}

    async def waits(self: Any, call: ToolCall) -> Allow:  # noqa: ARG001
        event = asked[str(call.call_id)] = asyncio.Event()
        await event.wait()
        return Allow()

    async def main() -> None:
        async with served(home, ally_gate_tool_call=waits) as server:
            quick = asyncio.ensure_future(ask(home, line(payload("quick"))))
            await until(lambda: "quick" in asked)
            slow = asyncio.ensure_future(ask(home, line(payload("slow"))))
            stopping = asyncio.ensure_future(server.stop())
            await until(lambda: not (home.run_dir / SOCKET).exists())
            asked["quick"].set()
            assert await quick == PASSES
            assert (await slow).startswith(b"ally1 2 0 ")
            await stopping

    go(main())


def test_one_host_at_a_time_has_the_socket_and_a_dead_ones_is_taken(tmp_path: Path) -> None:
    home = Home("ally-plugins", tmp_path)
    home.prepare()
    (home.run_dir / SOCKET).write_text("left by a host that was killed")
    first, second = HookSocket(home), HookSocket(home)
    assert first.open()
    assert not second.open()
    first.unlink()
    first.close()
    assert second.open()
    second.unlink()
    second.close()
