"""Example 5 as an operator gets it: built, installed, enabled, and moved by the command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import ally_plugins

pytestmark = pytest.mark.slow

NAME = "failure-watch"
SESSION = Path(__file__).with_name("placed_session.py")
PATIENCE = 120.0


class Environment:
    """A virtual environment that sees what the tests' own one has, and a home."""

    def __init__(self, path: Path, home: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", path], check=True, timeout=PATIENCE)
        scripts = path / ("Scripts" if sys.platform == "win32" else "bin")
        self.python = scripts / ("python.exe" if sys.platform == "win32" else "python")
        self.home = home
        site = self.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        own = [sysconfig.get_path("purelib"), str(Path(ally_plugins.__file__).parents[1])]
        Path(site, "tests_own.pth").write_text("\n".join(own))

    def run(self, *arguments: str | Path) -> str:
        variables = {key: value for key, value in os.environ.items() if not key.startswith(("COV", "PYTHONPATH"))}
        done = subprocess.run(
            [self.python, "-P", *arguments], capture_output=True, text=True, check=False, timeout=PATIENCE,
            env={**variables, "ALLY_HOME": str(self.home)},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ally(self, *arguments: str) -> Any:
        return json.loads(self.run("-m", "ally_plugins", *arguments, "--json"))

    def play(self) -> dict[str, Any]:
        """Return the session's last line: inline, what the plugin prints stands on the host's stdout before it."""
        played: dict[str, Any] = json.loads(self.run(SESSION).splitlines()[-1])
        return played


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    for needed in ("pip", "hatchling"):
        if find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    folder = tmp_path_factory.mktemp("placed")
    project = shutil.copytree(Path(__file__).parents[2] / "examples" / "placed_plugin", folder / "project")
    home = folder / "home"
    home.mkdir(mode=0o700)
    environment = Environment(folder / "venv", home)
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--no-cache-dir")
    environment.run("-m", "pip", "install", *options, str(project))
    environment.run("-m", "ally_plugins", "enable", NAME, "--yes")
    return environment


def placement_in_list(environment: Environment) -> tuple[str, str, str]:
    (found,) = [plugin for plugin in environment.ally("list")["plugins"] if plugin["name"] == NAME]
    return found["placement"], found["version"], found["state"]


@pytest.mark.parametrize("placement", ["inline", "process", "sandbox"])
def test_the_same_plugin_does_the_same_in_all_places(installed: Environment, placement: str) -> None:
    placed = installed.ally("place", NAME, placement)
    assert placed["placement"] == placement
    assert placement_in_list(installed) == (placement, "1.0", "enabled")
    assert installed.play() == {
        "before": True,
        "after": f"{NAME}: it failed 3 times in a row",
        "messages": [["bash failed 3 times in a row; try another way", NAME]],
        "failures": {"bash": 3},
        "is_in_host": placement == "inline",
    }


def test_what_it_prints_in_a_process_is_in_its_log_and_does_not_harm_the_protocol(installed: Environment) -> None:
    installed.ally("place", NAME, "process")
    installed.play()
    assert "bash reached the limit" in installed.run("-m", "ally_plugins", "logs", NAME)


def test_it_would_be_in_a_sandbox_when_nobody_has_placed_it(installed: Environment, tmp_path: Path) -> None:
    home, installed.home = installed.home, tmp_path
    tmp_path.chmod(0o700)
    try:
        assert placement_in_list(installed)[0] == "sandbox"
    finally:
        installed.home = home
