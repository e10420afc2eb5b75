"""`fleet status`: how each home is, and what was found wrong."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import click

from ally_plugins.cli.shell.exits import REFUSED
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import columns, echo, inert, paint, print_json, when
from ally_plugins.contract.values.frozen import FrozenDict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ally_plugins.cli.shell.state import State
    from ally_plugins.fleet.store import HomeState, Noted

__all__ = ["report", "status"]

_SHOWN: Final = 12  # digits of a revision: none of a few thousand has the same by chance
_REVISION: Final = re.compile(rf"[0-9a-f]{{{_SHOWN},64}}")
_SILENT_S: Final = 60.0  # some of the messages by which a home says that it is there


@command("status")
@click.argument("place", metavar="FILE|URL")
@click.option("--silent", type=click.FloatRange(min=0), default=_SILENT_S, show_default=True, metavar="SECONDS",
              help="After how long without a word a home counts as silent.")  # fmt: skip
@click.option(
    "--plugins", metavar="REVISION", help="What all should hold, as `lock` prints it; its beginning is enough."
)
@click.option("--policy", metavar="REVISION", help="The SHA-256 of the policy that all should hold, or its beginning.")
def status(state: State, place: str, silent: float, plugins: str | None, policy: str | None) -> None:
    """Show how each home is: how far its records came, when it was last heard, what it holds, what was found wrong.

    What it holds are two revisions. That of its plugins is a digest of all that is enabled, which `lock` prints too;
    that of the machine's policy is the SHA-256 of the file. The exit code is 1 when a home is silent, holds something
    else than it should, or something was found wrong.

    \b
    Example:
      ally-plugins fleet status fleet.db --silent 300
      ally-plugins fleet status fleet.db --plugins 5b1f0c9a3d42
    """
    from ally_plugins.fleet.store import open_store

    wanted = {name: text.lower() for name, text in (("plugins", plugins), ("policy", policy)) if text is not None}
    for name, text in wanted.items():
        if not _REVISION.fullmatch(text):
            raise click.BadParameter(f"expected {_SHOWN} to 64 hex digits, found {text!r}", param_hint=f"--{name}")
    with open_store(place) as store:
        silent_before = store.now_ms() - silent * 1000
        report(state, store.homes(), store.findings(), silent_before=silent_before, wanted=wanted)


def report(
    state: State,
    homes: list[HomeState],
    findings: list[Noted],
    *,
    silent_before: float | None,
    wanted: Mapping[str, str] = FrozenDict(),
) -> None:
    """Print how homes are; end with REFUSED where one is not well that was not retired."""
    there = [each for each in homes if not each.is_retired]
    silent = {each.name for each in there if silent_before is not None and each.seen_at < silent_before}
    others = {each.name: found for each in there if (found := _differing(each, wanted))}
    wrong = {each.home for each in findings} - {each.name for each in homes if each.is_retired}
    if state.as_json:
        print_json({"homes": [_data(each, each.name in silent, others.get(each.name, [])) for each in homes],
                    "findings": [_finding_data(each) for each in findings]})  # fmt: skip
    else:
        for line in columns([_row(each, each.name in silent, others.get(each.name, [])) for each in homes]):
            echo(line)
        for home in there:
            for plugin, text in home.events.items():
                echo(f"{paint('events', fg='yellow')}: {inert(home.name)}: {inert(plugin)}: {inert(text)}")
        for each in findings:
            echo(f"{paint('wrong', fg='red')}: {inert(each.home)}: {inert(each.text)} ({when(each.at)})")
        if not homes:
            echo("no home has sent anything yet")
    if silent or wrong or others:
        raise click.exceptions.Exit(REFUSED)


def _differing(home: HomeState, wanted: Mapping[str, str]) -> list[str]:
    """Return which of the revisions that are wanted a home does not hold; one that says nothing holds none."""
    held = {} if home.held is None else home.held.to_data()
    return [name for name, revision in wanted.items() if not held.get(name, "").startswith(revision)]


def _row(home: HomeState, is_silent: bool, others: Sequence[str]) -> tuple[str, ...]:  # noqa: FBT001 - one word of a line
    records = f"{home.head.n if home.head else 0} records"
    lag = f"{home.lag} behind" if home.lag else ""
    word = paint("silent", fg="yellow") if is_silent else "heard"
    seen = f"{word} {when(home.seen_at)}" if home.seen_at else paint("never heard", fg="yellow")
    retired = f"retired {when(home.retired_at)}: {inert(home.retired)}" if home.retired_at is not None else ""
    wrong = paint(f"{home.findings} wrong", fg="red") if home.findings else ""
    held = {"plugins": "?", "policy": "?"} if home.held is None else home.held.to_data()
    revisions = [_revision(name, held[name], name in others) for name in ("plugins", "policy")]
    return (inert(home.name), records, seen, *revisions, lag, wrong, retired)


def _revision(name: str, revision: str, is_other: bool) -> str:  # noqa: FBT001 - one word of a line
    text = f"{name} {inert(revision)[:_SHOWN]}" if revision else f"no {name}"
    return paint(f"other {text}", fg="yellow") if is_other else text


def _data(home: HomeState, is_silent: bool, others: Sequence[str]) -> dict[str, Any]:  # noqa: FBT001 - one word of a line
    return {
        "home": home.name,
        "chain": home.head.chain if home.head else None,
        "record": home.head.n if home.head else 0,
        "hash": home.head.hash.hex() if home.head else None,
        "seen_at": home.seen_at or None,
        "retired_at": home.retired_at,
        "retired": home.retired,
        "behind": home.lag,
        "silent": is_silent,
        "holds": home.held.to_data() if home.held is not None else None,
        "differs": list(others),
        "events": dict(home.events),
        "findings": home.findings,
    }


def _finding_data(found: Noted) -> dict[str, Any]:
    return {"home": found.home, "kind": found.kind, "record": found.record, "text": found.text, "at": found.at}
