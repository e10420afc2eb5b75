"""A plugin for pytest that gives each agent of the framework our capability, with plugins that agree to everything.

`-p plugins_in_every_agent` in the framework's own tests: what passes without it passes with it.
"""

# ruff: noqa: ARG002 - hooks take what their event promises

from __future__ import annotations

import functools
from typing import Any

from pydantic_ai import Agent

from ally_plugins import Allow, Ally, Host, hookimpl
from ally_plugins.adapters.pydantic_ai import AllyPlugins


class Agreeing:
    """Follows everything and has no objection."""

    def __init__(self, ally: Ally) -> None: ...

    @hookimpl
    def ally_event(self, event: Any) -> None: ...

    @hookimpl
    async def ally_gate_tool_call(self, call: Any) -> Allow:
        return Allow()


def pytest_configure() -> None:
    made = Agent.__init__

    @functools.wraps(made)
    def make(agent: Agent[Any, Any], *args: Any, **kwargs: Any) -> None:
        plugins = AllyPlugins(Host("framework-tests", home=None, discover=False, plugins={"agreeing": Agreeing}))
        made(agent, *args, **{**kwargs, "capabilities": [*(kwargs.get("capabilities") or ()), plugins]})

    setattr(Agent, "__init__", make)  # noqa: B010 - it is what this is for
