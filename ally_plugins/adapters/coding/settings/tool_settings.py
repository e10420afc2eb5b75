"""Our MCP server in the settings of agents, beside their hooks: written by `connect`, with the bytes as they were.

For the person only: a server's command is a path of this machine, which has no place in a project's files.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

from .connections import Connection, read_file, take_out_ours, without_ours, write_file, write_ours
from .mcp_entries import NO_SERVERS, merge_server, servers_file, take_out_server

if TYPE_CHECKING:
    from pathlib import Path

    from ally_plugins.catalog.home.folder import Home

__all__ = ["connect_tools", "disconnect_tools", "has_tools", "takes_tools"]


def takes_tools(connection: Connection) -> bool:
    """Say whether plugins' tools are offered to an agent that is connected so."""
    return connection.agent not in NO_SERVERS and connection.project is None


def connect_tools(connection: Connection, home: Home) -> bool:
    """Write our server into an agent's settings; return whether anything changed.

    Raises ConfigError where the settings cannot be read, or have a server of others by our name.
    """
    agent, file = connection.agent, servers_file(connection.agent)
    command = [sys.executable, "-m", "ally_plugins", "mcp", agent, "--home", str(home.path), "--app", home.app]
    after = merge_server(agent, _text_of(file), command, str(file))
    if file == connection.file:  # one record for both
        return write_ours(home, connection.name, file, after, partial(without_ours, connection))
    return write_ours(home, _name(connection), file, after, partial(_without, agent, file))


def disconnect_tools(connection: Connection, home: Home) -> str:
    """Take our server out of an agent's settings; return how, as `disconnect` does. Raises ConfigError."""
    if not takes_tools(connection):
        return "none"
    file = servers_file(connection.agent)
    if file == connection.file:  # goes with the hooks
        return "none"

    def put_back(text: str | None) -> None:
        if text is None:
            file.unlink()
        else:
            write_file(file, text.encode())

    return take_out_ours(home, _name(connection), file, partial(_without, connection.agent, file), put_back)


def has_tools(connection: Connection) -> bool:
    """Say whether our server is in an agent's settings. Raises ConfigError for what cannot be read."""
    if not takes_tools(connection):
        return False
    file = servers_file(connection.agent)
    return take_out_server(connection.agent, text := _text_of(file), str(file)) != text


def _name(connection: Connection) -> str:
    return f"{connection.name} tools"


def _text_of(file: Path) -> str:
    return (read_file(file) or b"").decode()


def _without(agent: str, file: Path, text: str) -> str:
    return take_out_server(agent, text, str(file))
