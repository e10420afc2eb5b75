"""The adapter for langchain passes the checks for host adapters."""

from __future__ import annotations

from ally_plugins.testing import AdapterConformance
from ally_plugins.testing.agents.langchain import LangChainDriver
from tests.kit.agents import expect_ids_are_told_apart, expect_text_is_mended
from tests.kit.waiting import go


class TestLangChain(AdapterConformance):
    driver = LangChainDriver()
    longest = 120.0  # measuring coverage makes the framework's import slow on some Pythons


def test_text_that_no_request_could_carry_is_mended() -> None:
    go(expect_text_is_mended(LangChainDriver()))


def test_two_calls_with_one_id_get_ids_of_their_own() -> None:
    go(expect_ids_are_told_apart(LangChainDriver()))
