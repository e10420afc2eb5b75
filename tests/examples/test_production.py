"""The web service as the how-to runs it: not root, a read-only file system, a home in memory, grants from the image."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.baddays.model_server import ModelServer, Reply
from tests.kit.processes import free_port
from tests.kit.waiting import PATIENCE, go, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

NOBODY = 65534

# What a container's runtime does, with what every Linux has. The interpreter may lie where only root may enter: then it
# is shown again below an empty folder in the place of the closed one.
IN_BOX = """
set -e
closed=$1 base=$2 memory=$3; shift 3
if [ "$closed" ]; then
  mount --bind "$base" /mnt; mount -t tmpfs -o mode=755 tmpfs "$closed"
  mkdir -p "$base"; mount --bind /mnt "$base"
fi
mount -t tmpfs -o mode=700,uid=65534,gid=65534,size=64m tmpfs "$memory"
mount -o remount,bind,ro /
exec setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs --bounding-set=-all "$@"
"""


def closed_folder(path: Path) -> str:
    """Return the first folder on the way to a path that others may not enter, empty when there is none."""
    return next((str(each) for each in reversed(path.parents) if not each.stat().st_mode & 0o001), "")


@pytest.fixture
def memory(temporary_folder: Path) -> Iterator[Path]:
    """Return the folder in whose place the box has its memory."""
    folder = temporary_folder / "memory"
    folder.mkdir()
    yield folder
    folder.rmdir()


def start(memory: Path, image: Path, port: int, model: ModelServer, output: Path) -> subprocess.Popen[bytes]:
    env = {
        "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "ALLY_HOME": str(memory / "ally"), "HOME": "/",
        "HISTORIES": str(memory), "TMPDIR": str(memory), "OPENAI_BASE_URL": model.url, "OPENAI_API_KEY": "none",
        "MODEL": "openai-chat:scripted", "IMAGE": str(image),
    }  # fmt: skip
    serve = f'mkdir "$ALLY_HOME" && cp "$IMAGE"/*.toml "$ALLY_HOME"/ && exec uvicorn --port {port} service:app'
    box = ["unshare", "--mount", "sh", "-c", IN_BOX, "sh"]
    base = Path(sys.base_prefix)
    with output.open("wb") as file:
        return subprocess.Popen(
            [*box, closed_folder(base), str(base), str(memory), "sh", "-c", serve],
            cwd=Path(__file__).parents[2] / "examples" / "web_service",
            env=env,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def can_box() -> bool:
    tools = all(shutil.which(tool) for tool in ("unshare", "setpriv", "mount"))
    if not (sys.platform == "linux" and os.geteuid() == 0 and tools):
        return False
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_box(), reason="SKIPPED: a read-only file system and another user need root and mounts")
def test_it_runs_as_nobody_on_a_read_only_system_with_a_home_in_memory_and_the_image_s_grants(
    memory: Path, short_dir: Path, tmp_path: Path
) -> None:
    image, output, port = short_dir / "image", tmp_path / "output", free_port()
    short_dir.chmod(0o755)
    build = [sys.executable, "-m", "ally_plugins", "--app", "my-service", "enable", "secret-guard", "--yes"]
    env = {**os.environ, "ALLY_HOME": str(image)}
    done = subprocess.run(build, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    image.chmod(0o755)
    for file in image.glob("*.toml"):
        file.chmod(0o644)

    key = "AKIA" + "Z7Q4M2X5N6P3R8T1"
    script = [
        Reply(tools=({"name": "add", "arguments": {"first": 2, "second": 2}},)),
        Reply("four"),
        Reply("it is late", fault="late"),
    ]
    with ModelServer(script) as model:
        process = start(memory, image, port, model, output)
        try:
            answers = go(_talk(process, model, f"http://127.0.0.1:{port}", key, output))
            # Having shut down, uvicorn ends by the signal that it was sent.
            assert process.wait(PATIENCE) == -signal.SIGTERM, output.read_text()
            assert "Application shutdown complete" in output.read_text()
        finally:
            process.kill()
            process.wait(PATIENCE)
    assert answers == ["ok", 200, "four", 200, "it is late"]
    assert key not in str([request.messages for request in model.requests])
    lines = [json.loads(line) for line in output.read_text().splitlines() if line.startswith('{"event_type"')]
    assert {(line["event_type"], line["event_data"]["verdict"]) for line in lines} == {("DECISION", "allow")}
    kinds = [line["event_data"]["kind"] for line in lines]
    assert kinds == ["user_message", "tool_call", "answer", "user_message", "answer"]
    assert list(memory.iterdir()) == []  # it was in memory, and is gone with it


async def _talk(process: subprocess.Popen[bytes], model: ModelServer, url: str, key: str, output: Path) -> list[Any]:
    """Probe it, have two turns, and end it in the middle of the second; return what came of that."""
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:
        health: dict[str, Any] = {}
        while not health:
            assert process.poll() is None
            try:
                health = (await client.get("/health")).json()
            except httpx.TransportError:
                await asyncio.sleep(0.05)
        first = await client.post("/conversations/one", json={"message": f"what are two and two? {key}"})
        asked = asyncio.ensure_future(client.post("/conversations/two", json={"message": "how late is it?"}))
        await model.held()
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(wait_until, lambda: b"Shutting down" in output.read_bytes())
        model.go_on()
        second = await asked
    return [
        health["status"], first.status_code, first.json()["answer"], second.status_code, second.json()["answer"],
    ]  # fmt: skip
