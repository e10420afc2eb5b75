"""What plugins do with other programs, in a sandbox where these are granted."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.kit.sandboxes import answer_inside, box_in, needs_sandbox, run_inside
from tests.kit.wheels import write_wheel

if TYPE_CHECKING:
    from ally_plugins.runtime.sandbox.box import Box

pytestmark = needs_sandbox


def run_command(box: Box, *command: str, folder: Path, **more: str) -> Any:
    """Run a command from Python inside, and return its exit code, output and errors."""
    return answer_inside(
        box,
        f"""
import json, os, subprocess
env = {{**os.environ, **{more!r}}}
done = subprocess.run({list(command)!r}, cwd={str(folder)!r}, capture_output=True, text=True, env=env)
print(json.dumps([done.returncode, done.stdout, done.stderr]))
""",
    )


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_git_makes_a_repository_and_commits(tmp_path: Path) -> None:
    box = box_in(tmp_path, run=("git",))
    home = Path(box.home)
    (home / "file").write_text("text")
    identity = ("-c", "user.name=p", "-c", "user.email=p@localhost")

    assert run_command(box, "git", "init", "--quiet", folder=home) == [0, "", ""]
    assert run_command(box, "git", "add", ".", folder=home) == [0, "", ""]
    assert run_command(box, "git", *identity, "commit", "--quiet", "-m", "first", folder=home) == [0, "", ""]
    code, log, errors = run_command(box, "git", "log", "--format=%s", folder=home)
    assert (code, log, errors) == (0, "first\n", "")
    assert run_command(box, "git", "status", "--porcelain", folder=home) == [0, "", ""]


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js")
def test_node_runs_with_timers_children_and_files(tmp_path: Path) -> None:
    box = box_in(tmp_path, run=("node",))
    home = Path(box.home)
    (home / "main.js").write_text("""
const fs = require("fs"), os = require("os");
const {spawnSync} = require("child_process"), {Worker} = require("worker_threads");
fs.writeFileSync("made", "text");
const child = spawnSync(process.execPath, ["-e", "console.log(2)"]);
let refused = "";
try { fs.readFileSync("/etc/passwd"); } catch (error) { refused = error.code; }
const worker = new Worker("require('worker_threads').parentPort.postMessage(3)", {eval: true});
const read = fs.readFileSync("made", "utf8");
worker.on("message", (n) => console.log(read, child.stdout.toString().trim(), n, refused, os.cpus().length > 0));
""")

    assert run_command(box, "node", "main.js", folder=home) == [0, "text 2 3 EACCES true\n", ""]


@pytest.mark.smoke
@pytest.mark.slow
def test_pytest_runs_the_tests_of_a_project(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "tests").mkdir(parents=True)
    (project / "tests" / "test_it.py").write_text("def test_it(tmp_path):\n    (tmp_path / 'x').write_text('y')\n")
    (project / "tests" / "test_no.py").write_text("def test_no():\n    assert open('/etc/passwd')\n")
    box = box_in(tmp_path, write=(str(project),))

    code, output, errors = run_command(
        box, sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:hypothesispytest", folder=project
    )

    assert code == 1, output + errors
    assert "1 failed, 1 passed" in output
    assert "PermissionError: [Errno 13] Permission denied: '/etc/passwd'" in output
    assert (project / ".pytest_cache").is_dir()


@pytest.mark.slow
def test_pip_installs_a_wheel_into_a_folder(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, "somewhere", "1.0", {"somewhere/__init__.py": "PLACE = 'inside'\n"})
    box = box_in(tmp_path, read=(str(wheel),))
    home = Path(box.home)

    install = (
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--target",
        "lib",
        str(wheel),
    )
    code, _, errors = run_command(box, *install, folder=home, PIP_DISABLE_PIP_VERSION_CHECK="1")

    assert (code, errors) == (0, "")
    show = "import sys; sys.path.insert(0, 'lib'); import somewhere; print(somewhere.PLACE)"
    assert run_command(box, sys.executable, "-c", show, folder=home) == [0, "inside\n", ""]


def test_a_shell_is_a_program_that_must_be_granted(tmp_path: Path) -> None:
    refused = run_inside(box_in(tmp_path), "import subprocess; subprocess.run('true', shell=True)")
    assert "PermissionError: [Errno 13] Permission denied: '/bin/sh'" in refused.stderr

    box = box_in(tmp_path, run=("sh",))
    home = Path(box.home)
    script = "echo one > file; while read line; do echo $line; done < file"
    assert run_command(box, "sh", "-c", script, folder=home) == [0, "one\n", ""]


def test_files_are_copied_with_their_modes_and_times_as_far_as_that_goes(tmp_path: Path) -> None:
    found = answer_inside(
        box_in(tmp_path),
        f"""
import json, os, shutil, tempfile, tarfile, zipfile
os.chdir({str(tmp_path / "home")!r})
open("a", "w").write("text")
shutil.copy("a", "b"); shutil.copy2("a", "c"); os.mkdir("d"); shutil.copytree("d", "e"); shutil.move("b", "d/b")
with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile() as file:
    inside = folder.startswith({str(tmp_path / "tmp")!r}) and file.name.startswith({str(tmp_path / "tmp")!r})
with tarfile.open("t.tar", "w") as tar: tar.add("a")
with tarfile.open("t.tar") as tar: tar.extractall("out")
os.symlink("a", "link"); os.replace("c", "f"); shutil.rmtree("e")
print(json.dumps([sorted(os.listdir(".")), open("out/a").read(), open("link").read(), inside]))
""",
    )

    assert found == [["a", "d", "f", "link", "out", "t.tar"], "text", "text", True]
