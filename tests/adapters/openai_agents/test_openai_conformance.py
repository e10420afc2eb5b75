"""The adapter for the OpenAI Agents SDK passes the checks for host adapters, with sessions and with input lists."""

from __future__ import annotations

from ally_plugins.testing import AdapterConformance
from ally_plugins.testing.agents.openai_agents import OpenAIAgentsDriver


class TestOpenAIAgents(AdapterConformance):
    driver = OpenAIAgentsDriver()
    longest = 120.0
