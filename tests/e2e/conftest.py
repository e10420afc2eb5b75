"""People at a terminal of a fresh environment, and the wheels that they install."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.kit.processes import below

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0  # seconds; a busy machine is no failure


class Operator:
    """A person at a terminal of a fresh environment: an own venv, an own home, the wheels installed with pip.

    `links` is a folder with all that the wheels need, which is asked for once: what is installed later finds it there.
    """

    def __init__(self, folder: Path, wheels: Sequence[Path]) -> None:
        self.folder = folder
        self.links = folder / "links"
        self.bin = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        self.python = str(self.bin / "python")
        venv.create(folder / "venv", with_pip=True)
        self.pip("download", "--dest", str(self.links), *map(str, wheels))
        self.pip("install", "--no-index", "--find-links", str(self.links), *map(str, wheels))

    def pip(self, *args: str) -> None:
        subprocess.run([self.python, "-m", "pip", "--quiet", *args], check=True)

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Return the variables of the person's terminal."""
        env = {key: value for key, value in os.environ.items() if not key.startswith(("ALLY_", "COV", "PYTHON"))}
        path = f"{self.bin}{os.pathsep}{env['PATH']}"
        return env | {"ALLY_HOME": str(home), "PATH": path, "NO_COLOR": "1", "COLUMNS": "200"} | more

    def start(self, *command: str, home: Path, cwd: Path | None = None, **more: str) -> subprocess.Popen[str]:
        """Start a program that is talked to over its pipes. `command` is what follows the environment's Python."""
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(
            [self.python, *command], env=self.environment(home, **more), cwd=cwd or self.folder, text=True, **pipes
        )

    def run(self, script: str, *args: str, home: Path, cwd: Path | None = None, **more: str) -> str:
        """Run lines of Python, with every warning an error, and return what they print. stderr must stay empty."""
        process = self.start("-W", "error", "-c", script, *args, home=home, cwd=cwd, **more)
        out, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, errors) == (0, ""), f"exit {process.returncode}\n{out}\n{errors}"
        return out

    def ally(self, *args: str, home: Path, code: int = 0, **more: str) -> str:
        """Run a command without a terminal; return what it prints."""
        done = subprocess.run(
            [str(self.bin / "ally-plugins"), *args], check=False, env=self.environment(home, **more), cwd=self.folder,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == code, f"{args}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def ask(self, *args: str, home: Path) -> Any:
        """Run a command with --json; nothing but the object may be on its standard output."""
        return json.loads(self.ally(*args, "--json", home=home))

    def enable_examples(self, home: Path, *names: str) -> None:
        """Copy examples into the home as their texts say, and agree to what they ask for."""
        for name in names:
            shutil.copytree(ROOT / "examples" / name, home / "plugins" / name)
            # It counts the lines of whatever file it is told, and a sandbox reads none but those that are granted.
            place = ("--place", "process") if name == "shell_tool" else ()
            self.ally("enable", name, *place, "--yes", home=home)


class Agent:
    """A running `agent.py`, with which one talks over its pipes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.loop = self.read()

    def ask(self, *words: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        return self.read()

    def read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        return json.loads(line)

    def processes(self) -> list[int]:
        """Return what it has started, and what that has."""
        return list(below(self.process.pid))

    def end(self) -> tuple[str, str]:
        """Let it end by itself; return the rest of its output, and its stderr."""
        return self.process.communicate(timeout=PATIENCE)


@pytest.fixture(scope="session")
def operator(tmp_path_factory: pytest.TempPathFactory, wheels: list[Path]) -> Operator:
    """Return an operator who has installed both wheels with pip. Tests share the environment, and each has a home."""
    return Operator(tmp_path_factory.mktemp("operator"), wheels)


@pytest.fixture
def agent_of(operator: Operator) -> Iterator[Callable[..., Agent]]:
    """Return what starts an agent on a home: `how` is its loop. All are killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(home: Path, how: str = "asyncio", **more: Any) -> Agent:
        script = str(Path(__file__).with_name("agent.py"))
        started.append(operator.start("-W", "error", script, how, home=home, **more))
        return Agent(started[-1])

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def transcript(tmp_path: Path) -> Path:
    """Return a transcript with six tool calls, two of them Bash."""
    return _write(tmp_path / "session.jsonl", _records(["Bash", "Read", "Bash", "Glob", "Grep", "WebFetch"]))


@pytest.fixture
def failing(tmp_path: Path) -> Path:
    """Return a transcript in which Bash fails four times in a row."""
    return _write(tmp_path / "failing.jsonl", _records(["Bash"] * 4, is_error=True))


def _write(file: Path, records: list[dict[str, Any]]) -> Path:
    file.write_text("".join(f"{json.dumps(record)}\n" for record in records), "utf-8")
    return file


def _records(tools: list[str], *, is_error: bool = False) -> list[dict[str, Any]]:
    """Return a small transcript: a question, a thought, tool calls with their results, an answer."""
    records: list[dict[str, Any]] = [_record(0, "user", "why does the page not scroll?")]
    records.append(_record(1, "assistant", [{"type": "thinking", "thinking": "look at the handler first"}]))
    for i, tool in enumerate(tools):
        use = {"type": "tool_use", "id": f"t{i}", "name": tool, "input": {"step": i}}
        result = {"type": "tool_result", "tool_use_id": f"t{i}", "content": "done", "is_error": is_error}
        records += [_record(2 * i + 2, "assistant", [use]), _record(2 * i + 3, "user", [result])]
    records.append(_record(20, "assistant", [{"type": "text", "text": "the handler swallows the event"}]))
    return records


def _record(second: int, role: str, content: object) -> dict[str, Any]:
    return {
        "type": role,
        "uuid": f"u{second}",
        "sessionId": "s1",
        "timestamp": f"2026-03-01T10:00:{second:02}.000Z",
        "isSidechain": False,
        "message": {"role": role, "content": content},
    }
