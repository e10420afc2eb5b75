"""Which process an agent is, by the hook client that it has started: the one above the client and its shell (Linux).

What else the agent starts stands below that process too, unless it has left it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from ally_plugins.runtime.processes.ancestry import has_guardians, lineage_of_peer

from .client_files import CLIENT
from .hook_client import CLOSED

__all__ = ["agent_of_peer"]

_REAPERS: Final = frozenset(
    {
        "systemd",
        "init",
        "tini",
        "dumb-init",
        "docker-init",
        "catatonit",
        "bwrap",
        "s6-svscan",
        "runit",
        "containerd-shim",
    }
)
"""Programs that take the orphans of others: a hook below one has lost its agent."""

_CLIENT: Final = f"/hooks/{CLIENT}".encode()
_AGENTS: Final = tuple(agent.encode() for agent in CLOSED)


def agent_of_peer(connection: Any) -> tuple[int, int] | None:
    """Return the process of the agent whose hook client is at the other end, with its start; None where none can tell.

    Raises ValueError where it has ended, or hides: what it starts could not be recognised.
    """
    if not has_guardians():
        return None
    found = lineage_of_peer(connection)
    # The first is the client. The shell that runs it goes on in it where its line has another command after it.
    above = found.processes[1:] if found is not None else ()
    agent = next((each for each in above if not _runs_client(each[0])), None)
    if agent is None or _name_of(agent[0]) in _REAPERS:
        raise ValueError("its agent has ended, or cannot be seen from here")
    return agent


def _runs_client(pid: int) -> bool:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    # Of a shell, all of the hook's line is one argument.
    return any(_CLIENT in word and any(b" " + agent + b" " in word for agent in _AGENTS) for word in line.split(b"\0"))


def _name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip()
    except OSError:
        return ""
