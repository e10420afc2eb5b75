"""Installing and uninstalling distributions in the environment that this command runs in, by pip or uv.

Where `uv tool` or `pipx` made that environment, by these, since their upgrades remove what they do not know of.

Installing enables nothing. What a distribution may do to the machine while it is installed is its build backend's
business: the command is shown before it runs.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

import orjson
from attrs import frozen

from ally_plugins.contract.process_spec import running_python
from ally_plugins.contract.values.errors import ConfigError, OperatorError

from .tools import Managed, Tool, find_tool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "InstallReport",
    "install",
    "install_command",
    "pip_command",
    "requirement_of",
    "uninstall",
    "uninstall_command",
]

LOOK_TIMEOUT: Final = 60.0
"""Seconds that a fresh interpreter gets to list what is installed; it takes a quarter of one."""

_LOOK: Final = """
import json, sys
from ally_plugins.catalog.discovery.packages import discover
seen = {found.name: f"{found.distribution} {found.version}" for found in discover().found}
sys.stdout.write(json.dumps(seen))
"""


@frozen(kw_only=True)
class InstallReport:
    """What an installation has changed. The three mappings go from plugin to distribution and version.

    `exit_code` is the installer's own; when it is not 0, the reason is in the output.
    """

    command: tuple[str, ...]
    exit_code: int
    appeared: dict[str, str]
    disappeared: dict[str, str]
    changed: dict[str, str]


def install_command(requirements: Sequence[str]) -> tuple[str, ...]:
    """Return the command that would install these; options of the installer may be among them.

    Raises ConfigError when nothing is named, and OperatorError when there is no installer, or no Python to install for.
    """
    return _install(requirements).command


def _install(requirements: Sequence[str]) -> Managed:
    if not requirements:
        raise ConfigError("nothing to install, expected the name of a distribution, a path or a URL")
    if (tool := find_tool()) is not None:
        return tool.install(requirements, _unnamed(tool))
    return Managed((*_installer(), "install", *_for_uv("--python", _python()), *requirements), {})


def _unnamed(tool: Tool) -> list[tuple[str, ...]]:
    """Return arguments for the plugins' distributions that are here, and would be gone after an upgrade by the tool."""
    from ally_plugins.catalog.discovery.packages import discover

    if not (named := tool.names()):
        return []
    here = {found.distribution for found in discover().found}
    lost = sorted(each for each in here if each and re.sub(r"[-_.]+", "-", each).lower() not in named)
    # Without the version: an upgrade is to upgrade it.
    return [tuple(word.partition("==")[0] for word in requirement_of(each)) for each in lost]


def uninstall_command(distributions: Sequence[str]) -> tuple[str, ...]:
    """Return the command that would uninstall these. Raises as `install_command`, also for an option among names."""
    return _uninstall(distributions).command


def _uninstall(distributions: Sequence[str]) -> Managed:
    # An option could name a file with more distributions (`-r`), which nobody was shown.
    if not distributions or any(name.startswith("-") for name in distributions):
        raise ConfigError("nothing to uninstall, expected the name of a distribution")
    if (tool := find_tool()) is not None:
        return tool.uninstall(distributions)
    yes = () if _is_uv() else ("--yes",)
    return Managed((*_installer(), "uninstall", *yes, *_for_uv("--python", _python()), *distributions), {})


def requirement_of(distribution: str) -> tuple[str, ...]:
    """Return the installer's arguments that install a distribution as it is here: its version, folder or URL.

    Raises ConfigError when it is not installed.
    """
    import importlib_metadata

    try:
        found = importlib_metadata.distribution(distribution)
        origin = orjson.loads(found.read_text("direct_url.json") or "{}")
    except (importlib_metadata.PackageNotFoundError, ValueError) as error:
        raise ConfigError(f"{distribution!r} is not installed here, or damaged: install it again") from error
    return _arguments_for(distribution, found.version, origin)


def _arguments_for(distribution: str, version: str, origin: dict[str, Any]) -> tuple[str, ...]:
    url = str(origin.get("url", ""))
    if not url:
        return (f"{distribution}=={version}",)
    if "dir_info" in origin:
        folder = url2pathname(urlsplit(url).path)
        return ("-e", folder) if origin["dir_info"].get("editable") else (folder,)
    if "vcs_info" in origin:
        how = origin["vcs_info"]
        return (f"{distribution} @ {how.get('vcs')}+{url}@{how.get('commit_id')}",)
    return (f"{distribution} @ {url}",)


def install(requirements: Sequence[str], write: Callable[[str], object] | None = None) -> InstallReport:
    """Run the installer and report which plugins appeared; its output goes to `write`, line by line as it comes.

    Blocks until it has ended, without a deadline. Raises ConfigError when nothing is named, and OperatorError when
    there is no installer. A failed installation is no error: see `exit_code`.
    """
    return _run(_install(requirements), write or sys.stdout.write)


def uninstall(distributions: Sequence[str], write: Callable[[str], object] | None = None) -> InstallReport:
    """Run the installer and report which plugins disappeared. As `install` otherwise."""
    return _run(_uninstall(distributions), write or sys.stdout.write)


def _has_pip() -> bool:
    return importlib.util.find_spec("pip") is not None


def _is_uv() -> bool:
    """Pip goes first where it is there: it reads the operator's pip.conf, which uv does not."""
    return not _has_pip()


def _python() -> str:
    if not (python := running_python()):
        text = f"this program, {sys.executable!r}, is no Python that something could be installed for"
        raise OperatorError(f"{text}; build it anew with what it is to have, or use the ally-plugins of a Python")
    return python


def pip_command(why: str) -> tuple[str, ...]:
    """Return the beginning of a command of pip. Raises OperatorError, with `why` it is needed, where there is none."""
    python = _python()
    if not _has_pip():
        raise OperatorError(f"pip is not there, and {why}; to get it: {python} -m ensurepip")
    return (python, "-m", "pip", "--disable-pip-version-check", "--no-input")


def _installer() -> tuple[str, ...]:
    python = _python()
    if not _is_uv():
        return pip_command("it installs")
    uv = shutil.which("uv")
    if uv is None:
        advice = f"{python} -m ensurepip"
        raise OperatorError(f"neither pip nor uv is there to install with; to get pip: {advice}")
    return (uv, "pip")


def _for_uv(*options: str) -> tuple[str, ...]:
    return options if _is_uv() else ()


def _run(managed: Managed, write: Callable[[str], object]) -> InstallReport:
    before = _look()
    # In the session of the terminal, unlike a build: Ctrl-C reaches the installer, which knows how to end.
    with subprocess.Popen(  # noqa: S603  # the operator's own arguments, and no shell
        managed.command,
        env={**os.environ, **managed.env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as process:
        for line in process.stdout or ():
            write(line)
    after = _look()
    if before is None or after is None:  # nothing can be compared; the exit code still reports a failure
        before = after = {}
    return InstallReport(
        command=managed.command,
        exit_code=process.returncode,
        appeared={name: after[name] for name in sorted(after.keys() - before.keys())},
        disappeared={name: before[name] for name in sorted(before.keys() - after.keys())},
        changed={name: after[name] for name in sorted(after.keys() & before.keys()) if after[name] != before[name]},
    )


def _look() -> dict[str, str] | None:
    """List what is installed in a fresh interpreter: only a start reads the path files that editable installs leave.

    None when that fails, as after uninstalling this package itself.
    """
    try:
        # `-P`: what lies in the working directory is not installed.
        command = (_python(), "-P", "-c", _LOOK)
        result = subprocess.run(  # noqa: S603  # our own interpreter and our own lines
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LOOK_TIMEOUT, check=True
        )
        seen = orjson.loads(result.stdout)
    except (OSError, subprocess.SubprocessError, ValueError, OperatorError):
        return None
    return {str(name): str(source) for name, source in seen.items()}
