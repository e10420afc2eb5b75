"""The MCP server that an agent starts: plugins' tools over standard input and output, run by the host behind its hooks.

It keeps nothing: what there is, and what a call comes to, the host says, which finds the conversation by the process
that has started both this server and the hooks. The messages are those of MCP's stdio transport: JSON-RPC, a line each.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import IO, TYPE_CHECKING, Any, Final

from ally_plugins.adapters.coding.client.hook_client import KEPT, LOG, MAGIC, MAX_BYTES, SOCKET, STARTER
from ally_plugins.contract.values.codec import decode, encode
from ally_plugins.contract.values.errors import HostError
from ally_plugins.runtime.processes.unixsocket import is_own

from .plugin_tools import CALL, LIST, SERVER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ally_plugins.catalog.home.folder import Home

__all__ = ["McpServer"]

VERSIONS: Final = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
"""Versions of MCP whose messages for tools are these, the newest first."""

START_SECONDS: Final = 30.0
"""How long a host that was started has until it listens; it takes some two seconds with many plugins."""

CALL_SECONDS: Final = 3600.0
"""The longest that a tool may run; its own limit, which the host keeps, is shorter."""

_POLL: Final = 0.02  # seconds between two looks at whether a host that was started listens
_HEAD_FIELDS: Final = 4

_PARSE_ERROR, _INVALID, _UNKNOWN_METHOD, _FAILED = -32700, -32600, -32601, -32603  # of JSON-RPC 2.0


class McpServer:
    """Serves one agent, from its first message until it closes the input; each call in a thread of its own."""

    def __init__(self, agent: str, home: Home, output: IO[bytes]) -> None:
        self._agent = agent
        self._home = home
        self._output = output
        self._lock = threading.Lock()
        self._asking: dict[str, socket.socket | None] = {}
        """Requests that the host is at, by their id; closing the connection cancels them."""

    def serve(self, lines: IO[bytes]) -> None:
        """Answer until the input ends. What is asked then is cancelled."""
        while line := lines.readline(MAX_BYTES):
            if line.strip():
                self._receive(line)
        with self._lock:
            for connection in self._asking.values():
                _hang_up(connection)

    def _receive(self, line: bytes) -> None:
        try:
            message = decode(line)
        except (ValueError, RecursionError) as error:
            self._say({"id": None, "error": {"code": _PARSE_ERROR, "message": f"no JSON that can be read: {error}"}})
            return
        method = message.get("method") if isinstance(message, dict) else None
        if not isinstance(method, str):
            if not isinstance(message, dict) or not message.keys() & {"result", "error"}:
                self._say({"id": None, "error": {"code": _INVALID, "message": "no request, and no answer to one"}})
            return
        params = message.get("params")
        params = params if isinstance(params, dict) else {}
        if "id" not in message:
            if method == "notifications/cancelled":
                self._cancel(params.get("requestId"))
            return
        self._answer(message["id"], method, params)

    def _answer(self, request_id: Any, method: str, params: dict[str, Any]) -> None:
        match method:
            case "initialize":
                self._say({"id": request_id, "result": _about(params)})
            case "ping":
                self._say({"id": request_id, "result": {}})
            case "tools/list" | "tools/call":
                with self._lock:
                    self._asking[repr(request_id)] = None
                work = self._list if method == "tools/list" else self._call
                threading.Thread(target=work, args=(request_id, params), daemon=True).start()
            case _:
                error = {"code": _UNKNOWN_METHOD, "message": f"there is no method {method!r:.80}"}
                self._say({"id": request_id, "error": error})

    def _list(self, request_id: Any, _: dict[str, Any]) -> None:
        try:
            result = self._ask(request_id, LIST, {})
        except HostError as error:
            self._reply(request_id, {"error": {"code": _FAILED, "message": str(error)}})
        else:
            self._reply(request_id, {"result": result})

    def _call(self, request_id: Any, params: dict[str, Any]) -> None:
        call = {"name": params.get("name"), "arguments": params.get("arguments") or {}}
        try:
            result = self._ask(request_id, CALL, call)
        except HostError as error:
            # As a result, since that is what the model is shown.
            result = {"content": [{"type": "text", "text": str(error)}], "isError": True}
        self._reply(request_id, {"result": result})

    def _reply(self, request_id: Any, answer: dict[str, Any]) -> None:
        with self._lock:
            # One that was cancelled gets no answer.
            is_wanted = self._asking.pop(repr(request_id), self) is not self
        if is_wanted:
            self._say({"id": request_id, **answer})

    def _cancel(self, request_id: Any) -> None:
        with self._lock:
            _hang_up(self._asking.pop(repr(request_id), None))

    def _say(self, message: dict[str, Any]) -> None:
        with self._lock, suppress(BrokenPipeError, ValueError):  # the agent has ended
            self._output.write(encode({"jsonrpc": "2.0", **message}) + b"\n")
            self._output.flush()

    # --- the host ---

    def _ask(self, request_id: Any, what: str, about: Mapping[str, Any]) -> Any:
        """Return what the host answers. Raises HostError where it answers nothing, or says why not."""
        try:
            with _connect(self._home) as connection:
                with self._lock:
                    if repr(request_id) not in self._asking:
                        raise HostError("it was cancelled")
                    self._asking[repr(request_id)] = connection
                payload = encode(about)
                head = f" {self._agent} {what} {len(payload)} {int(CALL_SECONDS * 1000)}\n".encode()
                connection.settimeout(CALL_SECONDS + 1)
                connection.sendall(MAGIC + head + payload)
                data = _read_all(connection)
        except (OSError, ValueError) as error:
            raise HostError(f"the host of ally-plugins is gone: {type(error).__name__}: {error}") from error
        return _read_answer(data)


def _about(params: dict[str, Any]) -> dict[str, Any]:
    wanted = params.get("protocolVersion")
    try:
        own = version("ally-plugins")
    except PackageNotFoundError:
        own = "0"
    return {
        "protocolVersion": wanted if wanted in VERSIONS else VERSIONS[0],
        "capabilities": {"tools": {}},
        "serverInfo": {"name": SERVER, "title": "ally-plugins", "version": own},
    }


def _hang_up(connection: socket.socket | None) -> None:
    if connection is not None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def _read_all(connection: socket.socket) -> bytes:
    parts, size = [], 0
    while part := connection.recv(1 << 16):
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES:
            raise HostError(f"the host's answer has more than {MAX_BYTES:,} bytes")
    return b"".join(parts)


def _read_answer(data: bytes) -> Any:
    head, _, body = data.partition(b"\n")
    fields = head.split(b" ")
    if len(fields) != _HEAD_FIELDS or fields[0] != MAGIC or not all(each.isdigit() for each in fields[1:]):
        raise HostError("the host ended before it answered: whether the tool did its work is not known")
    code, out, err = map(int, fields[1:])
    if len(body) != out + err:
        raise HostError("the host ended amid its answer: whether the tool did its work is not known")
    if code != 0:
        raise HostError(body[out:].decode("utf-8", "replace"))
    return decode(body[:out])


def _connect(home: Home) -> socket.socket:
    """Return a connection to the host, which is started where there is none. Raises HostError, OSError."""
    end, child = time.monotonic() + START_SECONDS, None
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(max(0.1, end - time.monotonic()))
        try:
            connection.connect(SOCKET)  # in the home's own folder: `serve` of the command goes there
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            connection.close()
        except OSError:
            connection.close()
            raise
        else:
            if not is_own(connection):
                connection.close()
                raise HostError("another user listens in the place of the host")
            return connection
        if time.monotonic() > end:
            raise HostError("the host did not start in time; see what it says: ally-plugins serve")
        child = child or _start(home)
        if child.poll():  # with 0 another host was first
            raise HostError(f"the host cannot be started: it ended with {child.returncode}; see ally-plugins serve")
        time.sleep(_POLL)


def _start(home: Home) -> subprocess.Popen[bytes]:
    """Start the host, in a session of its own and without what the agent's environment holds beside."""
    starter = home.path / "hooks" / STARTER
    try:
        command = starter.read_text().split("\n")
        kept = {name: value for name in KEPT if (value := os.environ.get(name)) is not None}
        with (home.run_dir / LOG).open("wb") as log:
            nowhere = subprocess.DEVNULL
            return subprocess.Popen(  # noqa: S603 - what `connect` has written
                command, stdin=nowhere, stdout=nowhere, stderr=log, env=kept, start_new_session=True
            )
    except OSError as error:
        raise HostError(f"the host cannot be started: {error}; run: ally-plugins connect") from error
