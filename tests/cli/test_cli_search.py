"""`search` and `index build`: what the operator's indexes have, shown and never believed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.kit.wheels import write_wheel

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Operator

MANIFEST = '[permissions]\ngate = { on = ["tool_call"], reason = "to stop it" }\n'


def write_index(folder: Path, name: str, *plugins: dict[str, Any]) -> Path:
    file = folder / f"{name}.json"
    usual = {"version": "1.0", "distribution": "dist"}
    file.write_text(json.dumps({"format": 1, "plugins": [{**usual, **each} for each in plugins]}))
    return file


def name_indexes(operator: Operator, **files: Path | str) -> None:
    lines = [f'{name} = "{file}"\n' for name, file in files.items()]
    operator.home.config_file.write_text("[indexes]\n" + "".join(lines))


def test_plugins_are_found_by_name_first_and_then_by_what_is_said_of_them(operator: Operator, tmp_path: Path) -> None:
    one = write_index(tmp_path, "one", {"name": "watcher", "summary": "guards nothing"}, {"name": "guard"})
    two = write_index(tmp_path, "two", {"name": "redactor", "grants": ["transform:answer"]}, {"name": "guard-plus"})
    name_indexes(operator, one=one, two=two)
    found = operator.ask("search", "GUARD")
    assert [(each["index"], each["name"]) for each in found["plugins"]] == [
        ("one", "guard"),
        ("two", "guard-plus"),
        ("one", "watcher"),
    ]
    assert [each["name"] for each in operator.ask("search", "answer")["plugins"]] == ["redactor"]
    assert len(operator.ask("search")["plugins"]) == 4
    assert [each["name"] for each in operator.ask("search", "--index", "two")["plugins"]] == ["guard-plus", "redactor"]
    shown = operator.run("search", "answer").stdout
    assert "transform:answer" in shown
    assert "to install one: ally-plugins install dist" in shown
    assert "nothing found for 'zebra'" in operator.run("search", "zebra").stdout.replace('"', "'")


def test_an_index_that_cannot_be_read_is_named_and_the_others_are_searched(operator: Operator, tmp_path: Path) -> None:
    good = write_index(tmp_path, "good", {"name": "guard"}, {"name": "bad", "summary": "\x1b[2J"})
    name_indexes(operator, gone=tmp_path / "gone.json", good=good, plain="http://example.com/i.json")
    result = operator.run("search", "guard", code=1)
    assert "guard" in result.stdout
    assert "\x1b" not in result.stdout + result.stderr
    assert f"problem: gone ({tmp_path}/gone.json): there is no such file" in result.stderr
    assert "problem: plain (http://example.com/i.json): found " in result.stderr
    assert "problem: good" in result.stderr
    assert len(operator.ask("search", "guard", code=1)["problems"]) == 3


def test_without_an_index_or_with_an_unknown_one_the_way_out_is_named(operator: Operator, tmp_path: Path) -> None:
    refused = operator.run("search", "guard", code=2)
    assert "names no index; add [indexes]" in refused.stderr
    name_indexes(operator, team=write_index(tmp_path, "team"))
    assert "no index" in operator.run("search", "--index", "tem", code=2).stderr
    assert "the indexes are empty" in operator.run("search").stdout


@pytest.mark.parametrize("text", ["[indexes]\nx = 7\n", '[indexes]\n"a b" = "/x"\n', "indexes = []\n"])
def test_a_mistake_in_the_table_of_indexes_is_named(operator: Operator, text: str) -> None:
    operator.home.config_file.write_text(text)
    assert "indexes" in operator.run("search", code=2).stderr


def test_what_is_built_from_wheels_is_found(operator: Operator, tmp_path: Path) -> None:
    dist = tmp_path / "dist"
    points = "[ally.plugins]\nguard = guard:Guard\n"
    write_wheel(dist, "ally-guard", "2.0", {"guard/ally-plugin.toml": MANIFEST}, entry_points=points)
    built = operator.ask("index", "build", str(dist))
    assert [each["name"] for each in built["plugins"]] == ["guard"]
    name_indexes(operator, mine=dist / "index.json")
    shown = operator.run("search", "guard").stdout
    assert f"ally_guard-2.0-py3-none-any.whl  sha256 {built['plugins'][0]['wheels'][0]['sha256']}" in shown
    (dist / "torn.whl").write_bytes(b"no zip")
    result = operator.run("index", "build", str(dist), "--output", str(tmp_path / "other.json"), code=1)
    assert "problem: torn.whl: " in result.stderr
    assert json.loads((tmp_path / "other.json").read_text())["plugins"][0]["distribution"] == "ally-guard"
