"""Code that an environment imports from elsewhere: what of it a sandbox opens, and what somebody merely named."""

from __future__ import annotations

import json
import os
import site
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attrs import define

import ally_plugins
from ally_plugins.catalog.home.folder import Home
from ally_plugins.host.daemons.boxes import box_for
from ally_plugins.runtime.sandbox.linked_code import linked_code
from tests.kit.hosts import make_record
from tests.kit.sandboxes import answer_inside, needs_sandbox

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ally_plugins.policy.permissions import GrantSet
    from ally_plugins.policy.protected_places import ProtectedPlace
    from ally_plugins.runtime.sandbox.box import Box

CHECKOUT = str(Path(ally_plugins.__file__).parents[1])

SETUPTOOLS = "MAPPING: dict[str, str] = {'mine': %r, 'single': %r}\nNAMESPACES: dict[str, list[str]] = {}\n"
"""As setuptools writes its import hooks, without the code below."""


def packages_in(folder: Path) -> Path:
    """Make the folder of an environment's packages and return it."""
    packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    packages.mkdir(parents=True)
    return packages


def install_editable(packages: Path, project: Path, *named: Path) -> None:
    """Leave what pip and setuptools do, with an import hook that names these."""
    (packages / "__editable__.mine-1.0.pth").write_text(
        "import __editable___mine_finder; __editable___mine_finder.i()\n"
    )
    (packages / "__editable___mine_finder.py").write_text(SETUPTOOLS % tuple(map(str, named)))
    record_editable(packages, project)


def record_editable(packages: Path, project: Path) -> None:
    (packages / "mine-1.0.dist-info").mkdir()
    origin = {"dir_info": {"editable": True}, "url": project.as_uri()}
    (packages / "mine-1.0.dist-info" / "direct_url.json").write_text(json.dumps(origin))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project, whose name is written in another way in a URL, with a package and a module."""
    root = tmp_path / "my project"
    (root / "src" / "mine").mkdir(parents=True)
    (root / "src" / "single.py").touch()
    return root


def test_what_import_hooks_of_editable_installs_name_counts(tmp_path: Path, project: Path) -> None:
    packages = packages_in(tmp_path)
    install_editable(packages, project, project / "src/mine", project / "src/single")
    assert set(linked_code([str(packages)])) == {f"{project}/src/mine", f"{project}/src/single.py"}


def test_what_an_import_hook_names_outside_of_its_project_does_not_count(tmp_path: Path, project: Path) -> None:
    (tmp_path / "home").mkdir()
    (project / "link").symlink_to(tmp_path / "home")
    packages = packages_in(tmp_path)
    install_editable(packages, project, tmp_path / "home", project / "link")
    assert linked_code([str(packages)]) == ()


def test_a_hook_of_what_nobody_has_installed_editable_does_not_count(tmp_path: Path, project: Path) -> None:
    packages = packages_in(tmp_path)
    install_editable(packages, project, project / "src/mine", project / "src/single")
    origin = packages / "mine-1.0.dist-info" / "direct_url.json"
    origin.write_text(json.dumps({"dir_info": {}, "url": project.as_uri()}))
    assert linked_code([str(packages)]) == ()


@pytest.mark.parametrize("text", ["(" * 5000, "\0", "x = '/\\0'", "'/'\n", "\xff"])
def test_an_import_hook_that_cannot_be_read_names_nothing(tmp_path: Path, project: Path, text: str) -> None:
    packages = packages_in(tmp_path)
    install_editable(packages, project, project, project)
    (packages / "__editable___mine_finder.py").write_bytes(text.encode("latin-1"))
    assert linked_code([str(packages)]) == ()


# --- a sandbox for another environment's Python ---


@define
class HomePlaces:
    """Where what belongs to the plugin lies, in a home."""

    home: Home | None
    folder: Path

    def protected_places(self) -> tuple[ProtectedPlace, ...]:
        return ()

    def narrowed(self, plugin: str, granted: GrantSet, project: str | None) -> GrantSet:  # noqa: ARG002
        return granted

    def data_dir_of(self, plugin: str) -> str | None:
        return str(self._made(plugin))

    def temporary_dir_of(self, plugin: str) -> str:
        return str(self._made(f"{plugin}-tmp"))

    def _made(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(exist_ok=True)
        return path


@cache
def _python() -> str:
    return os.path.realpath(sys.executable)


def make_environment(path: Path, *lines: str) -> str:
    """Make an environment of the running interpreter whose packages these lines of a path file name."""
    (path / "bin").mkdir(parents=True)
    (path / "bin" / "python3").symlink_to(_python())
    (path / "pyvenv.cfg").write_text(f"home = {Path(_python()).parent}\ninclude-system-site-packages = false\n")
    (packages_in(path) / "here.pth").write_text("".join(f"{line}\n" for line in lines))
    return str(path / "bin" / "python3")


def box_of(home: Home, folder: Path, command: Sequence[str], **env: str) -> Box:
    record = make_record("doc-writer", placement="sandbox")
    box = box_for(record, HomePlaces(home, folder), command, "", {"PATH": os.environ["PATH"], **env})
    assert box is not None
    return box


IMPORTS = """
import importlib, json, sys
found = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        sys.stderr.write(repr(error))
    else:
        found.append(name)
print(json.dumps(found))
"""


def found_inside(box: Box, python: str, *modules: str) -> list[str]:
    """Return which of these modules a Python in the box imports."""
    lines = f"import subprocess\nsubprocess.run({[python, '-P', '-c', IMPORTS, *modules]!r}, check=True)"
    found: list[str] = answer_inside(box, lines)
    return found


@pytest.fixture
def ally_home(home: Path) -> Home:
    return Home("test", home)


@needs_sandbox
def test_the_hosts_own_python_by_another_name_finds_the_sdk(ally_home: Home, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    script = tmp_path / "daemon"
    script.write_text("#!/usr/bin/env python3\n")
    script.chmod(0o755)
    for command in (("python3", "daemon.py"), (str(script),)):
        assert found_inside(box_of(ally_home, tmp_path, command, PATH=path), sys.executable, "ally_plugins.daemon") == [
            "ally_plugins.daemon"
        ]


@needs_sandbox
def test_an_environments_python_finds_what_is_installed_here_and_not_what_it_names_besides(
    ally_home: Home, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "other.py").touch()
    python = make_environment(tmp_path / "env", CHECKOUT, str(secret), *site.getsitepackages())
    box = box_of(ally_home, tmp_path, (python, "daemon.py"))
    assert found_inside(box, python, "ally_plugins.daemon", "other") == ["ally_plugins.daemon"]


@needs_sandbox
@pytest.mark.parametrize(("agreed", "found"), [(["-e", "{project}"], ["mine"]), (["mine==1.0"], [])])
def test_an_environment_of_the_home_finds_what_the_operator_had_installed_editable(
    ally_home: Home, tmp_path: Path, project: Path, agreed: list[str], found: list[str]
) -> None:
    (project / "src" / "mine" / "__init__.py").touch()
    environment = ally_home.envs_dir / "doc-writer"
    python = make_environment(environment, str(project / "src"))
    requirements = [word.format(project=project) for word in agreed]
    (environment / ".complete").write_text(json.dumps({"requirements": requirements, "python": python}))
    box = box_of(ally_home, tmp_path, (python, "daemon.py"))
    assert found_inside(box, python, "mine") == found
