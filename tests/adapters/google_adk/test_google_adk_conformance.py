"""The adapter for google-adk passes the checks for host adapters."""

from __future__ import annotations

from ally_plugins.testing import AdapterConformance
from ally_plugins.testing.agents.google_adk import GoogleADKDriver


class TestGoogleADK(AdapterConformance):
    driver = GoogleADKDriver()
    longest = 120.0  # the framework's import, measured by coverage
