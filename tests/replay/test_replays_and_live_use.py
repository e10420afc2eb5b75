"""A replay beside live use: records go by the time at which they were written, say that they are a replay's, and count
for nothing else; a scratch one leaves no trace."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from ally_plugins import Deny, Host, hookimpl
from ally_plugins.catalog.home.folder import Home
from ally_plugins.catalog.registry import Registry
from ally_plugins.journal.audit import verify
from ally_plugins.journal.reader import JournalReader
from ally_plugins.replay.pacing import ReplayClock
from ally_plugins.replay.player import Player
from ally_plugins.replay.recording import open_recording
from tests.kit.commands import run_command
from tests.kit.sites import Site
from tests.kit.waiting import go

RECORDED = 1_772_359_200_000  # 2026-03-01T10:00:00Z, where the recordings here begin


def recording(folder: Path) -> Path:
    """Return a transcript of four calls, in March."""
    records: list[Any] = [record(0, "user", "look around")]
    for i in range(1, 9, 2):
        use = {"type": "tool_use", "name": "Bash", "input": {"command": "ls"}, "id": f"t{i}"}
        records.append(record(i, "assistant", [use]))
        records.append(record(i + 1, "user", [{"type": "tool_result", "tool_use_id": f"t{i}", "content": "x"}]))
    file = folder / "session.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in records), "utf-8")
    return file


def record(second: int, role: str, content: Any) -> dict[str, Any]:
    return {
        "type": role,
        "uuid": f"u{second}",
        "sessionId": "s1",
        "timestamp": f"2026-03-01T10:00:{second:02}.000Z",
        "message": {"role": role, "content": content, "id": f"m{second}"},
    }


class Speaker:
    def __init__(self, ally: Any) -> None:
        self.ally = ally

    @hookimpl
    async def ally_tool_call_end(self, event: Any) -> None:
        await self.ally.add_message("user", f"heard {event.call_id}")
        await self.ally.emit_event("noted", {"call": event.call_id})

    @hookimpl
    async def ally_gate_tool_call(self) -> Deny:
        return Deny("not in March")


def play(home: Path, file: Path, **plugins: Any) -> None:
    host = Host("t", home=home, plugins=plugins, discover=False, clock=ReplayClock(), has_person=True)
    go(Player(host, [open_recording(file)]).run())


def test_every_record_of_a_replay_has_the_time_at_which_it_was_written_and_the_recorded_one_beside(
    home: Path, tmp_path: Path
) -> None:
    began = time.time_ns() // 1_000_000
    play(home, recording(tmp_path), speaker=Speaker)
    with JournalReader(home / "journal.db") as reading:
        records = list(reading.records(with_events=True))
        assert {"message", "message_state", "decision", "events", "plugin_state"} <= {each.kind for each in records}
        assert all(each.at >= began for each in records)
        for each in records:
            if each.data is not None and each.session_id is not None:
                assert RECORDED <= each.data["recorded_at"] < RECORDED + 60_000
        (session,) = reading.sessions()
        assert session.first_at >= began
        assert [each.recorded_at for each in reading.messages()] == [RECORDED + 1000 * i for i in (2, 4, 6, 8)]
        events = list(reading.events(session.id))
    assert all(each.at >= began for each in events)
    assert events[1].value()["timestamp"] == RECORDED
    assert verify(home / "journal.db").ok


def test_the_audit_shows_it_as_recent_and_as_a_replay_and_pruning_by_age_keeps_it(home: Path, tmp_path: Path) -> None:
    play(home, recording(tmp_path), speaker=Speaker)
    shown = run_command("audit", "--since", "10m", "--kind", "decision").stdout
    assert shown.count("not in March") == shown.count("(in a replay, at 2026-03-01") == 4
    assert run_command("audit", "--since", "10m", "--kind", "message").stdout.count("in a replay") == 4
    before = run_command("audit", "--json", "--limit", "0").stdout
    run_command("prune", "--older-than", "1h", "--yes")
    assert run_command("audit", "--json", "--limit", "0").stdout.startswith(before)


def test_the_export_of_a_replay_has_both_times_and_is_in_order(home: Path, tmp_path: Path) -> None:
    play(home, recording(tmp_path), speaker=Speaker)
    with JournalReader(home / "journal.db") as reading:
        (session,) = reading.sessions()
    lines = [json.loads(line) for line in run_command("export", session.id).stdout.splitlines()][1:]
    order = [line["kind"] if line["kind"] != "event" else line["event_type"] for line in lines]
    assert order.index("message") > order.index("TOOL_CALL_END")
    assert order.index("decision") > order.index("TOOL_CALL_START")
    assert next(line["recorded_at"] for line in lines if line["kind"] == "message") == RECORDED + 2000
    copy = tmp_path / "export.jsonl"
    copy.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    play(home, copy, speaker=Speaker)
    with JournalReader(home / "journal.db") as reading:
        assert next(reading.messages(reading.sessions()[-1].id)).recorded_at == RECORDED + 2000


def test_what_a_live_host_writes_has_no_mark(home: Path) -> None:
    async def main() -> None:
        async with Host("t", home=home, plugins={"speaker": Speaker}, discover=False) as host:
            await host.session("s").close()

    go(main())
    with JournalReader(home / "journal.db") as reading:
        assert not any("recorded_at" in (each.data or {}) for each in reading.records())


CRASHING = """
from ally_plugins import hookimpl

class Plugin:
    def __init__(self, ally):
        with (ally.data_dir / "runs").open("a") as file:
            file.write("x")

    @hookimpl
    async def ally_event(self, event):
        raise ValueError("not ready for March")
"""
MANIFEST = """
description = "crashes"
[events]
subscribe = ["USER_MESSAGE", "TOOL_CALL_START", "TOOL_CALL_END"]
"""


@pytest.fixture
def crashing(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Return the registry of a home in which a plugin is enabled that crashes at each event."""
    site = Site(tmp_path / "site")
    site.plugin("crasher", MANIFEST, code=CRASHING)
    monkeypatch.syspath_prepend(str(site.path))
    registry = Registry(Home("ally-plugins", home))
    run_command("enable", "crasher", "--place", "inline", "--yes")
    return registry


def test_a_plugin_that_is_quarantined_in_a_replay_runs_live_all_the_same(crashing: Registry, tmp_path: Path) -> None:
    report = json.loads(run_command("replay", str(recording(tmp_path)), "--json").stdout)
    assert report["plugins"]["crasher"]["state"] == "quarantined"
    assert not crashing.home.quarantine_file.exists()
    assert crashing.get("crasher").state == "enabled"
    shown = run_command("audit", "--kind", "plugin_state").stdout
    assert any("quarantined" in line and "in a replay" in line for line in shown.splitlines())


def test_a_scratch_replay_leaves_the_home_and_the_temporary_folder_as_they_were(
    crashing: Registry, tmp_path: Path, temporary_folder: Path
) -> None:
    data = crashing.home.data_dir("crasher") / "runs"
    data.write_text("xx")

    def seen() -> dict[str, bytes]:
        files = [*crashing.home.path.rglob("*"), *temporary_folder.rglob("*")]
        return {str(file): file.read_bytes() for file in files if file.is_file()}

    before = seen()
    report = json.loads(run_command("replay", str(recording(tmp_path)), "--scratch", "--json").stdout)
    assert report["plugins"]["crasher"]["state"] == "quarantined"
    assert report["events"]["TOOL_CALL_END"] == 4
    assert seen() == before


def test_a_scratch_replay_without_a_home_makes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLY_HOME", str(tmp_path / "none"))
    run_command("replay", str(recording(tmp_path)), "--scratch")
    assert not (tmp_path / "none").exists()
