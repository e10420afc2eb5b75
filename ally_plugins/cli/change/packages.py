"""`install` and `uninstall`: pip or uv, in the environment that this program runs in."""

from __future__ import annotations

import os
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ally_plugins.cli.shell.completion import plugin_names
from ally_plugins.cli.shell.questions import require_consent
from ally_plugins.cli.shell.recorder import recorder
from ally_plugins.cli.shell.running_hosts import notify_hosts
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, inert, print_json
from ally_plugins.contract.values.errors import ConfigError, OperatorError
from ally_plugins.contract.values.ids import bare_name

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from ally_plugins.catalog.environments.installer import InstallReport
    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.catalog.registry import Registry
    from ally_plugins.cli.shell.recorder import Recorder
    from ally_plugins.cli.shell.state import State

__all__ = ["install", "pass_on", "record_of", "show_command", "uninstall"]

_MANIFESTS: Final = ("ally-plugin.toml", "plugin.json")
_BUILT_BY: Final = ("pyproject.toml", "setup.py", "setup.cfg")


@command("install", context_settings={"ignore_unknown_options": True})
@click.argument("requirements", nargs=-1, required=True, metavar="REQUIREMENT...", type=click.UNPROCESSED)
def install(state: State, requirements: tuple[str, ...]) -> None:
    """Install distributions with pip or uv, and say which plugins appeared. Nothing is enabled.

    REQUIREMENT is what pip takes: a name, a path, a URL; options that this command does not know go to pip (-e,
    --upgrade). The command is shown before it runs: building a distribution runs its author's code.

    \b
    Example:
      ally-plugins install ./loop-warner
      ally-plugins install --upgrade loop-warner
    """
    from ally_plugins.catalog.environments import installer as installing

    _refuse_folders(state.home, requirements)
    _refuse_ambiguous(requirements)
    # The journal is opened first: what could not be recorded is not installed.
    with recorder(state.registry) as writing:
        show_command(state, installing.install_command(requirements))
        done = installing.install(requirements, partial(pass_on, state))
        # Also when the installer failed: it may have installed a part by then.
        writing.note("install", None, record_of(done))
    _finish(state, done)


def _refuse_folders(home: Home, requirements: Sequence[str]) -> None:
    """Refuse folders with a manifest and no distribution: the installer would only say that it knows no such thing."""
    for text in requirements:
        folder = Path(os.path.realpath(text))  # `resolve` fails on a circle of links, and `is_file` on a long name
        manifest = next((name for name in _MANIFESTS if os.path.isfile(folder / name)), None)  # noqa: PTH113
        # With one of these files pip can build it, and knows best whether it should.
        if manifest is None or any((folder / name).exists() for name in _BUILT_BY):
            continue
        enable = f"ally-plugins enable {shlex.quote(folder.name)}"
        if folder.parent == home.plugins_dir.resolve():
            way_out = f"it lies where plugins in folders are found; to see what it asks for, and agree: {enable}"
        else:
            there = shlex.quote(str(home.plugins_dir))
            copy = f"mkdir -p {there} && cp -r {shlex.quote(text)} {there}/"
            way_out = f"put it where these are found: {copy}; then: {enable}"
        what = f"{text!r} is a plugin's folder ({manifest}) and no Python distribution, which pip and uv install"
        raise ConfigError(f"{what}; {way_out}", path=text)


def _refuse_ambiguous(requirements: Sequence[str]) -> None:
    """Refuse a name that is a project's folder here: pip takes it from an index, and would run what builds that."""
    for before, text in zip(("", *requirements), requirements, strict=False):
        is_name = before not in {"-e", "--editable"} and not any(each in text for each in (os.sep, os.altsep or os.sep))
        if is_name and text not in {os.curdir, os.pardir} and any(Path(text, name).exists() for name in _BUILT_BY):
            here = shlex.join(["ally-plugins", "install", os.curdir + os.sep + text])
            index = shlex.join(["ally-plugins", "install", f"{text}>=0"])
            what = f"{text!r} is a folder here, and to pip the name of a distribution in an index"
            raise ConfigError(f"{what}; for the folder: {here}; for the index: {index}", path=text)


@command("uninstall")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=plugin_names)
@click.option("--yes", is_flag=True, help="Do not ask first.")
def uninstall(state: State, names: tuple[str, ...], yes: bool) -> None:  # noqa: FBT001 - click's way
    """Uninstall the distributions of plugins with pip or uv, and forget what was agreed to for these.

    NAME is a plugin, or a distribution. Settings stay in config.toml; installed again, a plugin is a new one.

    \b
    Example:
      ally-plugins uninstall loop-warner
    """
    from ally_plugins.catalog.environments import installer as installing

    registry = state.registry
    distributions, plugins = _distributions_of(registry, names)
    question = f"Uninstall {', '.join(distributions)}, with the plugins {', '.join(plugins) or '(none)'}?"
    require_consent(state, inert(question), is_agreed=yes, refused="nothing is uninstalled", way_out="add --yes")
    with recorder(registry) as writing:
        show_command(state, installing.uninstall_command(distributions))
        done = installing.uninstall(distributions, partial(pass_on, state))
        writing.note("uninstall", None, record_of(done))
        forgotten = _forget(writing, done.disappeared)
    for name in done.disappeared:  # a host that runs has its code loaded: it stops it
        effect = notify_hosts(state.home, "apply", name)
        for line in effect.lines() if effect.answers else ():
            echo(f"{name}: {line}", to_stderr=state.as_json)
    _finish(state, done, forgotten)


def _forget(writing: Recorder, names: Iterable[str]) -> set[str]:
    """Forget what was agreed to for these packages, and return the names of those for which something was."""
    changes = [writing.change(lambda it, name=name: it.forget(name)) for name in names]  # type: ignore[misc]
    return {change.plugin for change in changes if change is not None}


def _distributions_of(registry: Registry, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the distributions of these plugins or distributions, and all the plugins that go with them."""
    records = [record for record in registry.load() if record.origin == "package"]
    by_name = {record.name: record.distribution for record in records}
    installed = {record.distribution for record in records}
    if unknown := [name for name in names if name not in by_name and name not in installed]:
        from ally_plugins.catalog.registry import no_plugin

        # A folder is no mistake in the name: the way out is another one.
        others = {each.name: each for each in registry.load() if each.origin not in {None, "package"}}
        if (other := others.get(bare_name(unknown[0]))) is not None:
            where = f"the folder {other.found.root}" if other.found and other.found.root else other.source
            raise ConfigError(f"{unknown[0]!r} is {where}, which no installer knows; remove it yourself")
        raise no_plugin(unknown[0], tuple(by_name))
    distributions = list(dict.fromkeys(by_name.get(name, name) for name in names))
    return distributions, [name for name, owner in by_name.items() if owner in distributions]


def show_command(state: State, command_line: Sequence[str]) -> None:
    """Show what is about to run."""
    echo(f"$ {inert(shlex.join(command_line))}", to_stderr=state.as_json)


def pass_on(state: State, line: str) -> None:
    """Show a line of the installer's output, made inert: build backends are strangers too."""
    echo(f"  {inert(line.rstrip())}", to_stderr=state.as_json)


def record_of(done: InstallReport) -> dict[str, Any]:
    """Return what the audit keeps: not the requirements, since a URL may hold a password."""
    return {
        "exit_code": done.exit_code,
        "appeared": done.appeared,
        "disappeared": done.disappeared,
        "changed": done.changed,
    }


def _finish(state: State, done: InstallReport, forgotten: Container[str] | None = None) -> None:
    """Print what an installer has done. `forgotten` are the plugins about which something was forgotten.

    None where nothing is, since an upgrade has dropped what is gone: who agreed to it misses it, and its gates deny.
    """
    # After a failure the error is the only object: one command prints one.
    if state.as_json and done.exit_code == 0:
        print_json(record_of(done))
    if done.exit_code != 0:
        raise OperatorError(f"the installer failed with exit code {done.exit_code}; its output above says why")
    if state.as_json:
        return
    for name, source in done.appeared.items():
        echo(f"new: {inert(name)} ({inert(source)}); to see what it asks for, and agree: ally-plugins enable {name}")
    for name, source in done.changed.items():
        echo(f"changed: {inert(name)} is now {inert(source)}; to see what is different: ally-plugins review")
    for name in done.disappeared:
        if forgotten is None:
            kept = f"stays, and gates that were granted deny; to do without it: ally-plugins disable {name}"
        elif name in forgotten:
            kept = "is forgotten"
        else:
            kept = "is about another plugin of this name, and stays"
        echo(f"gone: {inert(name)}; what was agreed to {kept}")
    if not (done.appeared or done.changed or done.disappeared):
        echo("no plugin appeared, changed or went away")
