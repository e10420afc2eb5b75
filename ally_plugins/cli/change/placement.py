"""`place` and `env`: where a plugin runs, and with which Python."""

from __future__ import annotations

import shlex
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ally_plugins.catalog.decide.placement import DEFAULT_PLACEMENT
from ally_plugins.cli.shell.completion import plugin_names
from ally_plugins.cli.shell.processes import process_data, process_rows, trust
from ally_plugins.cli.shell.questions import require_consent
from ally_plugins.cli.shell.recorder import recorder
from ally_plugins.cli.shell.running_hosts import RESTART_TIMEOUT, notify_hosts
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import columns, echo, inert, print_json
from ally_plugins.contract.values.errors import ConfigError

if TYPE_CHECKING:
    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.catalog.discovery.bridge import Building
    from ally_plugins.catalog.home.config import Placement
    from ally_plugins.catalog.registry import Registry
    from ally_plugins.cli.shell.state import State

__all__ = ["PLACEMENTS", "env", "place"]

PLACEMENTS: Final = ("sandbox", "process", "inline", "shared")


@command("place")
@click.argument("name", shell_complete=plugin_names)
@click.argument("placement", type=click.Choice(PLACEMENTS))
@click.option("--interpreter", metavar="PYTHON", help="Run it with this Python, which has ally-plugins installed.")
@click.option("--env", "environment", metavar="NAME", help="Run it with this environment, which `env` builds.")
def place(state: State, name: str, placement: Placement, interpreter: str | None, environment: str | None) -> None:
    """Run the plugin NAME in a sandbox, in a process of its own, inline, inside the agent's process, or shared.

    A class runs in all of them without being changed; what ships a program runs in a process or a sandbox. One that is
    shared runs at a worker (`fleet serve`), once for many hosts, and needs the home's fleet.toml. Without --interpreter
    and --env it is the host's own Python. Hosts that run move it at once, by a new instance; where that
    cannot start there, it goes on where it was.

    \b
    Example:
      ally-plugins place loop-warner sandbox
      ally-plugins place loop-warner process
      ally-plugins place loop-warner process --env loop-warner
      ally-plugins place loop-warner inline
    """
    if placement in {"inline", "shared"} and (interpreter or environment):
        whose = "inline it is the agent's own Python" if placement == "inline" else "shared it is the worker's"
        raise click.UsageError(f"--interpreter and --env are for a process: {whose}")
    if interpreter and environment:
        raise click.UsageError("--interpreter and --env exclude each other")
    python = _absolute(interpreter) if interpreter else None
    registry = state.registry
    with recorder(registry) as writing:
        writing.change(lambda it: it.place(name, placement, interpreter=python, environment=environment))
    record = registry.get(name)
    warnings = _warnings(record)
    # As long as a restart: hosts answer when the new instance runs, or has failed to.
    effect = notify_hosts(state.home, "place", record.name, RESTART_TIMEOUT)
    if state.as_json:
        about = {"name": record.name, "state": record.state, "reason": record.reason, "warnings": warnings}
        print_json({**about, **process_data(record), "hosts": effect.data()})
        effect.exit()
    echo(f"{inert(record.label)} is placed: {placement}; it {trust(record)}")
    for line in columns([(f"  {heading}", text) for heading, text in process_rows(record)]):
        echo(line)
    for warning in warnings:
        echo(f"warning: {inert(warning)}")
    for line in effect.lines():
        echo(line)
    effect.exit()


def _warnings(record: PluginRecord) -> list[str]:
    """Check that the named Python has the modules to be run; otherwise that would show only when the plugin starts."""
    from ally_plugins.catalog.environments.build import missing_modules

    daemon = record.daemon
    # The Python that runs this has found the plugin already, and a program that it ships is no module.
    if daemon is None or not (record.config.interpreter or record.config.environment) or not record.entry_point:
        return [*record.warnings]
    # A Python runs what packages have put into its environment (`.pth`) as soon as it starts: here, in no sandbox.
    if record.placement == "sandbox":
        return [*record.warnings]
    modules = ("ally_plugins", record.entry_point.partition(":")[0].partition(".")[0].strip())
    missing = missing_modules(daemon.command[0], modules)
    lines = [f"{daemon.command[0]} does not find the module {module!r}; install it there" for module in missing]
    return [*record.warnings, *lines]


def _absolute(interpreter: str) -> str:
    """Return the absolute path of a Python that is named as in a shell. Raises ConfigError when PATH has none."""
    from ally_plugins.catalog.home.folder import absolute_path

    # The host's working directory is another than this one, so the path has to be absolute.
    is_path = len(Path(interpreter).parts) > 1 or interpreter.startswith("~")
    found = str(absolute_path(interpreter, "interpreter")) if is_path else shutil.which(interpreter)
    if found is None:
        raise ConfigError(f"no program {interpreter!r} on PATH, expected the path of a Python", path="interpreter")
    return found


@command("env")
@click.argument("name", shell_complete=plugin_names)
@click.option("--remove", is_flag=True, help="Remove it instead.")
@click.option("--python", metavar="PYTHON", help="Build it with this Python: the one that runs this command.")
@click.option("--yes", is_flag=True, help="Do exactly what is printed, without being asked.")
def env(state: State, name: str, remove: bool, python: str | None, yes: bool) -> None:  # noqa: FBT001 - click's way
    """Build a virtual environment for the plugin NAME, so that its dependencies are its own.

    Installed into it, by uv or pip: the plugin's distribution and ally-plugins, both as they are installed here; for a
    plugin of another system what it names (requirements.txt, package.json). The commands are shown before they run,
    since building a distribution runs its author's code. A new one takes the place of an old one only when it is
    whole. To have a plugin found here without its dependencies: install --no-deps.

    \b
    Example:
      ally-plugins env loop-warner
      ally-plugins place loop-warner process --env loop-warner
      ally-plugins env loop-warner --remove
    """
    if remove:
        _remove(state, name, yes=yes)
    else:
        _build(state, name, python, yes=yes)


def _build(state: State, name: str, python: str | None, *, yes: bool) -> None:
    from ally_plugins.catalog.environments import build as environments

    registry = state.registry
    record = registry.get(name)
    building = _planned(state, record, python)
    for line in record.bridge.downloads() if record.bridge is not None else ():
        echo(f"downloads: {inert(line)}", to_stderr=state.as_json)
    for command_line in building.commands:
        echo(f"$ {inert(shlex.join(command_line))}", to_stderr=state.as_json)
    way_out = f"to run what is shown: ally-plugins env {name} --yes"
    question = f"Run this, and put it at {building.path}?"
    require_consent(state, question, is_agreed=yes, refused="nothing is built", way_out=way_out)
    with recorder(registry) as writing:
        # Before it runs: strangers' code is in the journal even if it ends this program.
        writing.note("env", record.name, {"environment": building.name, "is_begun": True})
        environments.build(state.home, building, partial(_pass_on, state))
        writing.note("env", record.name, {"environment": building.name, "path": str(building.path)})
    _report_built(state, record, building)


def _planned(state: State, record: PluginRecord, python: str | None) -> Building:
    """Return what would be run: for a package the plugin as it is installed here and this package, which runs it."""
    from ally_plugins.catalog.environments import build as environments
    from ally_plugins.catalog.environments.installer import requirement_of

    if record.origin == "package":
        requirements = [*requirement_of(record.distribution), *requirement_of("ally-plugins")]
        return environments.plan(state.home, record.name, requirements, python)
    building = record.bridge.plan_install(state.home) if record.bridge is not None else None
    if building is None:
        raise ConfigError(f"{record.label!r} is no installed package, and names nothing to be installed", path="env")
    return building


def _pass_on(state: State, line: str) -> None:
    """Show a line of the installer's output, made inert: build backends are strangers too."""
    echo(f"  {inert(line.rstrip())}", to_stderr=state.as_json)


def _report_built(state: State, record: PluginRecord, building: Building) -> None:
    in_use = record.bridge is not None or record.config.environment == building.name
    if state.as_json:
        print_json({"environment": building.name, "path": str(building.path), "in_use": in_use,
                    "commands": building.commands})  # fmt: skip
        return
    echo(f"the environment {building.name!r} is at {inert(building.path)}")
    placement = "process" if record.placement == "process" else DEFAULT_PLACEMENT
    use = f"ally-plugins place {record.name} {placement} --env {building.name}"
    echo(f"in use from its next start: ally-plugins restart {record.name}" if in_use else f"to use it: {use}")


def _remove(state: State, name: str, *, yes: bool) -> None:
    from ally_plugins.catalog.environments import build as environments

    registry = state.registry
    users = _users(registry, name)
    question = f"Remove the environment {name!r}{_for_users(users)}?"
    require_consent(state, inert(question), is_agreed=yes, refused="nothing is removed", way_out="add --yes")
    with recorder(registry) as writing:
        # As for a build: what is to go is in the journal even if this program ends amid it.
        writing.note("env", None, {"environment": name, "is_removed": True, "is_begun": True})
        path = environments.remove(state.home, name)
        writing.note("env", None, {"environment": name, "is_removed": True})
    if state.as_json:
        print_json({"environment": name, "path": str(path), "removed": True, "users": users})
        return
    echo(f"the environment {name!r} is removed")
    for user in users:
        echo(f"{inert(user)} cannot start without it: ally-plugins place {user} {registry.get(user).placement}")


def _users(registry: Registry, name: str) -> list[str]:
    return [record.name for record in registry.load() if record.config.environment == name]


def _for_users(users: list[str]) -> str:
    return f", which {', '.join(users)} cannot start without" if users else ""
