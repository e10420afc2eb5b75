"""Folders of plugins' own files are removed whatever a plugin has made of them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ally_plugins.host.sockets.leftovers import folder_prefix, temporary_folder
from ally_plugins.runtime.processes.guardian.removal import remove_folder
from ally_plugins.runtime.processes.guardian_link import SCRIPT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.name != "posix", reason="what others have of it is shutil's")


def make_deep(folder: Path, depth: int, name: str = "d") -> None:
    """Make folders below each other, deeper than a path may be long."""
    at = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=at))
    os.close(at)


@pytest.mark.slow
def test_a_tree_deeper_than_a_recursion_and_than_there_are_descriptors_is_removed(tmp_path: Path) -> None:
    make_deep(tmp_path, sys.getrecursionlimit() + 50, "d" * 20)
    remove_folder(str(tmp_path))
    assert not tmp_path.exists()


def test_folders_with_the_names_that_lifted_ones_get_are_removed_too(tmp_path: Path) -> None:
    for number in range(3):
        make_deep(tmp_path, 1, f"ally-lifted-{number}")
        make_deep(tmp_path / f"ally-lifted-{number}", 3, "ally-lifted-0")
        make_deep(tmp_path / f"ally-lifted-{number}", 2, "ally-lifted-1")
    remove_folder(str(tmp_path))
    assert not tmp_path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="rights are given back through /proc")
def test_folders_without_rights_are_removed_by_whoever_owns_them(temporary_folder: Path) -> None:
    around = temporary_folder / "around"  # which any user may enter
    folders = [around, around / "top", around / "top" / "a", around / "top" / "a" / "b"]
    for folder in folders:
        folder.mkdir()
    (folders[-1] / "file").write_text("")
    for folder in reversed(folders[1:]):
        folder.chmod(0)
    child = os.fork()
    if child == 0:
        if os.geteuid() == 0:  # whom no rights hold
            for folder in folders:
                os.chown(folder, 65534, 65534)
            os.setuid(65534)
        remove_folder(str(folders[1]))
        os._exit(folders[1].exists())
    assert os.waitpid(child, 0)[1] == 0
    around.rmdir()


def test_what_links_in_it_lead_to_stays(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "file").write_text("kept")
    (folder / "link").symlink_to(outside)
    (folder / "hard").hardlink_to(outside / "file")
    remove_folder(str(folder))
    assert not folder.exists()
    assert (outside / "file").read_text() == "kept"
    (tmp_path / "itself").symlink_to(outside)
    remove_folder(str(tmp_path / "itself"))
    assert (outside / "file").read_text() == "kept"


@pytest.mark.slow
def test_what_a_killed_host_has_left_of_a_deep_tree_keeps_no_next_one_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / f"{folder_prefix('box-', 2**22 + 1)}x"  # above the largest process id
    left.mkdir(mode=0o700)
    make_deep(left, sys.getrecursionlimit() + 50)
    with temporary_folder("box-") as folder:
        assert not left.exists()
        make_deep(folder, 3)
    assert not folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the guardian is Linux's")
@pytest.mark.parametrize("is_host_gone", [True, False])
def test_a_guardian_removes_what_it_was_told_of_in_the_moment_in_which_its_host_ended(
    tmp_path: Path, *, is_host_gone: bool
) -> None:
    (tmp_path / "box").mkdir()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as host:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            ours.send(json.dumps({"remove": str(tmp_path / "box")}).encode())
            if is_host_gone:  # before the guardian could look for it
                host.kill()
                host.wait()
            command = [sys.executable, "-I", "-S", str(SCRIPT), str(theirs.fileno()), str(host.pid)]
            with subprocess.Popen(command, pass_fds=[theirs.fileno()]) as guardian:
                host.kill()
                guardian.wait(60)
        assert guardian.returncode == 0
    assert not (tmp_path / "box").exists()
