from __future__ import annotations

import pytest

from tests.kit.placements import PLACEMENTS, Placed


@pytest.fixture(params=PLACEMENTS, ids=lambda placement: placement.name)
def placed(request: pytest.FixtureRequest) -> Placed:
    """Return what makes plugins and hosts in one placement; the test runs in each."""
    return Placed(request.param)
