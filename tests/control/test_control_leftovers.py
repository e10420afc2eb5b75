"""What killed hosts leave is removed by the next one, when it is proved that they are gone, and nothing else is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ally_plugins import Host
from ally_plugins.host.sockets.leftovers import (
    folder_prefix,
    is_gone,
    left_folders,
    remove_left_folders,
    remove_left_sockets,
)
from ally_plugins.host.startup import new_marks_file, take_lost_hosts
from ally_plugins.runtime.processes.unixsocket import listening_socket
from tests.kit.waiting import go

if TYPE_CHECKING:
    from ally_plugins.catalog.home.folder import Home

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs local sockets")

KILLED = """
import asyncio, os, signal
from ally_plugins import Host

async def main():
    async with Host("test", home={home!r}, discover=False) as host:
        await host._daemon_services.talk_back_server()
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@pytest.fixture
def dead() -> int:
    """Return the id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait(60)
    return process.pid


def left_socket(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    return path


def left_folder(base: Path, pid: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=folder_prefix(pid=pid), dir=base))
    left_socket(folder / "host.sock")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("where", ["ready", "long_home"])
def test_the_next_host_removes_all_sockets_and_folders_of_one_that_was_killed(
    where: str, request: pytest.FixtureRequest, temporary_folder: Path
) -> None:
    home: Home = request.getfixturevalue(where)
    code = textwrap.dedent(KILLED).format(home=str(home.path))
    environment = {**os.environ, "TMPDIR": str(temporary_folder), "XDG_RUNTIME_DIR": str(temporary_folder)}
    subprocess.run([sys.executable, "-c", code], check=False, timeout=60, env=environment)
    places = (home.run_dir, temporary_folder)
    assert [path for place in places for path in place.rglob("*.sock")]

    async def main() -> list[Path]:
        async with Host("test", home=home.path, discover=False) as host:
            await host._daemon_services.talk_back_server()  # type: ignore[union-attr]
            return [path for place in places for path in place.rglob("*") if str(os.getpid()) not in str(path)]

    kept = {"ally-0", f"ally-{os.geteuid()}"}  # the folder that all hosts of this user share
    assert [path for path in go(main()) if path.suffix == ".sock" or (path.is_dir() and path.name not in kept)] == []


def test_a_process_that_has_started_later_is_not_the_one_that_made_a_file(ready: Home) -> None:
    old, new = (left_socket(ready.run_dir / f"talk-{os.getpid()}-{each}.sock") for each in ("01", "02"))
    os.utime(old, (1_600_000_000, 1_600_000_000))
    remove_left_sockets(ready.run_dir)
    assert (old.exists(), new.exists()) == (sys.platform != "linux", True)


@pytest.mark.skipif(sys.platform != "linux", reason="only there a name says when its process started")
def test_a_clock_that_is_set_on_makes_nothing_of_a_live_process_look_left(
    ready: Home, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_folder(short_dir, os.getpid())
    marks = new_marks_file(ready)
    marks.write_bytes(b"")
    other = short_dir / f"ally-{os.getpid()}-t1-another_process"  # of the same number, soon after the boot
    other.mkdir(mode=0o700)
    true = time.time
    monkeypatch.setattr(time, "time", lambda: true() + 3600)
    assert list(left_folders("", short_dir)) == [other]
    assert take_lost_hosts(ready) == []
    assert marks.exists()


def test_what_somebody_listens_on_and_what_is_no_socket_of_a_host_stays(ready: Home, dead: int) -> None:
    listening = ready.run_dir / f"talk-{dead}-01.sock"
    others = [left_socket(ready.run_dir / name) for name in (f"talk-{dead}.sock", "other.sock", f"talk-{dead}-01.sok")]
    with listening_socket(listening):
        remove_left_sockets(ready.run_dir)
        assert all(path.exists() for path in (listening, *others))
    remove_left_sockets(ready.run_dir)
    assert not listening.exists()


def test_a_file_that_was_half_written_when_its_process_was_killed_is_removed(ready: Home, dead: int) -> None:
    left, own = (ready.path / f".config.toml.{pid}.12345.tmp" for pid in (dead, os.getpid()))
    left.write_text("")
    own.write_text("")
    remove_left_sockets(ready.path)
    assert (left.exists(), own.exists()) == (False, True)


def test_a_folder_goes_with_its_socket_and_stays_while_it_holds_anything_else(short_dir: Path, dead: int) -> None:
    gone, own, full = left_folder(short_dir, dead), left_folder(short_dir, os.getpid()), left_folder(short_dir, dead)
    (full / "notes.txt").write_text("mine")
    remove_left_folders([short_dir])
    assert (gone.exists(), own.exists(), full.exists()) == (False, True, True)
    assert [path.name for path in full.iterdir()] == ["notes.txt"]


def test_a_folder_that_others_may_enter_or_that_is_a_link_is_not_touched(short_dir: Path, dead: int) -> None:
    open_one = left_folder(short_dir, dead)
    open_one.chmod(0o755)
    real = short_dir / "real"
    real.mkdir(mode=0o700)
    left_socket(real / "host.sock")
    (short_dir / f"ally-{dead}-link").symlink_to(real)
    assert list(left_folders("", short_dir)) == []
    remove_left_folders([short_dir])
    assert (real / "host.sock").exists()
    assert (open_one / "host.sock").exists()


def test_a_process_id_that_no_system_gives_is_nobodys() -> None:
    assert is_gone(10**10, 0.0)
    assert not is_gone(os.getpid(), 4e9)
