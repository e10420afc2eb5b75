"""`new`: the project of a new plugin, which is installable and passes its own tests as it comes out."""

from __future__ import annotations

import os
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import columns, echo, inert, paint, print_json

if TYPE_CHECKING:
    from ally_plugins.author.new_project import Kind, Language
    from ally_plugins.cli.shell.state import State

__all__ = ["new"]

_KINDS: Final = ("class", "daemon")
_LANGUAGES: Final = ("python", "node", "sh")


@command("new")
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(_KINDS),
    help="A class, which runs inside an agent or in a process, or a daemon: a program of its own. Default: class.",
)
@click.option("--lang", "language", type=click.Choice(_LANGUAGES), default="python", show_default=True,
              help="The language; other than python means a daemon.")  # fmt: skip
@click.option("--gate", is_flag=True, help="With a gate of commands, which may stop one.")
@click.option("--tool/--no-tool", default=True, show_default=True, help="With a tool for the agent, or without.")
@click.option("--into", metavar="DIR", help="The project's folder, instead of ./NAME.")
def new(
    state: State,
    name: str,
    kind: Kind | None,
    language: Language,
    into: str | None,
    *,
    gate: bool,
    tool: bool,
) -> None:
    """Write the project of a new plugin NAME: manifest, a hook, a tool, tests, CI and a workflow that publishes it.

    It is installable, and passes its own tests and `ally-plugins check` as it comes out. Nothing that is there is
    overwritten.

    \b
    Example:
      ally-plugins new loop-warner
      ally-plugins new disk-guard --gate --no-tool
      ally-plugins new build-watch --lang node
    """
    from ally_plugins.author.new_project import NewProject

    chosen: Kind = kind or ("class" if language == "python" else "daemon")
    project = NewProject(name=name, kind=chosen, language=language, has_gate=gate, has_tool=tool)
    folder = Path(into if into is not None else name)
    try:
        files = project.write(folder)
    except OSError as error:
        raise click.UsageError(f"cannot write {str(folder)!r}: {error.strerror or error}") from error
    following = _next(folder)
    if state.as_json:
        print_json({
            "name": name,
            "kind": project.kind,
            "language": project.language,
            "folder": os.path.abspath(folder),  # noqa: PTH100 - not resolved: as the person named it
            "files": [str(file.relative_to(folder)) for file in files],
            "next": [line for line, _ in following],
        })  # fmt: skip
        return
    echo(f"{paint(inert(name), bold=True)} is in {inert(folder)}:")
    for file in files:
        echo(f"  {inert(file.relative_to(folder))}")
    echo(f"\n{paint('next', bold=True)}")
    for line in columns(following):
        echo(f"  {line}")


def _next(folder: Path) -> list[tuple[str, str]]:
    return [
        (f"cd {shlex.quote(inert(folder))}", ""),
        *([] if find_spec("pytest") else [("pip install --group test", "pytest, which its tests need")]),
        ("python -m pytest", "its tests, on a real host in memory"),
        ("ally-plugins check", "everything that is wrong, with the way out"),
        ("ally-plugins try", "what it does in a recorded session, again whenever you save"),
    ]
