"""Tells the agent when a tool keeps failing: it listens as Code-Ally's daemons do, and talks back to the host."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import socketserver
import sys
import threading
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

SOCKET_PATH = Path(os.environ.get("SOCKET_PATH", Path(__file__).with_name("daemon.sock")))
LIMIT = 3  # failures in a row


class Host:
    """The host's own socket: a connection that stays, over which this side asks."""

    def __init__(self, path: str, token: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)
        self._ids = count(1)
        self._answers: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()
        self.told = self.ask("initialize", token=token, protocol="1", name="socket_talkback")

    def ask(self, method: str, **params: Any) -> Any:
        """Send a request and return its result. Raises RuntimeError with the host's words when it is refused."""
        number = next(self._ids)
        answer: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._answers[number] = answer
        self._send({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        message = answer.get(timeout=30)
        if "error" in message:
            raise RuntimeError(message["error"]["message"])
        return message["result"]

    def _send(self, message: dict[str, Any]) -> None:
        with self._lock:
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _read(self) -> None:
        for line in self._socket.makefile("rb"):
            message = json.loads(line)
            if "method" not in message:
                self._answers.pop(message["id"]).put(message)
            elif "id" in message:  # the host may ask too: whether we are there, for one
                self._send({"jsonrpc": "2.0", "id": message["id"], "result": None})


class LoopWarner:
    """What this plugin does."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._in_a_row: Counter[str] = Counter()
        self.warnings: list[str] = []

    def on_event(self, params: dict[str, Any]) -> None:
        """Count failures in a row; at the third, add a message that names the event as its cause."""
        tool, success = params["event_data"]["toolName"], params["event_data"]["success"]
        self._in_a_row[tool] = 0 if success else self._in_a_row[tool] + 1
        if self._in_a_row[tool] != LIMIT:
            return
        text = f"{tool} failed {LIMIT} times in a row; try another way"
        try:
            self._host.ask("add_message", role="user", content=text, cause=params.get("id"))
        except RuntimeError as refusal:  # not granted, too often: the host's words say what helps
            print(f"the message was refused: {refusal}", file=sys.stderr)
        else:
            self.warnings.append(text)

    def get_warnings(self, _: dict[str, Any]) -> dict[str, Any]:
        """Answer the tool."""
        return {"message": "; ".join(self.warnings) or "none", "data": {"warnings": self.warnings}}


def serve(warner: LoopWarner) -> None:
    """Serve the socket on which the host reaches this daemon, until it ends the process."""
    methods = {"on_event": warner.on_event, "get_warnings": warner.get_warnings}

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            line = self.rfile.readline()
            if not line.strip():
                return
            message = json.loads(line)
            method = methods.get(message["method"])
            reply = {"jsonrpc": "2.0", "id": message.get("id")}
            if method is None:
                reply["error"] = {"code": -32601, "message": f"no method {message['method']}"}
            else:
                reply["result"] = method(message.get("params") or {})
            if "id" in message:
                self.wfile.write(json.dumps(reply).encode() + b"\n")

    class Server(socketserver.UnixStreamServer):
        request_queue_size = 128

    with Server(str(SOCKET_PATH), Handler) as server:
        print("listening", file=sys.stderr, flush=True)
        server.serve_forever()


def main() -> None:
    """Connect to the host, then serve."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    SOCKET_PATH.unlink(missing_ok=True)
    host = Host(os.environ["ALLY_SOCKET"], os.environ["ALLY_TOKEN"])
    try:
        serve(LoopWarner(host))
    finally:
        with contextlib.suppress(OSError):
            SOCKET_PATH.unlink()


if __name__ == "__main__":
    main()
