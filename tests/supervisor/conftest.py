from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.supervisor.staging import Theatre

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def theatre(tmp_path: Path) -> Theatre:
    return Theatre(tmp_path)
