from __future__ import annotations

import pytest

from ally_plugins.runtime.lanes import runner


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give interrupted hooks a tenth of a second instead of a whole one."""
    monkeypatch.setattr(runner, "GRACE", 0.1)
