"""A plugin folder of Code-Ally in a sandbox: its programs see the project of the session that they are run for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ally_plugins import Host
from ally_plugins.catalog.home.config_edits import edit_config
from ally_plugins.catalog.home.folder import Home
from ally_plugins.catalog.registry import Registry
from tests.kit.sandboxes import needs_sandbox
from tests.kit.waiting import go

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = needs_sandbox

TOOL = """
import json, os, sys
path = json.load(sys.stdin)["path"]
try:
    print(json.dumps({"message": open(path).read(), "project": os.environ.get("ALLY_PROJECT")}))
except OSError as error:
    print(json.dumps({"message": type(error).__name__, "project": os.environ.get("ALLY_PROJECT")}))
"""
MANIFEST = {
    "name": "reader",
    "version": "1.0.0",
    "description": "reads",
    "tools": [
        {
            "name": "peek",
            "description": "reads a file",
            "command": "python3",
            "args": ["tool.py"],
            "schema": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
        }
    ],
    "permissions": {"files": {"read": ["project"], "reason": "to read it"}},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["granted", "revoked"])
def test_each_run_sees_the_project_of_its_session_where_that_was_granted(home: Path, tmp_path: Path, kind: str) -> None:
    is_granted = kind == "granted"
    folder = home / "plugins" / "reader"
    folder.mkdir(parents=True)
    (folder / "plugin.json").write_text(json.dumps(MANIFEST))
    (folder / "tool.py").write_text(TOOL)
    one, two = tmp_path / "one", tmp_path / "two"
    for root in (one, two):
        root.mkdir()
        (root / "file").write_text(root.name)
    registry = Registry(Home("test", home))
    registry.enable(registry.plan("reader", None if is_granted else ["tools"]))
    edit_config(registry.home, "reader", lambda _: {"placement": "sandbox"})

    async def main() -> None:
        async with Host("test", home=home) as host:
            for session_id, root in (("s1", one), ("s2", two), ("s3", None)):
                host.session(session_id, project=root)
                for read in (one, two):
                    found = await host.call_tool("peek", {"path": f"{read}/file"}, session_id=session_id)
                    is_seen = is_granted and read == root
                    assert found.output == (read.name if is_seen else "PermissionError")
                    assert found.data["project"] == (str(root) if is_granted and root else None)

    go(main())
