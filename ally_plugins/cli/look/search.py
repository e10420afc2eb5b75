"""`search`: plugins in the indexes that the operator names. The one command that opens a connection of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ally_plugins.cli.shell.exits import REFUSED
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, inert, print_json, table
from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.contract.wording import describe, suggest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ally_plugins.catalog.indexes.entries import Entry
    from ally_plugins.catalog.indexes.reading import FoundIndex
    from ally_plugins.cli.shell.state import State

__all__ = ["search"]


@command("search")
@click.argument("word", default="")
@click.option("--index", "only", multiple=True, metavar="NAME", help="Look only in this index; repeatable.")
def search(state: State, word: str, only: tuple[str, ...]) -> None:
    """Look for WORD in the indexes that config.toml names; without it, show all that they have.

    \b
      [indexes]
      team = "https://plugins.example.com/index.json"
      mirror = "/srv/plugins/index.json"

    Found are plugins whose name, distribution, summary, hooks or grants have the word in them, those by name first.
    What an index says is its writer's word: nothing is installed by it, and what a plugin asks for is shown from what
    was installed, before you agree. WORD is sent to nobody. The exit code is 1 when an index could not be read.

    \b
    Example:
      ally-plugins search secret
      ally-plugins search --index team --json
    """
    from ally_plugins.catalog.home.config import read_config
    from ally_plugins.catalog.indexes.reading import read_indexes

    named = read_config(state.home).indexes
    if not named:
        file = state.home.config_file
        raise ConfigError(f'{file} names no index; add [indexes] with NAME = "https://..." or a path', path="indexes")
    for name in only:
        if name not in named:
            raise ConfigError(f"no index {describe(name)}, {suggest(name, tuple(named))}", path="indexes")
    indexes = read_indexes({name: address for name, address in named.items() if not only or name in only})
    found = _found(indexes, word)
    problems = [f"{each.name} ({each.address}): {why}" for each in indexes for why in _problems(each)]
    if state.as_json:
        from ally_plugins.catalog.indexes.entries import written

        print_json({"plugins": [{"index": name, **written(entry)} for name, entry in found], "problems": problems})
    else:
        for line in _lines(found, word):
            echo(line)
        for problem in problems:
            echo(f"problem: {inert(problem)}", to_stderr=True)
    if any(each.index is None for each in indexes):
        raise click.exceptions.Exit(REFUSED)


def _problems(each: FoundIndex) -> Sequence[str]:
    return each.index.problems if each.index is not None else (each.problem,)


def _found(indexes: Sequence[FoundIndex], word: str) -> list[tuple[str, Entry]]:
    """Return the entries that fit, each with its index: by how well, then by name, the newest as the index has them."""
    ranked = [
        (rank, entry.name, each.name, entry)
        for each in indexes
        for entry in (each.index.entries if each.index is not None else ())
        if (rank := entry.matches(word) if word else 0) is not None
    ]
    return [(name, entry) for _, _, name, entry in sorted(ranked, key=lambda row: row[:3])]


def _lines(found: Sequence[tuple[str, Entry]], word: str) -> Iterator[str]:
    rows = [_row(name, entry) for name, entry in found]
    yield from table(("plugin", "version", "index", "distribution", "asks for", "about"), rows)
    if not found:
        yield f"nothing found for {inert(describe(word))}" if word else "the indexes are empty"
        return
    if len(found) == 1:
        yield from (f"{wheel.file}  sha256 {wheel.sha256}" for wheel in found[0][1].wheels)
    yield f"to install one: ally-plugins install {found[0][1].distribution if len(found) == 1 else 'DISTRIBUTION'}"


def _row(name: str, entry: Entry) -> tuple[Any, ...]:
    asks = ", ".join(entry.grants) or "nothing"
    return tuple(map(inert, (entry.name, entry.version, name, entry.distribution, asks, entry.summary)))
