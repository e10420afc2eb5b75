"""What kind of file system a folder lies on, where that matters: a journal's locks do not hold over a network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

__all__ = ["NETWORK_REMEDY", "network_filesystem", "network_problem"]

NETWORK_REMEDY: Final = "set ALLY_HOME to a folder on a disk of this machine"

_MOUNTS: Final = Path("/proc/self/mountinfo")

# As the Linux kernel, and helpers under FUSE, name those whose files other machines have too.
_OVER_NETWORK: Final = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"}
)
_FUSE_OVER_NETWORK: Final = frozenset({"gcsfuse", "glusterfs", "juicefs", "rclone", "s3fs", "sshfs"})


def network_filesystem(folder: Path, mounts: str | None = None) -> str | None:
    """Return the type of the network file system that a folder lies on; None for a disk, or where nobody knows.

    `mounts` is the text of Linux's `mountinfo`, this process's unless it is given. Never raises.
    """
    try:
        text = _MOUNTS.read_text("utf-8", "surrogateescape") if mounts is None else mounts
        path = folder.resolve()
    except (OSError, RuntimeError):  # no such file elsewhere than on Linux; a loop of links
        return None
    kind, longest = "", -1
    for line in text.splitlines():
        # A line has any number of optional fields before this separator, so that positions count on either end only.
        fields, _, rest = line.partition(" - ")
        words, described = fields.split(" "), rest.split(" ")
        if len(words) < 5 or not described[0]:  # noqa: PLR2004 - the mount point is the fifth field
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), words[4]))  # the kernel's escapes
        depth = len(point.parts)
        if depth >= longest and path.is_relative_to(point):  # of two on one point, the later one hides the first
            kind, longest = described[0], depth
    base, _, helper = kind.partition(".")
    is_remote = helper in _FUSE_OVER_NETWORK if base == "fuse" else kind in _OVER_NETWORK
    return kind if is_remote else None


def network_problem(home: Path) -> str | None:
    """Return why the journal of a home cannot be relied upon, None where nothing is wrong with its file system."""
    kind = network_filesystem(home)
    if kind is None:
        return None
    return (
        f"the home {str(home)!r} lies on {kind}, over a network, where the journal's locks and memory do not hold "
        "between machines: with hosts on two of them, what was recorded can be lost"
    )
