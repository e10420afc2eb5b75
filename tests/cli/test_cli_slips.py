"""Slips of a person's at the command line: each is said with the way out, and nothing else is done in its place."""

from __future__ import annotations

import os
from importlib import util
from typing import TYPE_CHECKING

import pytest

from ally_plugins.cli.author import new as making

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Operator


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder of its own, with the home of nobody."""
    made = tmp_path / "work"
    made.mkdir()
    monkeypatch.chdir(made)
    monkeypatch.setenv("HOME", str(made))
    return made


def test_a_file_where_lock_takes_options_of_pip_is_not_passed_on_in_silence(operator: Operator, folder: Path) -> None:
    said = operator.run("lock", "team.toml", code=2).stderr
    assert "'team.toml' is no option of pip; to write there: -o team.toml" in said
    assert list(folder.iterdir()) == []


def test_a_name_that_is_a_folder_here_is_not_fetched_from_an_index(operator: Operator) -> None:
    operator.run("new", "x-y")
    said = operator.run("install", "--upgrade", "x-y", code=2).stderr
    assert "for the folder: ally-plugins install ./x-y; for the index: ally-plugins install 'x-y>=0'" in said
    assert "$ " not in said
    assert operator.records("install") == []


def test_a_folder_in_the_place_of_a_lock_is_not_to_be_moved_away(operator: Operator, folder: Path) -> None:
    (folder / "team").mkdir()
    said = operator.run("apply", "team", code=2).stderr
    assert "'team' is a folder, expected a lock such as 'team/pylock.ally-plugins.toml'" in said


@pytest.mark.parametrize(
    ("agents", "text"), [("", "no agent is named, expected all, or some of"), ("claud", "did you mean 'claude'?")]
)
def test_a_check_for_no_agent_or_an_unknown_one_is_wrong_usage_and_no_pass(
    warner: Operator, agents: str, text: str
) -> None:
    assert text in warner.run("check", "loop-warner", "--for", agents, code=2).stderr


def test_check_says_of_a_file_that_it_is_no_folder(operator: Operator, folder: Path) -> None:
    (folder / "pyproject.toml").touch()
    assert "'pyproject.toml' is a file, expected the folder" in operator.run("check", "pyproject.toml", code=2).stderr


@pytest.mark.parametrize("words", [["stats"], ["release"], ["info"], ["config"], ["disable"], ["logs"]])
def test_a_misspelt_plugin_is_wrong_usage_and_the_nearest_is_named(warner: Operator, words: list[str]) -> None:
    assert "did you mean 'loop-warner'?" in warner.run(*words, "loop-wraner", code=2).stderr


def test_a_home_that_is_an_unset_variable_is_not_the_working_directory(warner: Operator, folder: Path) -> None:
    assert "--home is '', expected a path" in warner.run("--home", "", "enable", "loop-warner", "--yes", code=2).stderr
    assert list(folder.iterdir()) == []


def test_a_file_that_cannot_be_written_is_named_as_it_was(operator: Operator, folder: Path) -> None:
    said = operator.run("index", "build", str(folder), "-o", "gone/index.json", code=3).stderr
    assert "'gone/index.json' cannot be used: No such file or directory" in said


def test_where_a_file_is_written_and_how_much_is_shown_is_said_by_the_same_options(operator: Operator) -> None:
    for command in (["export"], ["replay"], ["lock"], ["index"]):
        assert "-o, --output" in operator.run(*command, "--help").stdout
    for command in (["audit"], ["logs"]):
        shown = operator.run(*command, "--help").stdout
        assert "-f, --follow" in shown
        assert "-n, --l" in shown


def test_try_starts_nothing_for_a_session_that_cannot_be_read(operator: Operator) -> None:
    operator.run("new", "x-y")
    result = operator.run("try", "x-y", "gone.jsonl", code=2)
    assert "cannot read 'gone.jsonl': No such file or directory" in result.stderr
    assert result.stdout == ""


@pytest.mark.long
def test_what_is_wrong_with_a_folders_plugin_leads_to_no_command_that_knows_it_not(
    operator: Operator, folder: Path
) -> None:
    operator.run("new", "x-y")
    code = folder / "x-y" / "src" / "x_y" / "__init__.py"
    code.write_text(code.read_text().replace("ally_tool_call_end", "ally_tool_cal_end"))
    said = operator.run("try", "x-y", "--once", code=1).stdout
    assert "did you mean 'ally_tool_call_end'?" in said
    assert "ally-plugins info" not in said


def test_new_says_how_to_get_pytest_where_it_is_not_there(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing(name: str) -> None:
        assert name == "pytest"

    assert "--group test" not in operator.run("new", "a-b").stdout
    monkeypatch.setattr(making, "find_spec", find_nothing)
    assert "pip install --group test" in operator.run("new", "c-d").stdout
    assert util.find_spec("pytest") is not None


def test_a_setting_names_restart_only_where_a_host_runs(warner: Operator) -> None:
    assert warner.run("config", "loop-warner", "limit=4").stdout.endswith("it is read when the plugin starts\n")


def test_connect_says_that_a_plugin_without_a_gate_guards_nothing_and_status_shows_every_agent(
    operator: Operator, folder: Path
) -> None:
    operator.install(manifest='description = "counts"\nrequires_host = ">=1,<2"\n')
    operator.enable()
    shown = operator.run("connect", "claude").stdout
    assert "no plugin that is enabled has a gate or a transform, so nothing is guarded yet" in shown
    settings = folder / ".claude" / "settings.json"
    settings.write_text("{")
    agents = {each["agent"]: each["connected"] for each in operator.ask("connect", "--status", code=1)["agents"]}
    assert "is no JSON" in agents.pop("claude")
    assert set(agents.values()) == {"no"}


def test_an_empty_journal_is_said_to_be_empty_and_a_placement_is_a_word(warner: Operator) -> None:
    assert "nothing is recorded yet" in warner.run("audit").stdout
    warner.enable()
    warner.run("place", "loop-warner", "process")
    assert warner.run("audit", "--kind", "place").stdout.split()[-1] == "process"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="SKIPPED: only root becomes another user")
def test_a_home_of_another_user_is_named_with_the_way_to_ones_own(warner: Operator) -> None:
    warner.enable()
    for path in [warner.home.path, *warner.home.path.parents][:4]:
        path.chmod(0o755)
    os.seteuid(65534)
    try:
        said = warner.run("list", code=2).stderr
    finally:
        os.seteuid(0)
    assert f"cannot be read: Permission denied; '{warner.home.path}' belongs to the user 0; to use a home of" in said
