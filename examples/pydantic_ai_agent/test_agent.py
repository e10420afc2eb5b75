"""The agent passes the checks for host adapters: a test each."""

from typing import Any

import agent
from pydantic_ai import Agent

from ally_plugins.adapters.pydantic_ai import AllyPlugins
from ally_plugins.testing import AdapterConformance
from ally_plugins.testing.agents.pydantic_ai import PydanticAIDriver


class MyDriver(PydanticAIDriver):
    """Drives the agent of `agent.py`."""

    def make_agent(self, model: Any, plugins: AllyPlugins, **options: Any) -> Agent[None, str]:
        """Return the agent with a scripted model, and with what a check wants beside its own tools."""
        return agent.make_agent(model, plugins, **options)


class TestMyAgent(AdapterConformance):
    """Each check is a test."""

    driver = MyDriver()
