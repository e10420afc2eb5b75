"""Identities for messages, decisions and tasks: unique across hosts, in order within one, and cheap."""

from __future__ import annotations

import itertools
import secrets
from typing import Final

__all__ = ["new_id"]

# Random once for each process; `uuid4` for every message would cost more than validating it.
_PROCESS: Final = secrets.token_hex(5)
_COUNTER: Final = itertools.count(1)


def new_id(prefix: str) -> str:
    """Return a new identity such as `m-5f0c9a1b2d-7`; safe from any thread."""
    return f"{prefix}-{_PROCESS}-{next(_COUNTER)}"
