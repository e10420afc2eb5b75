# ruff: noqa: S608 - no statements, but the lines that run inside
"""A real process that enters a sandbox."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from ally_plugins.runtime.sandbox.box import Box
from ally_plugins.runtime.sandbox.enter import enter
from tests.kit.sandboxes import answer_inside, box_in, needs_sandbox, run_inside

pytestmark = needs_sandbox


def test_a_box_is_the_same_after_its_way_through_json(tmp_path: Path) -> None:
    box = Box(str(tmp_path), "/tmp/b\udcff", ("/a",), ("/b", "/c"), ("/d",), ("/e",), True, {"X": "y"})  # noqa: FBT003, S108

    assert Box.from_json(json.loads(json.dumps(box.to_json()))) == box


@pytest.mark.parametrize("name", Box._fields)
def test_half_a_box_is_none(name: str, tmp_path: Path) -> None:
    data = box_in(tmp_path).to_json()
    del data[name]

    with pytest.raises(KeyError, match=name):
        Box.from_json(data)


def test_nothing_but_what_is_named_can_be_read_or_written(tmp_path: Path) -> None:
    for name in ("secret", "shown", "open"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    box = box_in(tmp_path, read=(str(tmp_path / "shown"), "/not/there"), write=(str(tmp_path / "open"),))

    found = answer_inside(
        box,
        f"""
import json, os
os.chdir({str(tmp_path)!r})
def attempt(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return error.errno
    return "done"
def write(path):
    open(path, "w").close()
print(json.dumps({{
    "read": [attempt(open, f"{{name}}/file") for name in ("secret", "shown", "open")],
    "list": [attempt(os.listdir, name) for name in ("secret", "shown", "open", ".")],
    "write": [attempt(write, f"{{name}}/new") for name in ("secret", "shown", "open", "home", "tmp")],
    "cut": [attempt(os.truncate, f"{{name}}/file", 0) for name in ("secret", "shown", "open")],
    "link": [attempt(os.link, f"{{name}}/file", "home/linked") for name in ("secret", "shown")],
    "move": [attempt(os.rename, "shown/file", "home/moved"), attempt(os.rename, "home/new", "open/moved")],
    "remove": [attempt(os.unlink, "secret/file"), attempt(os.unlink, "shown/file"), attempt(os.unlink, "open/file")],
}}))
""",
    )

    assert found == {
        "read": [13, "done", "done"],
        "list": [13, "done", "done", 13],
        "write": [13, 13, "done", "done", "done"],
        "cut": [13, 13, "done"],
        "link": [18, 18],  # another file system, as Landlock says it
        "move": [13, "done"],
        "remove": [13, 13, "done"],
    }
    assert (tmp_path / "shown" / "file").read_text() == "shown"


@pytest.mark.parametrize("field", ["read", "write", "home", "tmp"])
def test_what_has_become_a_link_since_it_was_looked_at_is_not_entered(field: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    (secret / "docs").mkdir(parents=True)
    (tmp_path / "project").symlink_to(secret)
    own, granted = str(tmp_path / "project"), (str(tmp_path / "project" / "docs"),)
    change: dict[str, Any] = {field: own if field in {"home", "tmp"} else granted}
    box = box_in(tmp_path)._replace(**change)

    done = run_inside(box, "print('ran')")

    assert done.returncode != 0
    assert "ran" not in done.stdout
    assert "Too many levels of symbolic links" in done.stderr or "Not a directory" in done.stderr


def test_only_what_may_run_is_executed_and_in_the_same_box(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    box = box_in(tmp_path, run=("/bin/cat",))

    found = answer_inside(
        box,
        f"""
import json, subprocess
try:
    subprocess.run(["/bin/ls"])
except PermissionError as error:
    listed = error.filename
shown = subprocess.run(["/bin/cat", {str(tmp_path / "secret")!r}], capture_output=True, text=True)
print(json.dumps([listed, shown.returncode, shown.stdout, "Permission denied" in shown.stderr]))
""",
    )

    assert found == ["/bin/ls", 1, "", True]


def test_modes_owners_and_times_are_set_without_an_error_and_stay_as_they_are(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.touch(mode=0o640)
    before = target.stat()
    box = box_in(tmp_path)

    done = run_inside(
        box,
        f"import os; p = {str(target)!r}\nos.chmod(p, 0o777); os.utime(p, (1, 1)); os.chown(p, 1, 1)",
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert target.stat() == before


def test_a_file_that_is_missing_is_made_by_touching_it(tmp_path: Path) -> None:
    box = box_in(tmp_path)
    missing, there = tmp_path / "home" / "missing", tmp_path / "home" / "there"
    there.write_text("kept")

    done = run_inside(
        box,
        f"import pathlib\nfor p in {str(missing)!r}, {str(there)!r}: pathlib.Path(p).touch()",
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert (missing.read_text(), there.read_text()) == ("", "kept")


def test_a_missing_folder_of_its_own_is_an_error_and_nothing_runs(tmp_path: Path) -> None:
    box = box_in(tmp_path)._replace(tmp=str(tmp_path / "missing"))

    done = run_inside(box, "print('it runs')")

    assert (done.returncode, done.stdout) == (1, "")
    assert "missing" in done.stderr


def test_a_process_with_a_second_thread_does_not_enter(tmp_path: Path) -> None:
    import threading

    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match=r"the only thread of a process, and this one has \d+"):
            enter(box_in(tmp_path))
    finally:
        done.set()
        thread.join()


def test_no_capability_and_no_way_to_one_is_left(tmp_path: Path) -> None:
    found = answer_inside(
        box_in(tmp_path, read=("/proc",)),
        """
import json, re
text = open("/proc/self/status").read()
print(json.dumps(dict(re.findall(r"^(Cap(?:Inh|Prm|Eff|Amb)|NoNewPrivs|Seccomp):\\t(\\w+)$", text, re.M))))
""",
    )

    nothing = "0" * 16
    assert found == {
        "CapInh": nothing, "CapPrm": nothing, "CapEff": nothing, "CapAmb": nothing, "NoNewPrivs": "1", "Seccomp": "2",
    }  # fmt: skip


def test_threads_processes_and_loops_work_inside(tmp_path: Path) -> None:
    found = answer_inside(
        box_in(tmp_path),
        f"""
import asyncio, json, socket, sqlite3, subprocess, threading
seen = []
thread = threading.Thread(target=seen.append, args=(1,)); thread.start(); thread.join()
async def main():
    process = await asyncio.create_subprocess_exec({sys.executable!r}, "-I", "-S", "-c", "print(3)", stdout=-1)
    seen.append(int((await process.communicate())[0]))
    seen.append(await asyncio.to_thread(lambda: 4))
asyncio.run(main())
base = sqlite3.connect("{tmp_path}/home/base.db")
for line in ("pragma journal_mode=wal", "create table t (n)", "insert into t values (5)"): base.execute(line)
base.commit()
seen.append(base.execute("select n from t").fetchone()[0])
print(json.dumps(seen))
""",
    )

    assert found == [1, 3, 4, 5]


@pytest.mark.skipif(os.geteuid() == 0, reason="root is never limited so; test_evil tries it as an ordinary user")
def test_the_user_owns_its_files_inside(tmp_path: Path) -> None:
    found = answer_inside(
        box_in(tmp_path),
        f"""
import json, os
open("{tmp_path}/home/made", "w").close()
print(json.dumps([os.getuid(), os.stat("{tmp_path}/home/made").st_uid]))
""",
    )

    assert found == [os.geteuid(), os.geteuid()]
