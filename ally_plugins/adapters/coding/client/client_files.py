"""The hook client in a home: the files that agents' hook entries name, outside of any virtual environment.

An entry names `hooks/hook` and nothing of this version, so that it stays what it is: Codex trusts the exact line.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from importlib.resources import files
from typing import TYPE_CHECKING, Final, Literal

from ally_plugins.catalog.home.folder import write_atomically
from ally_plugins.contract.values.errors import ConfigError

from .compiled_client import PYTHON_CLIENT, SOURCE, TABLE, compile_client, source_text, table_text
from .hook_client import CLOSED, EXITS, PASSES, STARTER, closed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ally_plugins.catalog.home.folder import Home

__all__ = ["CLIENT", "ClientKind", "client_file", "client_kind", "find_change", "hook_line", "lay_client"]

ClientKind = Literal["python", "c"]

CLIENT: Final = "hook"
_MODULE: Final = "ally_hook.py"
_RECORD: Final = "client.json"
"""Beside the client: which one it is, and the digests of its files as they were laid."""

_MAX_FILE: Final = 16 * 1024 * 1024
_GONE: Final = "ally-plugins: its hook client cannot be started; run: ally-plugins connect, or take its hooks out"

_AGAIN: Final = "if you have not changed it, find out who did; then connect an agent again: ally-plugins connect AGENT"

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


def client_kind(home: Home) -> ClientKind | None:
    """Return which client lies in a home, None where none does."""
    kind = _recorded(home).get("client")
    return "c" if kind == "c" else "python" if kind == "python" else None


def find_change(home: Home) -> str | None:
    """Return what is not as `lay_client` left it, in a sentence with the way out; None where nothing is amiss.

    Of a home without a client nothing is expected.
    """
    client, record = client_file(home), _recorded(home)
    files = record.get("files")
    if not isinstance(files, dict) or CLIENT not in files:
        return None if not os.path.lexists(client) else f"the hook client {str(client)!r} is not recorded; {_AGAIN}"
    for name, digest in files.items():
        if _digest_of(home, client.with_name(name)) != digest:
            return f"the hook client's file {str(client.with_name(name))!r} is not what was laid there; {_AGAIN}"
    return None


def _recorded(home: Home) -> dict[str, object]:
    try:
        found = json.loads(home.read(client_file(home).with_name(_RECORD), _MAX_FILE) or b"{}")
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest_of(home: Home, file: Path) -> str | None:
    try:
        found = home.read(file, _MAX_FILE)
    except OSError:
        return None
    return hashlib.sha256(found).hexdigest() if found is not None else None


def lay_client(
    home: Home, python: str | None = None, starts: Sequence[str] | None = None, *, kind: ClientKind = "python"
) -> Path:
    """Write the client, and how it starts the host, into a home; return the file that hook entries name.

    `python` is the interpreter that runs it, or takes hooks out beside the compiled one, `starts` the command of the
    host. Raises ConfigError where a file cannot be written, the client cannot be compiled, or does not run; what lay
    there before is still there then.
    """
    home.prepare(home.path / "hooks", home.logs_dir)
    client = client_file(home)
    python = python or find_python()
    # `-P`: it starts in the folder that the client works in, where no module of ours is to be looked for.
    command = starts or (
        sys.executable,
        "-P",
        "-m",
        "ally_plugins",
        "serve",
        "--home",
        str(home.path),
        "--app",
        home.app,
    )
    module = files("ally_plugins.adapters.coding.client").joinpath("hook_client.py").read_bytes()
    script = _SCRIPT.format(python=python, folder=str(client.parent)).encode()
    laid = {_MODULE: module, STARTER: "\n".join(command).encode()}
    if kind == "c":
        laid |= {SOURCE: source_text().encode(), TABLE: table_text().encode(), PYTHON_CLIENT: script}
    for stale in client.parent.glob(f"__pycache__/{_MODULE.partition('.')[0]}.*"):
        stale.unlink(missing_ok=True)  # by its time and size it might pass for that of the new file
    new = client.with_name(f"{CLIENT}.{os.getpid()}.new")
    try:
        for name, content in laid.items():
            write_atomically(client.with_name(name), content, follow=False)
        if kind == "c":
            client.with_name(PYTHON_CLIENT).chmod(0o700)
            compile_client(client.parent, new)
        else:
            write_atomically(new, script, follow=False)
            new.chmod(0o700)
        _try_client(new)
        laid[CLIENT] = new.read_bytes()
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in laid.items()}
        # First: who is stopped between the two leaves a client that `serve` does not take, which closes the hooks.
        record = json.dumps({"client": kind, "files": digests}, indent=1).encode()
        write_atomically(client.with_name(_RECORD), record, follow=False)
        new.replace(client)
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"the hook client {str(client)!r} cannot be laid: {error}", file=str(client)) from error
    finally:
        new.unlink(missing_ok=True)
    return client


def _try_client(client: Path) -> None:
    """Run a client without a hook to answer, which it closes: it runs here, and is compiled from here on."""
    done = subprocess.run([client], input=b"", capture_output=True, timeout=30, check=False)  # noqa: S603 - just written
    if done.returncode != 2:  # noqa: PLR2004 - closed
        said = done.stderr.decode(errors="replace").strip()
        raise ConfigError(f"the hook client {str(client)!r} does not run: {said or done.returncode}", file=str(client))


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
