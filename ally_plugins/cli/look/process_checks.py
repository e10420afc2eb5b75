"""The checks of `doctor` for plugins in processes: programs, Pythons, environments, and what a platform lacks."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ally_plugins.cli.shell.check_results import CheckResult
from ally_plugins.cli.shell.processes import sandbox_gaps

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.catalog.home.folder import Home

__all__ = ["check_environments", "check_process", "check_sandbox", "platform_weaknesses"]

_NO_GUARDIAN: Final = (
    "no guardian outlives the host here: what a daemon has started may go on after the host was killed"
)
_NO_FORKER: Final = "the process of a plugin in Python starts an interpreter of its own here: none is forked"
_WEAKER: Final = (
    ("darwin", _NO_GUARDIAN),
    ("darwin", _NO_FORKER),
    ("darwin", "the limits of a daemon's process are not enforced on macOS"),
    ("win32", _NO_GUARDIAN),
    ("win32", _NO_FORKER),
    ("win32", "the limits of a daemon's process are not enforced on Windows"),
    ("win32", "daemons that listen on a socket cannot run on Windows, only those that speak over stdio"),
)


def platform_weaknesses(platform: str) -> list[str]:
    """Return what is weaker for daemons on a platform than on Linux."""
    weaknesses = [text for name, text in _WEAKER if name == platform]
    return weaknesses or ([] if platform == "linux" else [_NO_GUARDIAN, _NO_FORKER])


def check_process(record: PluginRecord) -> Iterator[CheckResult]:
    """Find what would keep an enabled plugin's process from starting."""
    daemon = record.daemon
    if not record.is_enabled or daemon is None:
        return
    program = daemon.command[0]
    topic = f"plugin {record.name}"
    # As exec does it: PATH counts for a bare name only, and a relative path counts from the folder that it runs in.
    path = Path(daemon.cwd, program) if "/" in program else None
    if path is None and shutil.which(program) is None:
        yield CheckResult("problem", topic, f"its program {program!r} is not on PATH", f"install {program}")
    elif path is not None and not path.is_file():
        yield CheckResult("problem", topic, f"its program {str(path)!r} is not there", "install or build it again")
    elif path is not None and not os.access(path, os.X_OK):
        yield CheckResult("problem", topic, f"its program {str(path)!r} may not be run", f"chmod u+x {path}")
    if daemon.transport == "socket" and sys.platform == "win32":
        yield CheckResult("problem", topic, "it listens on a Unix socket, which Windows has none of")


def check_sandbox(records: Sequence[PluginRecord]) -> Iterator[CheckResult]:
    """Report what this machine keeps of a sandbox, and what not, for the enabled plugins that are placed in one."""
    from ally_plugins.runtime.sandbox.support import support

    names = ", ".join(record.name for record in records)
    missing = sandbox_gaps()
    for text in missing:
        if names:
            remedy = 'use a newer kernel, or have such plugins refused: sandbox = "require" in config.toml'
            yield CheckResult("warning", "sandbox", f"not kept for {names}: {text}", remedy)
        else:
            yield CheckResult("note", "sandbox", f"not kept: {text}")
    for record in records:
        if missing and record.config.sandbox == "require":
            text = 'it does not start: config.toml says sandbox = "require", and this machine does not keep all'
            yield CheckResult("problem", f"plugin {record.name}", text, f"ally-plugins place {record.name} process")
    if not missing:
        found = f"{support().system}, Landlock {support().landlock}"
        yield CheckResult("ok", "sandbox", f"all that a sandbox is to keep is kept here ({found})")
    if names and sys.platform == "linux":
        text = (
            "memory is limited for each process, not for a plugin with all that it starts, since no cgroups are used; "
            "for a limit of all: systemd-run --user --scope -p MemoryMax=4G -p TasksMax=1000 PROGRAM"
        )
        yield CheckResult("note", "cgroups", text)
    if names and os.uname().machine == "aarch64":
        text = "its filter for aarch64 is checked against the kernel's tables, and was not tried on such a machine"
        yield CheckResult("note", "aarch64", text)


def check_environments(home: Home, records: Sequence[PluginRecord]) -> Iterator[CheckResult]:
    """Find environments that cannot be used; one that no plugin uses is only a note."""
    from ally_plugins.catalog.environments.build import environments

    used = {record.config.environment for record in records}
    for environment in environments(home):
        if not environment.problem:
            yield CheckResult("ok", "environments", f"{environment.name} at {environment.path}")
        elif environment.name not in used:  # of one in use, its plugin says so
            yield CheckResult("note", "environments", f"{environment.problem}; no plugin uses it",
                          f"ally-plugins env {environment.name} --remove")  # fmt: skip
