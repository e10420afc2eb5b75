"""Our MCP server among those in an agent's settings, as text: merged into what is there, and taken out again."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from ally_plugins.adapters.coding.tools.plugin_tools import SERVER
from ally_plugins.contract.documents import toml_of
from ally_plugins.contract.values.errors import ConfigError

from .hook_settings import written

__all__ = ["NO_SERVERS", "merge_server", "servers_file", "take_out_server"]

NO_SERVERS: Final[Mapping[str, str]] = {
    "pi": "pi offers its model no tools of MCP servers",
    "goose": "Goose keeps its servers in YAML, beside what its own commands write there, which connect leaves alone",
}
"""The agents that take no server of tools, and why."""

START_SECONDS: Final = 30
"""What an agent is to wait for our first answer, which may start the host: opencode waits 5 else, and Codex 10."""

_HEADER: Final = re.compile(rf"\[mcp_servers\.{SERVER}[].]")
_BETWEEN: Final = re.compile(r"\s*(#.*)?\Z")
"""A line that may belong to what follows it."""


@frozen
class _Form:
    """How an agent keeps servers: the file below the person's home, or what `variable` names, and under which key."""

    file: str
    key: str
    variable: str = ""
    in_variable: str = ""
    """The file below the folder that the variable names."""
    more: Mapping[str, Any] = {}
    """What a server has beside its command."""
    is_one_list: bool = False
    """Whether a command and its arguments are one list."""


_FORMS: Final[Mapping[str, _Form]] = {
    "claude": _Form(".claude.json", "mcpServers", "CLAUDE_CONFIG_DIR", ".claude.json", {"type": "stdio"}),
    "codex": _Form(".codex/config.toml", "mcp_servers", "CODEX_HOME", "config.toml"),
    "gemini": _Form(".gemini/settings.json", "mcpServers"),
    "copilot": _Form(".copilot/mcp-config.json", "mcpServers", more={"type": "local", "tools": ["*"]}),
    "opencode": _Form(
        ".config/opencode/opencode.json",
        "mcp",
        more={"type": "local", "timeout": START_SECONDS * 1000},
        is_one_list=True,
    ),
}


def servers_file(agent: str) -> Path:
    """Return the file in which an agent looks for the person's servers."""
    form = _FORMS[agent]
    if form.variable and (named := os.environ.get(form.variable)):
        return Path(named) / form.in_variable
    return Path.home() / form.file


def merge_server(agent: str, text: str, command: list[str], file: str) -> str:
    """Return the settings with our server, in the place of an earlier one of ours.

    Raises ConfigError for what cannot be read, and where others have a server by our name.
    """
    text = take_out_server(agent, text, file)
    form = _FORMS[agent]
    servers = _servers(_parsed(agent, text, file), form, file)
    if SERVER in servers:
        raise ConfigError(f"a server {SERVER!r} of others is in {file}; rename it, or do without plugins' tools there")
    if agent == "codex":
        arguments = ", ".join(map(_toml_text, command[1:]))
        table = f"[mcp_servers.{SERVER}]\ncommand = {_toml_text(command[0])}\nargs = [{arguments}]\n"
        table += f"startup_timeout_sec = {START_SECONDS}\n"
        after = f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{table}"
        _parsed(agent, after, file)  # such a table can be in the way of what is there
        return after
    about: dict[str, Any] = {"command": command} if form.is_one_list else {"command": command[0], "args": command[1:]}
    settings = _parsed(agent, text, file)
    settings.setdefault(form.key, {})[SERVER] = {**form.more, **about}
    return written(settings, text)


def take_out_server(agent: str, text: str, file: str) -> str:
    """Return the settings without our server. Raises ConfigError for what cannot be read."""
    form = _FORMS[agent]
    settings = _parsed(agent, text, file)
    servers = _servers(settings, form, file)
    if not _is_ours(servers.get(SERVER), agent):
        return text
    if agent == "codex":
        return _without_table(text, settings, file)
    del servers[SERVER]
    if not servers:
        del settings[form.key]
    return written(settings, text)


def _without_table(text: str, settings: dict[str, Any], file: str) -> str:
    """Return a TOML text without our table and those below it; comments before the next one stay with that."""
    left: list[str] = []
    held: list[str] = []
    is_in_ours = False
    for line in text.splitlines(keepends=True):
        if is_in_ours and (not line.startswith("[") or _HEADER.match(line)):
            held = [*held, line] if _BETWEEN.match(line.strip()) else []
            continue
        is_in_ours = _HEADER.match(line) is not None
        if not is_in_ours:
            left += [*held, line]
        held = []
    rest = "".join(left + held)
    del settings[_FORMS["codex"].key][SERVER]
    found = {_FORMS["codex"].key: {}, **_parsed("codex", rest, file)}
    if found != settings:
        raise ConfigError(f"the table mcp_servers.{SERVER} in {file} is not as it was written; take it out", file=file)
    return rest


def _servers(settings: dict[str, Any], form: _Form, file: str) -> dict[str, Any]:
    found = settings.get(form.key, {})
    if not isinstance(found, dict):
        raise ConfigError(f"{form.key!r} in {file} is {type(found).__name__}; expected an object", file=file)
    return found


def _is_ours(server: Any, agent: str) -> bool:
    if not isinstance(server, Mapping):
        return False
    command = server.get("command")
    words = [*(command if isinstance(command, list) else [command]), *(server.get("args") or [])]
    return words[1:5] == ["-m", "ally_plugins", "mcp", agent]


def _parsed(agent: str, text: str, file: str) -> dict[str, Any]:
    read: Callable[[str], Any] = toml_of if agent == "codex" else json.loads
    try:
        found = read(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} cannot be read: {error}; mend it, and run this again", file=file) from None
    if not isinstance(found, dict):
        raise ConfigError(f"{file} is {type(found).__name__}; expected an object; mend it", file=file)
    return dict(found)


def _toml_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
