"""A reader who does what a page says, from an empty folder, at a shell and with a Python of their own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sysconfig
import time
import venv
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.chat.terminal import CTRL_C, CTRL_D, Terminal
from tests.kit.processes import wait_for_ends

from .pages import blocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .pages import Block

PATIENCE_S = 60.0
"""For what servers in the background bring about, and for each question to a person: a busy machine is no failure."""

KEYS = {"^C": CTRL_C, "^D": CTRL_D}

DIFFERS = (
    (re.compile(r"\d+\.\d+ (ms|s)\b"), "N s"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "DATE"),
    (re.compile(r"\b[a-z]-[0-9a-f]{10}(?:-\d+)?\b"), "ID"),
)
"""What differs from run to run."""


class Reader:
    """Follows pages in `folder / "empty"`; what they start in the background ends with the reader.

    Their Python has what is installed in the environment of the tests, and what they install stays with them; `wheels`
    are offered beside the index. Without any, it is the tests' own Python, which costs nothing.
    """

    def __init__(self, folder: Path, wheels: Sequence[Path] = ()) -> None:
        self.folder = folder / "empty"
        self.folder.mkdir()
        self._kept, self._jobs, self._output = (folder / name for name in ("shell", "jobs", "output"))
        # The programs of no wheel (nats-server) are those of the tests.
        programs = [sysconfig.get_path("scripts"), os.environ["PATH"]]
        if wheels:
            programs.insert(0, str(_environment(folder / "venv")))
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ALLY_", "COV", "PYTEST", "PYTHON"))
        }
        self._variables = kept | {
            "PATH": os.pathsep.join(programs),
            "HOME": str(folder / "person"),
            "NO_COLOR": "1",
            "PIP_FIND_LINKS": " ".join({str(wheel.parent) for wheel in wheels}),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        (folder / "person").mkdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End what runs in the background, and wait until it has ended."""
        for pid in self._in_background():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        wait_for_ends(self._in_background())

    def _in_background(self) -> list[int]:
        return [int(pid) for pid in self._jobs.read_text().split()] if self._jobs.exists() else []

    def follow(self, page: str) -> None:
        """Do what a page says; a block that fails, or prints something else than the page says, fails."""
        found = list(blocks(page))
        code, output = "", ""
        for block, after in zip(found, [*found[1:], None], strict=True):
            if block.reason is not None:
                continue
            if block.file is not None:
                self._write(block.file, block)
            if block.language == "python":
                code += block.text
            elif block.commands and block.file is None:
                text = after.shown if after is not None and after.language == "text" and after.is_behind else []
                output = self._until_shown(block, [*block.shown, *text], output)
        if code:
            (self.folder / "page.py").write_text(code, encoding="utf-8")
            self.run([f"python {self.folder / 'page.py'}"])

    def _write(self, name: str, block: Block) -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a" if block.more else "w", encoding="utf-8") as written:
            written.write(block.text)

    def _until_shown(self, block: Block, expected: Sequence[str], before: str) -> str:
        """Run a block, and return all that was printed until now; while servers run, until it shows what it should."""
        deadline = time.monotonic() + (PATIENCE_S if self._in_background() else 0)
        while True:
            try:
                output = before + self.run(block.commands, block.answers)
                missing = [line for line in expected if not _is_shown(line, output)]
                assert missing == [], f"the page has {missing}, and its commands printed:\n{output}"
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
            else:
                return output

    def run(self, script: Sequence[str], answers: Sequence[tuple[str, str]] = ()) -> str:
        """Run lines in one shell, which goes on where the last was: its folder and variables are kept in files."""
        script = script if answers else [*map(_agreed, script)]
        before = [f"trap 'jobs -p >> {self._jobs}' EXIT", f"[ ! -f {self._kept} ] || . {self._kept}", "set -e"]
        text = "\n".join([*before, *script, f"(export -p; echo \"cd '$PWD'\") > {self._kept}"])
        code, output = self._at_terminal(text, answers) if answers else self._alone(text)
        assert code == 0, f"{script}\nended with {code}:\n{output}"
        return output

    def _alone(self, text: str) -> tuple[int, str]:
        # Its output to a file: a server that goes on would keep a pipe open.
        with self._output.open("w+", encoding="utf-8", errors="replace") as output:
            code = subprocess.run(
                ["bash", "-c", text],
                cwd=self.folder,
                env=self._variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=240,
                check=False,
            ).returncode
            output.seek(0)
            return code, output.read()

    def _at_terminal(self, text: str, answers: Sequence[tuple[str, str]]) -> tuple[int, str]:
        program = ["bash", "-c", text]
        with Terminal(program, cwd=self.folder, environ=self._variables, columns=200) as terminal:
            for question, typed in answers:
                terminal.expect(question, patience=PATIENCE_S)
                if typed in KEYS:
                    terminal.press(KEYS[typed])
                else:
                    terminal.say(typed)
            return terminal.wait(PATIENCE_S), terminal.text


def _environment(folder: Path) -> Path:
    """Make an environment that has what this one has, and return the folder of its programs."""
    venv.create(folder, symlinks=os.name != "nt")
    where = {"base": str(folder), "platbase": str(folder)}
    scripts, site = (Path(sysconfig.get_path(name, vars=where)) for name in ("scripts", "purelib"))
    # As links to the files, and not by a path to them: a sandbox shows what lies in its own environment.
    shutil.copytree(sysconfig.get_path("purelib"), site, copy_function=_link, dirs_exist_ok=True)
    for program in Path(sysconfig.get_path("scripts")).iterdir():
        first, _, rest = program.read_bytes().partition(b"\n")
        if first.startswith(b"#!") and b"python" in first:
            (scripts / program.name).write_bytes(b"#!" + os.fsencode(scripts / "python") + b"\n" + rest)
            (scripts / program.name).chmod(0o755)
    return scripts


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another disk
        shutil.copy2(source, target)


ASKS = re.compile(
    r"^(ally-plugins (?:--app \w+ )?(?:enable|apply|env|upgrade|uninstall|prune)\b)(?!.*--(?:yes|check|help))"
)


def _agreed(line: str) -> str:
    """Return a command with the yes of the person who follows the page."""
    return ASKS.sub(r"\1 --yes", line)


def _is_shown(line: str, output: str) -> bool:
    """Say whether a line was printed, however it is broken; `...` stands for anything."""
    wanted = ".*".join(re.escape(part.strip()) for part in _flat(line).split("..."))
    return re.search(wanted, _flat(output)) is not None


def _flat(text: str) -> str:
    for pattern, word in DIFFERS:
        text = pattern.sub(word, text)
    return " ".join(text.split())
