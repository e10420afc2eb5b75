"""`lock` and `apply`: what one machine has in a file, and another machine made like it, with the operator's consent."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import click

from ally_plugins.catalog.decide.lock import revision_of
from ally_plugins.catalog.locking import (
    LOCK_NAME,
    MAX_LOCK_BYTES,
    configure,
    locked_plugins,
    read_lock,
    requirement_lines,
    write_lock,
)
from ally_plugins.cli.shell.exits import REFUSED
from ally_plugins.cli.shell.questions import require_consent
from ally_plugins.cli.shell.recorder import recorder
from ally_plugins.cli.shell.running_hosts import notify_hosts
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, inert, paint, print_json, table
from ally_plugins.contract.values.errors import ConfigError, OperatorError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from packaging.pylock import Pylock

    from ally_plugins.catalog.decide.lock import Difference, LockedPlugin
    from ally_plugins.catalog.registry import OperatorChange, Registry
    from ally_plugins.cli.shell.state import State

__all__ = ["apply", "lock"]

_Make: TypeAlias = "Callable[[Registry], OperatorChange | None]"


@command("lock", context_settings={"ignore_unknown_options": True})
@click.option("--output", "-o", metavar="FILE", default=LOCK_NAME, show_default=True, help="Where to; - for stdout.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[PIP OPTION]...")
def lock(state: State, output: str, options: tuple[str, ...]) -> None:
    """Write what is installed, agreed, granted and configured here to a file, for `apply` on another machine.

    It is a lock file as pip and uv read it (PEP 751): the distributions of the plugins and what they require, with
    hashes. Beside them stands a table of the plugins. Secret settings stay here, and so do paths of Pythons. For
    distributions from an index pip is asked for the hashes; options that this command does not know go to it. The
    revision that is printed is what `fleet status` shows of homes that have the same enabled in the same way.

    \b
    Example:
      ally-plugins lock
      ally-plugins lock -o pylock.team.toml --no-index --find-links ./wheels
    """
    if options and not options[0].startswith("-"):  # else pip would be given it, and say nothing
        raise click.UsageError(f"{options[0]!r} is no option of pip; to write there: -o {options[0]}")
    _need_packaging()
    from ally_plugins.catalog.environments.pinning import pinned_packages
    from ally_plugins.catalog.home.folder import write_atomically

    plugins = locked_plugins(state.registry)
    distributions = {each.distribution for each in plugins.values() if each.origin == "package" and each.code}
    packages = pinned_packages(distributions, options)
    text = write_lock(plugins, packages)
    if output == "-":
        echo(text, ends_line=False)
        return
    try:
        write_atomically(Path(output).absolute(), text.encode())
    except OSError as error:
        raise ConfigError(f"{output!r} cannot be written: {error.strerror or error}", path=output) from error
    unhashed = [package.name for package in packages if package.directory is not None or package.vcs is not None]
    revision = revision_of(plugins)
    if state.as_json:
        print_json({"file": output, "plugins": sorted(plugins), "packages": [each.name for each in packages],
                    "without_hash": unhashed, "revision": revision})  # fmt: skip
        return
    echo(f"{inert(output)}: {len(plugins)} plugins, {len(packages)} distributions, revision {revision}")
    if unhashed:
        echo(f"without a hash, since they come from a folder or a repository: {inert(', '.join(unhashed))}")


@command("apply")
@click.argument("file", default=LOCK_NAME, metavar="[FILE]")
@click.option("--check", is_flag=True, help="Only say what differs; the exit code is 1 when anything does.")
@click.option("--yes", is_flag=True, help="Agree to exactly what is printed, without being asked.")
def apply(state: State, file: str, check: bool, yes: bool) -> None:  # noqa: FBT001 - click's way
    """Make this machine as the lock FILE says, or say what differs.

    What is not installed is installed with the hashes of the lock, once you agree. What makes plugins stricter is done
    at once; all that loosens (code, grants, a plugin that is enabled, a guard that goes) is shown, and waits for your
    consent. Without a person at the terminal the answer is no, unless --yes is given. A plugin whose files are not
    those of the lock is never enabled by it.

    \b
    Example:
      ally-plugins apply --check
      ally-plugins apply pylock.team.toml
    """
    _need_packaging()
    there, lock_ = _read(file)
    found = _differences(there, state.registry)
    if check or not found:
        _report(state, found, [])
        raise click.exceptions.Exit(REFUSED if found else 0)
    if any(each.key == "code" for each in found):
        _install(state, lock_, [each for each in found if each.key == "code"], is_agreed=yes)
        found = _differences(there, state.registry)
    done = _settle(state, there, found, is_agreed=yes)
    left = _differences(there, state.registry)
    _report(state, left, done)
    raise click.exceptions.Exit(REFUSED if left else 0)


def _need_packaging() -> None:
    """Raise OperatorError where `packaging` cannot read such files yet; all else here works with older ones."""
    from importlib.util import find_spec

    if find_spec("packaging.pylock") is None:
        raise OperatorError("lock files need packaging 26 or newer: pip install -U packaging")


def _read(file: str) -> tuple[dict[str, LockedPlugin], Pylock]:
    from ally_plugins.catalog.home.folder import read_capped
    from ally_plugins.contract.documents import text_of

    if Path(file).is_dir():
        raise ConfigError(f"{file!r} is a folder, expected a lock such as {str(Path(file, LOCK_NAME))!r}", path=file)
    try:
        content = read_capped(file, MAX_LOCK_BYTES)
        text = text_of(content) if content is not None else None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file!r} cannot be read: {error}", path=file) from error
    if text is None:
        way_out = "to write one, where everything is as it should be: ally-plugins lock"
        raise ConfigError(f"there is no file {file!r}; {way_out}", path=file)
    return read_lock(text, file)


def _differences(there: dict[str, LockedPlugin], registry: Registry) -> tuple[Difference, ...]:
    from ally_plugins.catalog.decide.lock import differences

    return differences(there, locked_plugins(registry))


def _lines(found: Sequence[Difference]) -> list[str]:
    rows = [
        (inert(each.plugin), inert(each.key), inert(each.there), inert(each.here),
         paint("waits for your consent", fg="yellow") if each.loosens else "")
        for each in found
    ]  # fmt: skip
    return table(("plugin", "what", "in the lock", "here", ""), rows)


def _show(state: State, found: Sequence[Difference]) -> None:
    for line in _lines(found):
        echo(line, to_stderr=state.as_json)


def _report(state: State, left: Sequence[Difference], done: Sequence[str]) -> None:
    if state.as_json:
        differing = [
            {"plugin": each.plugin, "what": each.key, "there": each.there, "here": each.here, "loosens": each.loosens}
            for each in left
        ]
        print_json({"differences": differing, "changed": done})
        return
    for name in done:
        echo(f"{inert(name)} is as in the lock now")
    if not left:
        echo("nothing differs")
        return
    echo("this differs:")
    _show(state, left)


def _install(state: State, lock_: Pylock, found: Sequence[Difference], *, is_agreed: bool) -> None:
    """Install what the lock has, with its hashes, once somebody has agreed."""
    from ally_plugins.catalog.environments import installer as installing
    from ally_plugins.cli.change.packages import pass_on, record_of, show_command

    _show(state, found)
    lines = requirement_lines(lock_)
    for line in lines:
        echo(f"  {inert(line)}", to_stderr=state.as_json)
    question = f"Install these {len(lines)} distributions, by the hashes of the lock?"
    require_consent(state, question, is_agreed=is_agreed, refused="nothing is installed", way_out="add --yes")
    with tempfile.TemporaryDirectory(prefix="ally-lock-") as folder, recorder(state.registry) as writing:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text("\n".join(lines) + "\n", encoding="utf-8")
        arguments = ("--require-hashes", "--no-deps", "-r", os.fspath(requirements))
        show_command(state, installing.install_command(arguments))
        done = installing.install(arguments, partial(pass_on, state))
        writing.note("install", None, record_of(done))
    if done.exit_code != 0:
        raise OperatorError(f"the installer failed with exit code {done.exit_code}; its output above says why")


def _settle(state: State, there: dict[str, LockedPlugin], found: Sequence[Difference], *, is_agreed: bool) -> list[str]:
    """Settle what differs, plugin by plugin, and return which were changed.

    What is stricter needs nobody's consent, and is done first: it is no reason to wait for the rest.
    """
    wrong = {each.plugin for each in found if each.key == "code"}
    todo = [each for each in found if each.plugin not in wrong]
    loosening = sorted({each.plugin for each in todo if each.loosens})
    narrowing = sorted({each.plugin for each in todo} - {*loosening})
    done = _change(state, narrowing, {name: _narrowing(there[name], todo) for name in narrowing})
    if not loosening:
        return done
    _show(state, [each for each in todo if each.plugin in loosening])
    for name in loosening:
        if name in there:
            _show_plan(state, there[name])
    require_consent(
        state,
        f"Agree, and make {', '.join(loosening)} so?",
        is_agreed=is_agreed,
        refused="what loosens is left as it is",
        way_out="to agree to exactly what is shown: --yes",
    )
    by = "--yes" if is_agreed else "person"
    return done + _change(state, loosening, {name: _agreed(there.get(name), name, by) for name in loosening})


def _show_plan(state: State, plugin: LockedPlugin) -> None:
    """Show all that a plugin asks for, as `enable` does, where the lock has it enabled."""
    from ally_plugins.cli.shell.requests import plan_lines

    if plugin.is_enabled:
        plan = state.registry.plan(f"{plugin.origin}:{plugin.name}", plugin.config.get("grants", ()))
        for line in plan_lines(plan):
            echo(line, to_stderr=state.as_json)
        echo(to_stderr=state.as_json)


def _change(state: State, names: Sequence[str], makes: Mapping[str, Sequence[_Make]]) -> list[str]:
    with recorder(state.registry) as writing:
        for name in names:
            for make in makes[name]:
                writing.change(make)
    for name in names:
        effect = notify_hosts(state.home, "apply", name)
        for line in effect.lines() if effect.answers else ():
            echo(f"{inert(name)}: {line}", to_stderr=state.as_json)
    return list(names)


def _narrowing(plugin: LockedPlugin, found: Sequence[Difference]) -> list[_Make]:
    """Return the changes of a plugin that becomes stricter only: nothing is agreed to anew."""
    surplus = [each.here for each in found if (each.plugin, each.key) == (plugin.name, "grants")]
    return [partial(_configure, plugin), *(partial(_revoke, plugin.name, text) for text in surplus)]


def _agreed(plugin: LockedPlugin | None, name: str, by: str) -> list[_Make]:
    """Return the changes of a plugin that was agreed to, in order: how it is held is written before it is enabled."""
    if plugin is None:
        return [partial(_disable, name)]
    if not plugin.is_enabled:
        return [partial(_configure, plugin), *([partial(_disable, name)] if "enabled" in plugin.config else [])]
    return [partial(_configure, plugin), partial(_enable, plugin, by)]


def _configure(plugin: LockedPlugin, registry: Registry) -> OperatorChange | None:
    return configure(registry, plugin)


def _revoke(name: str, grant: str, registry: Registry) -> OperatorChange:
    return registry.revoke(name, grant)


def _disable(name: str, registry: Registry) -> OperatorChange:
    return registry.disable(name)


def _enable(plugin: LockedPlugin, by: str, registry: Registry) -> OperatorChange:
    return registry.enable(registry.plan(f"{plugin.origin}:{plugin.name}", plugin.config.get("grants", ())), by)
