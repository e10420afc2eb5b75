"""The adapter for the OpenAI Agents SDK passes the checks for host adapters, with sessions and with input lists."""

from __future__ import annotations

from ally_plugins.testing import AdapterConformance
from ally_plugins.testing.agents.openai_agents import OpenAIAgentsDriver
from tests.kit.agents import expect_text_is_mended
from tests.kit.waiting import go


class TestOpenAIAgents(AdapterConformance):
    driver = OpenAIAgentsDriver()
    longest = 120.0


def test_text_that_no_request_could_carry_is_mended() -> None:
    go(expect_text_is_mended(OpenAIAgentsDriver(), argument="a \ufffd"))
