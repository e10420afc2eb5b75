"""A host that starts beside others on its loop: it keeps nobody waiting for its disk, and lets nobody past a gate."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Deny, Host, HostError, ToolCall
from tests.kit.hosts import make_plugin
from tests.kit.waiting import go

if TYPE_CHECKING:
    from pathlib import Path

# In a process of its own: an audit hook stays, and makes whatever comes after it slow.
LOOKS_AT_THE_DISK = """
import asyncio, sys, threading
from pathlib import Path
from ally_plugins import Host, hookimpl

class Watcher:
    def __init__(self, ally): pass
    @hookimpl
    def ally_event(self, event): pass

looks, home_thread = set(), None

def look(event, args):
    if home_thread == threading.get_ident() and event.startswith(("open", "os.", "sqlite3.", "tempfile.", "socket.b")):
        frame, names = sys._getframe(1), []
        while frame is not None:
            if "importlib" in frame.f_code.co_filename: return
            names.append(frame.f_code.co_name)
            frame = frame.f_back
        looks.add((event, str(args[0]), *names[:3]))

async def start(host):
    global home_thread
    home_thread = threading.get_ident()
    await host.start()
    home_thread = None
    await host.stop()

def run(home):
    asyncio.run(start(Host("t", home=home, plugins={"watcher": Watcher}, consent=lambda plan: False)))

run(Path(sys.argv[1]))
sys.addaudithook(look)  # only now: what is imported late, is imported
run(Path(sys.argv[1])), run(None)
print(sorted(looks))
"""


@pytest.mark.slow
def test_a_host_that_starts_opens_no_file_on_its_loop(tmp_path: Path) -> None:
    words = [sys.executable, "-W", "ignore", "-c", LOOKS_AT_THE_DISK, str(tmp_path / "home")]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_session_that_is_opened_while_the_host_starts_finds_the_gates() -> None:
    async def main() -> None:
        may_start = asyncio.Event()

        async def start(_: Any) -> None:
            await may_start.wait()

        async def deny(_: Any, call: ToolCall) -> Deny:
            return Deny(f"no {call.tool_name}")

        guard = make_plugin(ally_start=start, ally_gate_tool_call=deny)
        host = Host(home=None, discover=False, plugins={"guard": guard})
        starting = asyncio.ensure_future(host.start())
        session = None
        while session is None:
            await asyncio.sleep(0)
            try:
                session = host.session("early")
            except HostError:
                assert not starting.done()
        assert (await session.gate_tool_call(ToolCall("rm", {}, "c1"))).is_denied
        may_start.set()
        await starting
        assert (await session.gate_tool_call(ToolCall("rm", {}, "c2"))).reason == "guard: no rm"
        await host.stop()

    go(main())


def test_a_start_that_is_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    async def main() -> None:
        host = Host("t", home=tmp_path, discover=False)
        for turns in range(0, 40, 3):
            starting = asyncio.ensure_future(host.start())
            for _ in range(turns):
                await asyncio.sleep(0)
            starting.cancel()
            await asyncio.wait([starting])
            if not starting.cancelled():
                await host.stop()
            assert host.loop is None
            assert [path.name for path in (tmp_path / "run").glob("host-*")] == []
        async with host:
            assert len([*(tmp_path / "run").glob("host-*")]) == 1

    go(main())
