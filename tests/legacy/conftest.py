"""Small real daemons that run, and a manifest with everything in it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from attrs import define

from tests.legacy.published import DAEMON

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@define(eq=False)
class Daemon:
    """A daemon that listens; `path` is its socket."""

    process: subprocess.Popen[bytes]
    path: str


@pytest.fixture
def start_daemon(short_dir: Path) -> Iterator[Callable[..., Daemon]]:
    """Return what starts a daemon, with a behaviour of its own, and waits until it listens."""
    started: list[subprocess.Popen[bytes]] = []

    def start(behaviour: str = "", *, path: str = "", env: dict[str, str] | None = None) -> Daemon:
        where = path or str(short_dir / f"d{len(started)}.sock")
        code = DAEMON.replace("#BEHAVIOUR", behaviour)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", code],
            stdout=subprocess.PIPE,
            env={**os.environ, "SOCKET_PATH": where, **(env or {})},
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"listening\n"
        return Daemon(process, where)

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def full() -> dict[str, Any]:
    """Return a manifest with every key that is known."""
    return {
        "name": "conversation-monitor",
        "version": "1.0.0",
        "description": "counts what happens\nand says so",
        "author": "somebody",
        "runtime": "python3",
        "dependencies": {"file": "requirements.txt", "install_command": "pip install -r requirements.txt"},
        "activationMode": "tagged",
        "tools": [
            {
                "name": "get-conversation-stats",
                "description": "says what was counted",
                "type": "background_rpc",
                "method": "get_stats",
                "requiresConfirmation": True,
                "schema": {"type": "object", "properties": {}, "required": []},
            },
            {
                "name": "reverse",
                "description": "turns a text around",
                "type": "executable",
                "command": "python3",
                "args": ["reverse.py", "reverse.py", ""],
                "timeout": 90000,
                "usageGuidance": "Use it\nwhen a text has to be turned around.",
                "visible_to": ["agent"],
                "display_name": "Reverse",
                "subtext": "{a} + {b}",
                "schema": {"type": "object", "properties": {"a": {"type": "string", "description": "the text"}}},
            },
        ],
        "background": {
            "enabled": True,
            "command": "python3",
            "args": ["daemon.py"],
            "communication": {"type": "socket", "path": "/tmp/ally-conversation-monitor.sock"},  # noqa: S108
            "events": ["TOOL_CALL_START", "TOOL_CALL_END", "TOOL_CALL_END"],
            "healthcheck": {"interval": 10000, "timeout": 2000, "retries": 5},
            "startup_timeout": 10000,
            "shutdown_grace_period": 2500,
        },
        "config": {
            "schema": {
                "type": "object",
                "properties": {
                    "api_key": {"type": "string", "description": "the key", "required": True, "secret": True},
                    "limit": {"type": "integer", "default": 3},
                    "factor": {"type": "number", "default": 2.0},
                    "loud": {"type": "boolean", "default": False},
                    "mode": {"type": "choice", "choices": ["fast", "slow"], "default": "slow"},
                },
            }
        },
    }
