from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ally_plugins.cli.play.timeline import line_of
from ally_plugins.contract.values.events import (
    CompactionComplete,
    ContextThreshold,
    Decision,
    PluginEventEmitted,
    PluginMessageReceived,
    PluginState,
    ToolCallStart,
)

LISTENER = """
from ally_plugins import hookimpl

class Plugin:
    def __init__(self, ally):
        self.ally = ally

    @hookimpl
    async def ally_tool_call_end(self, event):
        await self.ally.add_message("user", f"heard {event.call_id}")
"""
MANIFEST = """
description = "listens"
requires_host = ">=1,<2"
[events]
subscribe = ["TOOL_CALL_END"]
reason = "to listen"
[permissions]
add_message = { roles = ["user"], reason = "to talk" }
"""
TELLING = """
import os
from ally_plugins import hookimpl

class Plugin:
    def __init__(self, ally):
        self.ally = ally

    @hookimpl
    async def ally_user_message(self, event):
        os.write(int(os.environ["TELL_FD"]), b"x")
"""
TELLING_MANIFEST = """
description = "tells the test that the replay is under way"
requires_host = ">=1,<2"
[events]
subscribe = ["USER_MESSAGE"]
reason = "to tell"
"""


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Return a transcript with two calls, a line that is none, and text that would act on a terminal."""
    answer = {"type": "tool_use", "name": "Bash", "input": {"command": "ls"}}
    records: list[Any] = [_record(0, "user", "look \x1b]0;owned\x07 around")]
    for i in (1, 2):
        records.append(_record(10 * i, "assistant", [{**answer, "id": f"t{i}"}]))
        block = {"type": "tool_result", "tool_use_id": f"t{i}", "content": "x"}
        records.append(_record(10 * i + 5, "user", [block]))
    file = tmp_path / "session.jsonl"
    file.write_text("\n".join([*map(json.dumps, records), "{not json", ""]), "utf-8")
    return file


def _record(second: int, role: str, content: Any) -> dict[str, Any]:
    return {
        "type": role,
        "uuid": f"u{second}",
        "sessionId": "s\x1b[31m1",
        "timestamp": f"2026-03-01T10:00:{second:02}.000Z",
        "message": {"role": role, "content": content, "id": f"m{second}"},
    }


@pytest.fixture
def listener(operator: Any) -> Any:
    """Return an operator who has agreed to a plugin that answers every call."""
    operator.install("loop-warner", MANIFEST, code=LISTENER)
    operator.enable()
    return operator


def test_json_is_one_object_with_every_key_that_was_promised(listener: Any, recording: Path) -> None:
    found = listener.ask("replay", str(recording))
    assert found["events"]["TOOL_CALL_END"] == found["events"]["PLUGIN_MESSAGE_RECEIVED"] == 2
    own = found["plugins"]["loop-warner"]
    assert {"delivered", "dropped", "messages", "emitted", "refused"} <= set(own)
    assert (own["delivered"], own["messages"], own["refused"]) == (2, 2, {})
    assert found["broken_lines"] == 1
    assert found["broken"][0]["line"] == 6
    assert {"skipped", "elapsed_s", "events_per_s", "decisions", "sessions", "pending"} <= set(found)


def test_a_person_gets_a_summary_in_which_nothing_acts_on_the_terminal(listener: Any, recording: Path) -> None:
    shown = listener.run("replay", str(recording)).stdout
    assert "\x1b" not in shown
    assert "plugin loop-warner" in shown
    assert "2 delivered, 2 messages" in shown
    assert "session.jsonl:6: not JSON" in shown


def test_out_has_the_conversation_with_the_plugins_words(listener: Any, recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    listener.run("replay", str(recording), "--out", str(out))
    lines = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    said = [line for line in lines if line["metadata"].get("isPluginGenerated")]
    assert [line["content"] for line in said] == ["heard t1", "heard t2"]
    assert {line["metadata"]["sourcePlugin"] for line in said} == {"loop-warner"}


def test_a_plugin_that_lost_its_grant_is_refused_by_reason(listener: Any, recording: Path) -> None:
    listener.run("revoke", "loop-warner", "add_message:user")
    assert listener.ask("replay", str(recording))["plugins"]["loop-warner"]["refused"] == {"permission": 2}


def test_a_file_that_cannot_be_replayed_ends_it_before_anything_is_played(
    listener: Any, recording: Path, tmp_path: Path
) -> None:
    nothing = tmp_path / "nothing.txt"
    nothing.write_text("hello", "utf-8")
    for wrong in (str(tmp_path / "absent.jsonl"), str(nothing), str(tmp_path)):
        result = listener.run("replay", str(recording), wrong, code=2)
        assert wrong in result.stderr
        assert result.stdout == ""


def test_out_may_not_be_the_recording_nor_a_folder_that_is_not_there(
    operator: Any, recording: Path, tmp_path: Path
) -> None:
    before = recording.read_bytes()
    operator.run("replay", str(recording), "--out", str(recording), code=2)
    operator.run("replay", str(recording), "--out", str(tmp_path / "no" / "out.jsonl"), code=2)
    assert recording.read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_a_disk_that_is_full_is_said_in_words(operator: Any, recording: Path) -> None:
    result = operator.run("replay", str(recording), "--out", "/dev/full", code=2)
    assert "cannot write '/dev/full'" in result.stderr


def test_a_session_that_an_export_does_not_have_is_an_error(operator: Any, tmp_path: Path) -> None:
    event = {"kind": "event", "seq": 1, "at": 1, "type": "THOUGHT_COMPLETE", "origin": None}
    lines = [{**event, "session_id": name, "data": {"thinking": "hm"}} for name in ("one", "two")]
    file = tmp_path / "export.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    found = operator.ask("replay", str(file), "--session", "two")
    assert (found["events"]["THOUGHT_COMPLETE"], found["sessions"][0]["recorded_id"]) == (1, "two")
    assert "'three'" in operator.run("replay", str(file), "--session", "three", code=2).stderr


@pytest.mark.slow
def test_plugin_limits_the_replay_and_a_name_that_is_not_enabled_is_an_error(listener: Any, recording: Path) -> None:
    listener.install("other", MANIFEST, code=LISTENER)
    listener.enable("other")
    assert set(listener.ask("replay", str(recording))["plugins"]) == {"loop-warner", "other"}
    assert set(listener.ask("replay", str(recording), "--plugin", "other")["plugins"]) == {"other"}
    assert "did you mean 'other'" in listener.run("replay", str(recording), "--plugin", "othr", code=2).stderr
    listener.run("disable", "other")
    assert "disabled" in listener.run("replay", str(recording), "--plugin", "other", code=2).stderr


def test_no_speed_below_zero(operator: Any, recording: Path) -> None:
    for speed in ("0", "-1", "fast"):
        operator.run("replay", str(recording), "--speed", speed, code=2)


def test_the_context_window_decides_the_percentages(operator: Any, recording: Path) -> None:
    usage = {"input_tokens": 10, "cache_read_input_tokens": 900, "output_tokens": 5}
    answer = _record(50, "assistant", [{"type": "text", "text": "so be it"}])
    answer["message"]["usage"] = usage
    recording.write_text(f"{json.dumps(_record(0, 'user', 'hi'))}\n{json.dumps(answer)}\n", "utf-8")
    assert "CONTEXT_THRESHOLD" not in operator.ask("replay", str(recording))["events"]
    small = operator.ask("replay", str(recording), "--context-window", "1000")
    assert small["events"]["CONTEXT_THRESHOLD"] == 3


@pytest.mark.slow
def test_ctrl_c_ends_it_with_a_report_of_what_was_done(operator: Any, recording: Path) -> None:
    operator.install("other", TELLING_MANIFEST, code=TELLING)
    operator.enable("other")
    told, tell = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "ally_plugins", "replay", str(recording), "--speed", "0.01", "--json"],
        env=operator.environment(TELL_FD=str(tell)),
        pass_fds=[tell],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(tell)
    heard = os.read(told, 1)  # nothing when the process has ended
    os.close(told)
    process.send_signal(signal.SIGINT)
    shown, problems = process.communicate(timeout=60)
    assert (heard, process.returncode) == (b"x", 130), problems
    found = json.loads(shown)
    assert found["interrupted"]
    assert found["events"]["USER_MESSAGE"] == found["events"]["SESSION_END"] == 1


@pytest.mark.slow
def test_a_terminal_shows_a_line_for_what_matters(listener: Any, recording: Path) -> None:
    shown = listener.at_terminal("replay", str(recording), until="plugin loop-warner", answer=b"")
    assert "loop-warner says as user: heard t1" in shown
    assert "]0;owned" not in shown or "\x1b]0;owned" not in shown


@pytest.mark.skipif(os.name != "posix", reason="another terminal")
def test_what_strangers_wrote_is_inert_in_every_line() -> None:
    evil = "a\x1b[31mb\u202ec"
    events: list[tuple[Any, str]] = [
        (PluginMessageReceived(plugin_name="p", message={"content": evil, "role": evil}), "p says as"),
        (Decision(decision_id="d", kind="k", subject=evil, verdict="deny", reason=evil), "would be refused by"),
        (Decision(decision_id="d", kind="k", subject=evil, verdict="ask", reason=evil), "the person's word"),
        (PluginEventEmitted(plugin_name="p", event_type=evil), "p emits"),
        (PluginState(plugin_name="p", state="quarantined", reason=evil), "p is quarantined"),
        (CompactionComplete(error=True, error_message=evil), "failed"),
        (CompactionComplete(old_context_usage=90.0), "from 90 % to ?"),
        (ContextThreshold(threshold=75.0, context_usage=80.0), "passes 75 %"),
    ]
    for event, expected in events:
        line = line_of(event)
        assert line is not None
        assert expected in line[1]
        assert line[1].isprintable()
    assert line_of(ToolCallStart(tool_name="Bash")) is None
    assert line_of(Decision(decision_id="d", kind="k", subject="s", verdict="allow")) is None


def test_the_help_has_an_example(operator: Any) -> None:
    shown = operator.run("replay", "--help").stdout
    assert "Example:" in shown
    for option in ("--out", "--speed", "--json", "--plugin", "--session", "--context-window"):
        assert option in shown
