"""Where control sockets lie: short enough in any home, private from birth, and removed only when their host is dead."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ally_plugins.host.control.addresses import addresses, bind
from ally_plugins.host.control.client import call, hosts_of
from ally_plugins.runtime.processes.unixsocket import LONGEST_PATH

if TYPE_CHECKING:
    from ally_plugins.catalog.home.folder import Home

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs local sockets")


@pytest.fixture
def dead() -> int:
    """Return the id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait(60)
    return process.pid


def test_a_socket_is_its_owners_only(ready: Home) -> None:
    os.umask(old := os.umask(0))
    os.umask(0)
    try:
        listening, address = bind(ready.run_dir, os.getpid())
    finally:
        os.umask(old)
    with listening:
        found = address.path.stat()
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert address.entry == address.path
        assert addresses(ready.run_dir) == [address]
    address.remove()
    assert addresses(ready.run_dir) == []


def test_in_a_home_with_a_long_path_the_socket_lies_elsewhere_and_is_found(
    long_home: Home, temporary_folder: Path
) -> None:
    listening, address = bind(long_home.run_dir, os.getpid())
    with listening:
        assert len(os.fsencode(address.path)) <= LONGEST_PATH == 103  # macOS takes no more
        assert temporary_folder in address.path.parents
        assert stat.S_IMODE(address.path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(address.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(address.entry.stat().st_mode) == 0o600
        assert addresses(long_home.run_dir) == [address]
        assert [host.pid for host in hosts_of(long_home)] == [os.getpid()]
    address.remove()
    assert addresses(long_home.run_dir) == []


def test_where_the_runtime_directory_is_too_long_as_well_another_is_taken(
    long_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long_home.path))
    monkeypatch.setattr("tempfile.tempdir", str(long_home.path))
    listening, address = bind(long_home.run_dir, os.getpid())
    with listening:
        assert address.path.parent.parent == Path("/tmp")  # noqa: S108 - what the test is about
    address.remove()
    assert not address.path.parent.exists()


def test_what_a_dead_host_left_is_removed_by_whoever_looks(ready: Home, dead: int) -> None:
    listening, address = bind(ready.run_dir, dead)
    listening.close()
    assert hosts_of(ready) == []
    assert not address.path.exists()


def test_what_a_dead_host_left_elsewhere_is_removed_too(long_home: Home, temporary_folder: Path, dead: int) -> None:
    listening, address = bind(long_home.run_dir, dead)
    listening.close()
    assert temporary_folder in address.path.parents
    assert hosts_of(long_home) == []
    assert not address.entry.exists()
    assert not address.path.parent.exists()


@pytest.mark.parametrize("where", ["ready", "long_home"])
def test_what_a_dead_host_left_is_removed_by_the_next_one_and_what_listens_is_not(
    where: str, dead: int, request: pytest.FixtureRequest
) -> None:
    home: Home = request.getfixturevalue(where)
    listening, left = bind(home.run_dir, dead)
    listening.close()
    second, other = bind(home.run_dir, dead)
    third, own = bind(home.run_dir, os.getpid())
    with second, third:
        assert not left.entry.exists()
        assert not left.path.exists()
        assert {address.path for address in addresses(home.run_dir)} == {other.path, own.path}
    other.remove()
    own.remove()


def test_the_socket_of_a_live_process_stays_though_nobody_listens_yet(ready: Home) -> None:
    listening, address = bind(ready.run_dir, os.getpid())
    listening.close()
    assert hosts_of(ready) == []
    assert address.path.exists()


def test_a_socket_that_listens_stays_whatever_process_its_name_says(ready: Home, dead: int) -> None:
    listening, address = bind(ready.run_dir, dead)
    with listening:
        assert [host.pid for host in hosts_of(ready)] == [dead]
        assert address.path.exists()
    address.remove()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"relative/ally-x/host.sock",
        b"/etc/passwd",
        b"/tmp/ally-x/../host.sock",
        b"\xff\x00",
        b"/ally-x/host.sock" * 400,
    ],
)
def test_a_pointer_that_leads_elsewhere_is_not_followed(ready: Home, content: bytes, dead: int) -> None:
    entry = ready.run_dir / f"host-{dead}-00000000.path"
    entry.write_bytes(content)
    assert hosts_of(ready) == []
    assert not entry.exists()
    mine = ready.run_dir / f"host-{os.getpid()}-00000000.path"
    mine.write_bytes(content)
    assert hosts_of(ready) == []
    assert mine.exists()


def test_a_pointer_into_a_directory_that_others_may_enter_is_not_followed(
    ready: Home, temporary_folder: Path, dead: int
) -> None:
    folder = temporary_folder / "ally-open"
    folder.mkdir()
    folder.chmod(0o755)
    victim = folder / "host.sock"
    victim.write_text("keep me")
    (ready.run_dir / f"host-{dead}-00000000.path").write_bytes(os.fsencode(victim))
    assert hosts_of(ready) == []
    assert victim.read_text() == "keep me"
    victim.unlink()
    folder.rmdir()


def test_a_link_in_the_place_of_the_short_directory_is_not_followed(
    ready: Home, temporary_folder: Path, tmp_path: Path
) -> None:
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    link = temporary_folder / "ally-link"
    link.symlink_to(real)
    (ready.run_dir / f"host-{os.getpid()}-00000000.path").write_bytes(os.fsencode(link / "host.sock"))
    assert addresses(ready.run_dir) == []
    link.unlink()


@pytest.mark.parametrize(
    "name", ["host-1.sock", "host-x-00000000.sock", "edit.lock", "host-1-00000000.sock.bak", ".sock"]
)
def test_files_that_are_no_sockets_of_hosts_are_left_alone(ready: Home, name: str) -> None:
    file = ready.run_dir / name
    file.write_text("")
    assert addresses(ready.run_dir) == []
    assert hosts_of(ready) == []
    assert file.exists()


def test_a_home_that_is_not_there_has_no_hosts(ready: Home) -> None:
    gone = type(ready)("test", ready.path / "nowhere")
    assert hosts_of(gone) == []
    assert not gone.path.exists()


def test_a_host_that_takes_no_connection_is_there_and_silent(ready: Home) -> None:
    listening, address = bind(ready.run_dir, os.getpid())
    waiting = []
    try:
        while True:
            one = socket.socket(socket.AF_UNIX)
            one.setblocking(False)  # noqa: FBT003
            waiting.append(one)
            try:
                one.connect(str(address.path))
            except BlockingIOError:
                break
        [host] = hosts_of(ready)
        assert call(host, "ping", timeout=0.1).is_silent
    finally:
        for one in waiting:
            one.close()
        listening.close()
        address.remove()
