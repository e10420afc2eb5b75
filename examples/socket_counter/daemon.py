"""Counts events: a daemon that listens on a Unix socket, where each message comes over a connection of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socketserver
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

SOCKET_PATH = Path(os.environ.get("SOCKET_PATH", Path(__file__).with_name("daemon.sock")))

events: Counter[str] = Counter()
failures: Counter[str] = Counter()


def on_event(params: dict[str, Any]) -> None:
    """Count one event."""
    events[params["event_type"]] += 1
    data = params["event_data"]
    if params["event_type"] == "TOOL_CALL_END" and not data["success"]:
        failures[data["toolName"]] += 1


def get_counts(params: dict[str, Any]) -> dict[str, Any]:
    """Answer the tool: all counts, or those of one kind of event."""
    wanted = params.get("event")
    counted = {kind: count for kind, count in events.items() if wanted in (None, kind)}
    said = ", ".join(f"{kind}: {count}" for kind, count in sorted(counted.items())) or "nothing yet"
    return {"message": said, "data": {"events": counted, "failures": dict(failures)}}


def ping(_: dict[str, Any]) -> str:
    """Answer a health check."""
    return "pong"


METHODS: dict[str, Callable[[dict[str, Any]], Any]] = {"on_event": on_event, "get_counts": get_counts, "ping": ping}


def answer(message: dict[str, Any]) -> dict[str, Any] | None:
    """Return the answer to one message, None for a notification."""
    method = METHODS.get(message["method"])
    reply = {"jsonrpc": "2.0", "id": message.get("id")}
    if method is None:
        return {**reply, "error": {"code": -32601, "message": f"no method {message['method']}"}}
    result = method(message.get("params") or {})
    return {**reply, "result": result} if "id" in message else None


class Handler(socketserver.StreamRequestHandler):
    """One connection: one JSON text and a newline each way."""

    def handle(self) -> None:
        """Read the message, and answer it; a health check only connects."""
        line = self.rfile.readline()
        if line.strip() and (reply := answer(json.loads(line))) is not None:
            self.wfile.write(json.dumps(reply).encode() + b"\n")


class Server(socketserver.UnixStreamServer):
    """Where the host connects to."""

    request_queue_size = 128  # messages of a busy session come faster than one is worked on


def main() -> None:
    """Serve until the host ends the process."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    SOCKET_PATH.unlink(missing_ok=True)
    try:
        with Server(str(SOCKET_PATH), Handler) as server:
            print("listening", file=sys.stderr, flush=True)
            server.serve_forever()
    finally:
        with contextlib.suppress(OSError):
            SOCKET_PATH.unlink()


if __name__ == "__main__":
    main()
