"""Run the framework's own tests without and with our capability in every agent: what passes without passes with it.

`python compare.py FOLDER` with a checkout of pydantic-ai; `nox -s framework` fetches that of the installed version. It
exits with 1 and names the tests that pass only without us, but those whose reason stands in docs/reference/hosts.md.
"""

# ruff: noqa: T201 - it is a command, and prints what it found

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

HERE: Final = Path(__file__).parent

FILES: Final = (
    "test_agent.py",
    "test_capabilities.py",
    "test_capability_process_event_stream.py",
    "test_capability_stream_teardown.py",
    "test_nested_sync_agent.py",
    "test_run_cancellation.py",
    "test_streaming.py",
    "test_streaming_errors.py",
    "test_sync_stream_loop_affinity.py",
    "test_tool_availability.py",
    "test_tool_failed_wire.py",
    "test_tool_search.py",
    "test_tools.py",
    "test_toolsets.py",
)

DIFFERENT: Final = {
    "test_deferred_tool_requests_reject_duplicate_tool_call_ids": "two calls of one response get ids of their own",
    "test_parallel_tool_exception_cancels_sibling_tasks": "each call starts when its gates agree",
}


def passed(folder: Path, *options: str) -> set[str]:
    """Run the tests and return those that passed."""
    with tempfile.TemporaryDirectory() as kept:
        results = Path(kept, "results.xml")
        files = [f"tests/{name}" for name in FILES if (folder / "tests" / name).exists()]
        words = (
            f"--junit-xml={results}",
            "-p",
            "no:cacheprovider",
            "--timeout=120",
            "--numprocesses=2",
            "--quiet",
            "--no-header",
            "--tb=no",
            "--show-capture=no",
        )
        search = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": search, "BLOCKBUSTER_ENABLED": "false"}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *words, *options, *files],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if not results.exists():
            sys.exit(f"the tests of {folder} did not run:\n{done.stdout}")
        cases = ET.parse(results).iter("testcase")  # noqa: S314 - pytest has just written it
        return {f"{case.get('classname')}::{case.get('name')}" for case in cases if case.find("*") is None}


def main(folder: Path) -> int:
    """Compare, print what differs, and return the exit code."""
    without = passed(folder)
    with_plugins = passed(folder, "-p", "plugins_in_every_agent")
    lost = sorted(without - with_plugins)
    known = [name for name in lost if name.rpartition("::")[2].partition("[")[0] in DIFFERENT]
    unknown = [name for name in lost if name not in known]
    print(
        f"{len(without)} tests pass without plugins, {len(without & with_plugins)} of them with plugins in every agent"
    )
    for name in known:
        print(f"different, as documented: {name}: {DIFFERENT[name.rpartition('::')[2].partition('[')[0]]}")
    for name in unknown:
        print(f"fails only with plugins: {name}")
    if not without:
        print(f"no test passed in {folder}; is it a checkout of pydantic-ai?")
    return 1 if unknown or not without else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
