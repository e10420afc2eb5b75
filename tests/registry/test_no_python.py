"""A program that is no Python: frozen into one file, or a server that embeds Python. It must never start itself."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import pytest

from ally_plugins import Daemon, Host, ToolCall, running_python
from ally_plugins.bridges.code_ally.installs import plan_install
from ally_plugins.bridges.code_ally.manifest import read_plugin_json
from ally_plugins.catalog.environments.build import plan as plan_environment
from ally_plugins.catalog.environments.installer import install, install_command, uninstall_command
from ally_plugins.catalog.home.config_edits import edit_config
from ally_plugins.catalog.registry import Registry
from ally_plugins.contract.values.errors import CannotExecute, ConfigError, ConsentError, OperatorError
from ally_plugins.runtime.processes.direct import DirectLauncher
from ally_plugins.runtime.processes.guardian_client import GuardedLauncher
from ally_plugins.runtime.processes.launching import make_launcher
from tests.kit.agreeing import agree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ally_plugins.catalog.home.folder import Home
    from tests.kit.sites import Site

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the program here is a shell script")

PYTHON = sys.executable
GATE = '[permissions]\ngate = { on = ["tool_call"], reason = "to look" }\n'
CODE = """
from ally_plugins import hookimpl
class Plugin:
    def __init__(self, ally): pass
    @hookimpl
    def ally_gate_tool_call(self): pass
"""


@pytest.fixture(params=["frozen", "frozen and named python", "compiled", "embedded"])
def become_another_program(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], None]]:
    """Return what makes the running program one that is no Python; at the end nobody has started it."""
    started = tmp_path / "started"
    program = tmp_path / "bin" / ("python3" if request.param == "frozen and named python" else "agent")
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {started}\n')
    program.chmod(0o755)

    def become() -> None:
        monkeypatch.setattr(sys, "executable", str(program))
        if request.param == "compiled":
            monkeypatch.setattr(sys.modules["__main__"], "__compiled__", (), raising=False)
        elif request.param != "embedded":
            monkeypatch.setattr(sys, "frozen", True, raising=False)

    yield become
    assert not started.exists(), started.read_text()


def test_a_class_in_a_process_says_what_is_missing_and_its_gates_deny(
    become_another_program: Callable[[], None], site: Site, home: Home
) -> None:
    site.plugin("guard", GATE, code=CODE)
    registry = Registry(home)
    registry.enable(registry.plan("guard"))
    registry.place("guard", "process")
    become_another_program()
    record = registry.get("guard")
    assert record.state == "not configured"
    assert record.reason.startswith(f"this program, {sys.executable!r}, is no Python that could run it in a process")
    assert record.reason.endswith("ally-plugins place guard process --interpreter PYTHON")
    with pytest.raises(ConsentError, match="--interpreter PYTHON"):
        registry.place("guard", "process")

    async def main() -> None:
        async with Host("test", home=home) as host:
            assert record.reason in host.plugins["guard"].reason
            assert not (await host.session().gate_tool_call(ToolCall("bash", {"command": "ls"}, "c1"))).is_allowed

    asyncio.run(main())


def test_a_program_that_a_package_ships_for_this_python_does_not_run_by_another(
    become_another_program: Callable[[], None], site: Site, home: Home
) -> None:
    site.plugin("helper", '[daemon]\ncommand = ["python3", "d.py"]\n')
    registry = Registry(home)
    registry.enable(registry.plan("helper"))
    become_another_program()
    assert "is no Python that could run it" in registry.get("helper").reason
    edit_config(home, "helper", lambda _: {"interpreter": PYTHON})
    agree(home)
    record = registry.get("helper")
    assert record.is_enabled
    assert record.daemon is not None
    assert record.daemon.command[0] == PYTHON
    edit_config(home, "helper", lambda _: {"interpreter": sys.executable})
    agree(home)
    assert "is this program, which is no Python" in registry.get("helper").reason


def test_a_named_python_runs_a_class_without_a_guardian(
    become_another_program: Callable[[], None], tmp_path: Path
) -> None:
    (tmp_path / "theirs.py").write_text(CODE)
    become_another_program()
    with pytest.raises(ConfigError, match="is no Python that could run 'theirs:Plugin'"):
        Daemon.python("theirs:Plugin")
    daemon = Daemon.python("theirs:Plugin", PYTHON, env={"PYTHONPATH": str(tmp_path)})

    async def main() -> None:
        assert isinstance(make_launcher(), DirectLauncher)
        with pytest.raises(CannotExecute, match="it is no Python"):
            await GuardedLauncher().start()
        async with Host("test", home=None, plugins={"theirs": daemon}) as host:
            assert (host.plugins["theirs"].state, host.plugins["theirs"].reason) == ("running", "")
            assert (await host.session().gate_tool_call(ToolCall("bash", {"command": "ls"}, "c1"))).is_allowed

    asyncio.run(main())


def test_nothing_is_installed_or_built_with_it(become_another_program: Callable[[], None], home: Home) -> None:
    become_another_program()
    assert running_python() == ""
    for make in (lambda: install_command(["x"]), lambda: uninstall_command(["x"]), lambda: install(["x"], print)):
        with pytest.raises(OperatorError, match="is no Python that something could be installed for"):
            make()
    with pytest.raises(OperatorError, match="or name one with --python"):
        plan_environment(home, "it", ["x"])
    assert plan_environment(home, "it", ["x"], PYTHON).commands
    own = b'{"name": "it", "version": "1", "runtime": "python3", "dependencies": {"install_command": "make"},'
    plugin = read_plugin_json(own + b'"tools": [{"name": "t", "command": "python3"}]}', str(home.path))
    with pytest.raises(OperatorError, match="is no Python"):
        plan_install(home, plugin)


@pytest.mark.parametrize(
    "name", ["python", "python3.13t", "pypy3.11", "graalpy", "Python", "pythonw.exe", "python_d.exe"]
)
def test_pythons_of_every_name_are_known(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for path in (f"/opt/bin/{name}", f"C:\\tools\\{name}"):
        monkeypatch.setattr(sys, "executable", path)
        assert running_python() == path
    for nothing in ("", None):
        monkeypatch.setattr(sys, "executable", nothing)
        assert running_python() == ""
