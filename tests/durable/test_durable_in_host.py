"""Durable subscriptions of a whole host, with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ally_plugins import Host, PluginRecord, ToolCallEnd, ToolCallStart, hookimpl
from ally_plugins.contract.manifest import Manifest
from ally_plugins.contract.process_spec import Daemon
from ally_plugins.policy.permissions import GrantSet
from tests.kit.waiting import go, until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")

COUNT = 500

# Says what it hears, acknowledges each event, and says which acknowledgements were answered.
PLAIN = """
import json, os, sys
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
asked = {}
def send(**message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + chr(10))
    sys.stdout.flush()
def tell(word, event_id):
    os.write(log, f"{word} {event_id}\\n".encode())
for line in sys.stdin:
    message = json.loads(line)
    method, params = message.get("method"), message.get("params")
    if method == "initialize":
        send(id=message["id"], result={"protocol": "1", "hooks": [], "events": ["TOOL_CALL_END"]})
    elif method == "on_event":
        tell("heard", params["id"])
        asked[len(asked) + 1] = params["id"]
        send(id=len(asked), method="ack_events", params={"offset": params["offset"]})
    elif method is not None and "id" in message:
        send(id=message["id"], result=None)
    elif "result" in message:
        tell("done", asked[message["id"]])
"""

SDK = """
import os
from ally_plugins import hookimpl
class Plugin:
    def __init__(self, ally):
        self.log = os.open(os.environ["DURABLE_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    @hookimpl
    async def ally_tool_call_end(self, event):
        os.write(self.log, f"heard {event.id}\\n".encode())
"""


class Log:
    """What a daemon has written down."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[tuple[str, str]]:
        text = self.path.read_text() if self.path.exists() else ""
        return [(word, event_id) for word, _, event_id in (line.partition(" ") for line in text.split("\n")[:-1])]

    def heard(self) -> list[str]:
        return [event_id for word, event_id in self.lines() if word == "heard"]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log")


@pytest.fixture(params=["plain", "sdk"])
def daemon(request: pytest.FixtureRequest, tmp_path: Path, log: Log) -> Iterator[Daemon]:
    if request.param == "plain":
        (tmp_path / "plain.py").write_text(PLAIN)
        yield Daemon((sys.executable, "-I", "-S", str(tmp_path / "plain.py"), str(log.path)))
    else:
        (tmp_path / "durable_sdk.py").write_text(SDK)
        path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
        yield Daemon.python("durable_sdk:Plugin", env={"PYTHONPATH": path, "DURABLE_LOG": str(log.path)})


def new_host(home: Path, plugin: Any, **manifest: Any) -> Host:
    manifest = {"subscribe": ("TOOL_CALL_END",), "durable": ("TOOL_CALL_END",), **manifest}
    record = PluginRecord.by_code("p", Manifest(**manifest), grants=GrantSet.of(["events:*"]))
    return Host("test", home=home, discover=False, plugins={"p": (plugin, record)})


@pytest.mark.slow
def test_a_daemon_that_is_killed_and_a_host_that_ends_lose_nothing_and_repeat_nothing_that_was_acknowledged(
    daemon: Daemon, log: Log, tmp_path: Path
) -> None:
    async def main() -> list[str]:
        async with new_host(tmp_path / "home", daemon) as host:
            session = host.session("s")
            first = session.ring.head
            for _ in range(COUNT):
                session.emit(ToolCallEnd(tool_name="x"))
            await until(lambda: len(log.heard()) > COUNT // 4)
            supervisor = host.plugins["p"].supervisor
            assert supervisor is not None
            assert supervisor.process is not None
            os.kill(supervisor.process.pid, signal.SIGKILL)
            await until(lambda: len(set(log.heard())) > COUNT // 2)
        async with new_host(tmp_path / "home", daemon) as host:
            session = host.session("s")
            session.emit(ToolCallEnd(tool_name="last"))
            last = f"s:{session.ring.head}"
            await until(lambda: last in log.heard())
            return [*(f"s:{first + number}" for number in range(1, COUNT + 1)), last]

    expected = go(main())
    done: set[str] = set()
    heard: list[str] = []
    for word, event_id in log.lines():
        assert event_id not in done
        if word == "done":
            done.add(event_id)
        elif event_id not in heard:
            heard.append(event_id)
    assert heard == expected


def test_an_inline_plugin_hears_each_event_once_and_its_other_events_as_ever(tmp_path: Path) -> None:
    heard: list[str] = []

    class Plugin:
        def __init__(self, ally: Any) -> None:
            """Take no note of it."""

        @hookimpl
        async def ally_tool_call_end(self, event: Any) -> None:
            heard.append(event.tool_name)

        @hookimpl
        async def ally_tool_call_start(self, event: Any) -> None:
            heard.append(event.tool_name)

    async def main() -> None:
        both = {"subscribe": ("TOOL_CALL_END", "TOOL_CALL_START")}
        for life in range(3):
            async with new_host(tmp_path / "home", Plugin, **both) as host:
                session = host.session("s")
                for number in range(100):
                    session.emit(ToolCallStart(tool_name=f"start {life}-{number}"))
                    session.emit(ToolCallEnd(tool_name=f"end {life}-{number}"))
                await session.drained()
                if life == 2:
                    await until(lambda: "end 2-99" in heard)

    go(main())
    for word in ("start", "end"):
        own = [name for name in heard if name.startswith(word)]
        assert own == [f"{word} {life}-{number}" for life in range(3) for number in range(100)]


@pytest.mark.slow
def test_no_durable_event_comes_after_the_plugin_was_told_to_stop(tmp_path: Path) -> None:
    heard: list[str] = []

    class Plugin:
        def __init__(self, ally: Any) -> None:
            """Take no note of it."""

        @hookimpl
        async def ally_tool_call_end(self, event: Any) -> None:
            heard.append(event.tool_name)
            await asyncio.sleep(0.0001)

        @hookimpl
        async def ally_stop(self) -> None:
            heard.append("stop")
            await asyncio.sleep(0.05)

    async def main() -> None:
        for _ in range(2):
            async with new_host(tmp_path / "home", Plugin) as host:
                session = host.session("s")
                for number in range(5000):
                    session.emit(ToolCallEnd(tool_name=f"{number}"))
                await until(lambda: len(heard) >= 50)
            assert heard[-1] == "stop"
            assert len(heard) < 5000
            heard.clear()

    go(main())
