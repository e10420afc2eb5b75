"""The web service of examples/web_service with three inline plugins, beside the same service without us.

Both answer at once, each with one worker; a model server in a process of its own follows a script: a tool call, then an
answer. Two hundred conversations are under way at a time; rounds of the two take turns. Processor time is the service's
alone; the throughput has the client's and the model's share in it, which is the same for both.

What stays in memory is read from a third service, whose model answers in its own process: most of a request's processor
time is the framework's client of a model's API, which would make five thousand of them take five minutes.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
from daemon_rows import Row, row

ROOT: Final = Path(__file__).parent.parent
EMPTY: Final[Mapping[str, str]] = {}
PLUGINS: Final = {"conversation-monitor": "inline", "loop-guard": "inline", "secret-guard": "inline"}
AT_ONCE: Final = 200
ROUNDS: Final = 3
CONVERSATIONS: Final = 5_000
PATIENCE: Final = 120.0
ANSWER: Final = "that is four"
TEST_ANSWER: Final = '{"add":0,'
"""How the answer of pydantic-ai's own model for tests begins: it has called each tool, one of a plugin's too."""


def run() -> list[Row]:
    """Measure and return the rows."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ally-bench-")))
        model = stack.enter_context(_model(folder))
        env = {"OPENAI_BASE_URL": model, "OPENAI_API_KEY": "none", "MODEL": "openai-chat:scripted"}
        example = ROOT / "examples" / "web_service"
        with (
            _service("service:app", example, folder / "ours", env, PLUGINS) as ours,
            _service("web_plain:app", Path(__file__).parent, folder / "plain", env) as plain,
        ):
            rows = asyncio.run(_compare(ours, plain))
        with _service("service:app", example, folder / "kept", {"MODEL": "test"}, PLUGINS) as ours:
            return [*rows, asyncio.run(_measure_memory(ours))]


async def _compare(ours: _Service, plain: _Service) -> list[Row]:
    found: dict[_Service, list[tuple[float, float]]] = {ours: [], plain: []}
    for service in (ours, plain):
        await service.load("first", AT_ONCE // 4, ANSWER)  # which imports and compiles
    for number in range(ROUNDS):
        for service in (ours, plain):
            used = service.processor_time()
            took = await service.load(f"r{number}x", AT_ONCE, ANSWER)
            found[service].append((took, service.processor_time() - used))
    wall, processor = (
        [statistics.median(each[place] for each in found[service]) / AT_ONCE * 1000 for service in (ours, plain)]
        for place in (0, 1)
    )
    return [
        row(f"a request, {AT_ONCE} conversations at once", wall[0], wall[1], "ms", "≤ 1.25"),
        row("processor time of a request", processor[0], processor[1], "ms"),
    ]


async def _measure_memory(ours: _Service) -> Row:
    before = await _memory_after(ours, "a", CONVERSATIONS // 5)
    after = await _memory_after(ours, "b", CONVERSATIONS - CONVERSATIONS // 5)
    name = f"memory after {CONVERSATIONS:,} conversations, after a fifth of them"
    return row(name, after, before, "MB", "≤ 1.1")


async def _memory_after(service: _Service, name: str, count: int) -> float:
    for start in range(0, count, AT_ONCE):
        await service.load(f"{name}{start}x", min(AT_ONCE, count - start), TEST_ANSWER)
    return service.memory()


class _Service:
    """One of the two services, while it runs."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._process = process
        self._url = f"http://127.0.0.1:{port}"

    def processor_time(self) -> float:
        """Return the seconds of processor time that the service has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Return the megabytes that are resident."""
        status = Path(f"/proc/{self._process.pid}/status").read_text("ascii")
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    async def load(self, name: str, count: int, answer: str) -> float:
        """Have so many conversations at once, of one message each, and return the seconds that it took.

        Each answer begins with `answer`.
        """
        limits = httpx.Limits(max_connections=count)
        async with httpx.AsyncClient(base_url=self._url, timeout=PATIENCE, limits=limits) as client:
            began = time.perf_counter()
            answers = await asyncio.gather(
                *(
                    client.post(f"/conversations/{name}{number}", json={"message": "what are two and two?"})
                    for number in range(count)
                )
            )
            took = time.perf_counter() - began
        for response in answers:
            assert response.json()["answer"].startswith(answer), response.text
        return took


@contextmanager
def _model(folder: Path) -> Iterator[str]:
    """Run the model server of the tests, and yield its address."""
    script = folder / "script.json"
    call: dict[str, Any] = {"name": "add", "arguments": {"first": 2, "second": 2}}
    script.write_text(json.dumps([{"tools": [call], "when": "two and two", "times": 0}, {"text": ANSWER, "times": 0}]))
    command = [sys.executable, str(ROOT / "tests" / "baddays" / "model_server.py"), "--script", str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.send_signal(signal.SIGTERM)


@contextmanager
def _service(
    app: str, where: Path, folder: Path, variables: Mapping[str, str], plugins: Mapping[str, str] = EMPTY
) -> Iterator[_Service]:
    """Run one of the services, with a home in which these plugins are enabled, by placement."""
    folder.mkdir()
    env = {**os.environ, **variables, "ALLY_HOME": str(folder / "home"), "HISTORIES": str(folder)}
    for name, place in plugins.items():
        enable = [
            sys.executable,
            "-m",
            "ally_plugins",
            "--app",
            "my-service",
            "enable",
            name,
            "--place",
            place,
            "--yes",
        ]
        subprocess.run(enable, env=env, check=True, capture_output=True)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--port", str(port), "--log-level", "warning", app]
    with (
        subprocess.Popen(command, cwd=where, env=env, stdout=subprocess.DEVNULL) as process,
        ExitStack() as stack,
    ):
        stack.callback(process.send_signal, signal.SIGTERM)  # whatever happens: `Popen` waits for its end
        end = time.monotonic() + PATIENCE
        while True:
            try:  # no client of httpx: each loads the certificates of the system, for as long as the service starts
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    raise
                time.sleep(0.05)
        yield _Service(process, port)
