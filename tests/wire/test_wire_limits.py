"""The limits of a connection refuse what is no limit."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from ally_plugins.wire.limits import WireLimits


@pytest.mark.parametrize("name", [field.name for field in attrs.fields(WireLimits)])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "10", None])
def test_a_limit_is_a_whole_number_above_0(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is "):
        WireLimits(**{name: value})
