"""What the daemons of these tests begin with: the protocol by hand, with nothing but the standard library."""

from __future__ import annotations

import json
import os
import signal  # noqa: F401 - for what follows, as the next one
import subprocess  # noqa: F401
import sys
import time
from typing import Any

SILENCE = object()
"""A handler returns it when there is to be no answer."""

_backlog: list[dict[str, Any]] = []
_numbers = iter(range(1, 1 << 62))


def write(data: bytes) -> None:
    """Write bytes to the host, all of them."""
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def send(**message: Any) -> None:
    """Send one message."""
    write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")


def read() -> dict[str, Any]:
    """Take the next message; the end of the input ends the daemon."""
    line = sys.stdin.buffer.readline()
    if not line:
        sys.exit(0)
    message: dict[str, Any] = json.loads(line)
    return message


def ask(method: str, **params: Any) -> dict[str, Any]:
    """Send a request and return its answer; what comes meanwhile waits."""
    number = next(_numbers)
    send(id=number, method=method, params=params)
    while True:
        message = read()
        if "method" not in message and message.get("id") == number:
            return message
        _backlog.append(message)


def reply() -> dict[str, Any]:
    """Take the next answer, to whatever it is; what the host asks meanwhile waits."""
    while True:
        message = read()
        if "method" not in message:
            return message
        _backlog.append(message)


def note(value: Any) -> None:
    """Tell the test something, in the file that it has named."""
    with open(os.environ["NOTES"], "a", encoding="utf-8") as notes:  # noqa: PTH123 - pathlib is slow to import
        notes.write(json.dumps(value) + "\n")


def linger(seconds: float = 600) -> None:
    """Do nothing for a long time."""
    time.sleep(seconds)


def cue() -> None:
    """Wait until the test says that it is time."""
    while not os.path.exists(os.environ["NOTES"] + ".cue"):  # noqa: PTH110
        time.sleep(0.005)


def serve(then: Any = None, hello: Any = None, **handlers: Any) -> None:
    """Answer the host for as long as it asks; `then` is called once `initialize` is answered.

    `handlers` take the params of a method; what they return is the answer. A handler named `other` takes whatever is no
    request and no notification.
    """
    while True:
        message = _backlog.pop(0) if _backlog else read()
        method = message.get("method")
        if method is None:
            handlers.get("other", lambda _: None)(message)
            continue
        if method == "initialize" and method not in handlers:
            result: Any = {"protocol": "1", **(hello or {})}
        elif method in handlers:
            result = handlers[method](message.get("params", {}))
        elif method == "$/cancel" and "cancelled" in handlers:
            result = handlers["cancelled"](message["params"])
        else:
            result = "pong" if method == "ping" else None
        if "id" in message and result is not SILENCE:
            send(id=message["id"], result=result)
        if method == "initialize" and then is not None:
            then()


# --- what each test adds ---
