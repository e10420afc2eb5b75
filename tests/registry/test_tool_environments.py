"""Plugins in an environment that `uv tool` or `pipx` made: an upgrade of the program does not remove them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ally_plugins.catalog.environments import installer
from ally_plugins.catalog.environments.tools import Tool, find_tool
from ally_plugins.contract.values.errors import OperatorError
from tests.kit.wheels import write_wheel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ally_plugins.catalog.environments.tools import Managed

UV = shutil.which("uv")
MAIN = "[console_scripts]\nally-x = ally_x:main\n"
RECEIPT = """
[tool]
requirements = [
    {{ name = "ally-plugins", specifier = ">=0.1" }},
    {{ name = "Acme_Guard", extras = ["fast"], specifier = "==2" }},
    {{ name = "local", editable = "/src/local" }},
    {{ name = "wheel", path = "/w/wheel.whl" }},
    {{ name = "net", url = "https://example.org/net.whl" }},
]
python = "3.11"
entrypoints = [{{ name = "ally-plugins", install-path = "{bin}/ally-plugins", from = "ally-plugins" }}]

[tool.options]
no-index = true
find-links = ["file:///w"]
index = [{{ url = "https://a.example/simple", default = true }}, {{ url = "https://b.example/simple" }}]
"""


@pytest.fixture
def receipt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the environment of a tool whose receipt has one of each kind."""
    folder = tmp_path / "tools" / "ally-plugins"
    folder.mkdir(parents=True)
    (folder / "uv-receipt.toml").write_text(RECEIPT.format(bin=tmp_path / "bin"))
    monkeypatch.setattr("shutil.which", lambda name: f"/somewhere/{name}")
    monkeypatch.setattr("sys.prefix", str(folder))
    return folder


KEPT = (
    "/somewhere/uv", "tool", "install", "ally-plugins>=0.1", "--with", "Acme_Guard[fast]==2", "--with-editable",
    "/src/local", "--with", "/w/wheel.whl", "--with", "net @ https://example.org/net.whl", "--python", "3.11",
    "--no-index", "--find-links", "file:///w", "--default-index", "https://a.example/simple", "--index",
    "https://b.example/simple",
)  # fmt: skip


def test_uv_installs_with_all_that_its_receipt_names(receipt: Path) -> None:
    tool = find_tool()
    assert tool == Tool("uv", receipt)
    done = tool.install(["new", "-e", "./src", "--upgrade", "-i", "https://c.example"], [("older",), ("-e", "/src/o")])
    assert done.command == (
        *KEPT, "--with", "new", "--with-editable", "./src", "--upgrade", "--default-index", "https://c.example",
        "--with", "older", "--with-editable", "/src/o",
    )  # fmt: skip
    assert done.env == {"UV_TOOL_DIR": str(receipt.parent), "UV_TOOL_BIN_DIR": str(receipt.parent.parent / "bin")}


def test_uv_uninstalls_by_a_receipt_without_it_and_not_the_program_itself(receipt: Path) -> None:
    tool = Tool("uv", receipt)
    assert "Acme_Guard[fast]==2" not in tool.uninstall(["acme-guard"]).command
    assert tool.uninstall(["other"]).command == KEPT
    with pytest.raises(OperatorError, match="uv tool uninstall ally-plugins"):
        tool.uninstall(["ally_plugins"])


@pytest.mark.usefixtures("receipt")
def test_plugins_that_were_installed_beside_the_receipt_are_named_in_it_from_then_on() -> None:
    command = installer.install_command(["new"])
    # Of this very interpreter, which the fixture takes for that of a tool.
    assert "ally-plugins-contrib" in " ".join(command) or "ally_plugins_contrib" in " ".join(command)


@pytest.mark.parametrize("content", ["", "[tool", "[tool]", "[tool]\nrequirements = []", "[tool]\nrequirements = [1]"])
def test_a_damaged_receipt_installs_nothing(content: str, receipt: Path) -> None:
    (receipt / "uv-receipt.toml").write_text(content)
    with pytest.raises(OperatorError, match="is damaged"):
        installer.install_command(["new"])
    with pytest.raises(OperatorError, match="is damaged"):
        installer.uninstall_command(["new"])


def test_without_the_tool_nothing_is_installed_that_it_would_remove(
    receipt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(OperatorError, match="put uv on the PATH"):
        Tool("uv", receipt).install(["new"])


def test_pipx_injects_and_uninjects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "home" / "venvs" / "ally-plugins"
    folder.mkdir(parents=True)
    (folder / "pipx_metadata.json").write_text("{}")
    monkeypatch.setattr("shutil.which", lambda name: f"/somewhere/{name}")
    tool = find_tool(str(folder))
    assert tool is not None
    done = tool.install(["new", "./src", "--upgrade"])
    assert done.command == ("/somewhere/pipx", "inject", "--pip-args=--upgrade", "ally-plugins", "new", "./src")
    assert done.env == {"PIPX_HOME": str(tmp_path / "home")}
    assert tool.uninstall(["new"]).command == ("/somewhere/pipx", "uninject", "ally-plugins", "new")
    with pytest.raises(OperatorError, match="pipx takes no -e here"):
        tool.install(["-e", "./src"])


@pytest.mark.slow
@pytest.mark.skipif(UV is None, reason="uv is not there")
def test_what_is_installed_stays_when_uv_upgrades_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = tmp_path / "wheels"
    for name in ("UV_TOOL_DIR", "UV_TOOL_BIN_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    write_wheel(wheels, "ally-x", "1", {"ally_x.py": "def main(): pass\n"}, entry_points=MAIN)
    for name in ("plugin-a", "plugin-b", "plugin-c"):
        write_wheel(wheels, name, "1", {f"{name}.py": ""})
    uv("tool", "install", "--no-index", "--find-links", str(wheels), "ally-x")
    folder = tmp_path / "UV_TOOL_DIR" / "ally-x"
    tool = find_tool(str(folder))
    assert tool is not None
    run(tool.install(["plugin-a"]))
    uv("pip", "install", "--python", str(folder / "bin" / "python"), "--no-index", "-f", str(wheels), "plugin-b")
    run(tool.install(["plugin-c"], [("plugin-b",)]))
    write_wheel(wheels, "ally-x", "2", {"ally_x.py": "def main(): pass\n"}, entry_points=MAIN)
    uv("tool", "upgrade", "ally-x")
    assert installed(folder) == {"ally_x-2", "plugin_a-1", "plugin_b-1", "plugin_c-1"}
    run(tool.uninstall(["plugin-b"]))
    uv("tool", "upgrade", "--reinstall", "ally-x")
    assert installed(folder) == {"ally_x-2", "plugin_a-1", "plugin_c-1"}


def uv(*arguments: str) -> None:
    assert UV is not None
    subprocess.run([UV, *arguments], check=True, capture_output=True, timeout=120)


def run(managed: Managed) -> None:
    command: Sequence[str] = managed.command
    subprocess.run(command, check=True, capture_output=True, timeout=120, env={**os.environ, **managed.env})


def installed(folder: Path) -> set[str]:
    return {each.name.removesuffix(".dist-info") for each in folder.glob("lib/*/site-packages/*.dist-info")}
