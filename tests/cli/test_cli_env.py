"""`env`: an environment of a plugin's own, shown before it is built, and never half."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kit.wheels import write_wheel

if TYPE_CHECKING:
    from .conftest import Operator


@pytest.fixture
def ready(enabled: Operator, monkeypatch: pytest.MonkeyPatch) -> Operator:
    """Return an operator who has both distributions installed, and a pip that looks nowhere else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    enabled.write("ally_plugins-0.dist-info/METADATA", "Metadata-Version: 2.1\nName: ally-plugins\nVersion: 0.1.0\n")
    return enabled


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def complete(operator: Operator, name: str, text: str = "exit 0") -> Path:
    """Leave an environment that looks whole."""
    path = operator.home.envs_dir / name
    (path / "bin").mkdir(parents=True)
    program(path / "bin/python", text)
    (path / ".complete").write_text('{"requirements": []}')
    return path


def test_nothing_is_built_without_a_person_and_the_commands_are_shown(ready: Operator) -> None:
    result = ready.run("env", "loop-warner", code=1)
    assert "loop-warner==1.0 ally-plugins==0.1.0" in result.stdout
    assert "to run what is shown: ally-plugins env loop-warner --yes" in result.stderr
    assert not ready.home.envs_dir.exists()
    assert ready.records("env") == []


@pytest.mark.slow
def test_no_is_an_answer(ready: Operator) -> None:
    shown = ready.at_terminal("env", "loop-warner", until="[y/N]", answer=b"n\n", code=1)
    assert "you did not agree" in shown


def test_what_fails_is_shown_and_leaves_nothing(ready: Operator, tmp_path: Path) -> None:
    bad = program(tmp_path / "python", "printf 'no luck \\033[2J\\n'; exit 4")
    result = ready.run("env", "loop-warner", "--python", bad, "--yes", code=1)
    assert "no luck \\x1b[2J" in result.stdout
    assert "failed with exit code 4" in result.stderr
    assert list(ready.home.envs_dir.iterdir()) == []


def test_a_folder_has_no_distribution_to_install(ready: Operator) -> None:
    folder = ready.home.plugins_dir / "counter"
    folder.mkdir(parents=True)
    (folder / "ally-plugin.toml").write_text('[daemon]\ncommand = ["x"]')
    assert (
        "is no installed package, and names nothing to be installed"
        in ready.run("env", "counter", "--yes", code=2).stderr
    )


def test_a_plugin_that_is_not_there_is_named_with_the_nearest(ready: Operator) -> None:
    assert "did you mean 'loop-warner'?" in ready.run("env", "loop-warnr", "--yes", code=2).stderr


def test_removing_says_who_needs_it_and_doctor_says_so_too(ready: Operator) -> None:
    path = complete(ready, "mine")
    ready.run("place", "loop-warner", "process", "--env", "mine")
    assert ready.ask("list")["plugins"][0]["command"][0] == str(path / "bin/python")
    done = ready.run("env", "mine", "--remove", "--yes").stdout
    assert "loop-warner cannot start without it: ally-plugins place loop-warner process" in done
    assert not path.exists()
    plugin = ready.ask("list")["plugins"][0]
    assert (plugin["state"], plugin["placement"]) == ("not configured", "process")
    assert "to build it: ally-plugins env mine" in plugin["reason"]
    findings = ready.ask("doctor", code=1)["findings"]
    assert any(each["level"] == "problem" and "ally-plugins env mine" in each["text"] for each in findings)
    recorded = [record["data"] for record in ready.records("env")]
    assert [(each["is_removed"], each.get("is_begun", False)) for each in recorded] == [(True, True), (True, False)]


def test_removing_what_is_not_there_names_those_that_are(ready: Operator) -> None:
    complete(ready, "mine")
    assert "there are: mine" in ready.run("env", "other", "--remove", "--yes", code=2).stderr
    assert "add --yes" in ready.run("env", "mine", "--remove", code=1).stderr


@pytest.mark.long
@pytest.mark.slow
def test_a_plugin_runs_in_an_environment_of_its_own(
    ready: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "wheels").mkdir()
    write_wheel(tmp_path / "wheels", "loop_warner", "1.0", {"loop_warner/__init__.py": "class Plugin: pass"})
    write_wheel(tmp_path / "wheels", "ally_plugins", "0.1.0", {"ally_plugins/__init__.py": "HERE = __file__"})
    built = ready.ask("env", "loop-warner", "--yes")
    assert built["in_use"] is False
    path = Path(built["path"])
    assert path == ready.home.envs_dir / "loop-warner"
    placed = ready.ask("place", "loop-warner", "process", "--env", "loop-warner")
    python = placed["daemon"]["command"][0]
    assert placed["daemon"]["command"][1:] == ["-m", "ally_plugins.daemon", "loop_warner:Plugin"]
    code = "import ally_plugins, loop_warner; print(ally_plugins.HERE, loop_warner.__file__)"
    done = subprocess.run([python, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert all(file.startswith(str(path)) for file in done.stdout.split())
    assert ready.ask("doctor")["ok"]
