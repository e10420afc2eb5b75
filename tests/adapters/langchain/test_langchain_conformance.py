"""The adapter for langchain passes the checks for host adapters."""

from __future__ import annotations

from ally_plugins.testing import AdapterConformance
from ally_plugins.testing.agents.langchain import LangChainDriver


class TestLangChain(AdapterConformance):
    driver = LangChainDriver()
    longest = 120.0  # measuring coverage makes the framework's import slow on some Pythons
