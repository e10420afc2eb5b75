"""An event is made JSON of once, however many want it: daemons, a durable subscription, the journal."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from ally_plugins import Host, PluginRecord, ToolCallEnd, ToolCallStart
from ally_plugins.contract.manifest import Manifest
from ally_plugins.contract.process_spec import Daemon
from ally_plugins.contract.values import codec, eventjson
from ally_plugins.journal.reader import JournalReader
from ally_plugins.policy.permissions import GrantSet
from tests.kit.waiting import go

if TYPE_CHECKING:
    from ally_plugins.contract.values.events import Event

# Writes down each event's line as it came; acknowledges what can be; says so when it has heard the last.
DAEMON = """
import json, sys
_, log, hook = sys.argv
def send(**message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + chr(10))
    sys.stdout.flush()
with open(log, "a") as file:
    for line in sys.stdin:
        message = json.loads(line)
        method, params = message.get("method"), message.get("params")
        if method == "initialize":
            send(id=message["id"], result={"protocol": "1", "hooks": [hook]})
        elif method == "on_event":
            file.write(line)
            file.flush()
            if "offset" in params:
                send(id=params["id"], method="ack_events", params={"offset": params["offset"]})
                if params["event_data"]["toolName"] == "last":
                    send(id="last", method="emit_event", params={"type": "done", "session_id": "s"})
        elif method is not None and "id" in message:
            send(id=message["id"], result=None)
"""

HEAD = b'{"jsonrpc":"2.0","method":"on_event","params":'


def plugins_in(folder: Path) -> dict[str, Any]:
    """Return three daemons that hear everything, or the ends of calls, and one whose subscription is durable."""
    (folder / "daemon.py").write_text(DAEMON)
    plugins: dict[str, Any] = {}
    for name, hook in {
        "a": "ally_event",
        "b": "ally_event",
        "c": "ally_tool_call_end",
        "d": "ally_tool_call_end",
    }.items():
        manifest = Manifest(subscribe=("*",), durable=("TOOL_CALL_END",) if name == "d" else ())
        record = PluginRecord.by_code(name, manifest, grants=GrantSet.of(["events:*", "emit_event"]))
        command = (sys.executable, "-I", "-S", str(folder / "daemon.py"), str(folder / f"{name}.jsonl"), hook)
        plugins[name] = (Daemon(command), record)
    return plugins


@pytest.mark.slow
def test_an_event_is_encoded_once_for_three_daemons_a_durable_subscription_and_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: Counter[str] = Counter()

    def counting(event: Event) -> dict[str, Any]:
        times[event.id] += 1
        return eventjson.event_params(event)

    monkeypatch.setattr(codec, "event_params", counting)

    async def main() -> None:
        async with Host("test", home=tmp_path / "home", discover=False, plugins=plugins_in(tmp_path)) as host:
            session = host.session("s")
            heard_last = asyncio.get_running_loop().create_future()
            host.stream.subscribe("d:done", lambda _: heard_last.set_result(None))
            for number in range(20):
                session.emit(ToolCallStart(tool_name=f"t{number}"))
                session.emit_caused(ToolCallEnd(tool_name=f"t{number}"), ("a",) if number % 3 == 0 else ())
                if number % 4 == 0:
                    await asyncio.sleep(0)
            for number in range(1000):  # more than are written at once
                session.emit(ToolCallEnd(tool_name=f"burst {number}", output="x" * number))
            session.emit(ToolCallEnd(tool_name="last"))
            async with asyncio.timeout(60):
                await heard_last
            await session.drained()

    go(main())
    with JournalReader(tmp_path / "home" / "journal.db") as reading:
        stored = list(reading.events("s"))
    assert times == {event.id: 1 for event in stored}

    ends = {event.seq: event.body for event in stored if event.type == "TOOL_CALL_END"}
    assert len(ends) == 1021
    for name in ("b", "c", "d"):
        lines = (tmp_path / f"{name}.jsonl").read_bytes().splitlines()
        heard = {params["seq"]: line for line in lines if (params := orjson.loads(line)["params"])["seq"] in ends}
        assert set(heard) == set(ends)
        for seq, line in heard.items():
            begin = HEAD + (ends[seq] if name != "d" else ends[seq][:-1] + b',"offset":"')
            assert line.startswith(begin)
            assert line.endswith(b'"}}' if name == "d" else b"}}")
