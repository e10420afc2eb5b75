"""Recordings through daemons: real processes, whose events, messages and counts are those of any plugin."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import socket
import sys
import textwrap
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Host, ToolCallEnd, hookimpl
from ally_plugins.catalog.home.folder import Home
from ally_plugins.catalog.registry import Registry
from ally_plugins.replay.pacing import ReplayClock
from ally_plugins.replay.player import Player
from ally_plugins.replay.recording import open_recording
from ally_plugins.replay.replay_registry import ReplayRegistry
from ally_plugins.replay.sample import sample_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from ally_plugins import Ally
    from ally_plugins.replay.report import ReplayReport

CALLS = 23  # tool calls in the sample session
EXAMPLES = Path(__file__).parents[2] / "examples"

DAEMON = """
import json, os, sys

def send(**message):
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)

for message in map(json.loads, sys.stdin):
    method, params = message.get("method"), message.get("params", {})
    if method == "initialize":
        send(id=message["id"], result={"protocol": "1"})
    elif method == "on_event":
        {BEFORE}
        data = params["event_data"]
        send(id=params["id"], method="add_message", params={
            "role": "user", "content": f"{params['call_id']} of {data['toolName']}", "cause": params["id"]})
    elif method and "id" in message:
        send(id=message["id"], result=None)
"""

MANIFEST = """
[daemon]
command = ["python3", "daemon.py"]
[events]
subscribe = ["TOOL_CALL_END"]
durable = [{DURABLE}]
[permissions]
add_message = { roles = ["user"], reason = "to tell of each call" }
"""

CRASH_ONCE = """
        if params["call_id"].endswith("{ID}") and not os.path.exists("{MARK}"):
            open("{MARK}", "w").close()
            os._exit(3)
"""


class Teller:
    """Does the same inside the host."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally

    @hookimpl
    async def ally_tool_call_end(self, event: ToolCallEnd) -> None:
        await self.ally.add_message("user", f"{event.call_id} of {event.tool_name}")


@pytest.fixture
def folder(home: Path) -> Callable[..., None]:
    """Return what leaves a stdio daemon in the home, as somebody who copies a folder does."""

    def write(name: str, *, before: str = "pass", durable: str = "") -> None:
        path = home / "plugins" / name
        path.mkdir(parents=True)
        (path / "daemon.py").write_text(DAEMON.replace("{BEFORE}", textwrap.dedent(before).replace("\n", "\n        ")))
        manifest = MANIFEST.replace("{DURABLE}", durable).replace('"python3"', json.dumps(sys.executable))
        (path / "ally-plugin.toml").write_text(manifest)

    home.chmod(0o700)
    return write


class Played:
    """The report of a replay of the sample session, and the messages of plugins in its conversation."""

    def __init__(self, home: Path, *names: str, plugins: dict[str, Any] | None = None) -> None:
        kept = Home("ally-plugins", home)
        registry = ReplayRegistry(kept, only=names)
        for name in names:
            registry.enable(registry.plan(name, placement="process"))
        host = Host("ally-plugins", home=kept, plugins=plugins, clock=ReplayClock(), has_person=True)
        host.registry = registry
        out = io.BytesIO()
        with ExitStack() as stack:
            player = Player(host, [open_recording(stack.enter_context(sample_path()))], out=out)
            asyncio.run(asyncio.wait_for(player.run(), 120))
        self.report: ReplayReport = player.report
        self.lines = [json.loads(line) for line in out.getvalue().splitlines()]

    def said(self, plugin: str) -> list[tuple[int, str]]:
        """Return what a plugin said and after how many messages of others."""
        found, others = [], 0
        for line in self.lines:
            if line.get("metadata", {}).get("sourcePlugin") == plugin:
                found.append((others, line["content"]))
            elif "sourcePlugin" not in line.get("metadata", {}):
                others += 1
        return found


@pytest.mark.slow
def test_a_daemon_hears_every_event_and_its_messages_stand_where_an_inline_plugins_do(
    home: Path, folder: Callable[..., None]
) -> None:
    folder("teller")
    outside, inside = Played(home, "teller"), Played(home / "another", plugins={"teller": Teller})
    daemon, inline = outside.report.plugins["teller"], inside.report.plugins["teller"]
    assert (daemon.delivered, daemon.dropped) == (CALLS, 0)
    assert daemon.to_json() == inline.to_json()
    assert outside.said("teller") == inside.said("teller")
    assert len(outside.said("teller")) == CALLS - daemon.refused["hop_limit"]  # who reacts to itself is stopped


@pytest.mark.slow
def test_a_durable_subscription_is_heard_at_its_time_and_its_place_is_not_moved(
    home: Path, folder: Callable[..., None]
) -> None:
    folder("teller", durable='"TOOL_CALL_END"')
    first, second = Played(home, "teller"), Played(home, "teller")
    assert first.said("teller") == second.said("teller")
    assert first.report.plugins["teller"].delivered == second.report.plugins["teller"].delivered == CALLS
    assert not list(home.glob("run/durable-*"))


@pytest.mark.slow
def test_who_subscribes_durably_hears_nothing_of_a_replay_when_it_lives_again(
    home: Path, folder: Callable[..., None]
) -> None:
    folder("teller", durable='"TOOL_CALL_END"')
    registry = Registry(Home("ally-plugins", home), only=["teller"])
    registry.enable(registry.plan("teller", placement="process"))

    async def live(call_id: str) -> tuple[list[str], int]:
        host = Host("ally-plugins", home=Home("ally-plugins", home))
        host.registry = registry
        async with asyncio.timeout(60), host:
            session = host.session(f"live-{call_id}")
            session.emit(ToolCallEnd(tool_name="x", success=True, call_id=call_id))
            while not (said := await session.safe_point("step")):  # noqa: ASYNC110 - nothing tells of a message that waits
                await asyncio.sleep(0)
            lane = host.plugins["teller"].lane
            return [message.content for message in said], lane.delivered if lane is not None else 0

    assert asyncio.run(live("first"))[0] == ["first of x"]
    assert Played(home, "teller").report.plugins["teller"].delivered == CALLS
    contents, delivered = asyncio.run(live("second"))
    assert contents == ["second of x"]
    assert delivered <= 2  # the first one again, since this daemon acknowledges nothing


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="a program's exit looks otherwise")
def test_the_replay_waits_for_a_daemon_that_starts_again_and_goes_on_with_it(
    home: Path, folder: Callable[..., None], tmp_path: Path
) -> None:
    whole = Played(home / "whole-home", plugins={"inline": Teller})
    ids = [content.split(" of ")[0] for _, content in whole.said("inline")]
    crashed = CRASH_ONCE.replace("{ID}", ids[4]).replace("{MARK}", str(tmp_path / "mark"))
    folder("teller", before=crashed)
    played = Played(home, "teller")
    counts = played.report.plugins["teller"]
    assert (counts.crashes, counts.state) == (1, "running")
    heard = [content.split(" of ")[0] for _, content in played.said("teller")]
    assert ids[4] not in heard
    assert heard[:4] == ids[:4]
    assert heard[-3:] == ids[-3:]
    assert counts.delivered == CALLS


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets")
def test_daemons_of_code_ally_are_waited_for_and_may_talk_back(home: Path) -> None:
    home.chmod(0o700)
    for name in ("socket_counter", "socket_talkback"):
        shutil.copytree(EXAMPLES / name, home / "plugins" / name)
    played, again = Played(home, "socket_counter", "socket_talkback"), Played(home, "socket_counter", "socket_talkback")
    assert played.report.plugins["socket_talkback"].messages == 1
    assert played.report.plugins["socket_talkback"].delivered == CALLS
    assert played.report.plugins["socket_counter"].delivered > CALLS
    assert played.said("socket_talkback") == again.said("socket_talkback")
    assert [content for _, content in played.said("socket_talkback")] == [
        "Bash failed 3 times in a row; try another way"
    ]
