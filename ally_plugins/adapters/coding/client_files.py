"""The hook client in a home: the files that agents' hook entries name, outside of any virtual environment.

An entry names `hooks/hook` and nothing of this version, so that it stays what it is: Codex trusts the exact line.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from ally_plugins.catalog.home.folder import write_atomically
from ally_plugins.contract.values.errors import ConfigError

from .hook_client import CLOSED, EXITS, PASSES, STARTER, closed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ally_plugins.catalog.home.folder import Home

__all__ = ["CLIENT", "client_file", "hook_line", "lay_client"]

CLIENT: Final = "hook"
_MODULE: Final = "ally_hook.py"
_GONE: Final = "ally-plugins: its hook client cannot be started; run: ally-plugins connect, or take its hooks out"

_SYSTEM: Final = "/usr/bin/python3"
"""The interpreter that outlives environments and their tools, where the machine has one."""

_OLDEST: Final = (3, 8)
_LONGEST: Final = 120
"""Characters of the first line of a program that every kernel reads."""

_SCRIPT: Final = """#!{python} -IS
import sys

sys.path.insert(0, {folder!r})
import ally_hook

ally_hook.main()
"""


def client_file(home: Home) -> Path:
    """Return where the client of a home lies."""
    return home.path / "hooks" / CLIENT


def hook_line(client: Path, agent: str, event: str) -> str:
    """Return the command of one hook entry; where the client cannot even be started, the shell closes the event."""
    way = CLOSED[agent][event]
    if way == PASSES:
        otherwise = "exit 0"
    elif way == EXITS:
        otherwise = "exit 2"
    else:
        otherwise = f"echo {shlex.quote(closed(agent, event, _GONE)[1])}"
    return f"{shlex.quote(str(client))} {agent} {event} || {otherwise}"


def lay_client(home: Home, python: str | None = None, starts: Sequence[str] | None = None) -> Path:
    """Write the client, and how it starts the host, into a home; return the file that hook entries name.

    `python` is the interpreter that runs it, `starts` the command of the host. Raises ConfigError where either cannot
    be written or the client does not run.
    """
    home.prepare(home.path / "hooks", home.logs_dir)
    client = client_file(home)
    python = python or find_python()
    command = starts or (sys.executable, "-m", "ally_plugins", "serve", "--home", str(home.path), "--app", home.app)
    source = files("ally_plugins.adapters.coding").joinpath("hook_client.py").read_bytes()
    try:
        write_atomically(client.with_name(_MODULE), source, follow=False)
        write_atomically(client.with_name(STARTER), "\n".join(command).encode(), follow=False)
        script = _SCRIPT.format(python=python, folder=str(client.parent))
        write_atomically(client, script.encode(), follow=False)
        client.chmod(0o700)
        # Without a hook to answer it closes at once: it runs on this machine, and is compiled from here on.
        done = subprocess.run([client], input=b"", capture_output=True, timeout=30, check=False)  # noqa: S603 - just written
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"the hook client {str(client)!r} cannot be laid: {error}", file=str(client)) from error
    if done.returncode != 2:  # noqa: PLR2004 - closed
        said = done.stderr.decode(errors="replace").strip()
        raise ConfigError(f"the hook client {str(client)!r} does not run: {said or done.returncode}", file=str(client))
    return client


def find_python() -> str:
    """Return an interpreter outside of any virtual environment. Raises ConfigError where there is none."""
    for path in (_SYSTEM, getattr(sys, "_base_executable", ""), shutil.which("python3") or ""):
        if path and os.access(path, os.X_OK) and len(path) <= _LONGEST and " " not in path and _is_new_enough(path):
            return path
    raise ConfigError("no Python outside of a virtual environment is found; install one as /usr/bin/python3")


def _is_new_enough(path: str) -> bool:
    look = f"import sys; sys.exit(sys.version_info < {_OLDEST})"
    try:
        return subprocess.run([path, "-IS", "-c", look], timeout=30, check=False).returncode == 0  # noqa: S603 - an interpreter
    except (OSError, subprocess.SubprocessError):
        return False
