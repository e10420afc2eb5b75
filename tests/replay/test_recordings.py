"""Which format a file has, and what ends as an error in words."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ally_plugins.contract.values.errors import RecordingError
from ally_plugins.replay.recording import RecordingFormat, open_recording
from ally_plugins.replay.steps import BrokenLine, PersonMessage, SessionEnded, ToolCalled

if TYPE_CHECKING:
    from pathlib import Path

RECORD = b'{"type":"user","sessionId":"s1","message":{"role":"user","content":"hi"}}\n'


def formats(tmp_path: Path, data: bytes, name: str = "session") -> RecordingFormat:
    path = tmp_path / name
    path.write_bytes(data)
    return open_recording(path).format


@pytest.mark.parametrize(
    "data", [b"", b"\n\n", b"plain text\n", b"\x00\xff\xfe" * 50, b"[1]\n", b'{"a":1}\n', b"{", b'{"type":"x"}\n']
)
def test_what_is_no_recording_is_refused_in_words(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(RecordingError, match="expected a Claude Code transcript"):
        formats(tmp_path, data)


def test_a_missing_file_and_a_folder_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"cannot read .*No such file"):
        open_recording(tmp_path / "none")
    with pytest.raises(RecordingError, match="cannot read"):
        open_recording(tmp_path)


def test_an_export_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="version 3, expected 1 to 2"):
        formats(tmp_path, b'{"format":"ally-journal","version":3}\n')


def test_the_content_tells_the_format_not_the_name(tmp_path: Path) -> None:
    assert formats(tmp_path, RECORD, "x.traj") is RecordingFormat.TRANSCRIPT
    assert formats(tmp_path, b"\xef\xbb\xbf" + RECORD) is RecordingFormat.TRANSCRIPT
    assert formats(tmp_path, b'{"info":{},"history":[]}', "x.jsonl") is RecordingFormat.TRAJECTORY
    for version in (b"1", b"2"):
        assert formats(tmp_path, b'{"format":"ally-journal","version":%b}\n' % version) is RecordingFormat.EXPORT
    assert formats(tmp_path, b'{"kind":"event","session_id":"s"}\n') is RecordingFormat.EXPORT


ROLLOUT = b'{"timestamp":"2026-03-01T10:00:00Z","type":"session_meta","payload":{"id":"s1"}}\n'
PI = b'{"type":"session","version":3,"id":"s1","timestamp":"2026-03-01T10:00:00Z","cwd":"/w"}\n'


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (ROLLOUT, RecordingFormat.ROLLOUT),
        (b'{"id":"s","timestamp":"2025-06-01T10:00:00Z","instructions":null}\n', RecordingFormat.ROLLOUT),
        (b'{"type":"message","role":"user","content":[{"type":"input_text","text":"x"}]}\n', RecordingFormat.ROLLOUT),
        (PI, RecordingFormat.PI_SESSION),
        (b'{"type":"message","timestamp":"t","message":{"role":"user","content":"x"}}\n', RecordingFormat.PI_SESSION),
        (b'{"type":"brand-new","sessionId":"s"}\n' * 5 + RECORD, RecordingFormat.TRANSCRIPT),
        (b'{"type":"file-history-snapshot","messageId":"m","snapshot":{}}\n', RecordingFormat.TRANSCRIPT),
        (b"\0" * 100 + ROLLOUT, RecordingFormat.ROLLOUT),
        (RECORD[:40] + RECORD, RecordingFormat.TRANSCRIPT),
    ],
)
def test_each_format_is_recognized(tmp_path: Path, data: bytes, expected: RecordingFormat) -> None:
    assert formats(tmp_path, data) is expected


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"session.start","timestamp":"2026-03-01T10:00:00Z","data":{"sessionId":"s"}}',  # Copilot CLI
        b'{"type":"user.message","id":"m","timestamp":"2026-03-01T10:00:00Z","data":{"content":"x"}}',
        b'{"role":"user","created":1,"content":[{"type":"text","text":"x"}]}',  # Goose
        b'{"sessionId":"s","messages":[{"type":"user","content":"x"}]}',  # Gemini CLI
        b'{"type":"user","uuid":"u","sessionId":"s","message":{"role":"user","parts":[{"text":"x"}]}}',  # Qwen Code
        b'{"type":"assistant","session_id":"s","uuid":"u","message":{"content":"x"},"parent_tool_use_id":null}',
        b'{"type":"reasoning","id":"r","summary":[]}',  # Grok
        b'{"type":"message","timestamp":"2026-03-01T10:00:00Z","content":"x"}',
        b'{"type":{"a":1},"kind":{"a":1},"payload":{},"timestamp":"t"}',
        b'{"type":"event_msg","timestamp":"t"}',
    ],
)
def test_another_programs_recording_is_refused_with_the_formats_that_are_read(tmp_path: Path, line: bytes) -> None:
    with pytest.raises(RecordingError, match="a Codex rollout, a pi session, a SWE-agent trajectory"):
        formats(tmp_path, line + b"\n")


def test_a_pretty_printed_trajectory_is_one(tmp_path: Path) -> None:
    history = [{"role": "user", "content": "x", "type": "y"}] * 50
    data = json.dumps({"replay_config": "{}", "history": history}, indent=2).encode()
    assert formats(tmp_path, data) is RecordingFormat.TRAJECTORY


def test_a_transcript_may_begin_with_a_very_long_line(tmp_path: Path) -> None:
    long = json.dumps({"type": "user", "message": {"role": "user", "content": "x" * (2 << 20)}}).encode()
    assert formats(tmp_path, long + b"\n" + RECORD) is RecordingFormat.TRANSCRIPT


def test_a_transcript_may_begin_with_broken_lines(tmp_path: Path) -> None:
    path = tmp_path / "session"
    path.write_bytes(b'{"type":"user","mess\n\xff\n' + RECORD)
    steps = list(open_recording(path).steps())
    assert [step.number for step in steps if isinstance(step, BrokenLine)] == [1, 2]
    assert sum(isinstance(step, PersonMessage) for step in steps) == 1


def test_a_recording_is_read_again_from_the_start_and_says_how_far_it_is(tmp_path: Path) -> None:
    path = tmp_path / "session"
    path.write_bytes(RECORD * 3)
    recording = open_recording(path)
    steps = recording.steps()
    next(steps)
    assert 0 < recording.position <= recording.size == 3 * len(RECORD)
    steps.close()
    assert recording.position == recording.size
    assert list(recording.steps()) == list(recording.steps())
    path.unlink()
    with pytest.raises(RecordingError, match="cannot read"):
        list(recording.steps())


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures the peak memory as Linux reports it")
@pytest.mark.parametrize("kind", ["transcript", "trajectory"])
def test_a_large_file_is_read_in_constant_memory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "large"
    call = {"type": "tool_use", "id": "a", "name": "Bash", "input": {"command": "x" * 2000}}
    with path.open("wb") as file:
        if kind == "transcript":
            line = json.dumps({"type": "assistant", "message": {"content": [call]}}).encode() + b"\n"
            file.writelines([line] * 40_000)
        else:
            part = json.dumps({"action": "ls", "observation": "y\n" * 800, "thought": "t"}).encode()
            file.write(b'{"trajectory": [' + b",".join([part] * 40_000) + b"]}")
    program = (
        "import sys\n"
        "from ally_plugins.replay.recording import open_recording\n"
        "count = sum(1 for _ in open_recording(sys.argv[1]).steps())\n"
        "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "print(count, status['VmHWM'].split()[0])\n"  # not ru_maxrss, which begins with the parent's
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    count, peak_kib = map(int, done.stdout.split())
    assert count > 80_000
    assert path.stat().st_size > 64 * 1024 * 1024
    assert peak_kib < 64 * 1024


def test_an_export_reads_the_session_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "session"
    event = {"kind": "event", "session_id": "s2", "at": 1, "type": "TOOL_CALL_START", "data": {"toolName": "bash"}}
    path.write_text('{"format":"ally-journal","version":1}\n{"kind":"event","session_id":"s1"}\n' + json.dumps(event))
    steps = list(open_recording(path, session_id="s2").steps())
    assert sum(isinstance(step, ToolCalled) for step in steps) == 1
    assert isinstance(steps[-1], SessionEnded)
