"""`diff` and `upgrade`: what another version of a plugin would have done, before anybody agrees to it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ally_plugins.cli.shell.completion import plugin_names
from ally_plugins.cli.shell.exits import REFUSED
from ally_plugins.cli.shell.journal_rows import reading_of
from ally_plugins.cli.shell.questions import require_consent
from ally_plugins.cli.shell.recorder import recorder
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, inert, paint, preview, print_json, table
from ally_plugins.contract.values.errors import ConfigError, OperatorError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.cli.shell.state import State
    from ally_plugins.replay.trial import TrialDifference

__all__ = ["diff", "upgrade"]

INSTALLED: Final = "installed"
_LAST: Final = 10
_SHOWN: Final = 20
"""Changes that are listed; with --json all of them."""


_LAST_OPTION = click.option("--last", type=click.IntRange(min=1), default=_LAST, metavar="N", show_default=True,
                            help="Play the last N sessions of the journal.")  # fmt: skip
_ON_OPTION = click.option("--on", "files", multiple=True, metavar="FILE",
                          help="Play this recording instead; repeatable.")  # fmt: skip
_OPEN_OPTION = click.option("--without-sandbox", "is_open", is_flag=True,
                            help="Try code that nobody has agreed to even where no sandbox holds it.")  # fmt: skip


@command("diff")
@click.argument("name", shell_complete=plugin_names)
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@_LAST_OPTION
@_ON_OPTION
@_OPEN_OPTION
def diff(
    state: State,
    name: str,
    old: str,
    new: str,
    last: int,
    files: tuple[str, ...],
    is_open: bool,  # noqa: FBT001 - click's way
) -> None:
    """Play recorded sessions through two versions of the plugin NAME, and show what they would have done differently.

    A version is `installed`, a number of its distribution, what pip takes (a wheel, a folder, a URL), or a folder that
    pip has installed into (--target). Each runs in a process of its own, in a sandbox where it can, with what it would
    be granted; nothing is installed, agreed to or recorded. The exit code is 1 when anything differs.

    \b
    Example:
      ally-plugins diff loop-warner 1.0 2.0
      ally-plugins diff loop-warner installed ./loop-warner --last 50
    """
    record = state.registry.get(name)
    versions = [each if each == INSTALLED else _requirement(record, each) for each in (old, new)]
    with _recordings(state.home, files, last) as played:
        trials = [_try(state, record, version, played, is_open=is_open) for version in versions]
    _report(state, record, *trials)
    raise click.exceptions.Exit(0 if _compared(*trials).is_nothing else REFUSED)


@command("upgrade")
@click.argument("name", shell_complete=plugin_names)
@click.argument("new", metavar="[NEW]", required=False)
@_LAST_OPTION
@_ON_OPTION
@_OPEN_OPTION
@click.option("--yes", is_flag=True, help="Agree to exactly what is printed, without being asked.")
def upgrade(
    state: State,
    name: str,
    new: str | None,
    last: int,
    files: tuple[str, ...],
    is_open: bool,  # noqa: FBT001 - click's way
    yes: bool,  # noqa: FBT001 - click's way
) -> None:
    """Show what the version NEW of the plugin NAME would have done in recorded sessions, then install it, if you agree.

    NEW is as for `diff`; without it, the newest that the installer finds. Shown are which denials became allowances,
    which messages, tokens and times changed, and what it asks for beside. The command that goes back is printed.

    \b
    Example:
      ally-plugins upgrade loop-warner
      ally-plugins upgrade loop-warner 2.0 --last 50
    """
    from ally_plugins.catalog.environments import installer as installing
    from ally_plugins.cli.change.packages import pass_on, record_of, show_command

    registry = state.registry
    record = registry.get(name)
    if record.origin != "package":
        raise ConfigError(f"{name!r} is {record.source}, which no installer knows; put the new files there yourself")
    back = shlex.join(["ally-plugins", "install", *installing.requirement_of(record.distribution)])
    wanted = _requirement(record, new) if new is not None else record.distribution
    with _recordings(state.home, files, last) as played, _installed(record, wanted) as site:
        old, fresh = (_try_in(state, record, folder, played, is_open=is_open) for folder in (None, site))
    difference = _compared(old, fresh)
    _show(state, record, old, fresh, difference)
    question = f"Install {record.distribution} {fresh['version']}, and let it have what it is shown to ask for?"
    require_consent(state, inert(question), is_agreed=yes, refused=f"{name!r} stays as it is", way_out="add --yes")
    # The very version that was tried: what the index has may have changed meanwhile.
    arguments = ["--upgrade", wanted if new is not None else f"{record.distribution}=={fresh['version']}"]
    with recorder(registry) as writing:
        show_command(state, installing.install_command(arguments))
        done = installing.install(arguments, partial(pass_on, state))
        writing.note("install", None, record_of(done))
        if done.exit_code != 0:
            raise OperatorError(f"the installer failed with exit code {done.exit_code}; its output above says why")
        now = registry.get(name)
        # Only to what was shown: a plan of anything else is for `review`.
        if record.config.enabled and set(now.requested.texts()) == set(fresh["requests"]):
            plan = registry.plan(name)
            writing.change(lambda it: it.enable(plan, "--yes" if yes else "person"))
    if state.as_json:
        print_json({**_data(record, old, fresh, difference), "installed": now.version, "back": back})
        return
    echo(f"{inert(name)} is {inert(now.source)} now; where hosts run: ally-plugins restart {name}")
    echo(f"to go back: {inert(back)}")


# --- recordings and versions


@contextmanager
def _recordings(home: Home, files: Sequence[str], last: int) -> Generator[list[str]]:
    """Give the recordings that are played: the files, or the last sessions of the journal that are no replays."""
    if files:
        yield list(files)
        return
    from ally_plugins.contract.values.ids import REPLAYED
    from ally_plugins.journal.export import export

    with tempfile.TemporaryDirectory(prefix="ally-diff-") as folder, reading_of(home) as reading:
        found: list[str] = []
        for session in reversed(reading.sessions() if reading is not None else []):
            # The session of a replay has the recording's name and when it was played.
            if reading is None or not session.events or len(found) == last or REPLAYED.match(session.id):
                continue
            file = Path(folder, f"{len(found)}.jsonl")
            with file.open("wb") as out:
                out.writelines(export(reading, session.id))
            found.append(str(file))
        if not found:
            raise ConfigError("no session is recorded here to play; name a recording with --on FILE")
        yield found[::-1]


def _requirement(record: PluginRecord, version: str) -> str:
    """Return what pip installs for a version: a number is one of the plugin's distribution, and what is there a path.

    Raises ConfigError for all else but a URL and a requirement of that distribution: of a slip in a folder's name pip
    would make the name of somebody's package, and run what builds it.
    """
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name
    from packaging.version import InvalidVersion, Version

    try:
        return f"{record.distribution}=={Version(version)}"
    except InvalidVersion:
        pass
    if os.path.lexists(version):
        return version if os.sep in version else f"{os.curdir}{os.sep}{version}"  # pip would take it for a name
    if "://" in version:
        return version
    try:
        if canonicalize_name(Requirement(version).name) == canonicalize_name(record.distribution):
            return version
    except InvalidRequirement:
        pass
    raise ConfigError(
        f"{version!r} is no version of {record.name!r}: expected `installed`, a number, a wheel or a folder that is"
        f" there, a URL, or a requirement of {record.distribution or 'its distribution'!r}"
    )


def _is_site(version: str) -> bool:
    return any(Path(version).glob("*.dist-info"))


def _try(state: State, record: PluginRecord, version: str, files: Sequence[str], *, is_open: bool) -> dict[str, Any]:
    if version == INSTALLED:
        return _try_in(state, record, None, files, is_open=is_open)
    with _installed(record, version) as folder:
        return _try_in(state, record, folder, files, is_open=is_open)


@contextmanager
def _installed(record: PluginRecord, requirement: str) -> Generator[str]:
    """Install a version beside everything else, without what it requires, for as long as the block takes."""
    if _is_site(requirement):
        yield os.path.realpath(requirement)
        return
    from ally_plugins.catalog.environments.installer import install_command

    with tempfile.TemporaryDirectory(prefix="ally-diff-") as folder:
        command_line = install_command(["--quiet", "--no-deps", "--target", folder, requirement])
        echo(f"$ {inert(shlex.join(command_line))}", to_stderr=True)
        done = subprocess.run(  # noqa: S603 - the operator's own argument, and no shell
            command_line, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, errors="replace"
        )
        if done.returncode != 0:
            for line in (done.stdout + done.stderr).splitlines():
                echo(f"  {inert(line)}", to_stderr=True)
            raise OperatorError(f"{requirement!r} of {record.name!r} cannot be had; what the installer said is above")
        yield folder


def _try_in(
    state: State, record: PluginRecord, folder: str | None, files: Sequence[str], *, is_open: bool
) -> dict[str, Any]:
    """Try the version in a folder, or the installed one, in a process that finds it first."""
    path = [*([folder] if folder is not None else []), *filter(None, [os.environ.get("PYTHONPATH")])]
    order = {"app": state.home.app, "home": str(state.home.path), "name": record.name,
             "files": [os.path.realpath(file) for file in files], "is_trusted": is_open, "site": folder}  # fmt: skip
    # `-P`: what lies in the working directory is not installed.
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ally_plugins.cli.play.trial_process"],
        input=json.dumps(order), capture_output=True, text=True, check=False, errors="replace",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
    )  # fmt: skip
    try:
        result = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        result = {"error": f"its process ended with {done.returncode}: {done.stderr.strip()[-500:]}"}
    if not isinstance(result, dict) or "error" in result:
        why = result.get("error") if isinstance(result, dict) else result
        raise OperatorError(f"a version of {record.name!r} cannot be tried: {why}")
    return result


# --- what is shown


def _compared(old: dict[str, Any], new: dict[str, Any]) -> TrialDifference:
    from ally_plugins.replay.trial import compare

    return compare(old, new)


def _report(state: State, record: PluginRecord, old: dict[str, Any], new: dict[str, Any]) -> None:
    difference = _compared(old, new)
    if state.as_json:
        print_json(_data(record, old, new, difference))
        return
    _show(state, record, old, new, difference)


def _data(
    record: PluginRecord, old: dict[str, Any], new: dict[str, Any], difference: TrialDifference
) -> dict[str, Any]:
    import attrs

    loosened = [each.is_loosened for each in difference.changes]
    changes = [{**attrs.asdict(each), "loosened": each.is_loosened} for each in difference.changes]
    shared = ("version", "placement", "state", "reason", "crashes", "prompt_changes", "uncached_tokens", "hooks")
    versions = {word: {key: trial[key] for key in shared} for word, trial in (("old", old), ("new", new))}
    return {"plugin": record.name, "sessions": new["sessions"], **versions, "decisions": changes,
            "loosened": sum(loosened), "messages_added": difference.added, "messages_removed": difference.removed,
            "tokens": difference.tokens, "requests": difference.requests}  # fmt: skip


def _show(
    state: State, record: PluginRecord, old: dict[str, Any], new: dict[str, Any], difference: TrialDifference
) -> None:
    for line in _lines(record, old, new, difference):
        echo(line, to_stderr=state.as_json)


def _lines(
    record: PluginRecord, old: dict[str, Any], new: dict[str, Any], difference: TrialDifference
) -> Iterator[str]:
    versions = f"{inert(old['version'])} and {inert(new['version'])}"
    yield f"{inert(record.name)}: {versions} on {new['sessions']} sessions, in the placement {new['placement']}"
    for word, trial in (("old", old), ("new", new)):
        if trial["state"] not in {"running", "stopped"}:
            yield paint(f"the {word} one did not run: {trial['state']}: {inert(trial['reason'])}", fg="red")
    if new["not_kept"]:
        yield f"{new['not_kept']:,} texts were not recorded, so that both were shown their length (journal.content)"
    yield ""
    yield from _decision_lines(difference)
    yield from _message_lines(difference)
    for text in difference.requests:
        yield paint(f"asks for more: {inert(text)}", fg="yellow")
    for what in ("crashes", "prompt_changes", "uncached_tokens"):
        if old[what] != new[what]:
            yield f"{what.replace('_', ' ')}: {old[what]:,} before, {new[what]:,} now"
    rows = [
        (inert(hook), *_times(before), *_times(after)) for hook, (before, after) in sorted(difference.hooks.items())
    ]
    yield from table(("hook", "calls", "p50", "p95", "calls now", "p50 now", "p95 now"), rows)


def _decision_lines(difference: TrialDifference) -> Iterator[str]:
    if not difference.changes:
        yield "every decision would have been the same"
        return
    counts = Counter((each.old or "-", each.new or "-") for each in difference.changes)
    for (before, after), count in counts.most_common():
        yield f"{count} x {before} -> {after}"
    rows = [
        (paint(f"{each.old or '-'} -> {each.new or '-'}", **({"fg": "red"} if each.is_loosened else {})),
         inert(each.kind), inert(each.subject), inert(each.session), preview(each.reason, 100))
        for each in difference.changes[:_SHOWN]
    ]  # fmt: skip
    yield from table(("decision", "about", "what", "session", "reason"), rows)
    if len(difference.changes) > _SHOWN:
        yield f"and {len(difference.changes) - _SHOWN} more; all of them: --json"


def _message_lines(difference: TrialDifference) -> Iterator[str]:
    before, after = difference.tokens
    if not (difference.added or difference.removed):
        yield f"every message would have been the same ({before:,} tokens)"
        return
    counts = f"{len(difference.added)} new, {len(difference.removed)} gone"
    yield f"messages: {counts}; tokens: {before:,} before, {after:,} now"
    for sign, messages in (("+", difference.added), ("-", difference.removed)):
        for _, text in messages[: _SHOWN // 2]:
            yield f"  {sign} {preview(text, 100)}"


def _times(hook: dict[str, Any] | Any) -> tuple[str, str, str]:
    from ally_plugins.cli.look.stats import seconds_text

    if not hook:
        return ("-", "-", "-")
    return (f"{hook['calls']:,}", seconds_text(hook["p50"]), seconds_text(hook["p95"]))
