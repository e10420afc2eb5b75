"""A scripted host: the test itself speaks the protocol, over a real socketpair or two pipes, to a real process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.daemon.process import PluginProcess
from ally_plugins.daemon.streams import Descriptors
from ally_plugins.wire.connection import Connection
from ally_plugins.wire.messages import ErrorResponse, Message, Notification, Request, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
PATIENCE = 30.0
"""Seconds that a busy machine may take for anything; a test that waits so long has failed."""


def plugins_path() -> str:
    """Return a PYTHONPATH with which a child finds `sdk_plugins` too."""
    before = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(HERE), before] if before else [str(HERE)])


class ScriptedHost:
    """The host's end of one daemon. Every wait ends with the daemon's stderr in the failure's text."""

    def __init__(
        self, argv: list[str], folder: Path, *, transport: str = "socketpair", env: dict[str, str] | None = None
    ) -> None:
        self.connection = Connection()
        self.seen: list[Message] = []
        self.raw = b""
        self._log = folder / f"stderr-{time.monotonic_ns()}"
        if transport == "socketpair":
            ours, theirs = socket.socketpair()
            self._reading = self._writing = ours.detach()
            ends = (theirs.fileno(), theirs.fileno())
            close = theirs.close
        else:
            stdin, self._writing = os.pipe()
            self._reading, stdout = os.pipe()
            ends = (stdin, stdout)

            def close() -> None:
                os.close(stdin)
                os.close(stdout)

        os.set_blocking(self._writing, False)
        self._begin(argv, ends, env or {})
        close()

    def _begin(self, argv: list[str], ends: tuple[int, int], env: dict[str, str]) -> None:
        environment = {**os.environ, "PYTHONPATH": plugins_path(), **env}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(argv, stdin=ends[0], stdout=ends[1], stderr=log, env=environment)

    @property
    def stderr(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    # --- sending ---

    def request(self, method: str, /, **params: Any) -> int:
        request_id = self.connection.request(method, params)
        self.flush()
        return request_id

    def notify(self, method: str, /, **params: Any) -> None:
        self.connection.notify(method, params)
        self.flush()

    def emit(self, event_type: str, seq: int = 1, /, *, session: str = "s1", **more: Any) -> None:
        offset = more.pop("offset", None)
        origin = more.pop("origin", [])
        params = {
            "event_type": event_type,
            "event_data": more,
            "timestamp": 1_700_000_000_000 + seq,
            "id": f"{session}:{seq}",
            "seq": seq,
            "session_id": session,
            "origin": origin,
        }
        self.notify("on_event", **params, **({"offset": offset} if offset is not None else {}))

    def respond(self, request: Request, result: Any) -> None:
        self.connection.respond(request.id, result)
        self.flush()

    def fail(self, request: Request, code: int, message: str, **data: Any) -> None:
        self.connection.fail(request.id, code, message, data)
        self.flush()

    def cancel(self, request_id: int) -> None:
        self.connection.cancel(request_id)
        self.flush()

    def send(self, data: bytes) -> None:
        self.connection.write(data)
        self.flush()

    def flush(self) -> None:
        """Write everything, reading meanwhile, so that neither side waits for the other."""
        data = memoryview(self.connection.data_to_send())
        while data:
            try:
                data = data[os.write(self._writing, data) :]
            except BlockingIOError:
                self._read(0.05)
            except (BrokenPipeError, ConnectionResetError):
                return

    # --- receiving ---

    def _read(self, timeout: float) -> bool:
        """Read what there is; False at the end of the stream."""
        if not select.select([self._reading], [], [], timeout)[0]:
            return True
        try:
            data = os.read(self._reading, 65_536)
        except ConnectionResetError:
            data = b""
        self.raw += data
        self.seen += self.connection.receive_data(data) if data else []
        return bool(data)

    def wait(self, found: Callable[[Message], bool], what: str) -> Any:
        """Return the first message that fits, and take it out of those seen."""
        deadline = time.monotonic() + PATIENCE
        is_open = True
        while time.monotonic() < deadline:
            for message in self.seen:
                if found(message):
                    self.seen.remove(message)
                    return message
            if not is_open:
                break
            is_open = self._read(0.5)
        pytest.fail(f"no {what}; seen: {self.seen}; stderr:\n{self.stderr}")

    def answer(self, request_id: int) -> Any:
        """Return the result of a request of ours, or the ErrorResponse."""
        message = self.wait(
            lambda m: isinstance(m, Response | ErrorResponse) and m.id == request_id, f"answer to {request_id}"
        )
        return message.result if isinstance(message, Response) else message

    def ask(self, method: str, /, **params: Any) -> Any:
        return self.answer(self.request(method, **params))

    def asked(self, method: str) -> Request:
        """Return the next request of the daemon's with this method."""
        found: Request = self.wait(lambda m: isinstance(m, Request) and m.method == method, f"request {method}")
        return found

    def told(self, method: str) -> dict[str, Any]:
        """Return the params of the next notification of this method."""
        found: Notification = self.wait(
            lambda m: isinstance(m, Notification) and m.method == method, f"notification {method}"
        )
        return found.params

    def drain(self) -> None:
        """Wait until the daemon has handled all events so far."""
        assert self.ask("drain") is None

    # --- beginning and end ---

    def initialize(self, **told: Any) -> Any:
        params = {
            "protocol": "1",
            "protocols": ["1"],
            "plugin": "under-test",
            "host": {"name": "a test", "version": "1", "api": "1"},
            "capabilities": ["add_message", "TOOL_CALL_END"],
            "grants": [],
            "settings": {},
            "sessions": ["s1"],
            "data_dir": None,
            "deadlines": {},
            "limits": {},
        }
        return self.ask("initialize", **{**params, **told})

    def close_writing(self) -> None:
        """Close our end, as a host does that goes."""
        if self._reading == self._writing:
            shut = socket.socket(fileno=os.dup(self._writing))
            with contextlib.closing(shut), contextlib.suppress(OSError):
                shut.shutdown(socket.SHUT_WR)
        else:
            os.close(self._writing)
            self._writing = -1

    def exit_code(self) -> int:
        """Wait for the process's end, reading meanwhile."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                pytest.fail(f"the daemon does not end; stderr:\n{self.stderr}")
            if not self._read(0.05):
                self.process.wait(PATIENCE)
        while self._read(0):
            if not select.select([self._reading], [], [], 0)[0]:
                break
        return self.process.returncode

    def shutdown(self) -> int:
        """End it as a host does, and return the exit code."""
        assert self.ask("shutdown", reason="the test is over") is None, self.stderr
        return self.exit_code()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.close_descriptors()

    def close_descriptors(self) -> None:
        for descriptor in {self._reading, self._writing} - {-1}:
            os.close(descriptor)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)


class HostOfThread(ScriptedHost):
    """The same with the daemon in a thread of the test's process: no start of an interpreter, and coverage sees it.

    Its words go to a file as well; what would end the process only ends the thread.
    """

    def _begin(self, argv: list[str], ends: tuple[int, int], env: dict[str, str]) -> None:
        assert not env
        descriptors = Descriptors(os.dup(ends[0]), os.dup(ends[1]))
        self._code: int | None = None
        self._stderr = self._log.open("w", encoding="utf-8", errors="backslashreplace")
        self._thread = threading.Thread(target=self._serve, args=(argv[0], descriptors))
        self._thread.start()

    def _serve(self, plugin: str, descriptors: Descriptors) -> None:
        async def serve() -> int:
            process = PluginProcess(f"sdk_plugins:{plugin}", end_within=lambda *_: None)
            return await process.serve(descriptors)

        with contextlib.redirect_stderr(self._stderr):
            self._code = asyncio.run(serve())

    def exit_code(self) -> int:
        self._thread.join(PATIENCE)
        assert self._code is not None, self.stderr
        while self._read(0) and select.select([self._reading], [], [], 0)[0]:
            pass
        return self._code

    def close(self) -> None:
        self.close_writing()
        self._thread.join(PATIENCE)
        self._stderr.close()
        self.close_descriptors()
        assert not self._thread.is_alive()


@pytest.fixture
def in_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ScriptedHost]]:
    """As `daemon`, in a thread."""
    monkeypatch.syspath_prepend(str(HERE))
    started: list[ScriptedHost] = []

    def start(plugin: str, *, told: dict[str, Any] | None = None) -> ScriptedHost:
        host = HostOfThread([plugin], tmp_path)
        started.append(host)
        return begin(host, told)

    yield start
    for host in started:
        host.close()


def begin(host: ScriptedHost, told: dict[str, Any] | None) -> ScriptedHost:
    """Say `initialize`, and `start` where the daemon has that hook."""
    answer = host.initialize(**(told or {}))
    assert isinstance(answer, dict), (answer, host.stderr)
    if any(hook["name"] == "ally_start" for hook in answer["hooks"]):
        started = host.ask("start")
        assert started is None, (started, host.stderr)
    return host


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Callable[..., ScriptedHost]]:
    """Return what starts a daemon of a class in `sdk_plugins.py`; it is ended with the test."""
    started: list[ScriptedHost] = []

    def start(plugin: str, *arguments: str, **options: Any) -> ScriptedHost:
        entry_point = plugin if ":" in plugin else f"sdk_plugins:{plugin}"
        argv = [sys.executable, "-m", "ally_plugins.daemon", entry_point, *arguments]
        host = ScriptedHost(options.pop("argv", argv), tmp_path, **options)
        started.append(host)
        return host

    yield start
    for host in started:
        host.close()


@pytest.fixture
def daemon(spawn: Callable[..., ScriptedHost]) -> Callable[..., ScriptedHost]:
    """Return what starts a daemon and says `initialize`, and `start` where it has that hook."""

    def start(plugin: str, *, told: dict[str, Any] | None = None, **options: Any) -> ScriptedHost:
        return begin(spawn(plugin, **options), told)

    return start
