"""`connect` and `disconnect`: whether an agent's hooks lead to us, and what that agent can be served with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ally_plugins.cli.shell.exits import DONE, REFUSED
from ally_plugins.cli.shell.operators import require_operator
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, inert, print_json, table, when
from ally_plugins.contract.values.errors import ConfigError, HostError

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from ally_plugins.adapters.coding.client.client_files import ClientKind
    from ally_plugins.adapters.coding.dialect import Dialect
    from ally_plugins.adapters.coding.settings.connections import Connection
    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.cli.shell.state import State

__all__ = ["AGENTS", "connect", "disconnect"]

# Not asked of the adapters: `--help` imports none of them.
AGENTS = ("claude", "codex", "gemini", "copilot", "opencode", "pi", "goose")

_project = click.option(
    "--project",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="The hooks of one project, for all who work on it, instead of your own.",
)


@command("connect")
@click.argument("agent", type=click.Choice(AGENTS), required=False)
@_project
@click.option(
    "--missing",
    type=click.Choice(("closed", "open")),
    default="closed",
    show_default=True,
    help="With --project: what happens on a machine without ally-plugins.",
)
@click.option(
    "--client",
    type=click.Choice(("python", "c")),
    help="What answers each hook: a Python program (the default), or a C program that is compiled now and is faster.",
)
@click.option("--print", "prints", is_flag=True, help="Print the settings as they would be, and write nothing.")
@click.option(
    "--managed", is_flag=True, help="Print what an administrator deploys for all users, as a script, and write nothing."
)
@click.option("--status", is_flag=True, help="Show which agents are connected, and when a hook came last.")
@click.option("--verify", "verifies", is_flag=True, help="Run the installed agent offline: is a denied call stopped?")
def connect(  # noqa: PLR0913 - an option each
    state: State,
    agent: str | None,
    project: Path | None,
    missing: str,
    client: ClientKind | None,
    *,
    prints: bool,
    managed: bool,
    status: bool,
    verifies: bool,
) -> None:
    """Have a coding agent ask your plugins.

    AGENT is claude (Claude Code), codex, gemini, copilot, opencode, pi or goose. It writes our hooks into the agent's
    settings, beside those that are there, and a server of plugins' tools, and says which of the plugins' grants the
    agent can serve. Nothing of yours is lost: `disconnect` puts the file back to the byte. It refuses where a mandatory
    plugin needs what the agent does not serve, and where the agent would run no hook of yours. The program that answers
    the hooks is one for all agents; without --client it stays what it is.

    --verify runs the agent that is installed once, in a network without a way out, against a model that says what a
    script has, with a home of its own: a denied call must not run. It changes nothing of yours, and tells nothing of
    your settings: --status does that.

    \b
    Example:
      ally-plugins connect claude
      ally-plugins connect --status
      ally-plugins connect --verify claude
    """
    from ally_plugins.adapters.coding.settings.connections import connection_of

    if status:
        _show_status(state, [connection_of(each, project) for each in ((agent,) if agent else AGENTS)])
        return
    if managed:
        _show_managed(state)
        return
    if agent is None:
        raise click.UsageError(f"which agent? expected one of {', '.join(AGENTS)}, --status, or --managed")
    from ally_plugins.adapters.coding.client.client_files import client_kind, lay_client
    from ally_plugins.adapters.coding.dialects import DIALECTS
    from ally_plugins.adapters.coding.settings import connections

    if verifies:
        _verify(state, agent)
        return
    connection = connection_of(agent, project)
    if prints:
        _show_settings(state, connection, missing)
        return
    # From within an agent it could lay another host's client, or take the hooks of a project for open ones.
    require_operator(state.home)
    records = [record for record in state.registry.load() if record.is_enabled]
    _check_mandatory(DIALECTS[agent], records)
    _check_machine(state, connection)
    if overrides := connections.find_overrides(connection):
        raise ConfigError(f"{'; '.join(overrides)}: nothing was written, since no plugin would be asked")
    lay_client(state.home, kind=client or client_kind(state.home) or "python")
    changed = connections.connect(connection, state.home, missing=missing)
    tools = _connect_tools(state, connection)
    others = connections.others_at_our_events(connection)
    rows = _served(DIALECTS[agent], records)
    if state.as_json:
        print_json({
            "agent": agent, "file": str(connection.file), "changed": changed, "client": client_kind(state.home),
            "other_hooks": others, "tools": tools,
            "served": [{"plugin": plugin, "grant": grant, "how": how, "why": why} for plugin, grant, how, why in rows],
        })  # fmt: skip
        return
    file = inert(connection.file)
    echo(f"{agent}: our hooks are in {file}" if changed else f"{agent}: nothing to change in {file}")
    echo(f"{agent}: plugins' tools are offered by a server in {inert(tools['file'])}" if tools["offered"] else
         f"{agent}: plugins' tools are not offered: {inert(tools['why'])}")  # fmt: skip
    for line in table(("plugin", "granted", "served", "why"), [tuple(map(inert, row)) for row in rows]):
        echo(line)
    if not rows:  # no plugin, or none that guards
        which = "that is enabled has a gate or a transform" if records else "is enabled"
        echo(f"no plugin {which}, so nothing is guarded yet: ally-plugins list --all")
    _say_risks(agent, others)


def _check_machine(state: State, connection: Connection) -> None:
    """Refuse where the machine's policy misses a plugin, or its administrator has connected the agent already."""
    from ally_plugins.adapters.coding.settings.agent_switches import find_managed
    from ally_plugins.adapters.coding.settings.connections import is_ours

    if missing := state.registry.missing_mandatory(state.registry.load()):
        raise HostError(missing)
    if connection.project is None and (file := find_managed(connection.agent, is_ours)) is not None:
        text = f"{connection.agent} asks your plugins already, by {file}, which is this machine's"
        raise ConfigError(f"{text}; nothing was written")


def _show_managed(state: State) -> None:
    from ally_plugins.adapters.coding.settings.managed import deployed_files, deploying_script, loose_parts
    from ally_plugins.catalog.home.machine_policy import POLICY_FILE

    files = deployed_files(state.registry.load(), state.app, POLICY_FILE)
    loose = loose_parts([sys.executable, str(Path(__file__).parents[2])])
    if state.as_json:
        print_json({
            "files": [{"path": str(each.path), "content": each.content, "edited": each.is_edited} for each in files],
            "loose": loose,
        })  # fmt: skip
    else:
        echo(deploying_script(files), ends_line=False)
        for each in loose:
            echo(f"users could replace what answers the hooks: {inert(each)}", to_stderr=True)
        if loose:
            echo("print it again by an ally-plugins that only root can write: python3 -m venv /opt/x", to_stderr=True)


def _verify(state: State, agent: str) -> None:
    from ally_plugins.adapters.coding.offline.verify import verify

    found = verify(agent)
    if state.as_json:
        about = {"program": found.program, "version": found.version, "said": found.said}
        print_json({"agent": agent, "stopped": found.is_stopped, "why": found.why, **about})
    else:
        echo(f"{agent} {inert(found.version)} ({inert(found.program)}), offline, against a scripted model: {found.why}")
        if not found.is_stopped:
            echo("it has printed:")
            for line in found.said.splitlines():
                echo(f"  {inert(line)}")
        elif agent == "codex":
            echo("It ran with its question of trust waived: yours runs no hook before you agree to them (/hooks).")
    click.get_current_context().exit(DONE if found.is_stopped else REFUSED)


def _connect_tools(state: State, connection: Connection) -> dict[str, Any]:
    """Register plugins' tools, and return where, or why not: an agent without them is guarded all the same."""
    from ally_plugins.adapters.coding.settings.mcp_entries import NO_SERVERS, servers_file
    from ally_plugins.adapters.coding.settings.tool_settings import connect_tools

    why = NO_SERVERS.get(connection.agent, "")
    if connection.project is not None:
        why = "their server is a program of this machine, and a project's settings are for all who work on it"
    if why:
        return {"offered": False, "file": None, "why": why}
    try:
        connect_tools(connection, state.home)
    except ConfigError as error:
        return {"offered": False, "file": str(servers_file(connection.agent)), "why": str(error)}
    return {"offered": True, "file": str(servers_file(connection.agent)), "why": ""}


def _show_settings(state: State, connection: Connection, missing: str) -> None:
    from ally_plugins.adapters.coding.settings.connections import merged_text

    text = merged_text(connection, state.home, missing=missing)
    if state.as_json:
        print_json({"agent": connection.agent, "file": str(connection.file), "settings": text})
    else:
        echo(text, ends_line=False)


def _say_risks(agent: str, others: dict[str, list[str]]) -> None:
    for event, commands in others.items():
        echo(f"beside it runs at {event}, and may undo what plugins answer: {inert('; '.join(commands))}")
    if agent == "codex":
        echo("Codex runs no hook before you trust it: start codex, and agree to the hooks (/hooks).")
        echo("It is connected once a hook has come: ally-plugins connect --status")


def _check_mandatory(dialect: Dialect, records: list[PluginRecord]) -> None:
    from ally_plugins.policy.serving import unserved_grants, unserved_refusal

    for record in records:
        missing = unserved_grants(record.granted, record.requested, dialect.serves.missing)
        if record.config.mandatory and missing:
            raise HostError(f"{dialect.name}: {unserved_refusal(record.name, missing)}")


def _served(dialect: Dialect, records: list[PluginRecord]) -> list[tuple[str, str, str, str]]:
    """Return, for each gate and transform that was granted, whether the agent serves it, and why not wholly."""
    rows = []
    for record in records:
        for grant in sorted(record.granted.grants, key=lambda each: each.text):
            if grant.kind in {"gate", "transform"} and grant.topic != "waive":
                name = f"{grant.kind}:{grant.topic}"
                why = dialect.limits.get(name, "")
                how = "no" if name in dialect.serves.missing else "partly" if why else "yes"
                rows.append((record.name, grant.text, how, why))
    return rows


def _show_status(state: State, found: list[Connection]) -> None:
    from ally_plugins.adapters.coding.client.client_files import client_kind, find_change
    from ally_plugins.adapters.coding.client.hook_client import CLOSED
    from ally_plugins.adapters.coding.dialects import DIALECTS
    from ally_plugins.adapters.coding.serving.hook_socket import last_hook, newer_fields
    from ally_plugins.adapters.coding.settings import connections
    from ally_plugins.adapters.coding.settings.agent_switches import find_managed
    from ally_plugins.adapters.coding.settings.managed import client_problem

    change = find_change(state.home)
    unmanaged = client_problem()
    rows: list[dict[str, Any]] = []
    for connection in found:
        seen = last_hook(state.home, connection.agent)
        events, problem = _connected_events(connection)
        is_whole = events >= CLOSED[connection.agent].keys()
        partly = "yes" if is_whole else "partly: connect it again"
        how = partly if events else f"no: {problem}".removesuffix(": ")
        if (managed := find_managed(connection.agent, connections.is_ours)) is not None:
            how = f"no: {unmanaged}" if unmanaged else "not seen yet" if seen is None else "yes"
        elif events and (overrides := connections.find_overrides(connection)):
            how = f"no: {'; '.join(overrides)}"
        elif events and change is not None:
            how = f"no: {change}"
        elif how == "yes" and seen is None:
            how = "not seen yet"
        row = {"agent": connection.agent, "connected": how, "last_hook_ms": seen}
        row["file"] = str(managed or connection.file)
        tools = events != set() and _has_tools(connection)
        rows.append({**row, "tools": tools, "newer_fields": newer_fields(state.home, connection.agent)})
    if state.as_json:
        print_json({"agents": rows, "client": client_kind(state.home)})
    else:
        cells = [
            (each["agent"], each["connected"], "yes" if each["tools"] else "no", when(each["last_hook_ms"]),
             inert(each["file"]))
            for each in rows
        ]  # fmt: skip
        for line in table(("agent", "connected", "tools", "last hook", "settings"), cells):
            echo(line)
        for each in rows:
            if each["newer_fields"]:
                versions, names = ", ".join(DIALECTS[each["agent"]].versions), inert(", ".join(each["newer_fields"]))
                echo(f"{each['agent']} is newer than the versions that are known ({versions}): it sends {names}, too")
    is_fine = all(each["connected"] in {"yes", "no", "not seen yet"} for each in rows)
    click.get_current_context().exit(DONE if is_fine else REFUSED)


def _connected_events(connection: Connection) -> tuple[AbstractSet[str], str]:
    """Return at which events our hooks are, and what is wrong with the agent's settings: not to hide other agents."""
    from ally_plugins.adapters.coding.settings.connections import connected_events

    try:
        return connected_events(connection), ""
    except ConfigError as error:
        return set(), str(error)


def _has_tools(connection: Connection) -> bool:
    from ally_plugins.adapters.coding.settings.tool_settings import has_tools

    try:
        return has_tools(connection)
    except ConfigError:  # the agent will say what is wrong with it
        return False


@command("disconnect")
@click.argument("agent", type=click.Choice(AGENTS))
@_project
def disconnect(state: State, agent: str, project: Path | None) -> None:
    """Take our hooks out of the settings of an agent, as `connect` names it.

    A file that nobody has changed since is put back to the byte; else only our hooks are taken out.

    \b
    Example:
      ally-plugins disconnect claude
    """
    from ally_plugins.adapters.coding.settings import connections
    from ally_plugins.adapters.coding.settings.tool_settings import disconnect_tools

    connection = connections.connection_of(agent, project)
    tools = disconnect_tools(connection, state.home)
    how = connections.disconnect(connection, state.home)
    if state.as_json:
        print_json({"agent": agent, "file": str(connection.file), "how": how, "tools": tools})
        return
    file = inert(connection.file)
    lines = {
        "restored": f"{agent}: {file} is what it was before, to the byte",
        "taken out": f"{agent}: our hooks are out of {file}; what else was changed there since stays",
        "none": f"{agent}: there were no hooks of ours in {file}",
    }
    echo(lines[how])
