"""What a daemon in a sandbox reaches with each grant, and what it does not reach without."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import Host
from ally_plugins.runtime.sandbox.support import support
from tests.kit.daemons import notes_in, write_daemon
from tests.kit.hosts import make_record
from tests.kit.waiting import go, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not support().has_filter or not support().landlock, reason="no sandbox on this machine")

TRIES = """
import socket

def tried(what):
    try:
        return what()
    except OSError as error:
        return type(error).__name__

def look():
    for path in json.loads(os.environ["PATHS"]):
        note(["read", path, tried(lambda: open(path).read())])
        note(["write", path, tried(lambda: open(path, "a").write("x"))])
    note(["socket", tried(lambda: socket.socket().close())])
    note(["run", tried(lambda: subprocess.run(["git", "--version"], capture_output=True).returncode)])
    note(["variable", os.environ.get("WORDS_KEY"), os.environ.get("OTHER_KEY")])
    note("done")

serve(look)
"""


def tried(home: Path, folder: Path, grants: list[str], paths: list[Path], **more: Any) -> dict[str, Any]:
    """Return what a daemon in a sandbox has found out, by what it has tried."""
    script = folder / "daemon"
    script.mkdir()
    env = {"PATHS": json.dumps([str(path) for path in paths])}
    daemon = write_daemon(script, TRIES, env=env, **more)
    record = make_record("doc-writer", grants=[f"files:write:{script}", *grants], placement="sandbox")

    async def main() -> None:
        async with Host("test", home=home, plugins={"doc-writer": (daemon, record)}, discover=False) as host:
            await until(
                lambda: "done" in notes_in(script) or host.plugins["doc-writer"].state != "running",
                lambda: f"{notes_in(script)}",
            )

    go(main())
    return {":".join(note[:-1]): note[-1] for note in notes_in(script) if note != "done" and note[0] != "variable"} | {
        "variable": next(note[1:] for note in notes_in(script) if note[0] == "variable")
    }


def test_each_grant_opens_what_it_names_and_nothing_beside_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORDS_KEY", "w")
    monkeypatch.setenv("OTHER_KEY", "o")
    for name in ("read", "write", "none"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    read, write, none = (tmp_path / name / "file" for name in ("read", "write", "none"))
    grants = [f"files:read:{tmp_path}/read", f"files:write:{tmp_path}/write", "run:git", "network", "env:WORDS_KEY"]
    found = tried(home, tmp_path, grants, [read, write, none])
    assert found == {
        f"read:{read}": "read",
        f"write:{read}": "PermissionError",
        f"read:{write}": "write",
        f"write:{write}": 1,
        f"read:{none}": "PermissionError",
        f"write:{none}": "PermissionError",
        "socket": None,
        "run": 0,
        "variable": ["w", None],
    }


def test_without_grants_nothing_of_it_is_open(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORDS_KEY", "w")
    (tmp_path / "file").write_text("f")
    found = tried(home, tmp_path, [], [tmp_path / "file"])
    assert found == {
        f"read:{tmp_path}/file": "PermissionError",
        f"write:{tmp_path}/file": "PermissionError",
        "socket": "PermissionError",
        "run": "PermissionError",
        "variable": [None, None],
    }
