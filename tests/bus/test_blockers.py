"""Plugins inside the host that hold up its loop, or end the whole process: who it was is said."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ally_plugins import Host, ToolCall, ToolCallEnd, tool
from ally_plugins.runtime.lanes.marks_file import SIZE, SLOTS, Marks, read_marks
from tests.kit.hosts import make_plugin
from tests.kit.waiting import go

LONG = 1.8
"""Seconds for which the loop is held up: it is said after one, and looked at twice in a tenth more."""


def records(host: Host, kind: str) -> list[Any]:
    return [(record.plugin, record.data) for record in host.journal.reader.records(kind=kind)]


async def hold_up_in_a_gate(host: Host) -> None:
    await host.session("s").gate_tool_call(ToolCall("bash"))


async def hold_up_in_an_observer(host: Host) -> None:
    session = host.session("s")
    session.emit(ToolCallEnd(tool_name="bash"))
    await session.drained()


async def hold_up_in_a_tool(host: Host) -> None:
    await host.call_tool("slow")


def slow_plugin() -> Any:
    async def ally_gate_tool_call(self: Any) -> None:  # noqa: ARG001
        time.sleep(LONG)  # noqa: ASYNC251 - what the test is about

    async def ally_tool_call_end(self: Any, event: Any) -> None:  # noqa: ARG001
        time.sleep(LONG)  # noqa: ASYNC251

    @tool
    async def slow(self: Any) -> str:  # noqa: ARG001
        time.sleep(LONG)  # noqa: ASYNC251
        return "done"

    return make_plugin(ally_gate_tool_call=ally_gate_tool_call, ally_tool_call_end=ally_tool_call_end, slow=slow)


def quick_plugin() -> Any:
    async def ally_gate_tool_call(self: Any) -> None:
        """Abstain."""

    return make_plugin(ally_gate_tool_call=ally_gate_tool_call)


WAYS = {
    "ally_gate_tool_call": hold_up_in_a_gate,
    "ally_tool_call_end": hold_up_in_an_observer,
    "the tool 'slow'": hold_up_in_a_tool,
}


@pytest.mark.slow
@pytest.mark.parametrize("what", WAYS)
def test_whoever_holds_up_the_loop_is_named_while_it_does(what: str, caplog: pytest.LogCaptureFixture) -> None:
    said: list[float] = []

    class Clock(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.created)

    async def main() -> tuple[float, list[Any]]:
        async with Host("t", home=None, discover=False, plugins={"bad": slow_plugin(), "good": quick_plugin()}) as host:
            await WAYS[what](host)
            ended = time.time()
            await asyncio.sleep(0.1)  # the thread has yet to see that the loop turns
            await host.journal.flush()
            return ended, records(host, "blocked")

    logger = logging.getLogger("ally_plugins.host.plugins.blockers")
    logger.addHandler(handler := Clock())
    try:
        ended, [(plugin, data)] = go(main())
    finally:
        logger.removeHandler(handler)
    assert plugin == "bad"
    assert data["hook"] == what
    assert data["where"].startswith(f"{__file__}, line ")
    assert 1 <= data["seconds"] < 5
    (line,) = [each for each in caplog.messages if "holds up" in each]
    assert line.startswith(f"the plugin 'bad' holds up the whole host: for a second {what} has not let the event loop")
    assert line.endswith("ally-plugins place bad process")
    assert said[0] < ended


@pytest.mark.slow
def test_a_hook_that_waits_and_a_host_that_is_slow_itself_are_not_blamed(caplog: pytest.LogCaptureFixture) -> None:
    async def ally_gate_tool_call(self: Any) -> None:  # noqa: ARG001
        await asyncio.sleep(LONG)

    async def main() -> None:
        plugin = make_plugin(ally_gate_tool_call=ally_gate_tool_call)
        async with Host("t", home=None, discover=False, plugins={"p": plugin}) as host:
            asking = asyncio.ensure_future(host.session("s").gate_tool_call(ToolCall("bash")))
            await asyncio.sleep(0.05)
            time.sleep(LONG)  # noqa: ASYNC251 - the host's own code, beside a hook that waits
            await asking
            await host.journal.flush()
            assert records(host, "blocked") == []

    go(main())
    assert not [each for each in caplog.messages if "holds up" in each]


def test_the_thread_that_watches_ends_with_its_host() -> None:
    async def main() -> bool:
        async with Host("t", home=None, discover=False, plugins={"p": quick_plugin()}):
            return any(thread.name == "ally-loop-watch" for thread in threading.enumerate())

    assert go(main())
    assert not any(thread.name == "ally-loop-watch" for thread in threading.enumerate())


ENDS = """
import asyncio, ctypes, os, signal, sys, time
from ally_plugins import Host, ToolCall, ToolCallEnd, hookimpl, tool

def end(how):
    if how == "exit":
        os._exit(3)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "frozen":
        os.close(1)  # the test kills it, once it is known who does that
        time.sleep(60)

class Bad:
    def __init__(self, ally):
        pass
    @hookimpl
    async def ally_gate_tool_call(self, call):
        end(call.tool_name)
    @hookimpl
    async def ally_tool_call_end(self, event):
        end(event.tool_name)
    @tool
    async def work(self, how: str) -> str:
        end(how)
        return ""

class Good:
    def __init__(self, ally):
        pass
    @hookimpl
    async def ally_gate_tool_call(self, call):
        pass

async def main(home, way, how):
    async with Host("t", home=home, discover=False, plugins={"good": Good, "bad": Bad}) as host:
        session = host.session("s")
        if way == "gate":
            await session.gate_tool_call(ToolCall(how))
        elif way == "event":
            session.emit(ToolCallEnd(tool_name=how))
            await session.drained()
        elif way == "tool":
            await host.call_tool("work", {"how": how})
        else:
            os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(*sys.argv[1:]))
"""


def end_a_host(home: Path, way: str, how: str) -> None:
    code = textwrap.dedent(ENDS)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(home), way, how], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stderr is not None
        if how == "frozen":
            while "holds up the whole host" not in process.stderr.readline():
                assert process.poll() is None
            process.kill()
        assert process.wait(60) != 0


@pytest.mark.skipif(os.name != "posix", reason="elsewhere nobody can prove that a process is gone")
@pytest.mark.parametrize(
    ("way", "how", "running"),
    [
        ("gate", "exit", "ally_gate_tool_call"),
        ("event", "segfault", "a hook for events"),
        ("tool", "exit", "a tool, an action or a task"),
        pytest.param("event", "frozen", "a hook for events", marks=pytest.mark.slow),
    ],
)
def test_the_next_host_says_whose_code_ran_when_one_ended(
    way: str, how: str, running: str, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home.mkdir(mode=0o700, exist_ok=True)
    end_a_host(home, way, how)

    async def main() -> list[Any]:
        async with Host("t", home=home, discover=False) as host:
            await host.journal.flush()
            return records(host, "lost_host")

    [(plugin, data)] = go(main())
    assert plugin == "bad"
    assert (data["running"], data["was_blocking"]) == (running, how == "frozen")
    (line,) = [each for each in caplog.messages if "ended without stopping" in each]
    assert f"{data['pid']} ended without stopping, while {running} of the plugin 'bad'" in line
    assert len(go(main())) == 1  # once
    assert list((home / "run").glob("*.marks")) == []


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="as above")
def test_a_host_that_was_killed_while_no_plugin_ran_blames_nobody(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    home.mkdir(mode=0o700, exist_ok=True)
    end_a_host(home, "kill", "")

    async def main() -> list[Any]:
        async with Host("t", home=home, discover=False) as host:
            await host.journal.flush()
            return records(host, "lost_host")

    assert go(main()) == []
    assert not [each for each in caplog.messages if "ended without stopping" in each]
    assert list((home / "run").glob("*.marks")) == []


def test_more_plugins_than_there_is_room_for_are_not_marked_and_harm_nobody(tmp_path: Path) -> None:
    file = tmp_path / "marks"
    marks = Marks(lambda: file)
    marks.open()
    slots = [marks.slot(f"plugin-{number}") for number in range(SLOTS + 2)]
    for slot in slots:
        slot.marks[0] = 1
    assert len(read_marks(file.read_bytes())) == SLOTS
    assert marks.slot("plugin-7") is slots[7]
    marks.close()
    assert not file.exists()
    slots[0].marks[0] = 0  # by a hook that ends later than its host
    if sys.platform == "linux":
        assert str(file) not in Path("/proc/self/maps").read_text()


def test_marks_that_were_damaged_are_read_as_far_as_they_go() -> None:
    for content in (b"", b"\xff" * SIZE, os.urandom(3 * SIZE + 5), b"\x01" * (SIZE - 1)):
        assert len(read_marks(content)) <= 3
