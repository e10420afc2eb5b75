"""The server of plugins' tools that agents start: a real MCP client's calls, and what is said when no host answers."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.adapters.coding.client.client_files import hook_line, lay_client
from ally_plugins.adapters.coding.client.hook_client import SOCKET
from ally_plugins.adapters.coding.tools.mcp_server import McpServer
from ally_plugins.catalog.home.folder import Home
from ally_plugins.host.control.client import hosts_of
from tests.kit.commands import environment_for, run_command
from tests.kit.processes import wait_for_ends
from tests.kit.sites import Site
from tests.kit.waiting import go, wait_until

from .agents import recorded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="tried on Linux only")

PLUGIN = """
import os
from ally_plugins import Deny, hookimpl, tool

class Plugin:
    def __init__(self, ally):
        self.ally = ally

    @hookimpl
    def ally_gate_tool_call(self, call):
        return Deny("not that word") if call.arguments.get("word") == "hush" else None

    @tool
    async def shout(self, word: str) -> str:
        "Shout a word."
        if word == "die":
            os._exit(1)
        return f"{word.upper()} in {self.ally.session}"
"""
MANIFEST = """
[permissions]
tools = { reason = "to shout" }
gate = { on = ["tool_call"], reason = "to keep quiet" }
"""


class Server:
    """A server in this process, asked line by line."""

    def __init__(self, home: Home) -> None:
        self.out = io.BytesIO()
        self.server = McpServer("claude", home, self.out)

    def ask(self, *messages: Any) -> list[dict[str, Any]]:
        """Return the answers; the input stays open until they are there, since its end cancels what is asked."""
        lines = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in messages]
        wanted = sum(isinstance(each, bytes) or "id" in each for each in messages)

        class Input(io.BytesIO):
            def readline(inner, size: int | None = -1, /) -> bytes:  # noqa: N805 - beside the outer one
                line = super().readline(size)
                if not line:
                    wait_until(lambda: self.out.getvalue().count(b"\n") == wanted)
                return line

        self.server.serve(Input(b"\n".join(lines) + b"\n"))
        return [json.loads(line) for line in self.out.getvalue().splitlines()]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    made = Home("ally-plugins", tmp_path / "home")
    made.prepare()
    monkeypatch.chdir(made.run_dir)
    return made


def request(method: str, params: Any = None, number: Any = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, **({} if params is None else {"params": params})}


@pytest.mark.parametrize("asked", ["2025-06-18", "2024-11-05", "2099-01-01", None, 3])
def test_it_speaks_the_version_it_is_asked_for_or_the_newest_that_it_knows(asked: Any, home: Home) -> None:
    (answer,) = Server(home).ask(request("initialize", {"protocolVersion": asked}))
    known = asked in {"2025-06-18", "2024-11-05"}
    assert answer["result"]["protocolVersion"] == (asked if known else "2025-11-25")
    assert answer["result"]["capabilities"] == {"tools": {}}


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"nonsense", -32700),
        (b"[]", -32600),
        (b'{"jsonrpc": "2.0", "id": 1}', -32600),
        (request("resources/list"), -32601),
        (b"[" * 10_000, -32700),
        (b'{"id": 1, "method": "ping", "params": NaN}', -32700),
    ],
)
def test_what_it_does_not_know_is_an_error_and_the_next_message_is_answered(line: Any, code: int, home: Home) -> None:
    found = Server(home).ask(line, {"jsonrpc": "2.0", "method": "notifications/initialized"}, request("ping", number=2))
    assert [each.get("error", {}).get("code") for each in found] == [code, None]
    assert found[1] == {"jsonrpc": "2.0", "id": 2, "result": {}}


def test_the_end_of_the_input_and_a_cancelled_request_end_what_the_host_is_asked(home: Home) -> None:
    import socket

    ended: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(SOCKET)
        listening.listen()

        def wait(calls: int) -> None:
            for _ in range(calls):
                connection, _ = listening.accept()
                with connection:
                    connection.recv(1 << 16)
                    asked.set()
                    ended.append(connection.recv(1))

        asked = threading.Event()
        thread = threading.Thread(target=wait, args=(2,), name="a host")
        thread.start()
        made = Server(home)
        read, write = os.pipe()
        with os.fdopen(read, "rb") as lines, os.fdopen(write, "wb", buffering=0) as agent:
            serving = threading.Thread(target=made.server.serve, args=(lines,), name="a server")
            serving.start()
            for number, end in ((1, {"method": "notifications/cancelled", "params": {"requestId": 1}}), (2, None)):
                asked.clear()
                call = request("tools/call", {"name": "shout", "arguments": {}}, number)
                agent.write(json.dumps(call).encode() + b"\n")
                assert asked.wait(30)
                if end is not None:
                    agent.write(json.dumps(end).encode() + b"\n")
                    wait_until(lambda: ended)
            agent.close()
            serving.join(30)
            thread.join(30)
        assert ended == [b"", b""]


def test_without_a_host_a_call_is_an_error_that_the_model_reads_and_a_list_one_of_the_protocol(home: Home) -> None:
    call = request("tools/call", {"name": "shout", "arguments": {"word": "hello"}}, 2)
    found = {each["id"]: each for each in Server(home).ask(request("tools/list"), call)}
    assert "the host cannot be started" in found[1]["error"]["message"]
    assert found[2]["result"]["isError"]
    assert "ally-plugins connect" in found[2]["result"]["content"][0]["text"]


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (b"", "the host ended before it answered: whether the tool did its work is not known"),
        (b"ally1 0 5 0\n{}", "the host ended amid its answer"),
        (b"ally1 2 0 4\nno!!", "no!!"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "the host ended before it answered"),
    ],
)
def test_a_host_that_ends_amid_a_call_is_an_error_that_the_model_reads(reply: bytes, says: str, home: Home) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(SOCKET)
        listening.listen()

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(reply)

        thread = threading.Thread(target=answer, name="a host")
        thread.start()
        (found,) = Server(home).ask(request("tools/call", {"name": "shout", "arguments": {}}))
        thread.join(30)
    assert found["result"]["isError"]
    assert says in found["result"]["content"][0]["text"]


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Home, dict[str, str]]]:
    """Return a home with a plugin and a hook client in it, and the environment of an agent, which this process is."""
    home, site = Home("ally-plugins", tmp_path / "home"), Site(tmp_path / "site")
    site.plugin("shouter", MANIFEST, code=PLUGIN)
    monkeypatch.setenv("ALLY_HOME", str(home.path))
    monkeypatch.syspath_prepend(str(site.path))
    run_command("enable", "shouter", "--place", "inline", "--yes")
    serve = (sys.executable, "-m", "ally_plugins", "serve", "--home", str(home.path))
    # As an environment has it that the plugin is installed in: of the agent's, little reaches the host.
    lay_client(home, sys.executable, ("/usr/bin/env", f"PYTHONPATH={site.path}", *serve))
    yield home, environment_for(home.path, site.path)
    pids = [host.pid for host in hosts_of(home)]
    for pid in pids:
        os.kill(pid, 15)
    wait_for_ends(pids)


def hook(home: Home, word: str, call_id: str) -> str:
    payload = next(each["payload"] for each in recorded("claude") if each["event"] == "PreToolUse")
    call = {"tool_name": "mcp__ally__shout", "tool_input": {"word": word}, "tool_use_id": call_id, "session_id": "s"}
    line = hook_line(home.path / "hooks" / "hook", "claude", "PreToolUse")
    asked = json.dumps({**payload, **call})
    done = subprocess.run(["sh", "-c", line], input=asked, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_real_client_calls_a_tool_in_the_conversation_whose_hooks_the_same_process_has_run(
    agent: tuple[Home, dict[str, str]],
) -> None:
    pytest.importorskip("mcp")
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    home, environment = agent
    line = ["-m", "ally_plugins", "mcp", "claude", "--home", str(home.path)]

    async def main() -> None:
        parameters = StdioServerParameters(command=sys.executable, args=line, env=environment)
        async with stdio_client(parameters) as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            assert [each.name for each in (await session.list_tools()).tools] == ["shout"]  # which starts the host

            async def call(word: str) -> tuple[str, Any]:
                found: Any = await session.call_tool("shout", {"word": word})
                return found.content[0].text, found.is_error

            text, is_error = await call("hello")
            assert is_error
            assert "no hook of this claude has come" in text
            assert hook(home, "hello", "c1") == ""
            assert await call("hello") == ("HELLO in claude-s", False)
            assert "not that word" in hook(home, "hush", "c2")
            text, is_error = await call("hush")
            assert is_error
            assert "not that word" in text
            (host,) = hosts_of(home)
            os.kill(host.pid, 9)
            wait_until(lambda: not hosts_of(home))
            assert hook(home, "again", "c3") == ""  # which starts another one
            assert await call("again") == ("AGAIN in claude-s", False)

    go(main())
