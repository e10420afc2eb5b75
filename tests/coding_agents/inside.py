"""Runs in the box: `inside.py JOB.json` connects an agent, runs it against a scripted model, writes what was seen."""

from __future__ import annotations

import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from ally_plugins.adapters.coding.offline.agents import prepare
from ally_plugins.adapters.coding.offline.scripted_model import ScriptedModel, Step

LIMIT = 90
"""Seconds for one run of an agent; each takes some five."""


Started = tuple[ScriptedModel, "subprocess.Popen[bytes]", Any, tuple[float, float]]
"""A run's model, process and output, and when it began: on the clock, and by the processor time used up to then."""


def _used() -> float:
    """Return the seconds of the processor that processes below have used which have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Box:
    """The home in the box, and the program of ours that is in its environment."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.home = Path(os.environ["HOME"])
        self.state = self.home / ".local/state/ally-plugins"
        os.environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.null.Keyring"

    def ally(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "ally_plugins", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        return f"{done.returncode}\n{done.stdout}{done.stderr}"

    def start(self, run: dict[str, Any], number: int) -> Started:
        """Start an agent whose model has the steps of a run."""
        model = ScriptedModel(Step(**each) for each in run["steps"])
        agent = run.get("agent", self.job["agent"])
        prompt, resumes = run.get("prompt", "please"), run.get("resumes", False)
        made = prepare(agent, self.job["programs"][agent], self.home, model.url, prompt=prompt, resumes=resumes)
        made.environment["PATH"] = os.pathsep.join([*self.job["path"], made.environment["PATH"]])
        for link, to in self.job["links"].items():
            (self.home / link).parent.mkdir(parents=True, exist_ok=True)
            if not (self.home / link).exists():
                (self.home / link).symlink_to(to)
        output = (self.home / f"output-{number}.txt").open("w+b")
        line = made.line
        if script := run["script"]:
            made.environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), made.environment["PATH"]])
            line = ["sh", "-u", "-c", script]
        began = time.monotonic(), _used()
        process = subprocess.Popen(
            line,
            env=made.environment | run.get("variables", {}),
            cwd=made.project,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        return model, process, output, began

    def finish(self, run: dict[str, Any], started: Started) -> Any:
        """Wait for an agent, which is killed once a file is there where the run says so."""
        model, process, output, began = started
        end = time.monotonic() + LIMIT
        while (kills := run.get("kill_when")) and process.poll() is None and time.monotonic() < end:
            if (self.home / "project" / kills).exists():
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.05)
        try:
            code = process.wait(max(1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            code = None
        times = {"seconds": time.monotonic() - began[0], "processor": _used() - began[1]}
        output.seek(0)
        said = output.read().decode(errors="replace")
        bodies = [each.body for each in model.requests]
        return {"code": code, "said": said[-6000:], "results": model.results(), "requests": bodies, **times}

    def sessions(self) -> dict[str, str]:
        """Return what the journal has of each session, as JSON lines."""
        with closing(sqlite3.connect(f"file:{self.state}/journal.db?mode=ro", uri=True)) as journal:
            names = journal.execute("SELECT DISTINCT session_id FROM records WHERE session_id IS NOT NULL").fetchall()
        return {name: self.ally("export", name) for (name,) in names}

    def wait_for(self, text: str) -> dict[str, str]:
        """Return what the journal has once a text is in it, or when it should have been long ago."""
        end = time.monotonic() + 30
        while text not in str(found := self.sessions()) and time.monotonic() < end:
            time.sleep(0.2)
        return found


def main() -> None:
    box = Box(json.loads(Path(sys.argv[1]).read_text()))
    for agent, program in box.job["programs"].items():
        prepare(agent, program, box.home, "http://127.0.0.1:1")
    for name, text in box.job["files"].items():
        (box.home / "project" / name).write_text(text)
    said = [box.ally(*words) for words in box.job["before"]]
    runs: list[Any] = []
    for together in box.job["runs"]:
        started = [(run, box.start(run, len(runs) + number)) for number, run in enumerate(together)]
        runs += [box.finish(run, each) for run, each in started]
    sessions = box.wait_for(box.job["wait_for"])
    seen = {
        "said": said,
        "runs": runs,
        "after": [box.ally(*words) for words in box.job["after"]],
        "sessions": sessions,
        "audit": box.ally("audit", "--json", "--limit", "0"),
        "files": sorted(each.name for each in (box.home / "project").iterdir()),
    }
    (box.home / "seen.json").write_text(json.dumps(seen))


main()
