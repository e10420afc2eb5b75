"""Why a program cannot be executed, in a sentence that says what to do.

Looks at files only after the kernel has refused; who executes is left to the launchers.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ally_plugins.contract.values.errors import CannotExecute

if TYPE_CHECKING:
    from .process import ProcessSpec

__all__ = ["cannot_execute", "check_command"]

_PASSING: Final = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ETXTBSY, errno.EINTR})
"""Errors of a moment: another try may succeed."""

_FIRST_LINE: Final = 256  # what the kernel reads of a script's first line (BINPRM_BUF_SIZE)


def check_command(spec: ProcessSpec, *, can_enter: bool = False) -> None:
    """Raise CannotExecute when there is no program to execute, or its sandbox cannot be entered by this launcher."""
    if spec.box is not None and not can_enter:
        raise cannot_execute(spec, errno.ENOSYS, "box")
    if not spec.argv or not spec.argv[0]:
        raise cannot_execute(spec, errno.ENOENT)


def cannot_execute(spec: ProcessSpec, number: int, stage: str = "exec") -> CannotExecute:
    """Return the error for what the kernel answered (an errno) at a stage: fork, start, folder, limits, box or exec."""
    program = spec.argv[0] if spec.argv else ""
    reason = _REASONS.get(stage, _of_program)(spec, number)
    text = f"cannot execute {program!r}: {reason}"
    return CannotExecute(text, plugin=spec.name, program=program, is_final=stage != "fork" and number not in _PASSING)


def _of_fork(_: ProcessSpec, number: int) -> str:
    return f"no process can be started: {_error_text(number)}; end some processes, or raise the limits of the host"


def _of_folder(spec: ProcessSpec, number: int) -> str:
    return f"its folder {spec.cwd!r} cannot be entered: {_error_text(number)}; install the plugin again"


def _of_limits(spec: ProcessSpec, number: int) -> str:
    return f"the limits {spec.limits} cannot be set: {_error_text(number)}; change the daemon's limits"


def _of_box(_: ProcessSpec, number: int) -> str:
    return (
        f"its sandbox cannot be entered: {_error_text(number)}; run ally-plugins doctor, which shows what this machine"
        " lacks, or place the plugin in a process"
    )


def _of_program(spec: ProcessSpec, number: int) -> str:
    if not spec.argv or not spec.argv[0]:
        return "the command is empty; name a program in the daemon's command"
    if number == errno.E2BIG:
        return "its arguments and environment are too long for this machine; shorten them"
    if number == errno.ENOMEM:
        return "no memory for it; raise the daemon's memory_mb"
    if number == errno.EINVAL:
        return "its arguments or environment hold what cannot be passed on, such as a null byte; mend the command"
    found = _find(spec)
    if found is None:
        return f"{_error_text(number)}; {_how_to_find(spec.argv[0])}"
    return _of_file(found, number)


_REASONS: Final = {
    "fork": _of_fork,
    "start": _of_fork,
    "folder": _of_folder,
    "limits": _of_limits,
    "box": _of_box,
}


def _find(spec: ProcessSpec) -> Path | None:
    program = spec.argv[0]
    if os.path.dirname(program):  # noqa: PTH120 - './run' is looked for in the folder, 'run' is not
        path = Path(spec.cwd) / program
        return path if path.exists() else None
    named = shutil.which(program, path=spec.env.get("PATH"))
    return None if named is None else Path(named)


def _how_to_find(program: str) -> str:
    if os.path.dirname(program):  # noqa: PTH120
        return "install the plugin again, or mend the path in the daemon's command"
    return "install it, or put it on PATH, or name it by its full path in the daemon's command"


def _of_file(path: Path, number: int) -> str:
    if path.is_dir():
        return "is a folder; name a program in the daemon's command"
    if number == errno.ENOENT:
        return (
            f"its interpreter is not there: {_interpreter(path)}; install it, or mend the first line of {str(path)!r}"
        )
    if number == errno.EACCES and not os.access(path, os.X_OK):
        return f"permission denied: it is not executable; run chmod +x {str(path)!r}"
    if number == errno.ENOEXEC:
        return f"no program of this machine, and its first line names no interpreter; begin {str(path)!r} with '#!'"
    return f"{_error_text(number)}; mend {str(path)!r}, or the daemon's command"


def _interpreter(path: Path) -> str:
    if not path.is_file():
        return "unknown"
    try:
        with path.open("rb") as file:
            first = file.read(_FIRST_LINE).split(b"\n", 1)[0]
    except OSError:
        return "unknown"
    if not first.startswith(b"#!"):
        return "the loader that it was linked for"
    return repr(first[2:].strip().decode("utf-8", "backslashreplace"))


def _error_text(number: int) -> str:
    return os.strerror(number).lower()
