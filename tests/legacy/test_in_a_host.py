"""A plugin folder as it was made for Code-Ally, in a real host: discovered, agreed to, started, called, ended."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Host, ToolCall
from ally_plugins.contract.values.events import ToolCallStart
from ally_plugins.runtime.processes.programs import GRACE

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from ally_plugins.contract.values.conversation import Message

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs Unix sockets")

DAEMON = """
import json, os, socket
path = os.environ["SOCKET_PATH"]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(5)
seen = []
while True:
    connection, _ = listener.accept()
    with connection:
        data = b""
        while b"\\n" not in data:
            chunk = connection.recv(65536)
            if not chunk:
                break
            data += chunk
        if not data.strip():
            continue
        request = json.loads(data)
        if request["method"] == "on_event":
            seen.append(request["params"]["event_type"])
        elif request["method"] == "die":
            os._exit(3)
        else:
            mine = {k: v for k, v in os.environ.items() if k.startswith(("PLUGIN_", "HOST_"))}
            result = {"message": "%d events" % len(seen), "data": {"seen": seen, "env": mine, "pid": os.getpid()}}
            connection.sendall(json.dumps({"jsonrpc": "2.0", "result": result, "id": request["id"]}).encode())
"""

TOOL = """
import json, sys
print(json.dumps({"message": json.load(sys.stdin)["text"][::-1]}))
"""


@pytest.fixture
def host_home(short_dir: Path) -> Path:
    """Return a home with one plugin folder in it."""
    folder = short_dir / "home" / "plugins" / "it"
    folder.mkdir(parents=True)
    manifest: dict[str, Any] = {
        "name": "monitor",
        "version": "1.0.0",
        "description": "counts",
        "tools": [
            {"name": "stats", "description": "says", "type": "background_rpc", "method": "get_stats"},
            {"name": "die", "description": "ends", "type": "background_rpc", "method": "die"},
            {
                "name": "reverse",
                "description": "turns",
                "command": "python3",
                "args": ["tool.py"],
                "requiresConfirmation": True,
                "schema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
            },
        ],
        "background": {
            "enabled": True,
            "command": "python3",
            "args": ["daemon.py"],
            "communication": {"type": "socket", "path": str(short_dir / "monitor.sock")},
            "events": ["TOOL_CALL_START"],
        },
        "config": {"schema": {"properties": {"limit": {"type": "integer", "default": 3}}}},
    }
    (folder / "plugin.json").write_text(json.dumps(manifest))
    (folder / "daemon.py").write_text(DAEMON)
    (folder / "tool.py").write_text(TOOL)
    return short_dir / "home"


def test_it_runs_unchanged(host_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_SECRET", "hunter2")

    async def main() -> None:
        async with Host("test", home=host_home, consent=lambda _: True) as host:
            plugin = host.plugins["monitor"]
            assert (plugin.state, plugin.reason) == ("running", "")
            session = host.session()
            session.emit(ToolCallStart(tool_name="bash"))
            async with asyncio.timeout(60):
                while True:
                    result = await host.call_tool("stats", {})
                    if result.data["seen"]:
                        break
            assert result.output == "1 events"
            assert result.data["seen"] == ("TOOL_CALL_START",)
            assert result.data["env"] == {"PLUGIN_CONFIG_LIMIT": "3"}
            turned = await host.call_tool("reverse", {"text": "abc"})
            assert (turned.success, turned.output) == (True, "cba")
        assert not (host_home.parent / "monitor.sock").exists()

    asyncio.run(main())


def add_program(host_home: Path, name: str, *command: str, **more: Any) -> None:
    """Write a plugin without a daemon, whose one tool runs a command."""
    tool = {"name": f"{name}-tool", "description": "runs", "command": command[0], "args": command[1:], **more}
    folder = host_home / "plugins" / name
    folder.mkdir()
    manifest = {"name": name, "version": "1", "description": "runs", "tools": [tool]}
    (folder / "plugin.json").write_text(json.dumps(manifest))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits are Linux's")
def test_programs_are_held_to_the_limits_that_the_operator_has_settled(host_home: Path) -> None:
    shown = "import resource as r; print([r.getrlimit(x)[1] for x in (r.RLIMIT_DATA, r.RLIMIT_FSIZE, r.RLIMIT_NOFILE)])"
    for name in ("usual", "settled"):
        add_program(host_home, name, sys.executable, "-c", f"print(0, end=''); {shown}")
    (host_home / "plugins" / "it" / "tool.py").write_text(shown)
    limits = '.process]\nmemory_mb = 300\nfile_mb = "none"\ndescriptors = 70\n'
    (host_home / "config.toml").write_text(f"[plugins.settled{limits}[plugins.monitor{limits}")
    own = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    async def main() -> None:
        async with Host("test", home=host_home, consent=lambda _: True) as host:
            for tool, expected in (
                ("usual-tool", [4096 << 20, 1024 << 20, 1024]),
                ("settled-tool", [300 << 20, own, 70]),
                ("reverse", [300 << 20, own, 70]),
            ):
                error = (await host.call_tool(tool, {"text": ""} if tool == "reverse" else {})).error
                assert f"output: {'' if tool == 'reverse' else '0'}{expected}" in str(error), tool

    asyncio.run(main())


@pytest.mark.slow
def test_a_program_that_ignores_sigterm_is_killed_after_the_operators_grace(host_home: Path) -> None:
    code = """if True:
        import signal, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("waits for the lock", file=sys.stderr, flush=True)
        time.sleep(600)
    """
    add_program(host_home, "stubborn", sys.executable, "-c", code, timeout=2000)
    (host_home / "config.toml").write_text("[plugins.stubborn.process]\nshutdown_grace = 0.1\nping_retries = 7\n")

    async def main() -> None:
        async with Host("test", home=host_home, consent=lambda _: True) as host:
            began = asyncio.get_running_loop().time()
            result = await host.call_tool("stubborn-tool", {})
            assert str(result.error).endswith("did not end within 2 s and was stopped; its stderr: waits for the lock")
            assert asyncio.get_running_loop().time() - began < 2.0 + GRACE
            assert host.registry is not None
            (warning,) = host.registry.get("stubborn").warnings
            assert warning == "config.toml has process.ping_retries for it, of no use: it has no daemon"

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node on PATH")
def test_a_node_program_fetches_under_the_usual_limits(host_home: Path) -> None:
    code = """
        require("http").createServer((_, answer) => answer.end("fetched")).listen(0, "127.0.0.1", async function () {
            const memory = new WebAssembly.Memory({ initial: 1, maximum: 65536 });
            const answer = await fetch("http://127.0.0.1:" + this.address().port);
            console.log(JSON.stringify({ message: await answer.text(), data: memory.buffer.byteLength }));
            process.exit();
        });
    """
    add_program(host_home, "fetcher", "node", "-e", code)
    (host_home / "config.toml").write_text('[plugins.fetcher]\nplacement = "process"\n')

    async def main() -> None:
        async with Host("test", home=host_home, consent=lambda _: True) as host:
            result = await host.call_tool("fetcher-tool", {})
            assert (result.output, result.data, result.error) == ("fetched", 65536, None)

    asyncio.run(main())


@pytest.mark.slow
def test_the_python_that_the_operator_names_runs_the_programs_too(host_home: Path) -> None:
    add_program(host_home, "mover", "python3", "-c", "import json, os; print(json.dumps({'data': os.environ['SEEN']}))")
    named = host_home / "python"
    named.write_text(f'#!/bin/sh\nSEEN=named exec {sys.executable} "$@"\n')
    named.chmod(0o755)
    (host_home / "config.toml").write_text(f'[plugins.mover]\nplacement = "process"\ninterpreter = "{named}"\n')

    async def main() -> None:
        async with Host("test", home=host_home, consent=lambda _: True) as host:
            result = await host.call_tool("mover-tool", {})
            assert (result.data, result.error) == ("named", None)

    asyncio.run(main())


def test_a_tool_that_asks_first_does_not_run_unasked_while_its_daemon_cannot_start(host_home: Path) -> None:
    (host_home / "plugins" / "it" / "daemon.py").write_text("raise SystemExit(3)")
    (host_home / "plugins" / "it" / "tool.py").write_text("open('ran', 'w')\n" + TOOL)
    call = ToolCall("reverse", {"text": "abc"}, "c1")

    async def main() -> None:
        async with Host("test", home=host_home, consent=lambda _: True) as host:
            assert host.plugins["monitor"].state == "backoff"
            result = await host.session().run_tool_call(
                call, lambda call: host.call_tool(call.tool_name, call.arguments)
            )
            assert not result.success
            assert "monitor: it has a gate and is starting again" in str(result.error)

    asyncio.run(main())
    assert not list(host_home.rglob("ran"))


@pytest.mark.slow
def test_a_second_host_leaves_the_first_ones_daemon_alone(host_home: Path) -> None:
    async def main() -> None:
        async with Host("test", home=host_home, consent=lambda _: True) as first:
            pid = (await first.call_tool("stats", {})).data["pid"]
            async with Host("test", home=host_home, consent=lambda _: True) as second:
                plugin = second.plugins["monitor"]
                assert plugin.state == "failed"
                assert "another running host has a daemon" in plugin.reason
            again = await first.call_tool("stats", {})
            assert again.data["pid"] == pid

    asyncio.run(main())


LISTENER = """
import os, signal, socket, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
listener = socket.socket(socket.AF_UNIX)
listener.bind(os.environ["SOCKET_PATH"])
listener.listen(5)
"""

# It connects to the host's own socket with its token, and says what is asked of it.
TALKER = (
    LISTENER
    + """
import json
host = socket.socket(socket.AF_UNIX)
host.connect(os.environ["ALLY_SOCKET"])
lines = host.makefile("rwb")

def ask(number, method, **params):
    lines.write(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode() + b"\\n")
    lines.flush()
    return json.loads(lines.readline())

hello = ask(1, "initialize", token=os.environ["ALLY_TOKEN"], protocol="1", name="somebody-else")
assert hello["result"]["plugin"] == "monitor", hello
refused = ask(2, "emit_event", type="x")
number = 3
while "error" in ask(number, "add_message", role="user", content="refused with %d" % refused["error"]["code"]):
    number += 1  # there is no session yet
    time.sleep(0.3)
time.sleep(600)
"""
)


@pytest.fixture
def with_daemon(short_dir: Path) -> Callable[..., None]:
    """Return what runs a test with a host, and in it one plugin with a daemon of its own kind."""

    def run(code: str, test: Callable[[Host], Coroutine[Any, Any, None]], **more: Any) -> None:
        folder = short_dir / "home" / "plugins" / "it"
        folder.mkdir(parents=True)
        (folder / "daemon.py").write_text(code)
        background = {
            "enabled": True,
            "command": "python3",
            "args": ["-I", "-S", "daemon.py"],
            "communication": {"type": "socket", "path": str(short_dir / "it-{session_id}.sock")},
            "events": ["TODO_UPDATE"],
            "shutdown_grace_period": 300,
            **more.pop("background", {}),
        }
        manifest = {"name": "monitor", "version": "1", "description": "x", "background": background, **more}
        (folder / "plugin.json").write_text(json.dumps(manifest))
        other = folder.parent / "broken"
        other.mkdir()
        (other / "plugin.json").write_text('{"name": "broken"}')

        async def main() -> None:
            async with Host("test", home=short_dir / "home", consent=lambda _: True) as host:
                await test(host)

        asyncio.run(main())
        assert list(short_dir.glob("*.sock")) == []

    return run


@pytest.mark.smoke
@pytest.mark.slow
def test_one_bad_plugin_never_stops_the_others(with_daemon: Callable[..., None]) -> None:
    async def test(host: Host) -> None:
        assert host.plugins["monitor"].state == "running"
        assert host.registry is not None
        record = host.registry.get("broken")
        assert record.state == "broken"
        assert "version: missing" in record.reason
        assert "tools: there are no tools and no background events" in record.reason

    with_daemon(LISTENER + "time.sleep(600)", test)


@pytest.mark.slow
def test_a_daemon_that_ignores_sigterm_is_killed_after_its_grace(
    with_daemon: Callable[..., None], tmp_path: Path
) -> None:
    seen = tmp_path / "pid"
    code = f"import os; open({str(seen)!r}, 'w').write(str(os.getpid()))\n" + LISTENER + "time.sleep(600)"

    async def test(host: Host) -> None:
        assert host.plugins["monitor"].state == "running"

    with_daemon(code, test)
    with pytest.raises(ProcessLookupError):
        os.kill(int(seen.read_text()), 0)


@pytest.mark.slow
def test_a_daemon_that_never_listens_is_given_up_with_a_sentence(with_daemon: Callable[..., None]) -> None:
    async def test(host: Host) -> None:
        plugin = host.plugins["monitor"]
        assert plugin.state == "backoff"
        assert "0.3 s" in plugin.reason
        assert plugin.reason.endswith("it starts again in 5.0 s")

    with_daemon("import time; time.sleep(600)", test, background={"startup_timeout": 300})


@pytest.mark.slow
def test_a_daemon_that_exits_at_once_starts_again_after_five_seconds(with_daemon: Callable[..., None]) -> None:
    async def test(host: Host) -> None:
        plugin = host.plugins["monitor"]
        assert plugin.state == "backoff"
        assert "exited with code 3" in plugin.reason
        assert "stderr ends: oh no" in plugin.reason
        assert plugin.reason.endswith("it starts again in 5.0 s")

    with_daemon("import sys; print('oh no', file=sys.stderr); sys.exit(3)", test)


@pytest.mark.slow
def test_a_program_that_is_not_there_is_a_failure_that_is_final(with_daemon: Callable[..., None]) -> None:
    async def test(host: Host) -> None:
        plugin = host.plugins["monitor"]
        assert plugin.state == "failed"
        assert "cannot execute " in plugin.reason
        assert "/nothing'" in plugin.reason

    with_daemon("", test, background={"command": "./nothing"})


def test_a_daemon_talks_back_under_its_own_name_and_within_its_grants(with_daemon: Callable[..., None]) -> None:
    async def test(host: Host) -> None:
        session = host.session()
        messages: tuple[Message, ...] = ()
        async with asyncio.timeout(60):
            while not messages:
                await asyncio.sleep(0.02)  # the daemon's own time: nothing here can be waited for
                messages = await session.safe_point("step")
        assert messages[0].source_plugin == "monitor"
        assert messages[0].content == "refused with -32001"

    permissions = {"add_message": {"roles": ["user"], "reason": "to say so"}}
    with_daemon(TALKER, test, permissions=permissions)


@pytest.mark.slow
def test_a_daemon_that_did_not_ask_for_more_is_not_shown_the_hosts_socket(
    with_daemon: Callable[..., None], tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    code = f"import os; open({str(seen)!r}, 'w').write(' '.join(os.environ))\n" + LISTENER + "time.sleep(600)"

    async def test(host: Host) -> None:
        assert host.plugins["monitor"].state == "running"

    with_daemon(code, test)
    names = seen.read_text().split()
    assert "SOCKET_PATH" in names
    assert not {"ALLY_SOCKET", "ALLY_TOKEN"} & set(names)
    assert os.environ["ALLY_HOME"]
    assert "ALLY_HOME" not in names
