"""A home over a network is found before its journal is trusted."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ally_plugins import Host
from ally_plugins.catalog.home import filesystems
from ally_plugins.catalog.home.filesystems import network_filesystem
from tests.kit.waiting import go

MOUNTS = r"""
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:40 / /srv rw,relatime shared:3 - nfs4 filer:/srv rw,vers=4.2
31 30 0:41 / /srv/local rw - xfs /dev/vdb rw
32 22 0:42 / /mnt/with\040space rw master:1 - cifs //filer/share rw
33 22 0:43 / /sshd rw - fuse.sshfs host:/ rw
34 22 0:44 / /zip rw - fuse.squashfuse squashfuse rw
35 22 0:45 / /twice rw - nfs filer:/old rw
36 35 0:46 / /twice rw - tmpfs tmpfs rw
""".strip()


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/home/ada", None),
        ("/srv/home", "nfs4"),
        ("/srv", "nfs4"),
        ("/srv/local/home", None),
        ("/srvx", None),
        ("/mnt/with space/ally", "cifs"),
        ("/sshd/ally", "fuse.sshfs"),
        ("/zip/ally", None),
        ("/twice/ally", None),
    ],
)
def test_the_deepest_and_latest_mount_counts(folder: str, kind: str | None) -> None:
    assert network_filesystem(Path(folder), MOUNTS) == kind


@pytest.mark.parametrize("text", ["", "nonsense", "1 2 3 4 / rw", "1 2 3 4 / rw - "])
def test_what_no_kernel_writes_is_no_answer_and_no_error(text: str) -> None:
    assert network_filesystem(Path("/"), text) is None


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="SKIPPED: Linux alone has this file")
def test_this_machine_s_own_temporary_folder_is_no_network(tmp_path: Path) -> None:
    assert network_filesystem(tmp_path) is None


def test_a_host_warns_and_doctor_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 0:1 / {tmp_path} rw - nfs4 filer:/ rw\n")
    monkeypatch.setattr(filesystems, "_MOUNTS", mounts)

    async def main() -> None:
        async with Host(home=tmp_path / "home", discover=False):
            pass

    with caplog.at_level(logging.WARNING):
        go(main())
    assert "lies on nfs4" in caplog.text
    assert "ALLY_HOME" in caplog.text
