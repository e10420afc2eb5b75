"""The examples as an operator gets them: copied into the home, enabled by the command, run by a real host."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Host, ToolCall, ToolCallEnd, UserMessage
from ally_plugins.runtime.sandbox.support import gaps, support
from tests.kit.waiting import go

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from ally_plugins import PluginQuestion, Session

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the examples are for Unix")

PATIENCE = 60.0
FAILED = ToolCallEnd(tool_name="bash", success=False, error="exit status 1")

needs_sockets = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="there is no node on PATH")


@pytest.fixture
def enabled(examples: Path, home: Path) -> Callable[[str], None]:
    """Return what copies an example into the home and enables it by the command."""

    def enable(name: str) -> None:
        shutil.copytree(examples / name, home / "plugins" / name)
        command = [sys.executable, "-m", "ally_plugins", "enable", name, "--yes"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return enable


async def _agree(question: PluginQuestion) -> str:
    return question.choices[0]


@asynccontextmanager
async def _opened() -> AsyncIterator[tuple[Host, Session]]:
    async with asyncio.timeout(PATIENCE), Host(app="examples", ask_person=_agree) as host:
        yield host, host.session("s1")


async def _said(session: Session) -> list[str]:
    await session.safe_point("step")
    context = await session.context(("messages",))
    return [message.content for message in context.messages or ()]


@pytest.mark.slow
@needs_sockets
def test_the_counter_hears_events_and_its_tool_answers(enabled: Any) -> None:
    enabled("socket_counter")

    async def main() -> None:
        async with _opened() as (host, session):
            for _ in range(3):
                session.emit(FAILED)
            counted: Any = {}
            while counted.get("TOOL_CALL_END") != 3:  # events and calls come over connections of their own
                counted = (await host.call_tool("get-event-counts", {}, session_id="s1")).data["events"]

    go(main())


@pytest.mark.slow
@needs_sockets
def test_the_one_that_talks_back_adds_its_message_to_the_conversation(enabled: Any) -> None:
    enabled("socket_talkback")

    async def main() -> None:
        async with _opened() as (host, session):
            for _ in range(3):
                session.emit(FAILED)
            while not (await host.call_tool("get-warnings", {}, session_id="s1")).data["warnings"]:
                pass
            assert await _said(session) == ["bash failed 3 times in a row; try another way"]

    go(main())


@pytest.mark.slow
@needs_node
def test_the_one_in_javascript_makes_every_call_and_gates(enabled: Any) -> None:
    enabled("node_outbound")

    async def main() -> None:
        async with _opened() as (host, session):
            session.emit(UserMessage(content="hi"))
            await session.drained()
            report = await host.call_tool("outbound-report", {}, session_id="s1")
            assert set(report.data["report"].values()) == {"ok"}, report.output
            assert await _said(session) == ["hello from Node"]
            ruling = await session.gate_tool_call(ToolCall("bash", {"command": "rm -rf /"}))
            assert ruling.reason == "node_outbound: that would remove everything"
            assert (await session.gate_tool_call(ToolCall("bash", {"command": "ls"}))).is_allowed

    go(main())


@pytest.mark.slow
def test_the_shell_script_is_a_tool(enabled: Any, tmp_path: Path) -> None:
    enabled("shell_tool")
    (tmp_path / "project").mkdir()
    path, outside = tmp_path / "project" / "three.txt", tmp_path / "outside.txt"
    for each in (path, outside):
        each.write_text("a\nb\nc\n", encoding="utf-8")

    async def main() -> None:
        async with _opened() as (host, _):
            host.session("s2", project=tmp_path / "project")
            result = await host.call_tool("count-lines", {"path": str(path)}, session_id="s2")
            assert (result.output, result.data) == ("3 lines", {"lines": 3}), result.error
            if not gaps(support()):
                kept = await host.call_tool("count-lines", {"path": str(outside)}, session_id="s2")
                assert kept.success is False
            missing = await host.call_tool("count-lines", {"path": "/no/such/file"}, session_id="s1")
            assert missing.success is False

    go(main())
