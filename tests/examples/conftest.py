"""A host of a few lines for the examples: it sends and answers what the test says, over real pipes and sockets."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest
from attrs import define, field

from ally_plugins.wire.connection import Connection
from ally_plugins.wire.messages import ErrorResponse, Request, Response
from ally_plugins.wire.methods import read_params

if TYPE_CHECKING:
    import signal
    import socket

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE = 60.0  # seconds; a busy machine is no failure of an example


@pytest.fixture
def examples() -> Path:
    """Return the folder of the examples."""
    return EXAMPLES


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return what starts an example's program in its folder; all are killed and reaped at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def run(name: str, *command: str, **variables: str) -> subprocess.Popen[bytes]:
        words = [sys.executable if word == "python3" else word for word in command]
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen(words, cwd=EXAMPLES / name, env={**os.environ, **variables}, **pipes)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@define
class AnsweringHost:
    """One end of a connection. `answers` holds what each method of the daemon's is answered: a value, or (code, text).

    `calls` are the daemon's calls, read strictly; `notices` its notifications.
    """

    read: Callable[[], bytes]
    write: Callable[[bytes], object]
    answers: dict[str, Any] = field(factory=dict)
    calls: list[tuple[str, Any]] = field(factory=list)
    notices: list[tuple[str, Any]] = field(factory=list)
    connection: Connection = field(factory=Connection)
    _ended: dict[int, Response | ErrorResponse] = field(factory=dict)

    def send(self, method: str, params: dict[str, Any] | None = None) -> int:
        """Send a request and return its id."""
        number = self.connection.request(method, params)
        self.flush()
        return number

    def flush(self) -> None:
        """Write what is to be sent."""
        self.write(self.connection.data_to_send())

    def wait(self, number: int) -> Any:
        """Return the result of a request, or the error it was answered with; serve the daemon's calls until then."""
        self.serve_until(lambda: number in self._ended)
        answer = self._ended.pop(number)
        return answer.result if isinstance(answer, Response) else answer

    def ask(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """Send a request and return what it is answered."""
        return self.wait(self.send(method, params))

    def serve_until(self, is_done: Callable[[], bool]) -> None:
        """Take what the daemon sends until something has come."""
        while not is_done():
            data = self.read()
            assert data, "the daemon has closed the connection"
            for message in self.connection.receive_data(data):
                self._take(message)
            self.flush()

    def _take(self, message: Any) -> None:
        if isinstance(message, (Response, ErrorResponse)):
            self._ended[message.id] = message
            return
        params = read_params(message.method, message.params)
        if not isinstance(message, Request):
            self.notices.append((message.method, params))
            return
        self.calls.append((message.method, params))
        answer = self.answers[message.method]
        answer = answer(params) if callable(answer) else answer
        if isinstance(answer, tuple):
            code, text, data = answer
            self.connection.fail(message.id, code, text, data)
        else:
            self.connection.respond(message.id, answer)


@pytest.fixture
def host_of() -> Callable[..., AnsweringHost]:
    """Return what makes the host of a process over its pipes."""

    def make(process: subprocess.Popen[bytes], **answers: Any) -> AnsweringHost:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def write(data: bytes) -> None:
            stdin.write(data)
            stdin.flush()

        return AnsweringHost(lambda: os.read(stdout.fileno(), 65_536), write, answers)

    return make


@pytest.fixture
def accepted() -> Iterator[Callable[..., AnsweringHost]]:
    """Return what waits for a connection on a listening socket and makes the host of it."""
    kept: list[socket.socket] = []

    def accept(listener: socket.socket, **answers: Any) -> AnsweringHost:
        listener.settimeout(PATIENCE)
        connection, _ = listener.accept()
        connection.settimeout(PATIENCE)
        kept.append(connection)
        return AnsweringHost(lambda: connection.recv(65_536), connection.sendall, answers)

    yield accept
    for each in kept:
        each.close()


@pytest.fixture
def line_of() -> Callable[[IO[bytes] | None], str]:
    """Return what reads one line of a stream, or fails when it ends or the patience does."""

    def read(stream: IO[bytes] | None) -> str:
        assert stream is not None
        lines: list[bytes] = []
        reader = threading.Thread(target=lambda: lines.append(stream.readline()), daemon=True)
        reader.start()
        reader.join(PATIENCE)
        assert lines, "nothing came"
        return lines[0].decode().rstrip()

    return read


@pytest.fixture
def ended() -> Callable[..., tuple[int, str]]:
    """Return what ends a process, by a signal or by the end of its input, and gives its exit code and its stderr."""

    def end(process: subprocess.Popen[bytes], number: signal.Signals | None = None) -> tuple[int, str]:
        if number is not None:
            process.send_signal(number)
        _, errors = process.communicate(timeout=PATIENCE)
        return process.returncode, errors.decode()

    return end
