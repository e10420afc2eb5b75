"""Plugins' projects as their authors have them, in a folder of the test's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from ally_plugins.author.new_project import NewProject
from ally_plugins.cli.shell.main import cli

if TYPE_CHECKING:
    from collections.abc import Callable

Findings = list[tuple[str, int, str, str]]


@pytest.fixture
def new(tmp_path: Path) -> Callable[..., Path]:
    """Return what writes the project of a new plugin."""

    def write(name: str = "loop-warner", **options: Any) -> Path:
        folder = tmp_path / name
        NewProject(name=name, **options).write(folder)
        return folder

    return write


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Findings]:
    """Return what checks a folder and returns file, line, rule and text of all that is wrong with it."""
    monkeypatch.chdir(tmp_path)

    def run(folder: Path, *options: str) -> Findings:
        result = CliRunner().invoke(cli, ["check", str(folder), "--json", *options])
        answer = json.loads(result.stdout)
        assert result.exit_code == (0 if answer["ok"] else 1)
        return [(Path(each["file"]).name, each["line"], each["rule"], f"{each['text']}; {each['fix']}")
                for each in answer["findings"]]  # fmt: skip

    return run


def edit(file: Path, before: str, after: str) -> None:
    """Replace a text in a file, which has to be there."""
    text = file.read_text(encoding="utf-8")
    assert before in text
    file.write_text(text.replace(before, after), encoding="utf-8")
