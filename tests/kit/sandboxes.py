"""A process that enters a sandbox and then runs a test's own lines, as the operator's user or as another."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ally_plugins.runtime.sandbox.box import Box
from ally_plugins.runtime.sandbox.linked_code import linked_code
from ally_plugins.runtime.sandbox.readable import KERNEL, SYSTEM, SYSTEM_FILES, programs
from ally_plugins.runtime.sandbox.support import gaps, support

RUNTIME = Path(__file__).parents[2] / "ally_plugins" / "runtime"
ENTERS = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from sandbox.box import Box
from sandbox.enter import enter
enter(Box.from_json(json.loads(sys.argv[2])))
exec(compile(sys.argv[3], "inside", "exec"), {"__name__": "inside"})
"""


def is_sandbox_possible() -> bool:
    """Say whether this machine can keep what tests of the sandbox look at."""
    return not gaps(support())


needs_sandbox = pytest.mark.skipif(not is_sandbox_possible(), reason="there is no sandbox here, or not all of it")


def box_in(folder: Path, **more: Any) -> Box:
    """Return a box in a folder, in which the running Python can run and nothing more than `more` says.

    `run` may name programs as a grant does.
    """
    home, tmp = folder / "home", folder / "tmp"
    home.mkdir(exist_ok=True)
    tmp.mkdir(exist_ok=True)
    found = [programs(name, str(home), os.environ["PATH"]) for name in (sys.executable, *more.pop("run", ()))]
    run = [path for each in found for path in (*each.files, *each.folders)]
    system = (*SYSTEM_FILES, *KERNEL, *linked_code(site.getsitepackages()))
    return Box(home=str(home), tmp=str(tmp), system=system, run=(str(home), str(tmp), *SYSTEM, *run), **more)


def run_inside(
    box: Box, lines: str, *, before: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run lines of Python in a sandbox, the process started by the command `before`."""
    return subprocess.run(
        [*before, sys.executable, "-I", "-S", "-c", ENTERS, str(RUNTIME), json.dumps(box.to_json()), lines],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": box.home, "TMPDIR": box.tmp, **(env or {})},
    )


def answer_inside(box: Box, lines: str, **more: Any) -> Any:
    """Run lines in a sandbox and return what they print, as JSON."""
    done = run_inside(box, lines, **more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
