from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.bridges.code_ally.installs import downloads, find_dependencies, install, plan_install
from ally_plugins.bridges.code_ally.manifest import read_plugin_json
from ally_plugins.catalog.home.folder import Home
from ally_plugins.contract.values.errors import OperatorError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ally_plugins.bridges.code_ally.manifest import CodeAllyPlugin

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Code-Ally's commands are those of a shell")


@pytest.fixture
def state(tmp_path: Path) -> Home:
    return Home("test", tmp_path / "home")


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[..., CodeAllyPlugin]:
    """Return what makes a plugin's folder and reads its manifest."""
    folder = tmp_path / "it"
    folder.mkdir()

    def make(files: dict[str, str] | None = None, **more: Any) -> CodeAllyPlugin:
        for name, content in (files or {}).items():
            (folder / name).write_text(content)
        table = {"name": "it", "version": "1", "tools": [{"name": "t", "command": "python3"}], **more}
        return read_plugin_json(json.dumps(table).encode(), str(folder))

    return make


# What is installed offline: a project of one module, in the folder itself.
PROJECT = {
    "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    '[project]\nname = "greeter"\nversion = "1"\n',
    "backend.py": """
import zipfile
def build_wheel(directory, *_):
    name = "greeter-1-py3-none-any.whl"
    with zipfile.ZipFile(directory + "/" + name, "w") as wheel:
        wheel.writestr("greeter.py", "WORD = 'hello'")
        info = "greeter-1.dist-info/"
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: greeter\\nVersion: 1\\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "")
    return name
""",
}


def test_a_plugin_without_dependencies_or_runtime_has_nothing_to_install(
    state: Home, plugin: Callable[..., CodeAllyPlugin]
) -> None:
    for bare in (plugin(), plugin(runtime="python3"), plugin(dependencies={"file": "x.txt"})):
        assert downloads(bare) == ()
        assert plan_install(state, bare) is None
        found = install(state, bare, print)
        assert (found.python, found.node_path, found.problem) == ("", "", "")


def test_what_would_be_run_and_from_which_lines_is_told_whole(plugin: Callable[..., CodeAllyPlugin]) -> None:
    long = "package==1 --hash=sha256:" + "0" * 3000
    it = plugin({"requirements.txt": f"{long}\n\n-e .\n"}, runtime="python3", dependencies={"file": "requirements.txt"})
    assert downloads(it) == (
        "python3 -m venv ENVIRONMENT",
        "ENVIRONMENT/bin/python -m pip install -r requirements.txt",
        f"requirements.txt: {long}",
        "requirements.txt: -e .",
    )
    command = "pip install -r requirements.txt && ./build 'x y'"
    own = plugin(runtime="python3", dependencies={"file": "requirements.txt", "install_command": command})
    assert command in downloads(own)[1].replace("'\"'\"'", "'")
    node = plugin(
        {"package.json": '{"dependencies": {"x": "1"}}'}, runtime="node", dependencies={"file": "package.json"}
    )
    assert downloads(node)[1] == "npm install --prefix ENVIRONMENT"


def test_a_dependency_file_that_is_not_there_is_named(state: Home, plugin: Callable[..., CodeAllyPlugin]) -> None:
    with pytest.raises(OperatorError, match=r"has no file 'requirements\.txt'"):
        plan_install(state, plugin(runtime="python3", dependencies={"file": "requirements.txt"}))


def test_until_it_is_installed_the_problem_names_the_command(
    state: Home, plugin: Callable[..., CodeAllyPlugin]
) -> None:
    it = plugin({"r.txt": "x"}, runtime="python3", dependencies={"file": "r.txt"})
    assert find_dependencies(state, it).problem == (
        "its dependencies are not installed; to install them: ally-plugins env it"
    )


@pytest.mark.parametrize(
    ("runtime", "file", "content", "is_needed"),
    [
        ("python3", "r.txt", b"", False),
        ("python3", "r.txt", b"# only the standard library\r\n\r\n   \t# really\r\n", False),
        ("python3", "r.txt", b"\xef\xbb\xbf# none", False),
        ("python3", "r.txt", b"# one\nrequests # not a comment\n", True),
        ("python3", "r.txt", b"-r other.txt", True),
        ("node", "package.json", b'\xef\xbb\xbf{"name": "it", "type": "module", "dependencies": {}}', False),
        ("node", "package.json", b'{"name": "it", "scripts": {"postinstall": "./build"}}', True),
        ("node", "package.json", b'{"devDependencies": {"a": "1"}}', True),
        ("node", "package.json", b"{", True),
    ],
)
def test_a_file_that_names_nothing_to_install_needs_no_environment(
    state: Home, plugin: Callable[..., CodeAllyPlugin], *, runtime: str, file: str, content: bytes, is_needed: bool
) -> None:
    it = plugin(runtime=runtime, dependencies={"file": file})
    (Path(it.folder) / file).write_bytes(content)
    assert bool(find_dependencies(state, it).problem) == is_needed
    assert bool(downloads(it)) == is_needed
    assert (plan_install(state, it) is not None) == is_needed
    own = plugin(runtime=runtime, dependencies={"file": file, "install_command": "make"})
    assert find_dependencies(state, own).problem


@pytest.mark.slow
def test_an_own_command_finds_the_environments_pip_and_python(
    state: Home, plugin: Callable[..., CodeAllyPlugin]
) -> None:
    command = "pip install --no-index --no-build-isolation . && python3 -c 'import greeter; print(greeter.WORD)'"
    it = plugin(PROJECT, runtime="python3", dependencies={"file": "pyproject.toml", "install_command": command})
    lines: list[str] = []
    found = install(state, it, lines.append)
    assert found.problem == ""
    assert "hello\n" in lines
    asked = subprocess.run(
        [found.python, "-I", "-c", "import greeter, sys; print(greeter.WORD, sys.prefix)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout.split() == ["hello", str(state.envs_dir / "it")]
    lines.clear()
    assert install(state, it, lines.append) == found
    assert lines == []


@pytest.mark.parametrize("command", ["{pip} --version {envPath}/x", "\"{pip}\" --version '{envPath}'/x"])
def test_the_places_in_an_own_command_are_those_of_the_environment(
    tmp_path: Path, plugin: Callable[..., CodeAllyPlugin], command: str
) -> None:
    home = Home("test", tmp_path / "a home")
    building = plan_install(home, plugin(runtime="python3", dependencies={"install_command": command}))
    assert building is not None
    ran = shlex.split(building.commands[-1][-1])
    assert ran == [f"{building.beside}/bin/pip", "--version", f"{building.beside}/x"]


@pytest.mark.long
@pytest.mark.slow
def test_a_requirements_file_is_installed_once_until_it_changes(
    state: Home, plugin: Callable[..., CodeAllyPlugin], tmp_path: Path
) -> None:
    wheel = tmp_path / "greeter-1-py3-none-any.whl"
    backend: dict[str, Any] = {}
    exec(PROJECT["backend.py"], backend)  # noqa: S102 - it is ours
    backend["build_wheel"](str(tmp_path))
    it = plugin({"r.txt": f"{wheel}\n"}, runtime="python3", dependencies={"file": "r.txt"})
    lines: list[str] = []
    first = install(state, it, lines.append)
    assert first.problem == ""
    assert Path(first.python).exists()
    lines.clear()
    assert install(state, it, lines.append) == first
    assert lines == []
    changed = plugin({"r.txt": f"# changed\n{wheel}\n"}, runtime="python3", dependencies={"file": "r.txt"})
    assert "have changed since" in find_dependencies(state, changed).problem
    other = plugin(runtime="python3", dependencies={"file": "r.txt", "install_command": "true"})
    assert "have changed since" in find_dependencies(state, other).problem


@pytest.mark.long
@pytest.mark.slow
def test_an_installation_that_fails_leaves_nothing_that_counts(
    state: Home, plugin: Callable[..., CodeAllyPlugin]
) -> None:
    it = plugin({"r.txt": ""}, runtime="python3", dependencies={"file": "r.txt", "install_command": "exit 3"})
    with pytest.raises(OperatorError, match="exit code 3"):
        install(state, it, print)
    assert "are not installed" in find_dependencies(state, it).problem
    assert [path for path in state.envs_dir.iterdir() if not path.name.startswith(".")] == []


def test_node_modules_are_below_the_home_and_found_by_node_path(
    state: Home, plugin: Callable[..., CodeAllyPlugin], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # npm itself would ask the network: this one does what it does with `--prefix`.
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text('#!/bin/sh\necho "npm $*"\nmkdir -p "$3/node_modules/greeter" && cp "$3/package.json" "$3/seen"\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:{os.environ['PATH']}")
    it = plugin({"package.json": '{"dependencies": {"greeter": "1"}}'}, runtime="node",
                dependencies={"file": "package.json"})  # fmt: skip
    lines: list[str] = []
    found = install(state, it, lines.append)
    assert found.problem == ""
    assert found.variables == {"NODE_PATH": str(state.envs_dir / "it.node" / "node_modules")}
    assert (Path(found.node_path) / "greeter").is_dir()
    assert "greeter" in (state.envs_dir / "it.node" / "seen").read_text()
    assert lines[0].startswith("npm install --prefix ")
    assert install(state, it, lines.append) == found
    assert not (Path(it.folder) / "node_modules").exists()


@pytest.mark.parametrize("marker", [b"", b"{}", b"[]", b'{"requirements": 7}', b"garbage"])
def test_a_damaged_marker_is_no_installation(state: Home, plugin: Callable[..., CodeAllyPlugin], marker: bytes) -> None:
    it = plugin({"r.txt": "x"}, runtime="python3", dependencies={"file": "r.txt"})
    place = state.envs_dir / "it"
    place.mkdir(parents=True)
    (place / ".complete").write_bytes(marker)
    assert find_dependencies(state, it).problem
    assert sys.executable
