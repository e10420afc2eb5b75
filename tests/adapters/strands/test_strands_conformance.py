"""The adapter for strands passes the checks for host adapters."""

from __future__ import annotations

from ally_plugins.testing import AdapterConformance
from ally_plugins.testing.agents.strands import StrandsDriver


class TestStrands(AdapterConformance):
    driver = StrandsDriver()
    longest = 120.0  # the framework's import, measured by coverage
