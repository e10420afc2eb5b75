"""The adapter for strands passes the checks for host adapters."""

from __future__ import annotations

from ally_plugins.testing import AdapterConformance
from ally_plugins.testing.agents.strands import StrandsDriver
from tests.kit.agents import expect_ids_are_told_apart, expect_text_is_mended
from tests.kit.waiting import go


class TestStrands(AdapterConformance):
    driver = StrandsDriver()
    longest = 120.0  # the framework's import, measured by coverage


def test_text_that_no_request_could_carry_is_mended() -> None:
    go(expect_text_is_mended(StrandsDriver()))


def test_two_calls_with_one_id_get_ids_of_their_own() -> None:
    go(expect_ids_are_told_apart(StrandsDriver()))
