"""Real projects, built by real backends, installed into real environments."""

from __future__ import annotations

import json
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

TRAP = "raise SystemExit('imported')\n"
"""What every module of these projects does when somebody imports it."""

HATCHLING = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
SETUPTOOLS = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[tool.setuptools.package-data]
"*" = ["*.toml"]
"""


def hatch_wheel(line: str) -> str:
    return f"{HATCHLING}[tool.hatch.build.targets.wheel]\n{line}\n"


PROJECTS: dict[str, tuple[str, str, list[str]]] = {
    # name: (the end of its pyproject.toml, its entry point, its files)
    "hatchling-package": (
        hatch_wheel('packages = ["h_package"]'),
        "h_package:Plugin",
        ["h_package/__init__.py", "h_package/ally-plugin.toml"],
    ),
    "hatchling-src": (
        hatch_wheel('packages = ["src/h_src"]'),
        "h_src.inner:Plugin",
        ["src/h_src/__init__.py", "src/h_src/inner.py", "src/h_src/ally-plugin.toml"],
    ),
    "hatchling-module": (
        hatch_wheel('only-include = ["h_module.py", "h_module.ally-plugin.toml"]'),
        "h_module:Plugin",
        ["h_module.py", "h_module.ally-plugin.toml"],
    ),
    "hatchling-exact": (
        hatch_wheel('packages = ["h_exact"]') + "[tool.hatch.build]\ndev-mode-exact = true\n",
        "h_exact:Plugin",
        ["h_exact/__init__.py", "h_exact/ally-plugin.toml"],
    ),
    "setuptools-package": (
        SETUPTOOLS + '[tool.setuptools]\npackages = ["s_package"]\n',
        "s_package:Plugin",
        ["s_package/__init__.py", "s_package/ally-plugin.toml"],
    ),
    "setuptools-src": (
        SETUPTOOLS + '[tool.setuptools.packages.find]\nwhere = ["src"]\n',
        "s_src.inner:Plugin",
        ["src/s_src/__init__.py", "src/s_src/inner.py", "src/s_src/ally-plugin.toml"],
    ),
    "setuptools-namespace": (
        SETUPTOOLS + '[tool.setuptools]\npackages = ["s_space.deep"]\n',
        "s_space.deep:Plugin",
        ["s_space/deep/__init__.py", "s_space/deep/ally-plugin.toml"],
    ),
    "setuptools-namespace-module": (
        SETUPTOOLS + '[tool.setuptools]\npackages = ["s_open"]\n',
        "s_open.mod:Plugin",
        ["s_open/mod.py", "s_open/mod.ally-plugin.toml"],
    ),
}

LOOK = """
import sys
known = set(sys.modules)
from ally_plugins.catalog.discovery.packages import discover
import json
found = [
    {"name": f.name, "problem": f.problem, "editable": f.editable, "description": f.manifest and f.manifest.description,
     "version": f.version, "digest": f.digest, "content": f.content_digest(), "manifest": f.manifest_path}
    for f in discover().found
]
print(json.dumps({"found": found, "modules": sorted(set(sys.modules) - known)}))
"""


class Environment:
    """A virtual environment that sees what the tests' own one has, and into which plugins can be installed."""

    def __init__(self, path: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", path], check=True)
        scripts = path / ("Scripts" if sys.platform == "win32" else "bin")
        self.python = scripts / ("python.exe" if sys.platform == "win32" else "python")
        site = self.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        own = [sysconfig.get_path("purelib"), str(Path(ally_plugins.__file__).parents[1])]
        Path(site, "tests_own.pth").write_text("\n".join(own))

    def run(self, *arguments: str | Path) -> str:
        result = subprocess.run([self.python, "-P", *arguments], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def install(self, *requirements: str) -> None:
        self.run("-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", *requirements)

    def look(self) -> dict[str, dict[str, Any]]:
        """Discover, and hold that nothing of a plugin was imported meanwhile."""
        seen = json.loads(self.run("-c", LOOK))
        assert [name for name in seen["modules"] if name.startswith(("h_", "s_"))] == []
        return {found["name"]: found for found in seen["found"]}


def write_project(directory: Path, name: str) -> Path:
    rest, entry_point, files = PROJECTS[name]
    project = directory / name
    for path in files:
        file = project / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(TRAP if file.suffix == ".py" else f'description = "{name}"\n')
    entry_points = f'[project.entry-points."ally.plugins"]\n{name} = "{entry_point}"\n'
    (project / "pyproject.toml").write_text(f'[project]\nname = "{name}"\nversion = "1.0"\n{entry_points}{rest}')
    return project


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    for needed in ("pip", "hatchling", "editables", "setuptools", "wheel"):
        if find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    directory = tmp_path_factory.mktemp("projects")
    return [write_project(directory, name) for name in PROJECTS]


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(
    request: pytest.FixtureRequest, projects: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Environment]:
    environment = Environment(tmp_path_factory.mktemp(request.param) / "venv")
    option = ["-e"] if request.param == "editable" else []
    environment.install(*(word for project in projects for word in (*option, str(project))))
    return request.param, environment


@pytest.fixture(scope="module")
def found(installed: tuple[str, Environment]) -> dict[str, dict[str, Any]]:
    return installed[1].look()


@pytest.mark.long
@pytest.mark.parametrize("name", PROJECTS)
def test_an_installed_plugin_is_found_with_its_manifest_and_without_being_imported(
    installed: tuple[str, Environment], found: dict[str, dict[str, Any]], name: str
) -> None:
    plugin = found[name]
    assert plugin["problem"] is None
    assert plugin["description"] == name
    assert plugin["editable"] is (installed[0] == "editable")
    assert plugin["digest"]


@pytest.mark.long
def test_an_edit_changes_the_digest_of_what_is_editable(
    installed: tuple[str, Environment], found: dict[str, dict[str, Any]]
) -> None:
    mode, environment = installed
    edited = Path(found["setuptools-package"]["manifest"]).with_name("__init__.py")
    edited.write_text(TRAP + "# edited\n")
    after = environment.look()
    changed = {name for name in found if after[name]["digest"] != found[name]["digest"]}
    assert changed == ({"setuptools-package"} if mode == "editable" else set())
    assert {name for name in found if after[name]["content"] != found[name]["content"]} == {"setuptools-package"}
    edited.write_text(TRAP)


@pytest.mark.long
def test_a_moved_source_of_an_editable_plugin_is_a_problem_of_that_plugin_alone(
    projects: list[Path], tmp_path: Path
) -> None:
    environment = Environment(tmp_path / "venv")
    copies = [shutil.copytree(project, tmp_path / project.name) for project in projects[:1] + projects[4:5]]
    environment.install(*(word for copy in copies for word in ("-e", str(copy))))
    shutil.rmtree(copies[1])
    after = environment.look()
    assert after["hatchling-package"]["problem"] is None
    assert "is not there" in after["setuptools-package"]["problem"]


INSTALLING = """
import json, sys
from ally_plugins.catalog.environments.installer import install, uninstall
lines = []
done = (install if sys.argv[1] == "install" else uninstall)(sys.argv[2:], lines.append)
print(json.dumps([done.exit_code, done.appeared, done.disappeared, done.changed, "".join(lines)]))
"""


@pytest.mark.long
def test_installing_says_what_appeared_and_uninstalling_what_disappeared(projects: list[Path], tmp_path: Path) -> None:
    environment = Environment(tmp_path / "venv")

    def run(*arguments: str) -> list[Any]:
        result: list[Any] = json.loads(environment.run("-c", INSTALLING, *arguments))
        return result

    offline = ("--no-build-isolation", "--no-deps", "--no-index")
    source = str(shutil.copytree(projects[0], tmp_path / "source"))
    exit_code, appeared, disappeared, changed, output = run("install", *offline, source)
    assert (exit_code, appeared, disappeared, changed) == (0, {"hatchling-package": "hatchling-package 1.0"}, {}, {})
    assert "Successfully installed" in output

    pyproject = Path(source, "pyproject.toml")
    pyproject.write_text(pyproject.read_text().replace('version = "1.0"', 'version = "1.1"'))
    exit_code, appeared, disappeared, changed, _ = run("install", "--upgrade", *offline, "-e", source)
    assert (exit_code, appeared, disappeared, changed) == (0, {}, {}, {"hatchling-package": "hatchling-package 1.1"})

    exit_code, appeared, disappeared, changed, output = run("install", *offline, "no-such-distribution-at-all")
    assert exit_code != 0
    assert (appeared, disappeared, changed) == ({}, {}, {})
    assert "no-such-distribution-at-all" in output

    exit_code, appeared, disappeared, changed, _ = run("uninstall", "hatchling-package")
    assert (exit_code, appeared, disappeared, changed) == (0, {}, {"hatchling-package": "hatchling-package 1.1"}, {})


HOOK = """\
#!/bin/sh
grep -q -- --force && { echo "no force in a push" >&2; exit 2; }
exit 0
"""

JUDGE = """
import asyncio, sys
from pathlib import Path
from ally_plugins import Host, ToolCall

async def main():
    async with Host("test", home=Path(sys.argv[1])) as host:
        session = host.session("s")
        for command in ("git push", "git push --force"):
            print((await session.gate_tool_call(ToolCall("bash", {"command": command}, "c1"))).verdict)

asyncio.run(main())
"""


def block(page: str, fence: str) -> str:
    """Return the first block of a page of the docs in this language."""
    text = (Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8")
    return text.partition(f"```{fence}\n")[2].partition("```")[0]


@pytest.mark.skipif(sys.platform == "win32", reason="the hook is a shell script")
@pytest.mark.parametrize("option", [[], ["-e"]], ids=["wheel", "editable"])
def test_the_source_of_the_how_to_is_installed_named_and_guards(
    projects: list[Path], tmp_path: Path, option: list[str]
) -> None:
    assert projects  # what builds them is there
    project, home, hook = tmp_path / "project", tmp_path / "home", tmp_path / "hooks" / "no-force-push"
    project.mkdir()
    (project / "otheragent_hooks.py").write_text(block("how-to/write-a-source.md", "python"))
    (project / "pyproject.toml").write_text(block("how-to/write-a-source.md", "toml"))
    hook.mkdir(parents=True)
    (hook / "hook.json").write_text('{"before": "check.sh"}')
    (hook / "check.sh").write_text(HOOK)
    (hook / "check.sh").chmod(0o755)
    home.mkdir(mode=0o700)
    environment = Environment(tmp_path / "venv")
    environment.install(*option, str(project))

    def ally(*arguments: str) -> str:
        code = "import os, sys; os.environ['OTHERAGENT_HOOKS'] = sys.argv.pop(1); "
        code += "from ally_plugins.cli.shell.main import main; main()"
        return environment.run("-c", code, str(hook.parent), *arguments, "--home", str(home))

    def judged() -> list[str]:
        code = f"import os; os.environ['OTHERAGENT_HOOKS'] = {str(hook.parent)!r}\n{JUDGE}"
        return environment.run("-c", code, str(home)).splitlines()

    assert "no-force-push" not in ally("list")
    (home / "config.toml").write_text('sources = ["packages", "other_agent"]\n')
    assert f"folder {hook} (other_agent)" in ally("list", "--all")
    assert "to run check.sh before each tool call" in ally("review")
    ally("enable", "no-force-push", "--yes")
    assert judged() == ["Allow()", "Deny(reason='no-force-push: no force in a push')"]
    (hook / "check.sh").write_text("#!/bin/sh\nexit 0\n")
    waiting = judged()
    assert len(waiting) == 2
    assert all("waits for consent" in line or "waiting for consent" in line for line in waiting)
    shutil.rmtree(hook)
    assert all(line.startswith("Deny(") and "ally-plugins disable no-force-push" in line for line in judged())
