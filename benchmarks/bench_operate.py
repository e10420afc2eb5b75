"""What an operator waits for: the program's start, `list`, and a journal of a million records checked and explained."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import orjson

from ally_plugins.journal.audit import verify
from ally_plugins.journal.store import Batch, Store

ROUNDS: Final = 9
RECORDS: Final = 1_000_000
_AT: Final = 1_700_000_000_000
_BATCH: Final = 2_000


def _seconds(*command: str, home: Path) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "ALLY_HOME": str(home)})
    return time.perf_counter() - start


def _starts(home: Path) -> list[dict[str, Any]]:
    """Return the program's start against that of the interpreter, round by round in turn."""
    program = str(Path(sys.executable).with_name("ally-plugins"))
    cases = {"--version": (program, "--version"), "list": (program, "list"), "bare": (sys.executable, "-c", "pass")}
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, command in cases.items():
            times[name].append(_seconds(*command, home=home))
    medians = {name: statistics.median(found) * 1000 for name, found in times.items()}
    bare = medians.pop("bare")
    return [
        {"name": f"ally-plugins {name}, against `python -c pass`", "ours": ours, "bare": bare, "ratio": ours / bare,
         "target": target, "unit": "ms"}
        for (name, ours), target in zip(medians.items(), ("<= 3", "<= 8"), strict=True)
    ]  # fmt: skip


def _row(number: int) -> tuple[int, str, str | None, str, str, None, bytes, str | None]:
    if number % 4 == 3:
        body = {"role": "user", "content": "try another way", "metadata": {"origin": ["guard"]}}
        data = {"role": "user", "deliver_as": "step", "trigger_turn": False, "body": body, "cause": f"s1:{number}"}
        return (_AT + number, "message", "guard", "s1", f"m-{number}", None, orjson.dumps(data), "pending")
    vote = {"plugin": "guard", "verdict": "abstain", "reason": "", "cause": "verdict", "shadow": False,
            "elapsed_ms": 0.2, "detail": ""}  # fmt: skip
    data = {"kind": "tool_call", "subject": "bash", "verdict": "allow", "reason": "", "decided_by": [], "waived": False,
            "decided_on": {"value": {"arguments": {"command": f"ls {number}"}}}, "origin": [], "cause": f"c{number}",
            "votes": [vote]}  # fmt: skip
    return (_AT + number, "decision", None, "s1", f"d-{number}", None, orjson.dumps(data), None)


def _fill(home: Path, count: int) -> None:
    store = Store(home / "journal.db", home / "audit.head", {}, create=True)
    for start in range(0, count, _BATCH):
        store.write(Batch([_row(number) for number in range(start, min(start + _BATCH, count))]))
    store.close()


def run(records: int = RECORDS) -> list[dict[str, Any]]:
    """Measure and return one row for each thing that is waited for."""
    program = str(Path(sys.executable).with_name("ally-plugins"))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "home")
        home.mkdir(mode=0o700)
        rows = _starts(home)
        _fill(home, records)
        start = time.perf_counter()
        verify(home / "journal.db", home / "audit.head").raise_if_broken()
        verified = time.perf_counter() - start
        ids = (f"d-{records // 2 + 1}", f"m-{records // 2 // 4 * 4 + 3}")
        explained = max(
            statistics.median(_seconds(program, "explain", id_, home=home) for _ in range(3)) for id_ in ids
        )
    size = f"{records:,} records"
    return [
        *rows,
        {"name": f"audit verify of {size}", "ours": verified * 1000, "bare": None, "ratio": None,
         "target": "<= 10 s", "unit": "ms"},
        {"name": f"explain in {size}, with the program's start", "ours": explained * 1000, "bare": None, "ratio": None,
         "target": "<= 500 ms", "unit": "ms"},
    ]  # fmt: skip


if __name__ == "__main__":
    for row in run():
        print(row)
