"""The adapter for google-adk passes the checks for host adapters."""

from __future__ import annotations

from ally_plugins.testing import AdapterConformance
from ally_plugins.testing.agents.google_adk import GoogleADKDriver
from tests.kit.agents import expect_ids_are_told_apart, expect_text_is_mended
from tests.kit.waiting import go


class TestGoogleADK(AdapterConformance):
    driver = GoogleADKDriver()
    longest = 120.0  # the framework's import, measured by coverage


def test_text_that_no_request_could_carry_is_mended() -> None:
    go(expect_text_is_mended(GoogleADKDriver()))


def test_two_calls_with_one_id_get_ids_of_their_own() -> None:
    go(expect_ids_are_told_apart(GoogleADKDriver()))
