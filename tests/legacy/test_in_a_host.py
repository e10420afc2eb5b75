"""A plugin folder as it was made for Code-Ally, in a real host: discovered, agreed to, started, called, ended."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Host
from ally_plugins.events import ToolCallStart

if TYPE_CHECKING:
    from pathlib import Path

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
def home(short_dir: Path) -> Path:
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


def test_it_runs_unchanged(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_SECRET", "hunter2")

    async def main() -> None:
        async with Host("test", home=home, consent=lambda _: True) as host:
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
        assert not (home.parent / "monitor.sock").exists()

    asyncio.run(main())


def test_a_second_host_leaves_the_first_ones_daemon_alone(home: Path) -> None:
    async def main() -> None:
        async with Host("test", home=home, consent=lambda _: True) as first:
            pid = (await first.call_tool("stats", {})).data["pid"]
            async with Host("test", home=home, consent=lambda _: True) as second:
                plugin = second.plugins["monitor"]
                assert plugin.state == "failed"
                assert "another running host has a daemon" in plugin.reason
            again = await first.call_tool("stats", {})
            assert again.data["pid"] == pid

    asyncio.run(main())
