"""The shell script as a tool: one process a call, JSON in and out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ally_plugins.bridges.code_ally.manifest import read_plugin_json
from ally_plugins.bridges.code_ally.results import executable_result
from ally_plugins.contract.programs import Ran

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it is a shell script")


def _run(examples: Path, arguments: dict[str, Any]) -> Any:
    folder = examples / "shell_tool"
    (tool,) = read_plugin_json((folder / "plugin.json").read_bytes(), str(folder)).tools
    done = subprocess.run(
        [tool.command, *tool.args],
        input=json.dumps(arguments).encode() + b"\n",
        cwd=folder,
        capture_output=True,
        timeout=60,
        check=True,
    )
    return executable_result(tool.name, Ran(stdout=done.stdout, stderr=done.stderr))


def test_it_counts_the_lines_of_a_file(examples: Path, tmp_path: Path) -> None:
    path = tmp_path / "with spaces & $(things).txt"
    path.write_text("a\nb\nc\n", encoding="utf-8")
    result = _run(examples, {"path": str(path)})
    assert (result.success, result.output, result.data) == (True, "3 lines", {"lines": 3})


@pytest.mark.parametrize("path", ['a"b', "a\\b", "/no/such/file", "$(touch /tmp/x)", "", "`id`", "a\nb", "/", "%s%n"])
def test_what_is_no_file_is_a_failure_in_words(examples: Path, path: str) -> None:
    result = _run(examples, {"path": path})
    assert result.success is False
    assert result.error
