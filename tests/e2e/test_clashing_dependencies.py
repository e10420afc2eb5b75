"""Two plugins that need different versions of one library, in one host: each in an environment of its own."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.kit.wheels import write_wheel

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Operator

pytestmark = pytest.mark.e2e

LIBRARY = "ally-e2e-library"
PLUGINS = {"old-one": "1.0", "new-one": "2.0"}

CODE = '''
import sys
import ally_e2e_library
from ally_plugins import tool

class Plugin:
    def __init__(self, ally):
        self.ally = ally

    @tool(name="{name}-library")
    async def library(self) -> dict:
        """Tell which version of the library it has, and where it runs."""
        return {{"version": ally_e2e_library.VERSION, "prefix": sys.prefix}}
'''
MANIFEST = 'requires_host = ">=0"\n[permissions]\ntools = { reason = "to tell its version" }\n'

BOTH = """
import asyncio, json, sys
from ally_plugins import Host

async def main():
    async with Host() as host:
        session = host.session()
        results = [await host.call_tool(f"{name}-library", session_id=session.id) for name in sys.argv[1:]]
        print(json.dumps([result.data for result in results]))

asyncio.run(main())
"""


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Path]:
    """Return the wheels of both plugins, in a folder with those of both versions of the library."""
    folder = tmp_path / "made"
    for version in PLUGINS.values():
        write_wheel(folder, LIBRARY, version, {"ally_e2e_library.py": f"VERSION = {version!r}\n"})
    return {name: _plugin(folder, name) for name in PLUGINS}


def _plugin(folder: Path, name: str) -> Path:
    package = name.replace("-", "_")
    files = {f"{package}/__init__.py": CODE.format(name=name), f"{package}/ally-plugin.toml": MANIFEST}
    needs = [f"{LIBRARY}=={PLUGINS[name]}", "ally-plugins"]
    entry_points = f"[ally.plugins]\n{name} = {package}:Plugin\n"
    return write_wheel(folder, name, "1.0", files, requires=needs, entry_points=entry_points)


@pytest.mark.long
def test_each_has_its_own_version_in_an_environment_that_a_command_builds(
    operator: Operator, home: Path, made: dict[str, Path]
) -> None:
    offline: dict[str, Any] = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": f"{operator.links} {made['old-one'].parent}"}
    for name, wheel in made.items():
        operator.ally("install", "--no-deps", str(wheel), home=home)
        assert name in operator.ally("enable", name, "--yes", home=home)

    with ThreadPoolExecutor() as pool:  # two terminals
        built = pool.map(lambda name: operator.ally("env", name, "--yes", home=home, **offline), made)
    for name, text in zip(made, built, strict=True):
        assert f"ally-plugins place {name} sandbox --env {name}" in text
        # A sandbox reads the environment that it was given, too.
        placement = "sandbox" if name == "new-one" else "process"
        operator.ally("place", name, placement, "--env", name, home=home)
    operator.ally("doctor", home=home)

    told: list[dict[str, Any]] = json.loads(operator.run(BOTH, *made, home=home))
    assert {name: data["version"] for name, data in zip(made, told, strict=True)} == PLUGINS
    assert [data["prefix"] for data in told] == [str(home / "envs" / name) for name in made]

    operator.ally("env", "old-one", "--remove", "--yes", home=home)
    assert "ally-plugins env old-one" in operator.ally("list", home=home)
    operator.ally("call", "old-one", "old-one-library", home=home, code=1)
    assert json.loads(operator.ally("call", "new-one", "new-one-library", "--json", home=home))["success"]
    operator.ally("uninstall", "old-one", "new-one", "--yes", home=home)
