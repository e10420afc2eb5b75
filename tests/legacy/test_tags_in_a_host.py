"""A plugin that is active only where the person says so: `+name` and `-name`, in a real host."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING

import pytest

from ally_plugins import Host, ToolCallError
from ally_plugins.contract.values.events import ToolCallStart, UserMessage
from tests.legacy.published import DAEMON

if TYPE_CHECKING:
    from pathlib import Path

    from ally_plugins import Session

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs Unix sockets")


@pytest.fixture
def tagged_home(short_dir: Path) -> Path:
    folder = short_dir / "home" / "plugins" / "tagged"
    folder.mkdir(parents=True)
    manifest = {
        "name": "tagged",
        "version": "1.0.0",
        "description": "counts",
        "activationMode": "tagged",
        "tools": [{"name": "stats", "description": "says", "type": "background_rpc", "method": "get_stats"}],
        "background": {
            "enabled": True,
            "command": "python3",
            "args": ["daemon.py"],
            "communication": {"type": "socket", "path": str(short_dir / "tagged.sock")},
            "events": ["TOOL_CALL_START"],
        },
    }
    (folder / "plugin.json").write_text(json.dumps(manifest))
    (folder / "daemon.py").write_text(DAEMON)
    return short_dir / "home"


async def _seen(host: Host, session: Session) -> list[str]:
    await session.drained()
    result = await host.call_tool("stats", {}, session_id=session.id)
    return [params["event_data"]["toolName"] for params in result.data["seen"]]


@pytest.mark.slow
def test_it_hears_and_runs_nothing_until_the_person_names_it_and_stops_when_told(tagged_home: Path) -> None:
    async def main() -> None:
        async with Host("test", home=tagged_home, consent=lambda _: True) as host:
            session = host.session("s1")
            session.emit(ToolCallStart(tool_name="before"))
            with pytest.raises(ToolCallError, match=r"not active in this session; the person says \+tagged"):
                await host.call_tool("stats", {}, session_id="s1")
            session.emit(UserMessage(content="please count: +tagged"))
            session.emit(ToolCallStart(tool_name="during"))
            assert await _seen(host, session) == ["during"]
            session.emit(UserMessage(content="enough, -tagged"))
            session.emit(ToolCallStart(tool_name="after"))
            await session.drained()
            session.emit(UserMessage(content="+tagged again"))
            assert await _seen(host, session) == ["during"]

    asyncio.run(main())


@pytest.mark.slow
def test_what_the_person_said_holds_when_the_session_is_found_again(tagged_home: Path) -> None:
    async def main() -> None:
        async with Host("test", home=tagged_home, consent=lambda _: True) as host:
            host.session("s1").emit(UserMessage(content="+tagged"))
        async with Host("test", home=tagged_home) as host:
            session, other = host.session("s1"), host.session("s2")
            session.emit(ToolCallStart(tool_name="here"))
            other.emit(ToolCallStart(tool_name="there"))
            await other.drained()
            assert await _seen(host, session) == ["here"]

    asyncio.run(main())
