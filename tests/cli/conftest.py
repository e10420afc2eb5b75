"""An operator: a site with plugins as an installer leaves them, a home, and the program to run on both."""

from __future__ import annotations

import ctypes  # noqa: F401  # before a site hides where it is installed
import importlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import importlib_metadata  # noqa: F401  # before a site hides where it is installed
import jsonschema.validators  # noqa: F401  # likewise
import packaging.specifiers  # noqa: F401  # likewise
import pytest
import tomlkit  # noqa: F401  # likewise

import ally_plugins.catalog.environments.installer  # likewise
import ally_plugins.cli.look.checks  # likewise
import ally_plugins.host.host  # likewise
import ally_plugins.journal.journal  # noqa: F401  # likewise
from ally_plugins.catalog.home.folder import Home
from ally_plugins.cli.shell.main import cli
from tests.kit.commands import NO_KEYRING, PROGRAM, end, environment_for, run_command
from tests.kit.sites import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from click.testing import Result

LIVE_HOST = Path(__file__).with_name("live_host.py")

WARNER = """
description = "steers an agent that repeats itself"
requires_host = ">=1,<2"
[events]
subscribe = ["TOOL_CALL_END"]
reason = "to count failures"
[permissions]
add_message = { roles = ["user"], reason = "to steer the agent" }
gate = { on = ["tool_call"], tools = ["bash"], reason = "to stop a loop" }
tools = { reason = "to tell its counts" }
[settings.limit]
type = "integer"
default = 3
description = "failures before it speaks"
[settings.token]
type = "string"
secret = true
description = "for the service"
"""

CODE = '''
from ally_plugins import hookimpl, tool

class Plugin:
    def __init__(self, ally):
        self.ally = ally

    @hookimpl
    async def ally_gate_tool_call(self, call):
        return None

    @tool
    async def shout(self, text: str) -> str:
        """Say it loudly."""
        if text == "boom":
            raise ValueError("no boom")
        await self.ally.add_message("user", f"heard {text}")
        return text.upper() + "\\x1b[31m"
'''


class Operator:
    """Runs the program on one home and one site: in this process with `run` and `ask`, as a real one otherwise."""

    def __init__(self, home: Path, site: Path) -> None:
        self.home = Home("ally-plugins", home)
        self.site = site
        site.mkdir()

    def install(
        self, name: str = "loop-warner", manifest: str = WARNER, *, version: str = "1.0", code: str = CODE
    ) -> None:
        """Leave a distribution with one package and one plugin in the site, in the place of an earlier one."""
        Site(self.site).plugin(name, manifest, version=version, code=code)

    def write(self, path: str, text: str) -> Path:
        """Write a file below the site."""
        return Site(self.site).write(path, text)

    def run(self, *args: str, code: int = 0, text: str | None = None) -> Result:
        """Run a command in this process, without a terminal; `text` is its standard input."""
        return run_command(*args, code=code, text=text)

    def enable(self, name: str = "loop-warner") -> Result:
        """Agree to all that a plugin asks for, and place it inside the host's process, where it starts the fastest."""
        return self.run("enable", name, "--place", "inline", "--yes")

    def ask(self, *args: str, code: int = 0) -> Any:
        """Run a command with --json; nothing but the object may be on its standard output."""
        return json.loads(self.run(*args, "--json", code=code).stdout)

    def environment(self, **more: str) -> dict[str, str]:
        """Return what a real process of the program gets."""
        return {**environment_for(self.home.path, self.site), "COLUMNS": "200", **more}

    def process(
        self, *args: str, code: int = 0, text: str = "", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a real process, without a terminal."""
        done = subprocess.run(
            [*PROGRAM, *args],
            check=False, env=self.environment(**(env or {})), input=text, capture_output=True, text=True, timeout=60,
            cwd=self.site,
        )  # fmt: skip
        assert done.returncode == code, f"{args}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def at_terminal(
        self,
        *args: str,
        until: str,
        answer: bytes,
        code: int = 0,
        ahead: bytes = b"",
        then: Sequence[tuple[str, bytes]] = (),
    ) -> str:
        """Run a real process at a terminal of its own, answer once `until` is shown, and return what was shown.

        `ahead` is typed before the program has begun; `then` are further questions, each with its answer.
        """
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(self.site)
            os.execve(sys.executable, [*PROGRAM, *args], self.environment())  # noqa: S606
        try:
            os.write(terminal, ahead)
            shown = _read(terminal, until)
            os.write(terminal, answer)
            for question, reply in then:
                shown += _read(terminal, question)
                os.write(terminal, reply)
            shown += _read(terminal, None)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        finally:
            os.close(terminal)
        found = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert found == code, f"{args}: exit {found}\n{shown}"
        return shown

    def records(self, *kinds: str) -> list[dict[str, Any]]:
        """Return what was recorded."""
        filters = [word for kind in kinds for word in ("--kind", kind)]
        return [json.loads(line) for line in self.run("audit", "--json", *filters).stdout.splitlines()]


def _read(terminal: int, until: str | None) -> str:
    """Read until a text is shown, or until the terminal is closed."""
    shown = b""
    while until is None or until.encode() not in shown:
        ready, _, _ = select.select([terminal], [], [], 60)
        assert ready, f"{until!r} was never shown: {shown!r}"
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # the other side is closed
            piece = b""
        if not piece:
            break
        shown += piece
    return shown.decode("utf-8", "replace")


@pytest.fixture
def operator(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operator]:
    """Return an operator whose site is all there is on the path beside the standard library."""
    made = Operator(home, tmp_path / "site")
    home.chmod(0o700)
    standard = [
        entry for entry in sys.path if entry and "site-packages" not in entry and Path(entry, "os.py").is_file()
    ]
    _load_everything()
    monkeypatch.setattr(sys, "path", [str(made.site), *standard])
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", NO_KEYRING)
    monkeypatch.setenv("NO_COLOR", "1")
    importlib.invalidate_caches()
    yield made
    for name in [name for name in sys.modules if name in {"loop_warner", "guard", "other"}]:
        del sys.modules[name]


class Agent:
    """A real agent process with a host in it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        return self.process.pid

    def ask(self, *words: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()
        return self.read()

    def read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        return json.loads(line)


@pytest.fixture
def start(operator: Operator) -> Iterator[Callable[[], Agent]]:
    """Return what starts agents on the operator's home; they end with the test."""
    with ExitStack() as agents:

        def begin() -> Agent:
            process = subprocess.Popen(
                [sys.executable, str(LIVE_HOST)], env=operator.environment(), cwd=operator.site, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            agents.callback(end, process)
            agent = Agent(process)
            assert agent.read() == "ready"
            return agent

        yield begin


def _load_everything() -> None:
    """Import all commands while the path still leads to what they need."""
    context = click.Context(cli)
    for name in cli.list_commands(context):
        cli.get_command(context, name)


@pytest.fixture
def warner(operator: Operator) -> Operator:
    """Return an operator who has installed the loop-warner, and no more."""
    operator.install()
    return operator


@pytest.fixture
def enabled(warner: Operator) -> Operator:
    """Return an operator who has agreed to the loop-warner."""
    warner.enable()
    return warner
