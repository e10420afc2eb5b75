"""Replay of synthetic recordings with three asynchronous plugins, everything on: journal, lanes, safe points, memory.

Two recordings: plain events, ten a second, as an export of the journal has them; and a transcript of nothing but tool
calls, with a safe point after each and a second between two records, the dearest that real ones get. Each runs
in a process of its own, pinned to one core, so that its peak memory is its own. Bare is the rate that was asked for,
for memory a quarter of the recording.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from ally_plugins import Ally, Event, Host, hookimpl
from ally_plugins.catalog.home.folder import Home
from ally_plugins.replay.pacing import ReplayClock
from ally_plugins.replay.player import Player
from ally_plugins.replay.recording import open_recording

_WANTED: Final = 50_000
_EVENTS: Final = 100_000
_ROUNDS: Final = 3
_START: Final = 1_770_000_000
_PLAIN: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("THOUGHT_COMPLETE", {"thinking": "the test fails since the fixture is older than the schema"}),
    ("CONTEXT_USAGE_UPDATE", {"contextUsage": 41.5}),
    ("MODEL_RESPONSE", {"model": "some-model", "inputTokens": 83_000, "outputTokens": 80}),
)
_OUTPUT: Final = "README.md  pyproject.toml  src  tests\n" * 4


class Listener:
    """Hears every event and does nothing."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally

    @hookimpl
    async def ally_event(self, event: Event) -> None:
        """Do nothing."""


def write_transcript(path: Path, events: int) -> None:
    """Write a transcript of about so many events: one question, then answers with one tool call each."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(record)}\n" for record in _transcript(events // 5))


def _transcript(steps: int) -> Iterator[dict[str, Any]]:
    yield _record(0, "user", "user", {"role": "user", "content": "go on until all tests pass"})
    for i in range(steps):
        use = {"type": "tool_use", "id": f"t{i}", "name": "Bash", "input": {"command": f"ls -la /srv/app/{i}"}}
        usage = {"input_tokens": 4, "cache_read_input_tokens": 1000 + i % 150_000, "output_tokens": 80}
        answer = {"id": f"m{i}", "role": "assistant", "model": "some-model", "content": [use], "usage": usage}
        yield _record(2 * i + 1, "assistant", f"a{i}", answer)
        result = {"type": "tool_result", "tool_use_id": f"t{i}", "content": _OUTPUT}
        yield _record(2 * i + 2, "user", f"r{i}", {"role": "user", "content": [result]})


def _record(second: int, kind: str, uuid: str, message: dict[str, Any]) -> dict[str, Any]:
    at = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(_START + second))
    return {"type": kind, "uuid": uuid, "sessionId": "synthetic", "timestamp": at, "message": message}


def write_events(path: Path, events: int) -> None:
    """Write an export of so many events: thoughts, usage updates and what the model answered."""
    with path.open("w", encoding="utf-8") as file:
        file.write('{"format":"ally-journal","version":2,"session_id":"synthetic"}\n')
        for i in range(events):
            kind, data = _PLAIN[i % len(_PLAIN)]
            event = {"kind": "event", "event_type": kind, "event_data": data, "timestamp": _START * 1000 + i * 100}
            about = {"id": f"synthetic:{i + 1}", "seq": i + 1, "session_id": "synthetic", "origin": []}
            file.write(f"{json.dumps({**event, **about})}\n")


def play(path: Path, home: Path) -> dict[str, float]:
    """Replay a file with three plugins on a real home; return the rate, the events and the peak memory in MiB."""
    plugins = {f"listener-{i}": Listener for i in range(3)}
    host = Host("bench", home=Home("bench", home), plugins=plugins, discover=False, clock=ReplayClock())
    report = asyncio.run(Player(host, [open_recording(path)]).run())
    assert all(counts.dropped == 0 for counts in report.plugins.values())
    assert report.lost_records == 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rate": report.events_per_s, "events": report.events.total(), "peak": peak}


def _play_apart(path: Path, folder: Path, number: int) -> dict[str, float]:
    command = [sys.executable, __file__, str(path), str(folder / f"home-{path.stem}-{number}")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _measure(folder: Path, name: str, write: Callable[[Path, int], None]) -> list[dict[str, Any]]:
    full, quarter = folder / f"{name.split(maxsplit=1)[0]}.jsonl", folder / f"{name.split(maxsplit=1)[0]}-quarter.jsonl"
    write(full, _EVENTS)
    write(quarter, _EVENTS // 4)
    runs = [_play_apart(full, folder, i) for i in range(_ROUNDS)]
    small = _play_apart(quarter, folder, 0)
    rate, peak = statistics.median(run["rate"] for run in runs), statistics.median(run["peak"] for run in runs)
    return [
        _line(f"replay: {runs[0]['events']:,.0f} events, {name} (bare: wanted)", rate, _WANTED, "events/s", ">= 1"),
        _line(f"replay: {name}, peak memory (bare: a quarter of it)", peak, small["peak"], "MiB", "<= 1.2"),
    ]


def _line(name: str, ours: float, bare: float, unit: str, target: str) -> dict[str, Any]:
    return {"name": name, "ours": ours, "bare": bare, "ratio": ours / bare, "target": target, "unit": unit}


def run() -> list[dict[str, Any]]:
    """Measure; each line has name, ours, bare, ratio, target (of the ratio) and unit."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name:
        folder = Path(name)
        return [*_measure(folder, "plain events", write_events), *_measure(folder, "tool calls", write_transcript)]


def main() -> None:
    """Print one JSON object; with a recording and a home, what one run of it came to."""
    if len(sys.argv) == 3:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        print(json.dumps(play(Path(sys.argv[1]), Path(sys.argv[2]))))
        return
    print(json.dumps({"replay": run()}, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
