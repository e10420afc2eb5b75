"""Identities for messages, decisions and tasks: unique across hosts, in order within one, and cheap."""

from __future__ import annotations

import itertools
import re
from typing import Final

__all__ = ["REPLAYED", "bare_name", "is_replayed", "new_id", "renew_ids"]

REPLAYED: Final = re.compile(r"replay-(.*)-[0-9a-f]{8}-\d+\Z")
"""Ids of sessions that a replay plays: the recording's own, which replay it was, and a number."""

_COUNTER: Final = itertools.count(1)  # `next` is one step for all threads, so that it needs no lock


class _Identity:
    """Random once for each process; `uuid4` for every message would cost more than validating it."""

    process = ""


def new_id(prefix: str) -> str:
    """Return a new identity such as `m-5f0c9a1b2d-7`; safe from any thread."""
    if not _Identity.process:
        renew_ids()
    return f"{prefix}-{_Identity.process}-{next(_COUNTER)}"


def renew_ids() -> None:
    """Begin anew in a fork, which would go on with the identities of its parent, as its siblings do."""
    import secrets  # 5 ms, and commands that only look make no identity

    _Identity.process = secrets.token_hex(5)


def bare_name(label: str) -> str:
    """Return the plugin's own name of `NAME`, `folder:NAME` and `package:NAME`; hosts and records know only that."""
    return label.rpartition(":")[2]


def is_replayed(session_id: str) -> bool:
    """Return whether a session is one of a replay's, which has happened already and is nobody's work."""
    # The cheap look first: nearly all sessions are none.
    return session_id.startswith("replay-") and REPLAYED.match(session_id) is not None
