from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.contract.values.codec import decode, encode
from ally_plugins.host.sockets.claims import MARK_VARIABLE, SocketTaken, claim_in_thread, claim_socket
from ally_plugins.host.sockets.directories import private_directory, short_directory
from ally_plugins.journal.process_identity import start_ticks

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")

ONLY_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells whose a process is")


@pytest.fixture
def stale(short_dir: Path) -> str:
    """Return the path of a socket that nobody listens on any more."""
    path = str(short_dir / "stale.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
        dead.listen()
    return path


def test_a_path_where_nothing_is_can_be_claimed_and_let_go(short_dir: Path) -> None:
    path = str(short_dir / "new.sock")
    claim = claim_socket(path, "me", short_dir)
    claim.release()
    claim.release()
    assert sorted(short_dir.iterdir()) == []
    claim_socket(path, "me", short_dir).release()


def test_a_stale_socket_of_our_own_is_removed(stale: str, short_dir: Path) -> None:
    claim = claim_socket(stale, "me", short_dir)
    assert not Path(stale).exists()
    claim.release()


@pytest.mark.parametrize("spelling", ["link/a.sock", "other/../real/a.sock", "real//a.sock"])
def test_one_socket_has_one_claim_however_its_path_is_spelt(short_dir: Path, spelling: str) -> None:
    for name in ("real", "other"):
        (short_dir / name).mkdir()
    (short_dir / "link").symlink_to("real")
    claim = claim_socket(str(short_dir / "real" / "a.sock"), "me", short_dir)
    with pytest.raises(SocketTaken, match="another running host has a daemon on"):
        claim_socket(f"{short_dir}/{spelling}", "me", short_dir)
    claim.release()
    claim_socket(f"{short_dir}/{spelling}", "me", short_dir).release()


def test_where_somebody_lives_nothing_is_touched(start_daemon: Callable[..., Any], short_dir: Path) -> None:
    daemon = start_daemon()
    before = Path(daemon.path).stat().st_ino
    with pytest.raises(SocketTaken) as caught:
        claim_socket(daemon.path, "me", short_dir)
    assert daemon.path in str(caught.value)
    if sys.platform == "linux":
        assert f"the process {daemon.process.pid} listens" in str(caught.value)
    assert daemon.process.poll() is None
    assert Path(daemon.path).stat().st_ino == before


@ONLY_LINUX
def test_a_daemon_that_is_too_busy_to_accept_lives_all_the_same(short_dir: Path) -> None:
    path = str(short_dir / "busy.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        with pytest.raises(SocketTaken, match="a busy program listens"):
            claim_socket(path, "me", short_dir)
        assert Path(path).exists()


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_is_never_removed(short_dir: Path, stale: str, kind: str) -> None:
    path = short_dir / "thing"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(stale)
    with pytest.raises(SocketTaken, match="is not a socket"):
        claim_socket(str(path), "me", short_dir)
    assert os.path.lexists(path)
    assert Path(stale).exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs to be another user")
def test_a_stale_socket_of_another_user_is_never_removed(stale: str, short_dir: Path) -> None:
    os.chown(stale, 65534, 65534)
    with pytest.raises(SocketTaken, match="belongs to another user"):
        claim_socket(stale, "me", short_dir)
    assert Path(stale).exists()


def test_one_living_host_at_a_time_has_a_claim_even_before_its_daemon_listens(short_dir: Path, stale: str) -> None:
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from ally_plugins.host.sockets.claims import claim_socket
        claim = claim_socket(sys.argv[1], "theirs", Path(sys.argv[2]))
        print("claimed", flush=True)
        sys.stdin.read()
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, stale, str(short_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"claimed\n"
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(stale)  # its daemon is between bind and listen: a connection is refused
            with pytest.raises(SocketTaken, match="another running host has a daemon"):
                claim_socket(stale, "me", short_dir)
            assert Path(stale).exists()
        other.kill()
        other.wait()
    claim_socket(stale, "me", short_dir).release()


@pytest.mark.parametrize("age", [10, 3600])
def test_what_a_killed_host_left_at_a_path_of_its_own_goes_when_another_one_claims(
    short_dir: Path, stale: str, age: int
) -> None:
    left = claim_socket(str(short_dir / "theirs.sock"), "theirs", short_dir)
    os.pwrite(left.descriptor, encode({"path": stale, "plugin": "theirs"}), 0)
    os.utime(left.file, (0, left.file.stat().st_mtime - age))
    claim_socket(str(short_dir / "mine.sock"), "mine", short_dir).release()
    assert Path(stale).exists(), "that host is alive"
    os.close(left.descriptor)  # as when it is killed
    claim_socket(str(short_dir / "mine.sock"), "mine", short_dir).release()
    assert Path(stale).exists() is (age == 10)
    assert left.file.exists() is (age == 10)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"path":7}', b'{"path":""}', b"\xff"])
def test_a_left_claim_with_nonsense_in_it_removes_nothing_but_itself(
    short_dir: Path, stale: str, content: bytes
) -> None:
    file = short_dir / "nonsense.claim"
    file.write_bytes(content)
    os.utime(file, (0, 0))
    claim_socket(str(short_dir / "mine.sock"), "mine", short_dir).release()
    assert (Path(stale).exists(), file.exists()) == (True, False)


@pytest.mark.parametrize("name", ["precious.txt", "zero\0byte"])
def test_a_left_claim_on_what_is_no_socket_is_for_a_person_to_look_at(short_dir: Path, name: str) -> None:
    (short_dir / "precious.txt").write_text("precious")
    file = short_dir / "odd.claim"
    file.write_bytes(encode({"path": str(short_dir / name), "plugin": "theirs"}))
    os.utime(file, (0, 0))
    claim_socket(str(short_dir / "mine.sock"), "mine", short_dir).release()
    assert (short_dir / "precious.txt").exists()
    assert file.exists()


def test_releasing_removes_the_daemons_socket_and_no_other(short_dir: Path) -> None:
    path = str(short_dir / "it.sock")
    for is_replaced in (False, True):
        claim = claim_socket(path, "me", short_dir)
        with socket.socket(socket.AF_UNIX) as ours, socket.socket(socket.AF_UNIX) as theirs:
            ours.bind(path)
            claim.note_socket()
            if is_replaced:
                Path(path).rename(short_dir / "old")
                theirs.bind(path)
        claim.release()
        assert Path(path).exists() is is_replaced


def test_a_claim_that_nobody_waits_for_any_more_is_let_go(short_dir: Path, stale: str) -> None:
    async def main() -> None:
        (await claim_in_thread(stale, "me", short_dir)).release()
        for _ in range(20):
            task = asyncio.create_task(claim_in_thread(stale, "me", short_dir))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

    asyncio.run(main())  # waits for its threads
    claim_socket(stale, "me", short_dir).release()


# --- orphans ---


def sleeper(**env: str) -> subprocess.Popen[bytes]:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_DFL); print(1, flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **env}, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def leave(short_dir: Path, path: str, about: dict[str, Any]) -> None:
    """Leave what a host that was killed leaves: its claim, which nobody holds any more."""
    claim = claim_socket(path, "me", short_dir)
    claim.file.with_suffix(".kept").write_bytes(encode(about))
    claim.release()
    claim.file.with_suffix(".kept").rename(claim.file)


@ONLY_LINUX
def test_an_orphan_that_is_provably_ours_is_ended(short_dir: Path) -> None:
    path = str(short_dir / "it.sock")
    first = claim_socket(path, "me", short_dir)
    with sleeper(**{MARK_VARIABLE: first.mark}) as orphan:
        first.write(orphan.pid)
        about = first.read()
        assert about["pid"] == orphan.pid
        assert about["plugin"] == "me"
        first.release()
        leave(short_dir, path, about)
        claim_socket(path, "me", short_dir).release()
        assert orphan.wait() == -signal.SIGTERM
        orphan.communicate()


@ONLY_LINUX
@pytest.mark.parametrize("lie", ["mark", "started", "none"])
def test_a_strangers_process_with_the_same_number_is_left_alone(short_dir: Path, lie: str) -> None:
    path = str(short_dir / "it.sock")
    with sleeper(**{MARK_VARIABLE: "right"}) as stranger:
        about: dict[str, Any] = {"pid": stranger.pid, "started": start_ticks(stranger.pid), "mark": "right"}
        about |= {"mark": "wrong"} if lie == "mark" else {"started": 7} if lie == "started" else {"mark": ""}
        leave(short_dir, path, about)
        claim_socket(path, "me", short_dir).release()
        assert stranger.poll() is None
        stranger.kill()
        stranger.communicate()


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", b"[]", b"{}", b'{"pid": 1}', b'{"pid": -1, "started": 1, "mark": "x"}',
     b'{"pid": "7"}', b'{"pid": 99999999, "started": 1, "mark": "x"}', b'{"pid": true, "started": 1, "mark": "x"}'],
)  # fmt: skip
def test_a_claim_with_nonsense_in_it_names_nobody(short_dir: Path, content: bytes) -> None:
    path = str(short_dir / "it.sock")
    claim = claim_socket(path, "me", short_dir)
    claim.release()
    claim.file.write_bytes(content)
    claim_socket(path, "me", short_dir).release()


@ONLY_LINUX
def test_what_is_written_of_a_daemon_says_when_it_started(short_dir: Path) -> None:
    claim = claim_socket(str(short_dir / "it.sock"), "me", short_dir)
    claim.write(os.getpid())
    claim.write(os.getpid())
    about = decode(claim.file.read_bytes())
    assert about["started"] == start_ticks(os.getpid())
    assert about["mark"] == claim.mark
    claim.release()


# --- directories ---


def test_a_private_directory_is_made_private_and_a_link_is_refused(short_dir: Path) -> None:
    made = short_dir / "run"
    made.mkdir(mode=0o755)
    assert private_directory(made).stat().st_mode & 0o777 == 0o700
    (short_dir / "link").symlink_to(made)
    with pytest.raises(PermissionError):
        private_directory(short_dir / "link")


def test_a_short_directory_is_the_same_every_time_unless_somebody_was_there_first(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_dir))
    assert short_directory() == short_directory()
    assert short_directory().stat().st_mode & 0o777 == 0o700
    taken = short_dir / f"ally-{os.geteuid()}"
    taken.rmdir()
    taken.symlink_to("/etc")
    other = short_directory()
    assert other != taken
    other.rmdir()
