"""One plugin by each of its names, in every command that takes one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ally_plugins.catalog.home.quarantine import set_quarantine

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Operator

PROGRAM_TOOL = {
    "name": "wave", "description": "waves", "type": "executable", "command": "sh",
    "args": ["-c", "cat >/dev/null; echo '{\"success\": true, \"output\": \"waved\"}'"],
    "schema": {"type": "object", "properties": {}},
}  # fmt: skip
RECORD = {
    "type": "user", "uuid": "u1", "sessionId": "s1", "timestamp": "2026-03-01T10:00:00Z",
    "message": {"role": "user", "content": "hello"},
}  # fmt: skip


@pytest.fixture
def waver(operator: Operator) -> Operator:
    """Return an operator who has agreed to a folder with a program tool."""
    path = operator.home.plugins_dir / "waver"
    path.mkdir(parents=True)
    (path / "plugin.json").write_text(
        json.dumps({"name": "waver", "version": "1.0", "description": "waves", "tools": [PROGRAM_TOOL]})
    )
    operator.run("enable", "waver", "--yes")
    return operator


@pytest.mark.slow
@pytest.mark.parametrize("name", ["waver", "folder:waver"])
def test_each_command_takes_the_name_and_the_folders_name(waver: Operator, tmp_path: Path, name: str) -> None:
    recording = tmp_path / "session.jsonl"
    recording.write_text(json.dumps(RECORD) + "\n")
    assert "waved" in waver.run("call", name, "wave").stdout
    assert set(waver.ask("replay", str(recording), "--plugin", name)["plugins"]) == {"waver"}
    shown = [json.loads(line) for line in waver.run("audit", "--plugin", name, "--json").stdout.splitlines()]
    assert {record["plugin"] for record in shown} == {"waver"}
    assert {"enable", "tool_call"} <= {record["kind"] for record in shown}
    waver.run("disable", name)
    info = waver.ask("info", name)
    assert (info["name"], info["state"]) == ("waver", "disabled")


@pytest.mark.parametrize("name", ["package:waver", "folder:wavr"])
def test_a_name_that_means_no_plugin_runs_none(waver: Operator, tmp_path: Path, name: str) -> None:
    recording = tmp_path / "session.jsonl"
    recording.write_text(json.dumps(RECORD) + "\n")
    for words in (("call", name, "wave"), ("replay", str(recording), "--plugin", name)):
        said = waver.run(*words, code=2).stderr
        assert f"no plugin {name!r} is installed" in said
        assert "waver" in said


@pytest.mark.parametrize(("value", "state"), [("folder:waver", "enabled"), ("package:waver", "left out")])
def test_the_variable_takes_the_folders_name(
    waver: Operator, monkeypatch: pytest.MonkeyPatch, value: str, state: str
) -> None:
    monkeypatch.setenv("ALLY_PLUGINS", value)
    found = waver.ask("list")
    assert [plugin["state"] for plugin in found["plugins"]] == [state]
    assert bool(found["problems"]) is (state == "left out")


def test_a_quarantined_folder_is_released_by_either_name(waver: Operator) -> None:
    for name in ("waver", "folder:waver"):
        set_quarantine(waver.home, "waver", "it crashed", ("waver",))
        assert waver.ask("info", name)["state"] == "quarantined"
        waver.run("release", name)
        assert waver.ask("info", name)["state"] == "enabled"
