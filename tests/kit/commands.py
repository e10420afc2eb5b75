"""The program, run in this process or as one of its own, on the home and the site of a test."""

from __future__ import annotations

import inspect
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner, Result

from ally_plugins.cli.shell.main import cli

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

NO_KEYRING = "keyring.backends.null.Keyring"
"""The system's keyring is nobody's to fill with tests."""

PROGRAM = (sys.executable, "-m", "ally_plugins")


def run_command(*args: str, code: int = 0, text: str | None = None) -> Result:
    """Run a command in this process, without a terminal; `text` is its standard input."""
    result = _runner().invoke(cli, list(args), input=text)
    assert result.exit_code == code, f"{args}: exit {result.exit_code}\n{result.stdout}\n{result.stderr}"
    return result


def _runner() -> CliRunner:
    """Return a runner that keeps the two streams apart; click 8.1 has to be told, 8.2 does so anyway."""
    options: dict[str, Any] = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
    return CliRunner(**options)


def environment_for(home: Path, site: Path) -> dict[str, str]:
    """Return what a process of the program gets."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ALLY_", "COV"))}
    return kept | {"ALLY_HOME": str(home), "PYTHONPATH": str(site), "PYTHON_KEYRING_BACKEND": NO_KEYRING}


def end(process: subprocess.Popen[str]) -> None:
    """End a process that may run, or be stopped, still."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.kill()
    process.communicate(timeout=60)
