"""An agent of pydantic-ai that lives with plugins: `python agent.py 'what is in README.md?'`."""

import sys
from pathlib import Path
from typing import Any

from pydantic_ai import Agent

from ally_plugins import Host
from ally_plugins.adapters.pydantic_ai import AllyPlugins


def make_agent(model: Any, plugins: AllyPlugins, **options: Any) -> Agent[None, str]:
    """Return the agent."""
    agent = Agent(model, capabilities=[plugins], **options)

    @agent.tool_plain
    def read_file(path: str) -> str:
        """Read a text file."""
        return Path(path).read_text(encoding="utf-8")

    return agent


if __name__ == "__main__":
    agent = make_agent("openai:gpt-5-mini", AllyPlugins(Host("my-agent")))
    print(agent.run_sync(" ".join(sys.argv[1:])).output)
