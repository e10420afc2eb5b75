from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.catalog.environments.installer import InstallReport
from ally_plugins.cli.change.packages import _finish
from ally_plugins.cli.shell.state import State
from tests.kit.sites import Site

if TYPE_CHECKING:
    from .conftest import Operator

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "loop-warner"
version = "1.0"
[project.entry-points."ally.plugins"]
loop-warner = "loop_warner:Plugin"
[tool.hatch.build.targets.wheel]
packages = ["loop_warner"]
"""
OFFLINE = ("--no-deps", "--no-index", "--no-build-isolation")


@pytest.mark.slow
def test_uninstalling_asks_first_and_names_what_goes(enabled: Operator) -> None:
    error = enabled.run("uninstall", "loop-warner", code=1).stderr
    assert "--yes" in error
    assert enabled.ask("list")["plugins"][0]["state"] == "enabled"
    shown = enabled.at_terminal("uninstall", "loop-warner", until="[y/N]", answer=b"n\n", code=1)
    assert "Uninstall loop-warner, with the plugins loop-warner?" in shown


def test_what_is_not_installed_cannot_be_uninstalled(warner: Operator) -> None:
    assert "did you mean 'loop-warner'?" in warner.run("uninstall", "loop-warnr", "--yes", code=2).stderr


@pytest.mark.parametrize("manifest", ["ally-plugin.toml", "plugin.json"])
@pytest.mark.parametrize("words", [("{}",), ("--upgrade", "-e", "{}/")])
def test_a_plugins_folder_is_not_given_to_the_installer_and_where_it_belongs_is_said(
    operator: Operator, tmp_path: Path, manifest: str, words: tuple[str, ...]
) -> None:
    folder = tmp_path / "my daemon"
    folder.mkdir()
    (folder / manifest).write_text("{}")
    error = operator.run("install", *(word.format(folder) for word in words), code=2).stderr
    assert f"is a plugin's folder ({manifest}) and no Python distribution" in error
    assert f"&& cp -r '{folder}" in error
    assert f"{operator.home.plugins_dir}/; then: ally-plugins enable 'my daemon'" in error
    assert not operator.home.journal_file.exists()


def test_a_folder_that_is_found_already_is_told_to_be_enabled(operator: Operator) -> None:
    folder = operator.home.plugins_dir / "mine"
    folder.mkdir(parents=True)
    (folder / "ally-plugin.toml").write_text("")
    error = operator.run("install", str(folder), code=2).stderr
    assert "it lies where plugins in folders are found" in error
    assert "ally-plugins enable mine" in error
    assert "cp -r" not in error


@pytest.mark.slow
def test_a_failed_installation_is_one_line_and_is_recorded_without_the_requirement(operator: Operator) -> None:
    url = "file:///nowhere?token=hunter2"
    done = operator.process("install", *OFFLINE, f"loop-warner @ {url}", code=1, env={"PYTHONPATH": ""})
    assert "the installer failed" in done.stderr.splitlines()[-1]
    (record,) = operator.records("install")
    assert record["data"]["exit_code"] != 0
    assert "hunter2" not in json.dumps(record)


@pytest.mark.parametrize(
    ("forgotten", "words"),
    [
        (None, "stays, and gates that were granted deny; to do without it: ally-plugins disable guard"),
        (("guard",), "is forgotten"),
        ((), "is about another plugin of this name, and stays"),
    ],
)
def test_what_becomes_of_what_was_agreed_to_is_said_as_it_is(
    forgotten: tuple[str, ...] | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done = InstallReport(command=(), exit_code=0, appeared={}, disappeared={"guard": "pack 1.0"}, changed={})
    _finish(State(), done, forgotten)
    assert capsys.readouterr().out == f"gone: guard; what was agreed to {words}\n"


@pytest.mark.long
@pytest.mark.slow
def test_installed_then_agreed_to_then_uninstalled_and_forgotten(operator: Operator, tmp_path: Path) -> None:
    python = _environment(tmp_path / "venv")
    operator.write("../project/pyproject.toml", PROJECT)
    operator.write("../project/loop_warner/__init__.py", "raise SystemExit('imported')\n")
    operator.write("../project/loop_warner/ally-plugin.toml", 'description = "warns"\n')

    def ally(*args: str, code: int = 0) -> Any:
        done = subprocess.run(
            [python, "-m", "ally_plugins", *args, "--json"], env=operator.environment(PYTHONPATH=""), cwd=tmp_path,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    def state() -> list[str]:
        return [each["state"] for each in ally("list")["plugins"] if each["name"] == "loop-warner"]

    assert ally("install", *OFFLINE, "./project")["appeared"] == {"loop-warner": "loop-warner 1.0"}
    assert state() == ["waiting for consent"]
    ally("enable", "loop-warner", "--yes")
    assert ally("uninstall", "loop-warner", "--yes")["disappeared"] == {"loop-warner": "loop-warner 1.0"}
    assert state() == []
    ally("install", *OFFLINE, "./project")
    assert state() == ["waiting for consent"]
    kinds = [record["kind"] for record in operator.records("install", "enable", "uninstall", "forget")]
    assert kinds == ["install", "enable", "uninstall", "forget", "install"]


@pytest.mark.long
@pytest.mark.slow
def test_uninstalling_a_package_leaves_the_folder_of_its_name_agreed_to(operator: Operator, tmp_path: Path) -> None:
    python = _environment(tmp_path / "venv")
    show = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    installed = Site(Path(subprocess.run(show, capture_output=True, text=True, check=True).stdout.strip()))
    home = operator.home.path
    for name in ("guard", "spare"):
        (home / "plugins" / name).mkdir(parents=True)
        (home / "plugins" / name / "ally-plugin.toml").write_text('[daemon]\ncommand = ["cat"]\n')
        operator.run("enable", name, "--yes")
        info = installed.plugin(name)
        with (info / "RECORD").open("a") as record:  # what pip is to remove
            record.writelines(f"\n{info.name}/{file},," for file in ("METADATA", "entry_points.txt"))
    (home / "quarantine.json").write_text('{"spare": "it fails"}')
    shutil.rmtree(home / "plugins" / "spare")  # its gates deny, which is no less to be kept
    files = [home / name for name in ("config.toml", "consent.toml", "quarantine.json")]
    before = [file.read_bytes() for file in files]

    done = subprocess.run(
        [python, "-m", "ally_plugins", "uninstall", "guard", "spare", "--yes"],
        env=operator.environment(PYTHONPATH=""), cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "gone: guard; what was agreed to is about another plugin of this name, and stays" in done.stdout
    assert not list(installed.path.glob("guard*"))
    assert [file.read_bytes() for file in files] == before
    assert operator.records("forget") == []
    assert [each["state"] for each in operator.ask("list")["plugins"]] == ["enabled", "not installed"]


def _environment(folder: Path) -> str:
    """Make an environment to install into, which sees what this one has."""
    venv.create(folder, with_pip=False, symlinks=os.name == "posix")
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    show: list[str | Path] = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = subprocess.run(show, capture_output=True, text=True, check=True)
    line = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})"
    Path(own.stdout.strip(), "_outer.pth").write_text(line, encoding="utf-8")
    return str(python)
