"""`kill -9` of the host: nothing of its daemons is left a moment later, whatever they do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ally_plugins.catalog.home.folder import Home
from ally_plugins.host.control.client import hosts_of
from tests.kit.daemons import notes_in, write_daemon
from tests.kit.processes import below, is_alive
from tests.kit.sandboxes import needs_sandbox
from tests.kit.waiting import wait_until
from tests.supervisor.staging import print_times

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the guardian is Linux's")

BOXED = """
os.chdir(os.environ["TMPDIR"])
os.mkdir("shut", 0)
os.symlink(os.path.dirname(os.environ["NOTES"]), "link")
for _ in range(1100):
    os.mkdir("deep")
    os.chdir("deep")
serve(lambda: note(os.environ["TMPDIR"]))
"""
"""One that leaves what is hard to remove: a tree deeper than a recursion, a folder without rights, a link outwards."""

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
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            os.close(writing)
            null = os.open("/dev/null", os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(null, number)
            os.read(reading, 1)  # until nothing is left of what stands between the two
            note(os.getpid())
            linger()
        os._exit(0)
    os.wait()
    os.close(writing)
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
def host(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    for kind, body in KINDS.items():
        write_daemon(tmp_path, body, kind)
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(tmp_path), *KINDS], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    yield process
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_nothing_survives_the_host(host: Any, tmp_path: Path, number: signal.Signals) -> None:
    assert host.stdout.readline() == b"ready\n"
    wait_until(lambda: len(notes_in(tmp_path)) == len(KINDS) + 1, "a process of each kind, and the hidden one's")
    pids = {*notes_in(tmp_path), *below(host.pid)}
    assert len(pids) == 2 * len(KINDS) + 2, "each with its keeper, the hidden one, and the guardian"
    assert all(map(is_alive, pids))
    os.kill(host.pid, number)
    took = wait_until(lambda: not any(map(is_alive, pids)), "the end of all")
    print_times(all_gone=took)
    assert took < 5
    host.wait(60)  # until then it is a zombie, whose pid counts as alive
    assert hosts_of(Home("test", tmp_path / "home")) == []  # who looks removes the socket that nothing listens on


@pytest.mark.slow
def test_a_terminal_that_interrupts_the_host_ends_its_daemons_in_order(host: Any, tmp_path: Path) -> None:
    assert host.stdout.readline() == b"ready\n"
    pids = {*notes_in(tmp_path), *below(host.pid)}
    host.send_signal(signal.SIGINT)
    host.wait(60)
    assert [pid for pid in pids if is_alive(pid)] == []


@pytest.mark.slow
@needs_sandbox
def test_the_temporary_files_of_a_sandboxed_plugin_end_with_the_host(tmp_path: Path, temporary_folder: Path) -> None:
    folder = tmp_path / "boxed"
    folder.mkdir()
    write_daemon(folder, BOXED, "boxed")
    with subprocess.Popen(
        [sys.executable, str(PROGRAM), str(tmp_path), "boxed/boxed"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as host:
        assert host.stdout is not None
        host.stdout.readline()
        wait_until(lambda: notes_in(folder) or host.poll() is not None, "the plugin, which is ready by now")
        boxes = [*temporary_folder.glob(f"ally-box-{host.pid}-*")]
        found = [path.name for box in boxes for path in box.glob("boxed/*")]
        host.kill()
    assert notes_in(folder) == [f"{boxes[0]}/boxed"]
    assert {"shut", "link", "deep"} <= {*found}
    wait_until(lambda: not boxes[0].exists(), "the end of the folder")
    assert notes_in(folder), "what a link in it leads to is not removed"
    assert hosts_of(Home("test", tmp_path / "home")) == []  # who looks removes the socket, as above
