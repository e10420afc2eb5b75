"""`kill -9` of the host: nothing of its daemons is left a moment later, whatever they do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the guardian is Linux's")

PROGRAM = Path(__file__).with_name("killed_host.py")

KINDS = {
    "calm": "note(os.getpid()); serve()",
    "deaf": """
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
note(os.getpid())
def ignore():
    while True:
        linger()
serve(then=ignore)
""",
    "stopped": "note(os.getpid()); serve(then=lambda: os.kill(os.getpid(), signal.SIGSTOP))",
    "hidden": """
def hide():
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            null = os.open("/dev/null", os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(null, number)
            note(os.getpid())
            linger()
        os._exit(0)
    os.wait()
note(os.getpid())
serve(then=hide)
""",
    "busy": """
import threading
def spin():
    while True:
        pass
note(os.getpid())
serve(then=lambda: threading.Thread(target=spin, daemon=True).start())
""",
}


@pytest.fixture
def host(script: Any, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    for kind, body in KINDS.items():
        script.daemon(body, kind)
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(tmp_path), *KINDS], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    yield process
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def below(pid: int) -> set[int]:
    """Return all processes that descend from one."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_nothing_survives_the_host(
    host: Any, tmp_path: Path, alive: Any, number: signal.Signals, measured: Any
) -> None:
    assert host.stdout.readline() == b"ready\n"
    notes = tmp_path / "notes"
    end = time.monotonic() + 30
    while len(notes.read_text().splitlines()) < len(KINDS) + 1 and time.monotonic() < end:
        time.sleep(0.01)
    pids = {int(line) for line in notes.read_text().splitlines()}
    assert len(pids) == len(KINDS) + 1
    pids |= below(host.pid)
    assert len(pids) == len(KINDS) + 2, "the guardian too"
    assert all(map(alive, pids))
    began = time.monotonic()
    os.kill(host.pid, number)
    while any(map(alive, pids)) and time.monotonic() < began + 5:
        time.sleep(0.005)
    measured(all_gone=time.monotonic() - began)
    assert [pid for pid in pids if alive(pid)] == []


def test_a_terminal_that_interrupts_the_host_ends_its_daemons_in_order(host: Any, tmp_path: Path, alive: Any) -> None:
    assert host.stdout.readline() == b"ready\n"
    pids = below(host.pid) | {int(line) for line in (tmp_path / "notes").read_text().splitlines()}
    host.send_signal(signal.SIGINT)
    host.wait(60)
    assert [pid for pid in pids if alive(pid)] == []
