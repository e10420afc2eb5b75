"""What users install: the import stays cheap, the wheel is complete, the version is said once."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution, version
from pathlib import Path

import pytest

import ally_plugins

ROOT = Path(__file__).parents[2]
HEAVY = {"asyncio", "click", "importlib_metadata", "jsonschema", "platformdirs", "rich", "sqlite3", "tomlkit"}


def _python(code: str) -> str:
    """Run code in a fresh interpreter without coverage in it, which would import modules of its own."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("COV")}
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env)
    return result.stdout


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys; before = set(sys.modules); import ally_plugins; print(*(set(sys.modules) - before))"
    assert HEAVY.isdisjoint(_python(code).split())


def test_every_exported_name_is_there_and_listed_by_dir() -> None:
    missing = [name for name in ally_plugins.__all__ if not hasattr(ally_plugins, name)]
    assert missing == []
    assert set(ally_plugins.__all__) <= set(dir(ally_plugins))


@pytest.mark.parametrize("package", ["", "testing", "daemon", "adapters/pydantic_ai"])
def test_type_checkers_are_shown_the_names_that_there_are(package: str) -> None:
    stub = ast.parse((ROOT / "ally_plugins" / package / "__init__.pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom) and node.level]
    shown = {f".{node.module} {name.name}" for node in imports for name in node.names}
    module = importlib.import_module(f"ally_plugins.{package.replace('/', '.')}".rstrip("."))
    homes: dict[str, str] = module._HOMES
    assert shown == {f".{home} {name}" for home, names in homes.items() for name in names.split()}
    assert set(module.__all__) - {"__version__"} == {each.split()[1] for each in shown}


ROOMS = sorted((ROOT / "ally_plugins").rglob("__init__.py"))[1:]
LAZY = {"__future__", "typing", "ally_plugins"}


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.parent.relative_to(ROOT)))
def test_a_room_says_what_it_owns_and_imports_nothing_of_itself(room: Path) -> None:
    module = ast.parse(room.read_text(encoding="utf-8"))
    assert len((ast.get_docstring(module) or "").split()) > 10
    imported = {node.module for node in module.body if isinstance(node, ast.ImportFrom)}
    assert imported <= LAZY
    defined = [node for node in module.body[1:] if not isinstance(node, (ast.ImportFrom, ast.AnnAssign, ast.Assign))]
    assert defined == []


def test_an_unknown_name_is_an_attribute_error_and_not_something_else() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = ally_plugins.no_such_name  # type: ignore[attr-defined]


def test_the_version_is_the_distributions() -> None:
    assert ally_plugins.__version__ == version("ally-plugins")


@pytest.mark.skipif("ALLY_TEST_INSTALLED" not in os.environ, reason="nox sets it: only its sessions install the wheel")
def test_what_is_tested_is_the_installed_wheel() -> None:
    assert ROOT / "ally_plugins" not in Path(ally_plugins.__file__).parents
    assert "site-packages" in ally_plugins.__file__


def test_the_wheel_carries_types_the_sample_session_and_the_licence(tmp_path: Path) -> None:
    names = _wheel_names(ROOT, tmp_path)
    assert "ally_plugins/py.typed" in names
    assert any(name.startswith("ally_plugins/replay/data/") and name.endswith(".jsonl") for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")} - {"docs/changelog.md"}
    assert {f"ally_plugins/{page}" for page in pages} <= set(names)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        docs = [each for each in wheel.infolist() if each.filename.startswith("ally_plugins/docs/")]
    assert sum(each.compress_size for each in docs) < 700_000  # a quarter of the wheel: it is 400 KB today
    assert not [name for name in names if not name.startswith(("ally_plugins/", "ally_plugins-"))]


def test_the_contrib_wheel_carries_a_manifest_beside_each_plugin(tmp_path: Path) -> None:
    names = _wheel_names(ROOT / "ally_plugins_contrib", tmp_path)
    plugins = _pyproject(ROOT / "ally_plugins_contrib")["project"]["entry-points"]["ally.plugins"]
    for target in plugins.values():
        package = target.partition(":")[0].replace(".", "/")
        assert f"{package}/ally-plugin.toml" in names


def test_both_distributions_say_the_same_version() -> None:
    ours = _pyproject(ROOT)["project"]["version"]
    assert _pyproject(ROOT / "ally_plugins_contrib")["project"]["version"] == ours


def test_the_console_script_is_the_one_that_python_dash_m_runs() -> None:
    (script,) = distribution("ally-plugins").entry_points.select(group="console_scripts")
    assert (script.name, script.value) == ("ally-plugins", "ally_plugins.cli.entry:main")
    result = subprocess.run(
        [sys.executable, "-m", "ally_plugins", "--help"], check=True, capture_output=True, text=True
    )
    assert "ally-plugins" in result.stdout


def _pyproject(folder: Path) -> dict[str, dict[str, dict[str, dict[str, str]]]]:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def _wheel_names(source: Path, out: Path) -> list[str]:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()
