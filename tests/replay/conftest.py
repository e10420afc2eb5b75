"""Small recordings, written where a test can read them."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.replay.transcript import read_transcript
from ally_plugins.replay.turns import with_safe_points

if TYPE_CHECKING:
    from collections.abc import Callable

    from ally_plugins.replay.steps import Step


@pytest.fixture(scope="session")
def transcript_steps() -> Callable[..., list[Step]]:
    """Return what reads records (or raw lines) as a transcript, with safe points."""

    def read(*records: dict[str, Any] | bytes) -> list[Step]:
        lines = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in records]
        return list(with_safe_points(read_transcript(io.BytesIO(b"\n".join(lines)))))

    return read
