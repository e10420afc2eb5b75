"""`project`: what applies in a folder and why, and trusting what a project's `.ally` says."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from ally_plugins.cli.shell.operators import require_operator
from ally_plugins.cli.shell.projects import project_state
from ally_plugins.cli.shell.questions import require_consent
from ally_plugins.cli.shell.recorder import recorder
from ally_plugins.cli.shell.running_hosts import notify_hosts
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, inert, paint, print_json
from ally_plugins.contract.values.errors import ConfigError

if TYPE_CHECKING:
    from ally_plugins.catalog.projects.ally_folder import AllyFolder
    from ally_plugins.catalog.projects.project_file import ProjectFile
    from ally_plugins.catalog.projects.trusted import TrustedProject
    from ally_plugins.catalog.registry import Registry
    from ally_plugins.cli.shell.state import State

__all__ = ["project"]

_ACTIONS: Final = ("show", "trust", "untrust")


@command("project")
@click.argument("action", type=click.Choice(_ACTIONS), default="show", metavar="[show|trust|untrust]")
@click.argument("folder", type=click.Path(file_okay=False, exists=True), default=".", metavar="[FOLDER]")
@click.option("--yes", is_flag=True, help="Trust exactly what is printed, without being asked.")
def project(state: State, action: str, folder: str, yes: bool) -> None:  # noqa: FBT001 - click's way
    """Show what applies in FOLDER and why, or trust what the .ally folder of its project says.

    A project can narrow what its sessions may do: plugins that must run, tools of the agent that are denied, what each
    plugin may do at most, shorter deadlines of guards; and add plugins, which wait for your consent like any other.
    Nothing of it is read before you trust it, and what you have trusted holds until you trust something else, whatever
    becomes of the folder. `untrust` ends that. Sessions that are open go on as they are.

    \b
    Example:
      ally-plugins project
      ally-plugins project trust
      ally-plugins project untrust ~/work/service
    """
    from ally_plugins.catalog.projects.roots import find_root

    if action == "show":
        _show(state, folder)
        return
    require_operator(state.home)
    if action == "untrust":
        _untrust(state, folder)
        return
    _trust(state, find_root(folder) or os.path.realpath(folder), yes=yes)


# --- show ---


def _show(state: State, folder: str) -> None:
    from ally_plugins.catalog.projects.trusted import read_trusted, rules_for

    here = os.path.realpath(folder)
    found = project_state(state.home, here)
    trusted = read_trusted(state.home)
    applying = [trusted[rules.folder] for rules in rules_for(state.home, here).rules]
    registry = state.registry
    if state.as_json:
        applies = [_data(registry, each) for each in applying]
        print_json({"folder": here, "found": found.root, "state": found.state, "reason": found.reason,
                    "applies": applies})  # fmt: skip
        return
    for line in found.lines():
        echo(line)
    if not applying:
        echo(f"no trusted project is around {inert(here)}: plugins do here what they do everywhere")
    for each in applying:
        echo(paint(inert(each.root), bold=True) + f"  trusted {inert(each.at)} by {inert(each.by)}")
        for line in (*_rule_lines(each.file), *_added(registry, each), *_waiting(registry, each.file)):
            echo(f"  {line}")


def _data(registry: Registry, each: TrustedProject) -> dict[str, Any]:
    file = each.file
    rules = file.rules
    plugins = {
        name: {
            "takes_part": name not in rules.left_out,
            "grants": list(rules.ceilings[name].texts()) if name in rules.ceilings else None,
            "deadlines": dict(rules.deadlines.get(name, {})),
        }
        for name in sorted({*rules.left_out, *rules.ceilings, *rules.deadlines})
    }
    return {
        "folder": each.root, "at": each.at, "by": each.by, "digest": each.digest, "mandatory": rules.mandatory,
        "deny_tools": rules.denied_tools, "plugins": plugins,
        "adds": [{"name": name, "state": state} for name, state in _states(registry, each.plugins).items()],
        "settings": [{"plugin": name, "key": key, "value": value} for name, key, value in _unset(registry, file)],
    }  # fmt: skip


def _rule_lines(file: ProjectFile) -> Iterator[str]:
    rules = file.rules
    if rules.mandatory:
        yield f"must run: {inert(', '.join(rules.mandatory))}; else no session opens, and no call of the agent runs"
    if rules.denied_tools:
        yield f"denied tools of the agent: {inert(', '.join(rules.denied_tools))}"
    for name in sorted(rules.left_out):
        yield f"{inert(name)} takes no part, where it guards nothing"
    for name, ceiling in sorted(rules.ceilings.items()):
        yield f"{inert(name)} may do at most: {inert(', '.join(ceiling.texts())) or 'nothing'}; it guards as ever"
    for name, deadlines in sorted(rules.deadlines.items()):
        shown = ", ".join(f"{hook} {seconds:g} s" for hook, seconds in sorted(deadlines.items()))
        yield f"{inert(name)} has to answer within: {inert(shown)}; where being late denies"


def _added(registry: Registry, each: TrustedProject) -> Iterator[str]:
    for name, state in _states(registry, each.plugins).items():
        way = f"; to see it, and agree: ally-plugins enable {inert(name)}" if state == "waiting for consent" else ""
        yield f"adds {inert(name)}, which is {state}{way}"


def _states(registry: Registry, names: Sequence[str]) -> Mapping[str, str]:
    found = {record.name: record.state for record in registry.load()} if names else {}
    return {name: found.get(name, "not installed") for name in names}


def _waiting(registry: Registry, file: ProjectFile) -> Iterator[str]:
    for name, key, value in _unset(registry, file):
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        yield f"proposes a setting, for all projects: ally-plugins config {inert(name)} {inert(f'{key}={shown}')}"


def _unset(registry: Registry, file: ProjectFile) -> Iterator[tuple[str, str, Any]]:
    """Yield the settings that a project proposes and nobody has made."""
    if not file.settings:
        return
    now = {record.name: record.config.settings for record in registry.load()}
    for name, settings in sorted(file.settings.items()):
        for key, value in sorted(settings.items()):
            if now.get(name, {}).get(key) != value:
                yield name, key, value


# --- trust and untrust ---


def _trust(state: State, root: str, *, yes: bool) -> None:
    from ally_plugins.catalog.project_trust import check_names, trust
    from ally_plugins.catalog.projects.ally_folder import read_ally_folder
    from ally_plugins.catalog.projects.trusted import read_trusted, remove_unused, trusted_as

    registry = state.registry
    folder = read_ally_folder(root, state.home.path)
    new, old = trusted_as(folder, "", ""), read_trusted(state.home).get(folder.root)
    check_names(registry, new)
    if old is not None and old.digest == new.digest:
        _report(state, folder.root, new, is_changed=False)
        return
    for line in _content(folder, new, old):
        echo(line, to_stderr=state.as_json)
    way_out = f"to trust exactly what is shown: ally-plugins project trust {inert(root)} --yes"
    require_consent(state, "Trust this?", is_agreed=yes, refused=f"{root!r} is not trusted", way_out=way_out)
    with recorder(registry) as writing:
        # What was read and shown is what is trusted, whatever has become of the folder meanwhile.
        writing.change(lambda it: trust(it, folder, "--yes" if yes else "person"))
    remove_unused(state.home, read_trusted(state.home).values())
    _report(state, folder.root, new, is_changed=True)
    for name in sorted({*new.plugins, *(old.plugins if old is not None else ())}):
        notify_hosts(state.home, "apply", name)


def _content(folder: AllyFolder, new: TrustedProject, old: TrustedProject | None) -> Iterator[str]:
    """Yield all that is to be trusted, and what of it held before and is gone."""
    yield paint(inert(folder.root), bold=True)
    before, now = (list(_rule_lines(old.file)) if old is not None else []), list(_rule_lines(new.file))
    yield from (f"  {line}" for line in now)
    yield from (f"  no longer: {line}" for line in before if line not in now)
    for name, settings in sorted(new.file.settings.items()):
        proposed = ", ".join(f"{key} = {value}" for key, value in sorted(settings.items()))
        yield f"  proposes settings of {inert(name)}: {inert(proposed)}"
    for name in new.plugins:
        yield f"  adds the plugin {inert(name)}, which waits for your consent: ally-plugins enable {inert(name)}"
        yield from (f"    {inert(path)}" for path in folder.files if path.startswith(f"plugins/{name}/"))
    if not (now or before or new.plugins or new.file.settings):
        yield "  it says nothing yet; project.toml in its .ally is empty, or not there"


def _report(state: State, root: str, new: TrustedProject, *, is_changed: bool) -> None:
    if state.as_json:
        print_json({"folder": root, "digest": new.digest, "changed": is_changed, "adds": new.plugins})
        return
    if not is_changed:
        echo(f"{inert(root)} is trusted already, as it is")
        return
    echo(f"{inert(root)} is trusted; that holds in sessions that are opened from now on")


def _untrust(state: State, folder: str) -> None:
    from ally_plugins.catalog.project_trust import untrust
    from ally_plugins.catalog.projects.trusted import project_of, read_trusted, remove_unused

    before = read_trusted(state.home)
    root = project_of(folder, before)
    if root is None:
        raise ConfigError(f"no trusted project is around {os.path.realpath(folder)!r}", path=folder)
    with recorder(state.registry) as writing:
        writing.change(lambda it: untrust(it, root))
    remove_unused(state.home, read_trusted(state.home).values())
    for name in before[root].plugins:
        notify_hosts(state.home, "apply", name)
    if state.as_json:
        print_json({"folder": root, "changed": True, "adds": before[root].plugins})
    else:
        echo(f"{inert(root)} is trusted no longer; sessions that are open go on as they are")
