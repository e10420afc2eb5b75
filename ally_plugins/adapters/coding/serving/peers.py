"""Which process an agent is, by the hook client that it has started: the one above the client and its shell (Linux).

What else the agent starts stands below that process too, unless it has left it.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any, Final

from ally_plugins.adapters.coding.settings.connections import is_ours
from ally_plugins.runtime.processes.ancestry import has_guardians, nearest_above_peer

__all__ = ["agent_of_peer"]

_SHELLS: Final = frozenset({"sh", "bash", "dash", "zsh", "ksh", "mksh", "fish", "ash", "busybox"})
_REAPERS: Final = frozenset(
    {"systemd", "init", "tini", "dumb-init", "docker-init", "catatonit", "bwrap", "s6-svscan", "runit", "supervisord"}
)
"""Programs that take the orphans of others: a hook below one has lost its agent."""

_INLINE: Final = re.compile(r"-[a-z]*c")
_WORD: Final = re.compile(r"[a-z]+")


def agent_of_peer(connection: Any, agent: str) -> tuple[int, int] | None:
    """Return the process of an agent whose hook client is at the other end, with its start; None where none can tell.

    Raises ValueError where it has ended, or hides: what it starts could not be recognised.
    """
    if not has_guardians():
        return None
    # The shell that runs the client stays above it where its line has another command after it.
    process = nearest_above_peer(connection, lambda pid: not _is_shell_of_hook(_words(pid)))
    if process is None or _took_orphans(process[0], agent):
        raise ValueError("its agent has ended, or cannot be seen from here")
    return process


def _words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text("utf-8", "replace").split("\0")
    except OSError:
        return []


def _is_shell_of_hook(words: list[str]) -> bool:
    # An agent itself may be given our line too, in a prompt.
    if not words or PurePath(words[0]).name.lstrip("-") not in _SHELLS:
        return False
    return any(_INLINE.fullmatch(option) and is_ours(line) for option, line in pairwise(words))


def _took_orphans(pid: int, agent: str) -> bool:
    words = _words(pid)
    if pid == 1:
        # In a container the agent may be the first; who else is takes all orphans, and everything stands below it.
        return not any(agent in _WORD.findall(word.lower()) for word in words[:3])
    return PurePath(words[0]).name in _REAPERS if words else False
