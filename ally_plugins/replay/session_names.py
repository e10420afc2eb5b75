"""Ids of replayed sessions: named after the recording, and different in each run."""

from __future__ import annotations

import re
import secrets
from typing import Final

from ally_plugins.contract.values.ids import REPLAYED

__all__ = ["new_run", "recorded_name", "session_name"]

_UNNAMEABLE: Final = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_ID: Final = 80


def new_run() -> str:
    """Return a random part for the session ids of one replay, so that they differ from those of every other."""
    return secrets.token_hex(4)


def session_name(recorded_id: str, run: str, number: int) -> str:
    """Return the id of a replayed session; a second replay of a recording must not find the first one's messages."""
    return f"replay-{_UNNAMEABLE.sub('-', recorded_id)[:_MAX_ID]}-{run}-{number}"


def recorded_name(session_id: str) -> str:
    """Return the recorded part of such an id."""
    found = REPLAYED.match(session_id)
    return found.group(1) if found is not None else session_id
