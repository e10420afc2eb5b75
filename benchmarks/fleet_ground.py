"""What runs of a whole fleet on one machine share: the server, the collector, what each part takes, what arrived.

Linux alone: what processes take is read from /proc.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from attrs import Factory, define, field

from ally_plugins.fleet.batches import RecordBatch, decode
from ally_plugins.fleet.connection import connected
from ally_plugins.fleet.credentials import COLLECTOR, STREAM, read_credentials, records_subject
from ally_plugins.fleet.server import Listen, init
from ally_plugins.fleet.store import open_store

HERE: Final = Path(__file__).parent
_TICK: Final = os.sysconf("SC_CLK_TCK")
_READY_S: Final = 600.0  # that a hundred processes may take to start on a busy machine


@contextmanager
def server(
    folder: Path, homes: Sequence[str], workers: Mapping[str, Sequence[str]], level: str = "body"
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the real server with what `fleet init` writes for these homes and workers into a folder.

    With the level "body" contents go along, as they do where somebody wants to explain anything.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    init(folder, homes, Listen(port=port), workers)
    for name in homes:
        file = folder / f"{name}.toml"
        file.write_text(file.read_text().replace('"metadata"', f'"{level}"'))
    program = Path(sys.executable).with_name("nats-server")
    with subprocess.Popen([program, "-c", folder / "server.conf"], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.01)
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def programs() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Yield what starts a Python program whose end can be asked for by closing its input; at the end all are ended."""
    started: list[subprocess.Popen[str]] = []

    def start(*args: object) -> subprocess.Popen[str]:
        command = [sys.executable, *map(str, args)]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.terminate()
        for process in started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()


def collecting(start: Callable[..., subprocess.Popen[str]], folder: Path, place: Path) -> subprocess.Popen[str]:
    """Start `fleet collect`; the stream is there from now on."""
    # -P: what is installed, and not the folder that this is run in.
    command = ("-P", "-m", "ally_plugins", "fleet", "collect", folder / f"{COLLECTOR}.toml", "--into", place)
    once = start(*command, "--once")
    once.communicate(timeout=_READY_S)
    return start(*command)


def wait_ready(processes: Iterable[subprocess.Popen[str]]) -> None:
    """Wait until each has said that it is there."""
    for process in processes:
        assert process.stdout is not None
        line = process.stdout.readline()
        if line.strip() != "ready":
            raise RuntimeError(f"{process.args!r} said {line!r}, expected 'ready'")


def ended(process: subprocess.Popen[str]) -> Any:
    """Ask a program to end, and return what it says last, which is JSON."""
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None
    output, _ = process.communicate(timeout=_READY_S)
    return json.loads(output)


# --- what each part takes


@define
class Usage:
    """What the processes of one part take together, those that they have started among them."""

    pids: Sequence[int]
    began: float = field(init=False)
    at: float = Factory(time.monotonic)
    memory: list[float] = Factory(list)
    """In MB, by each look: the proportional set size, so that what processes share counts once."""

    def __attrs_post_init__(self) -> None:
        self.began = _seconds(_tree(self.pids))

    def look(self) -> None:
        """Take down the memory."""
        self.memory.append(sum(map(_megabytes, _tree(self.pids))))

    def result(self) -> dict[str, float]:
        """Return the cores that were busy on average, and the first, last and largest memory in MB."""
        cores = (_seconds(_tree(self.pids)) - self.began) / (time.monotonic() - self.at)
        first, last = (self.memory[0], self.memory[-1]) if self.memory else (0.0, 0.0)
        return {"cores": cores, "first_mb": first, "last_mb": last, "most_mb": max(self.memory, default=0.0)}


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; none where it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return []


def _tree(pids: Iterable[int]) -> set[int]:
    parents = {int(each.name): _stat(int(each.name))[1:2] for each in Path("/proc").iterdir() if each.name.isdecimal()}
    found, new = set[int](), set(pids)
    while new:
        found |= new
        new = {pid for pid, parent in parents.items() if parent and int(parent[0]) in new} - found
    return found


def _seconds(pids: Iterable[int]) -> float:
    # utime, stime and those of children that have ended
    return sum(sum(map(int, _stat(pid)[11:15])) for pid in pids) / _TICK


def _megabytes(pid: int) -> float:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


# --- what arrived


def wait_kept(place: Path, wanted: Mapping[str, int], seconds: float) -> None:
    """Wait until as many records of each home are kept, at most so long; what is missing is counted later."""
    deadline = time.monotonic() + seconds
    with open_store(str(place)) as store:
        while time.monotonic() < deadline:
            heads = {each.name: each.head.n if each.head else 0 for each in store.homes()}
            if all(heads.get(name, 0) >= n for name, n in wanted.items()):
                return
            time.sleep(0.05)


def arrived(folder: Path, place: Path, written: Mapping[str, Mapping[int, str]]) -> dict[str, int]:
    """Compare what homes have written (hashes by number) with what is kept, and look for doubles at the server.

    `lost` was written and is not kept, `altered` is kept with another hash, `doubled` is at the server more than once.
    """
    lost = altered = kept = 0
    with open_store(str(place)) as store:
        findings = len(store.findings())
        for name, records in written.items():
            there = dict(store.query("SELECT n, hash FROM records WHERE home = ?", (name,)))
            kept += len(there)
            lost += len(records.keys() - there.keys())
            altered += sum(bytes(there[n]).hex() != hash_ for n, hash_ in records.items() if n in there)
    messages, doubled = asyncio.run(_at_server(folder))
    return {
        "written": sum(map(len, written.values())), "kept": kept, "messages": messages,
        "lost": lost, "altered": altered, "doubled": doubled, "findings": findings,
    }  # fmt: skip


async def _at_server(folder: Path) -> tuple[int, int]:
    """Read the whole stream, and return how many messages it has and how many records are there once too often."""
    seen: Counter[tuple[str, str, int]] = Counter()
    messages = 0
    async with connected(read_credentials(folder / f"{COLLECTOR}.toml")) as client:
        subscription = await client.jetstream().pull_subscribe(records_subject("*"), durable="check", stream=STREAM)
        with suppress(TimeoutError):
            while True:
                for message in await subscription.fetch(256, timeout=2):
                    batch = decode(message.data)
                    assert isinstance(batch, RecordBatch)  # no journal was altered here
                    seen.update((message.subject, batch.chain, record.n) for record in batch.records)
                    messages += 1
                    await message.ack()
    return messages, sum(count - 1 for count in seen.values())


# --- figures


def spread(values: Iterable[float]) -> dict[str, float]:
    """Return the median, the 99th percentile and the largest."""
    found = sorted(values)
    if not found:
        return {"p50": 0.0, "p99": 0.0, "most": 0.0}
    return {"p50": found[len(found) // 2], "p99": found[math.ceil(len(found) * 0.99) - 1], "most": found[-1]}


def show(title: str, parts: Mapping[str, Mapping[str, Any]], *, as_json: bool) -> None:
    """Print figures: as JSON, or as a table with a row for each."""
    if as_json:
        print(json.dumps(parts, indent=2))
        return
    print(f"## {title}\n\n| what | figure |\n|---|---|")
    for part, figures in parts.items():
        for name, value in figures.items():
            text = f"{value:,.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
            print(f"| {part}: {name.replace('_', ' ')} | {text} |")
