"""The adapter for google-adk passes the checks for host adapters."""

from __future__ import annotations

from ally_plugins.testing import AdapterConformance

from .scripted import GoogleADKDriver


class TestGoogleADK(AdapterConformance):
    driver = GoogleADKDriver()
    longest = 120.0  # the framework's import, measured by coverage
