"""A new version of a guard, as wheels: tried before it is agreed to, installed, locked, and gone back from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kit.wheels import build_wheel

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Operator

pytestmark = pytest.mark.e2e

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "rm-guard"
version = "{version}"
[project.entry-points."ally.plugins"]
rm-guard = "rm_guard:Plugin"
[tool.hatch.build.targets.wheel]
packages = ["rm_guard"]
"""

MANIFEST = """
description = "denies what removes"
requires_host = ">=1,<2"
[permissions]
gate = { on = ["tool_call"], tools = ["bash"], reason = "to stop it" }
"""

CODE = """
from ally_plugins import Deny, hookimpl

class Plugin:
    def __init__(self, ally):
        pass

    @hookimpl
    async def ally_gate_tool_call(self, call):
        return Deny("not that") if "{word}" in str(call.arguments) else None
"""

WORK = """
import asyncio
from ally_plugins import Host, ToolCall, ToolResult

async def tool(call):
    return ToolResult(success=True, output="done")

async def main():
    async with Host() as host:
        for number, text in enumerate(("ls", "rm -r x")):
            await host.session("work").run_tool_call(ToolCall("bash", {"command": text}, f"c{number}"), tool)

asyncio.run(main())
"""


def wheel(folder: Path, version: str, word: str) -> str:
    """Build a version of the guard, which denies what has a word in it."""
    files = {"pyproject.toml": PROJECT.format(version=version), "rm_guard/ally-plugin.toml": MANIFEST,
             "rm_guard/__init__.py": CODE.replace("{word}", word)}  # fmt: skip
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    build_wheel(folder, folder / "dist")
    (built,) = (folder / "dist").glob("*.whl")
    return str(built)


def test_a_looser_guard_is_shown_before_it_is_installed_and_the_lock_of_the_old_one_brings_that_back(
    operator: Operator, tmp_path: Path
) -> None:
    home, lock = tmp_path / "home", str(tmp_path / "pylock.guards.toml")
    home.mkdir(mode=0o700)
    old, new = wheel(tmp_path / "1", "1.0", "rm"), wheel(tmp_path / "2", "2.0", "rmdir")
    operator.ally("install", old, home=home)
    operator.ally("enable", "rm-guard", "--yes", home=home)
    operator.run(WORK, home=home)
    locked = operator.ask("lock", "-o", lock, "--no-index", "--find-links", str(operator.links), home=home)
    assert "rm-guard" in locked["packages"]
    assert locked["without_hash"] == []

    refused = operator.ally("upgrade", "rm-guard", new, home=home, code=1)
    assert "1 x deny -> allow" in refused
    assert operator.ask("info", "rm-guard", home=home)["version"] == "1.0"
    assert "rm-guard 2.0" in operator.ally("upgrade", "rm-guard", new, "--yes", home=home)
    assert operator.ask("info", "rm-guard", home=home)["version"] == "2.0"

    operator.ally("apply", lock, "--check", home=home, code=1)
    assert "nothing differs" in operator.ally("apply", lock, "--yes", home=home)
    plugins = operator.ask("list", home=home)["plugins"]
    (found,) = [each for each in plugins if each["name"] == "rm-guard"]
    assert (found["version"], found["state"], found["changed_code"]) == ("1.0", "enabled", False)
    operator.ally("apply", lock, "--check", home=home)
