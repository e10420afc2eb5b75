"""`index`: an index of a folder of wheels, for `search`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ally_plugins.cli.shell.exits import REFUSED
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, inert, print_json

if TYPE_CHECKING:
    from ally_plugins.cli.shell.state import State

__all__ = ["index"]


@command("index")
@click.argument("action", type=click.Choice(["build"]), metavar="build")
@click.argument("folder", type=click.Path(file_okay=False, exists=True, path_type=Path))
@click.option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path),
              help="Where to write it; without it, index.json in FOLDER.")  # fmt: skip
def index(state: State, action: str, folder: Path, output: Path | None) -> None:
    """Write an index of the plugins in the wheels of FOLDER: a static JSON that anybody can host, for `search`.

    What it says is read from the wheels, of which nothing is installed or run. A wheel without plugins is left out; one
    that is damaged, or whose plugin has no manifest, is a problem, and the exit code is 1.

    \b
    Example:
      ally-plugins index build ./dist
      ally-plugins index build ./dist --output ./site/index.json
    """
    from ally_plugins.catalog.home.folder import write_atomically
    from ally_plugins.catalog.indexes.building import entries_of
    from ally_plugins.catalog.indexes.entries import FORMAT, written
    from ally_plugins.contract.values.codec import encode

    assert action == "build"  # noqa: S101 - there is no other
    entries, problems = entries_of(folder)
    target = output if output is not None else folder / "index.json"
    content = encode({"format": FORMAT, "plugins": [written(entry) for entry in entries]})
    write_atomically(target, content + b"\n")
    if state.as_json:
        print_json({"file": str(target), "plugins": [written(entry) for entry in entries], "problems": problems})
    else:
        echo(f"{inert(str(target))} has {len(entries)} plugin{'s' if len(entries) != 1 else ''}")
        for problem in problems:
            echo(f"problem: {inert(problem)}", to_stderr=True)
    if problems:
        raise click.exceptions.Exit(REFUSED)
