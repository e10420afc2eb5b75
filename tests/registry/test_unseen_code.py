"""Compiled code that nobody agreed to is not run in the place of a source that somebody did."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import marshal
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema.validators  # noqa: F401  # before a site hides where it is installed
import pytest

from ally_plugins import Host
from ally_plugins.catalog.decide.placement import Interpreter, place
from ally_plugins.catalog.home.config import PluginConfig
from ally_plugins.catalog.home.files import MAX_FILES
from ally_plugins.catalog.registry import Registry, load_class

if TYPE_CHECKING:
    from collections.abc import Callable

    from ally_plugins.catalog.home.folder import Home
    from tests.kit.sites import Site

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the folders' programs are POSIX's")

HELPER = "def value():\n    return 'GOOD'\n"
POISON = "def value():\n    return 'POISON'\n"
DAEMON = f"""
import os, sys
sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)), {str(Path(__file__).parents[2])!r}, *{sys.path!r}]
import helper

class Victim:
    def __init__(self, ally):
        with open(os.path.join(os.environ["TMPDIR"], "said"), "a") as file:
            file.write(helper.value() + " ")

if __name__ == "__main__":
    from ally_plugins.daemon import run
    run(Victim)
"""
TOOL = """
import json, os, sys
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import helper
print(json.dumps({"message": helper.value()}))
"""


def compiled(source: Path, target: Path) -> None:
    """Write what Python takes for the compiled form of a source, and is another's."""
    found = source.stat()
    code = marshal.dumps(compile(POISON, str(source), "exec"))
    header = importlib.util.MAGIC_NUMBER + struct.pack("<III", 0, int(found.st_mtime), found.st_size)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(header + code)


def beside(source: Path, home: Home) -> Path:
    assert home.path.is_dir()
    return Path(importlib.util.cache_from_source(str(source)))


def in_the_homes_cache(source: Path, home: Home) -> Path:
    name = Path(importlib.util.cache_from_source(str(source))).name
    return home.run_dir / "pycache" / str(source.parent).lstrip("/") / name


PLACES = [beside, in_the_homes_cache]


@pytest.fixture
def victim(home: Home, site: Site, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a plugin whose daemon says what its helper says."""
    assert site.path.is_dir()
    folder = home.plugins_dir / "victim"
    folder.mkdir(parents=True)
    (folder / "helper.py").write_text(HELPER)
    (folder / "daemon.py").write_text(DAEMON)
    monkeypatch.setenv("TMPDIR", str(home.path))
    return folder


def enable(home: Home, folder: Path, *flags: str) -> None:
    command = json.dumps([sys.executable, *flags, "daemon.py"])
    (folder / "ally-plugin.toml").write_text(f'description = "d"\n[daemon]\ncommand = {command}\n')
    registry = Registry(home)
    registry.enable(registry.plan("victim", placement="process"))


async def started(home: Home, between: Callable[[], object] | None = None) -> list[str]:
    """Return what its processes have said: of one, or with `between` of two."""
    async with Host("test", home=home.path) as host:
        plugin = host.plugins["victim"]
        assert plugin.is_running, plugin.reason
        if between is not None:
            between()
            assert host._live is not None
            await host._live.restart("victim")
    return (home.path / "said").read_text().split()


@pytest.mark.parametrize("flags", [(), ("-I",), ("-E",)], ids=["plain", "isolated", "without-variables"])
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_a_daemon_runs_the_source_that_was_agreed_to(
    home: Home, victim: Path, place: Callable[[Path, Home], Path], flags: tuple[str, ...]
) -> None:
    enable(home, victim, *flags)
    source = victim / "helper.py"
    compiled(source, place(source, home))
    assert asyncio.run(started(home)) == ["GOOD"]


@pytest.mark.slow
def test_a_restart_runs_it_too(home: Home, victim: Path) -> None:
    enable(home, victim)
    source = victim / "helper.py"

    def poison() -> None:
        for where in PLACES:
            compiled(source, where(source, home))

    said = asyncio.run(started(home, poison))
    assert said == ["GOOD", "GOOD"]
    assert not list(home.path.rglob("daemon*.pyc"))  # and nothing is left compiled


@pytest.fixture
def tool(home: Home, site: Site) -> Path:
    """Return the folder of a plugin with one program that says what its helper says."""
    assert site.path.is_dir()
    folder = home.plugins_dir / "victim"
    folder.mkdir(parents=True)
    (folder / "helper.py").write_text(HELPER)
    (folder / "tool.py").write_text(TOOL)
    spec = {"name": "t", "type": "executable", "description": "d", "command": sys.executable, "args": ["tool.py"],
            "schema": {"type": "object", "properties": {}}}  # fmt: skip
    about = {"name": "victim", "version": "1.0", "description": "d", "tools": [spec]}
    (folder / "plugin.json").write_text(json.dumps(about))
    registry = Registry(home)
    registry.enable(registry.plan("victim", placement="process"))
    return folder


async def called(home: Home, before: Callable[[], object]) -> str:
    """Return what the tool says when something was done to its folder while the host runs."""
    async with Host("test", home=home.path) as host:
        before()
        result: Any = await host.call_tool("t", {})
        return str(result.output or result.error)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_a_program_runs_the_source_that_was_agreed_to(
    home: Home, tool: Path, place: Callable[[Path, Home], Path]
) -> None:
    source = tool / "helper.py"
    said = asyncio.run(called(home, lambda: compiled(source, place(source, home))))
    assert "GOOD" in said


def test_a_program_whose_files_were_changed_while_the_host_runs_is_not_run(home: Home, tool: Path) -> None:
    mark = tool.parent.parent / "ran"
    said = asyncio.run(called(home, lambda: (tool / "helper.py").write_text(f"open({str(mark)!r}, 'w')\n{POISON}")))
    assert "its files are not those that were agreed to" in said
    assert "ally-plugins enable victim" in said
    assert not mark.exists()


@pytest.mark.parametrize("is_strict", [False, True])
def test_a_package_whose_files_were_agreed_to_is_imported_from_them(home: Home, site: Site, *, is_strict: bool) -> None:
    site.plugin("strict_victim", code="from .helper import value\nclass Plugin:\n    said = value()\n")
    source = site.write("strict_victim/helper.py", HELPER)
    consent = 'consent = "files"\n' if is_strict else ""
    home.prepare()
    home.config_file.write_text(f"[plugins.strict_victim]\n{consent}")
    registry = Registry(home)
    registry.enable(registry.plan("strict_victim"))
    compiled(source, beside(source, home))
    record = registry.get("strict_victim")
    try:
        assert load_class(record).said == ("GOOD" if is_strict else "POISON")
    finally:
        for name in ("strict_victim", "strict_victim.helper"):
            sys.modules.pop(name, None)
    assert sys.pycache_prefix is None
    assert record.found is not None
    placed = place(
        "strict_victim", record.found, PluginConfig(placement="process", consent=record.config.consent), Interpreter()
    )
    assert placed.daemon is not None
    assert ("PYTHONPYCACHEPREFIX" in placed.daemon.env) is is_strict


def test_code_without_a_source_counts_where_files_are_agreed_to(home: Home, site: Site) -> None:
    site.plugin("strict_victim")
    home.prepare()
    home.config_file.write_text('[plugins.strict_victim]\nconsent = "files"\n')
    registry = Registry(home)
    registry.enable(registry.plan("strict_victim"))
    site.write("strict_victim/optional.pyc", b"compiled")
    assert registry.get("strict_victim").state == "waiting for consent"


@pytest.mark.slow
@pytest.mark.parametrize("path", ["node_modules/left/index.js", ".venv/run.py", "z/last.py"])
def test_every_file_of_a_package_counts_where_files_are_agreed_to(home: Home, site: Site, path: str) -> None:
    site.plugin("strict_victim")
    site.write(f"strict_victim/{path}", "agreed")
    if path == "z/last.py":
        for number in range(MAX_FILES):
            site.write(f"strict_victim/y/{number}", "")
    home.prepare()
    home.config_file.write_text('[plugins.strict_victim]\nconsent = "files"\n')
    registry = Registry(home)
    registry.enable(registry.plan("strict_victim"))
    assert registry.get("strict_victim").is_enabled
    site.write(f"strict_victim/{path}", "another")
    assert registry.get("strict_victim").state == "waiting for consent"
