"""Whether what is in a sandbox has a PID namespace here: tried once, by the code that the guardian tries it with."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

from ally_plugins.contract.process_spec import running_python

__all__ = ["has_namespaces"]

_ROOT: Final = str(Path(__file__).parents[2])
# As the guardian finds its own folder: without the package, and so without what that imports.
_LINES: Final = """
import sys
sys.path.append(sys.argv[1])
from runtime.processes.guardian.namespace import can_separate
sys.exit(not can_separate())
"""
_TIMEOUT: Final = 10.0  # seconds, for an interpreter to start and fork twice on a machine that is busy


@cache
def has_namespaces() -> bool:
    """Say whether this user may make a PID namespace. Starts a process the first time, some 20 ms; raises nothing.

    In a process of its own, since what fails half way cannot be undone, and a program with threads does not fork.
    """
    python = running_python()
    if sys.platform != "linux" or not python:
        return False
    command = [python, "-I", "-S", "-c", _LINES, _ROOT]
    try:
        done = subprocess.run(  # noqa: S603 - our own lines, by the running interpreter
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
