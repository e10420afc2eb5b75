"""A hook of a coding agent, each client against `sh -c true`; and the start of the host that answers the first one.

One process stands behind all hooks, with a plugin's gate in it. Each client is run by itself, and by its line in an
agent's settings, as the agent does: the shell closes the event where the client crashes, and costs a fork for that.
"""

from __future__ import annotations

import compileall
import importlib.util
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

from ally_plugins.adapters.coding.client.client_files import client_file, hook_line, lay_client
from ally_plugins.adapters.coding.client.hook_client import SOCKET
from ally_plugins.catalog.home.folder import Home
from ally_plugins.catalog.registry import Registry

CALLS: Final = 200
STARTS: Final = 9
SHELL: Final = ("/bin/sh", "-c")
PAYLOAD: Final = {
    "session_id": "s1", "hook_event_name": "PreToolUse", "tool_name": "Bash", "cwd": "/tmp",  # noqa: S108 - no file
    "tool_input": {"command": "ls -la", "description": "lists"}, "permission_mode": "default",
}  # fmt: skip

MANIFEST: Final = """
description = "votes"
requires_host = ">=1,<2"
[permissions]
gate = { on = ["tool_call"], reason = "to vote" }
"""
CODE: Final = """
from ally_plugins import hookimpl

class Plugin:
    def __init__(self, ally):
        pass

    @hookimpl
    async def ally_gate_tool_call(self, call):
        return None
"""


def _write_plugin(site: Path, name: str) -> None:
    module = name.replace("-", "_")
    info = site / f"{module}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[ally.plugins]\n{name} = {module}:Plugin\n")
    (site / f"{module}.py").write_text(CODE)
    (site / f"{module}.ally-plugin.toml").write_text(MANIFEST)


@contextmanager
def _home(inline: int, processes: int) -> Iterator[tuple[Home, dict[str, str]]]:
    """Give a home with this many plugins agreed to, and the environment in which a host finds them."""
    with tempfile.TemporaryDirectory(prefix="ally-bench-") as folder:
        site = Path(folder) / "site"
        names = [f"plugin-{number}" for number in range(inline + processes)]
        for name in names:
            _write_plugin(site, name)
        sys.path.insert(0, str(site))
        try:
            home = Home("ally-plugins", Path(folder) / "home")
            home.prepare()
            placed = [f'[plugins.{name}]\nplacement = "process"\n' for name in names[inline:]]
            placed += [f'[plugins.{name}]\nplacement = "inline"\n' for name in names[:inline]]
            home.config_file.write_text("".join(placed))
            registry = Registry(home)
            for name in names:
                registry.enable(registry.plan(name), by="the benchmark")
            yield home, os.environ | {"PYTHONPATH": str(site)}
        finally:
            sys.path.remove(str(site))


def _serve(home: Home, env: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ally_plugins", "serve", "--home", str(home.path)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def _end(host: subprocess.Popen[bytes]) -> None:
    host.send_signal(signal.SIGTERM)
    host.wait(60)  # it prints that it was interrupted
    if host.stdout is not None:
        host.stdout.close()


def _timed(command: list[str], payload: bytes) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, input=payload, capture_output=True, check=False)
    taken = time.perf_counter() - start
    if (done.returncode, done.stdout, done.stderr) != (0, b"", b""):
        raise ValueError(f"the hook was not let pass: {done}")
    return taken * 1000


def _clients() -> list[dict[str, Any]]:
    kinds: list[Literal["python", "c"]] = ["python", "c"] if shutil.which("cc") else ["python"]
    with _home(inline=1, processes=0) as (home, env):
        host = _serve(home, env)
        try:
            assert host.stdout is not None
            host.stdout.readline()
            commands = {"unit": [*SHELL, "true"]}
            for kind in kinds:
                client = Home("ally-plugins", home.path.with_name(kind))
                client.prepare()
                lay_client(client, kind=kind)
                client.run_dir.rmdir()
                client.run_dir.symlink_to(home.run_dir)
                commands[kind] = [str(client_file(client)), "claude", "PreToolUse"]
                commands[f"{kind}, its line"] = [*SHELL, hook_line(client_file(client), "claude", "PreToolUse")]
            times: dict[str, list[float]] = {name: [] for name in commands}
            for number in range(CALLS):
                for name, command in commands.items():
                    payload = {**PAYLOAD, "tool_use_id": f"{name}-{number}"}
                    times[name].append(_timed(command, json.dumps(payload).encode()))
        finally:
            _end(host)
    medians = {name: statistics.median(found) for name, found in times.items()}
    unit = medians.pop("unit")
    targets = {"c": "<= 1.5 x", "python": "<= 30 ms", "python, its line": "<= 30 ms"}
    names = {"c": "the C client", "python": "the Python client"}
    names |= {f"{kind}, its line": f"{name}, by its line" for kind, name in names.items()}
    return [
        {
            "name": f"a hook with a gate: {names[kind]}, against `sh -c true`",
            "ours": taken,
            "bare": unit,
            "ratio": taken / unit,
            "target": targets.get(kind, "-"),
            "unit": "ms",
        }
        for kind, taken in medians.items()
    ]


def _cold_starts() -> list[dict[str, Any]]:
    """Return how long the host takes from its start until it listens, and until a hook has its answer."""
    listens, answers, bare = [], [], []
    with _home(inline=2, processes=3) as (home, env):
        # A hook that comes before the host listens starts none: one without this environment would find no plugins.
        client = lay_client(home, starts=("/bin/true",), kind="c" if shutil.which("cc") else "python")
        line = hook_line(client, "claude", "PreToolUse")
        for number in range(STARTS):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", "pass"], check=True)
            bare.append(time.perf_counter() - start)
            start = time.perf_counter()
            host = _serve(home, env)
            while not (home.run_dir / SOCKET).exists():
                time.sleep(0.001)
            _timed([*SHELL, line], json.dumps({**PAYLOAD, "tool_use_id": f"c{number}"}).encode())
            answers.append(time.perf_counter() - start)
            assert host.stdout is not None
            host.stdout.readline()
            listens.append(time.perf_counter() - start)
            _end(host)
    found = statistics.median(answers) * 1000
    started = statistics.median(bare) * 1000
    return [
        {
            "name": "cold start of `serve`, five plugins, three in processes: until its first hook is answered",
            "ours": found,
            "bare": started,
            "ratio": found / started,
            "target": "<= 500 ms",
            "unit": "ms",
        }
    ]


def run() -> list[dict[str, Any]]:
    """Measure and return one row for each client, and one for the start of the host."""
    spec = importlib.util.find_spec("ally_plugins")
    if spec is not None and spec.origin is not None:
        compileall.compile_dir(Path(spec.origin).parent, quiet=2)  # as an installer does
    return [*_clients(), *_cold_starts()]


if __name__ == "__main__":
    for row in run():
        print(row)
