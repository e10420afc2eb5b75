from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.journal.reader import JournalReader
from tests.durable.rig import opened

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def rig(tmp_path: Path) -> Callable[[], Any]:
    """Return what starts a host in one home, again and again."""
    seqs: dict[str, int] = {}
    return lambda: opened(tmp_path / "home", seqs)


@pytest.fixture
def rig_in_memory() -> Callable[[], Any]:
    return lambda: opened(None, {})


@pytest.fixture
def kept(tmp_path: Path) -> Callable[[], str | None]:
    """Return what reads how far the plugin "p" has got, as it is on disk."""

    def bookmark() -> str | None:
        with JournalReader(tmp_path / "home" / "journal.db") as reading:
            return reading.bookmark("durable:p")

    return bookmark
