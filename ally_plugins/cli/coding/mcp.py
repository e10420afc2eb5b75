"""`mcp`: plugins' tools for the coding agent that starts it, over standard input and output."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from ally_plugins.cli.shell.state import command
from ally_plugins.contract.values.errors import ConfigError

if TYPE_CHECKING:
    from ally_plugins.cli.shell.state import State

__all__ = ["mcp"]


@command("mcp")
@click.argument("agent", type=click.Choice(("claude", "codex", "gemini", "copilot", "opencode")))
def mcp(state: State, agent: str) -> None:
    """Serve plugins' tools to a coding agent, as an MCP server on standard input and output.

    `connect` writes this command into the settings of AGENT, which starts it; there is no need to run it by hand. A
    tool runs in the host behind the agent's hooks, in the conversation of the agent that has started this command, and
    passes the same gates as any call of it. It ends with its input.

    \b
    Example:
      ally-plugins mcp claude < /dev/null
    """
    from ally_plugins.adapters.coding.tools.mcp_server import McpServer

    home = state.home
    home.prepare()
    try:
        os.chdir(home.run_dir)  # a socket's address has no room for a long path
    except OSError as error:
        raise ConfigError(
            f"{str(home.run_dir)!r} cannot be entered: {error.strerror}", file=str(home.run_dir)
        ) from None
    McpServer(agent, home, sys.stdout.buffer).serve(sys.stdin.buffer)
