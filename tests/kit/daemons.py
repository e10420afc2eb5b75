"""Daemons of a few lines, which speak the protocol by hand, and what they write down for a test."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ally_plugins import Daemon

LINES = Path(__file__).with_name("daemon_lines.py").read_text(encoding="utf-8")


def write_daemon(folder: Path, body: str, name: str = "bad", **more: Any) -> Daemon:
    """Write a script that begins with `daemon_lines.py`, and return the daemon that runs it.

    Its notes go to a file in the same folder; `more` is what `Daemon` takes.
    """
    script = folder / f"{name}.py"
    script.write_text(f"{LINES}\n{body}\n", encoding="utf-8")
    env = {"NOTES": str(folder / "notes"), **more.pop("env", {})}
    return Daemon((sys.executable, "-I", "-S", str(script)), env=env, **more)


def notes_in(folder: Path) -> list[Any]:
    """Return what daemons have written down so far."""
    file = folder / "notes"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def give_cue(folder: Path) -> None:
    """Let the daemon go on that waits for its cue."""
    (folder / "notes.cue").write_text("")
