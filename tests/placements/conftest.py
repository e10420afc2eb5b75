from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from tests.kit.placements import PLACEMENTS, Placed


@pytest.fixture(params=PLACEMENTS, ids=lambda placement: placement.name)
def placed(request: pytest.FixtureRequest) -> Placed:
    """Return what makes plugins and hosts in one placement; the test runs in each."""
    return Placed(request.param)


_GUARDS: Final = {f"test_placed_{name}.py" for name in ("calls", "gates")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs in a sandbox, and what hosts share: `nox -s sandbox` and `-s fleet` have all, CI what guards."""
    for item in items:
        params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        placement: Any = params.get("placed")
        if Path(__file__).parent in item.path.parents and placement is not None and placement.name == "sandbox":
            item.add_marker("sandboxed")
            if item.path.name in _GUARDS:
                item.add_marker("smoke")
        if Path(__file__).parent in item.path.parents and placement is not None and placement.name == "shared":
            item.add_marker("shared")
