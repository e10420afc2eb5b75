"""The example of a web service: two workers on one home, two hundred conversations at once, probes, SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.baddays.model_server import ModelServer, Reply
from tests.kit.processes import free_port
from tests.kit.waiting import go

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="the example forks workers")]

PATIENCE = 60.0
CONVERSATIONS = 200
AGAIN = 40
"""Those that go on, half of them in another worker."""


class Service:
    """The example under uvicorn, with two workers."""

    def __init__(self, folder: Path, model: ModelServer, **variables: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.output = folder / "output.txt"
        env = {
            **os.environ, "OPENAI_BASE_URL": model.url, "OPENAI_API_KEY": "none", "MODEL": "openai-chat:scripted",
            "HISTORIES": str(folder), **variables,
        }  # fmt: skip
        command = ["-m", "uvicorn", "--workers", "2", "--port", str(port), "--log-level", "warning", "service:app"]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=Path(__file__).parents[2] / "examples" / "web_service",
                env=env,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that its workers can be ended with it
            )
        self.wait_until_it_answers()

    def wait_until_it_answers(self) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            assert self.process.poll() is None, self.output.read_text()
            try:
                httpx.get(f"{self.url}/health", timeout=5)
            except httpx.TransportError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError(self.output.read_text())

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@pytest.fixture
def model() -> Iterator[ModelServer]:
    """Return a model that adds two and two, and says that it is four."""
    script = [
        Reply(tools=({"name": "add", "arguments": {"first": 2, "second": 2}},), when="two and two", times=0),
        Reply("that is four", times=0),
    ]
    with ModelServer(script) as server:
        yield server


@pytest.fixture
def service(tmp_path: Path, model: ModelServer) -> Iterator[Service]:
    """Return the example, which runs."""
    service = Service(tmp_path, model)
    yield service
    service.kill()


async def say(client: httpx.AsyncClient, name: str, message: str) -> tuple[int, dict[str, Any]]:
    response = await client.post(f"/conversations/{name}", json={"message": message})
    return response.status_code, response.json()


@pytest.mark.long
def test_two_hundred_conversations_at_once_over_two_workers_never_mix(service: Service, model: ModelServer) -> None:
    async def main() -> list[tuple[int, dict[str, Any]]]:
        # Well before the five seconds after which the server closes an idle connection: a request might fall into it.
        limits = httpx.Limits(max_connections=CONVERSATIONS, keepalive_expiry=1)
        async with httpx.AsyncClient(base_url=service.url, timeout=PATIENCE, limits=limits) as client:
            names = [f"c{number}" for number in range(CONVERSATIONS)]
            first = await asyncio.gather(*(say(client, name, f"{name}: two and two") for name in names))
            second = await asyncio.gather(*(say(client, name, f"{name}: say it again") for name in names[:AGAIN]))
            return [*first, *second]

    answers = go(main())
    assert {(status, answer.get("answer")) for status, answer in answers} == {(200, "that is four")}
    for request in model.requests:
        texts = [text.partition(" ")[2] for text in request.texts if text.startswith("user: ")]
        assert len({text.partition(":")[0] for text in texts}) == 1, texts
    again = [request for request in model.requests if "say it again" in request.news]
    assert len(again) == AGAIN
    assert all("two and two" in str(request.messages) for request in again)
    assert service.stop() == 0


@pytest.mark.long
def test_requests_of_one_conversation_wait_for_each_other_wherever_they_arrive(
    service: Service, model: ModelServer
) -> None:
    async def main() -> list[tuple[int, dict[str, Any]]]:
        async with httpx.AsyncClient(base_url=service.url, timeout=PATIENCE) as client:
            return list(await asyncio.gather(*(say(client, "one", f"number {n}") for n in range(12))))

    assert {status for status, _ in go(main())} == {200}
    longest = max(model.requests, key=lambda request: len(request.messages))
    numbers = [text for text in longest.texts if text.startswith("user: number")]
    assert sorted(numbers) == sorted(f"user: number {n}" for n in range(12))


@pytest.mark.long
def test_a_probe_is_told_of_a_guard_that_cannot_be_asked(tmp_path: Path, model: ModelServer, home: Path) -> None:
    folder = home / "plugins" / "broken"
    folder.mkdir(parents=True)
    (folder / "ally-plugin.toml").write_text(
        'description = "a guard"\n[daemon]\ncommand = ["/does/not/exist"]\n'
        '[permissions]\ngate = { on = ["tool_call"], reason = "to guard" }\n'
    )
    command = [sys.executable, "-m", "ally_plugins", "--app", "my-service", "enable", "broken", "--yes"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    service = Service(tmp_path, model)
    try:
        found = httpx.get(f"{service.url}/health", timeout=PATIENCE)
        assert found.status_code == 503
        assert "tool_call is refused" in found.json()["problems"][0]
    finally:
        assert service.stop() == 0
    assert json.loads(found.text)["status"] == "failing"


@pytest.mark.long
def test_sigterm_lets_a_request_end_and_stops_the_host_in_order(tmp_path: Path, home: Path) -> None:
    with ModelServer([Reply("late but whole", fault="late")]) as model:
        service = Service(tmp_path, model)

        async def main() -> tuple[int, dict[str, Any]]:
            async with httpx.AsyncClient(base_url=service.url, timeout=PATIENCE) as client:
                asked = asyncio.ensure_future(say(client, "c1", "hello"))
                await model.held()
                service.process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.2)  # the signal has come to the worker: only then it is to go on
                model.go_on()
                return await asked

        assert go(main()) == (200, {"answer": "late but whole"})
        assert service.process.wait(PATIENCE) == 0
    command = [sys.executable, "-m", "ally_plugins", "--app", "my-service", "--json", "audit", "verify"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert home.exists()
