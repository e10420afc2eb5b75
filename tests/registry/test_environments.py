"""Virtual environments for plugins: whole or not there, and two with clashing dependencies side by side."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ally_plugins.catalog.environments import build as environments
from ally_plugins.catalog.environments.build import build, chosen_interpreter, plan, python_in, remove
from ally_plugins.catalog.environments.installer import requirement_of
from ally_plugins.catalog.home.config import PluginConfig
from ally_plugins.contract.values.errors import ConfigError, OperatorError
from tests.kit.wheels import write_wheel

if TYPE_CHECKING:
    from ally_plugins.catalog.home.folder import Home
    from tests.kit.sites import Site


def nothing(_: str) -> None:
    """Take a line."""


def program(path: Path, text: str) -> str:
    """Write a program that stands in for a Python that builds."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make pip the installer, and keep it from looking anywhere else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.mark.parametrize("name", ["../x", "", ".hidden", "A", "a/b", "host"])
def test_a_name_that_leads_elsewhere_is_refused(home: Home, name: str) -> None:
    with pytest.raises(ConfigError):
        plan(home, name, ["x"])
    with pytest.raises(ConfigError):
        remove(home, name)


def test_a_python_that_is_not_there_builds_nothing(home: Home) -> None:
    with pytest.raises(OperatorError, match="name another one with --python"):
        plan(home, "x", ["y"], "/no/python")


@pytest.mark.usefixtures("pip")
def test_a_build_that_fails_leaves_nothing_and_what_was_there_untouched(home: Home, tmp_path: Path) -> None:
    old = home.envs_dir / "x"
    old.mkdir(parents=True)
    (old / "kept").write_text("")
    bad = program(tmp_path / "python", 'mkdir -p "$3/bin"; echo no luck; exit 7')
    lines: list[str] = []
    with pytest.raises(OperatorError, match="failed with exit code 7"):
        build(home, plan(home, "x", ["y"], bad), lines.append)
    assert lines == ["no luck\n"]
    assert [path.name for path in home.envs_dir.iterdir()] == ["x"]
    assert (old / "kept").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("pip")
def test_a_build_that_hangs_is_ended_with_all_that_it_started(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "CREATE_TIMEOUT", 0.5)
    hanging = program(tmp_path / "python", "echo started; sleep 600 & sleep 600")
    lines: list[str] = []
    with pytest.raises(OperatorError, match=r"it took more than 0\.5 s"):
        build(home, plan(home, "x", ["y"], hanging), lines.append)
    assert lines == ["started\n"]
    assert list(home.envs_dir.iterdir()) == []


@pytest.mark.usefixtures("pip")
def test_an_interrupted_build_leaves_nothing(home: Home, tmp_path: Path) -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    hanging = program(tmp_path / "python", "echo started; exec sleep 600")
    with pytest.raises(KeyboardInterrupt):
        build(home, plan(home, "x", ["y"], hanging), interrupt)
    assert list(home.envs_dir.iterdir()) == []


def test_half_an_environment_is_never_used(home: Home) -> None:
    python = python_in(home.envs_dir / "half")
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    chosen = chosen_interpreter(home, "p", PluginConfig(environment="half"))
    assert chosen.problem == "the environment 'half' is not complete; to build it: ally-plugins env half"


@pytest.mark.parametrize("marker", ["", "[]", "{}", '{"requirements": 3}', "\x00", "[" * 10_000])
def test_a_damaged_marker_is_a_damaged_environment(home: Home, marker: str) -> None:
    path = home.envs_dir / "odd"
    path.mkdir(parents=True)
    (path / ".complete").write_text(marker)
    assert "is damaged" in chosen_interpreter(home, "p", PluginConfig(environment="odd")).problem


def test_an_environment_whose_python_went_away_is_broken(home: Home) -> None:
    path = home.envs_dir / "old"
    (path / "bin").mkdir(parents=True)
    (path / "bin/python").symlink_to("/no/python3.9")
    (path / ".complete").write_text('{"requirements": []}')
    assert "is broken: there is no Python at" in chosen_interpreter(home, "p", PluginConfig(environment="old")).problem


def test_what_pip_was_told_by_the_operator_is_heeded(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example/simple")
    commands = plan(home, "x", ["y"]).commands
    assert commands[0][1:3] == ("-m", "venv")
    assert commands[1][1:3] == ("-m", "pip")


def test_uv_builds_where_it_is_there(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "_is_pip_configured", lambda: False)
    uv = program(tmp_path / "uv", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    create, install = plan(home, "x", ["y", "z"]).commands
    assert create[:2] == (uv, "venv")
    assert install[:3] == (uv, "pip", "install")
    assert install[-2:] == ("y", "z")


def test_a_plugin_is_installed_as_it_is_installed_here(site: Site, tmp_path: Path) -> None:
    info = site.plugin("mine", version="2.0")
    assert requirement_of("mine") == ("mine==2.0",)
    origins = {
        '{"url": "file:///src/my%20thing", "dir_info": {"editable": true}}': ("-e", "/src/my thing"),
        '{"url": "file:///src", "dir_info": {}}': ("/src",),
        '{"url": "https://h/x-1.whl", "archive_info": {}}': ("mine @ https://h/x-1.whl",),
        '{"url": "https://h/r", "vcs_info": {"vcs": "git", "commit_id": "abc"}}': ("mine @ git+https://h/r@abc",),
    }
    for origin, words in origins.items():
        (info / "direct_url.json").write_text(origin)
        assert requirement_of("mine") == words
    (info / "direct_url.json").write_text("nonsense")
    with pytest.raises(ConfigError, match="install it again"):
        requirement_of("mine")
    with pytest.raises(ConfigError, match="is not installed here"):
        requirement_of(f"nobody-{tmp_path.name}")


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.usefixtures("pip")
def test_two_plugins_with_clashing_dependencies_live_side_by_side(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = tmp_path / "wheels"
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    for version in ("1.0", "2.0"):
        write_wheel(wheels, "shared_dep", version, {"shared_dep.py": f"VERSION = {version!r}"})
    for name, needs in (("old", "shared_dep==1.0"), ("new", "shared_dep==2.0")):
        code = {f"{name}.py": "import shared_dep\ndef main(): print(shared_dep.VERSION)"}
        entry_points = f"[console_scripts]\nrun-{name} = {name}:main\n"
        write_wheel(wheels, name, "1.0", code, requires=[needs], entry_points=entry_points)
        build(home, plan(home, name, [f"{name}==1.0"]), nothing)
    seen = {name: _output(home.envs_dir / name / "bin" / f"run-{name}") for name in ("old", "new")}
    assert seen == {"old": "1.0", "new": "2.0"}
    assert sorted(path.name for path in home.envs_dir.iterdir()) == ["new", "old"]
    chosen = chosen_interpreter(home, "p", PluginConfig(environment="old"))
    assert chosen.problem == ""
    assert _output(Path(chosen.path), "-c", "import old; old.main()") == "1.0"

    build(home, plan(home, "old", ["new==1.0"]), nothing)  # in the place of the first one
    assert _output(home.envs_dir / "old" / "bin" / "run-new") == "2.0"
    assert remove(home, "old") == home.envs_dir / "old"
    assert [path.name for path in home.envs_dir.iterdir()] == ["new"]


def _output(*words: Path | str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
