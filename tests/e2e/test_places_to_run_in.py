"""Agents in odd places: no loop of their own, two hosts, a folder nobody can write to, homes with odd names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kit.processes import wait_for_ends

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Agent, Operator

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc"),
    pytest.mark.skipif(shutil.which("node") is None, reason="there is no node on PATH"),
]

NODE = "node_outbound"
ODD = "mein Zuhause, ελληνικά 家 'n' \"q\" $HOME " + "long" * 40  # more bytes than a socket's name may have
NOT_WRITABLE = Path("/proc")  # not even for root

CHILDREN = """
import os, pathlib
def children():
    return [pid for task in pathlib.Path(f"/proc/{os.getpid()}/task").iterdir()
            for pid in (task / "children").read_text().split()]
"""

BLOCKING = """
from ally_plugins import BlockingHost, ToolCall, UserMessage
for turn in range(2):
    with BlockingHost() as host:
        session = host.session("s1")
        session.emit(UserMessage(content="hi"))
        print(session.gate_tool_call(ToolCall("bash", {"command": "rm -rf /"})).reason)
        print(sorted(str(p.state) for p in host.host.plugins.values()), len(children()) > 0)
print(children())
"""

TWO_AT_ONCE = """
import asyncio
from ally_plugins import Host, ToolCall, UserMessage

async def use(host):
    session = host.session()
    session.emit(UserMessage(content="hi"))
    await session.drained()
    report = (await host.call_tool("outbound-report", session_id=session.id)).data["report"]
    return sorted(set(report.values())), (await host.call_tool("get-event-counts", session_id=session.id)).success

async def agree(question):
    return question.choices[0]

async def main():
    async with Host(ask_person=agree) as one, Host(ask_person=agree) as two:
        print(await asyncio.gather(use(one), use(two)))
    async with Host(ask_person=agree) as three:
        print(await use(three))
    print(children())

asyncio.run(main())
"""

NO_PROCESS = """
import asyncio
from ally_plugins import Host

async def main():
    async with Host() as host:
        print(sorted((p.name, str(p.state)) for p in host.plugins.values()), children())

asyncio.run(main())
"""


def test_a_program_without_a_loop_has_daemons_too_and_twice_in_a_row(operator: Operator, home: Path) -> None:
    operator.enable_examples(home, NODE)
    out = operator.run(CHILDREN + BLOCKING, home=home).splitlines()
    assert out == [*["node_outbound: that would remove everything", "['running'] True"] * 2, "[]"]


def test_two_hosts_in_a_program_that_may_write_nothing_where_it_is_each_have_their_daemons(
    operator: Operator, home: Path
) -> None:
    operator.enable_examples(home, NODE, "socket_counter")
    operator.ally("enable", "loop-guard", "--yes", home=home)
    operator.ally("place", "loop-guard", "process", home=home)
    out = operator.run(CHILDREN + TWO_AT_ONCE, home=home, cwd=NOT_WRITABLE).splitlines()
    assert out == ["[(['ok'], True), (['ok'], True)]", "(['ok'], True)", "[]"]


def test_without_daemons_no_process_is_started(operator: Operator, home: Path) -> None:
    operator.ally("enable", "conversation-monitor", "--place", "inline", "--yes", home=home)
    operator.enable_examples(home, "shell_tool")
    found = operator.run(CHILDREN + NO_PROCESS, home=home)
    assert found == "[('conversation-monitor', 'running'), ('shell_tool', 'running')] []\n"
    operator.enable_examples(home, NODE, "socket_counter")
    assert operator.run(CHILDREN + NO_PROCESS, home=home, ALLY_PLUGINS="none") == "[] []\n"


def test_any_home_will_do(operator: Operator, tmp_path: Path, agent_of: Callable[..., Agent]) -> None:
    home = tmp_path / ODD
    home.mkdir(mode=0o700)
    operator.enable_examples(home, NODE, "socket_counter", "socket_talkback", "shell_tool")
    operator.ally("enable", "conversation-monitor", "--place", "inline", "--yes", home=home)
    operator.ally("place", "conversation-monitor", "process", home=home)
    agent = agent_of(home)
    assert {state for state, _ in agent.ask("states").values()} == {"running"}
    agent.ask("fail", 3)
    while agent.ask("tool", "get-warnings")["output"] == "none":  # events come over connections of their own
        pass
    assert agent.ask("tool", "get-event-counts")["data"]["events"] == {"TOOL_CALL_END": 3}
    assert "bash failed 3 times in a row; try another way" in agent.ask("said")
    for plugin in ("node_outbound", "socket_talkback", "conversation-monitor"):
        assert "is running" in operator.ally("restart", plugin, home=home)
    assert "listening" in operator.ally("logs", "socket_counter", home=home)
    assert json.loads(operator.ally("doctor", "--json", home=home))
    started = agent.processes()
    assert agent.end() == ('"stopped"\n', "")
    wait_for_ends(started)
