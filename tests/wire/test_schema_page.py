"""The page on the protocol shows every message and every code, and each JSON on it is one that the code takes."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.contract.values.codec import decode, encode
from ally_plugins.wire.codes import CODES, read_error
from ally_plugins.wire.connection import Connection
from ally_plugins.wire.messages import ErrorResponse, Notification, Request, Response
from ally_plugins.wire.methods import HOST_METHODS, METHODS, PLUGIN_METHODS, read_host_params, read_params

if TYPE_CHECKING:
    from ally_plugins.wire.messages import Message

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def page() -> str:
    """Return the page as Sphinx sees it."""
    spec = importlib.util.spec_from_file_location("reference_pages", DOCS / "_ext" / "reference_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    filled: str = module.filled((DOCS / "reference" / "protocol.md").read_text(encoding="utf-8"))
    return filled


def _blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


def _received(frame: bytes, asked: int) -> Message:
    """Return what a connection makes of a frame; `asked` requests of its own are in flight."""
    connection = Connection()
    for _ in range(asked):
        connection.request("ping")
    (message,) = connection.receive_data(frame + b"\n")
    return message


def test_every_json_on_the_page_is_a_message_that_is_read(page: str) -> None:
    seen = set()
    for block in _blocks(page, "json"):
        frame = decode(block)
        if "method" not in frame:
            _check_answer(frame)
            continue
        message = _received(encode(frame), asked=17) if frame["method"][:2] != "$/" else None
        seen.add(frame["method"])
        assert message is None or isinstance(message, (Request, Notification))
        _read(frame)
    assert seen == {method.name for method in METHODS}


def _read(frame: dict[str, Any]) -> None:
    name, params = frame["method"], frame.get("params", {})
    is_hosts = name in HOST_METHODS and (name != "initialize" or "token" not in params)
    method = (HOST_METHODS if is_hosts else PLUGIN_METHODS)[name]
    assert isinstance((read_host_params if is_hosts else read_params)(name, params), method.params)
    assert method.is_request == ("id" in frame)


def _check_answer(frame: dict[str, Any]) -> None:
    mine = frame["id"] if isinstance(frame["id"], int) else 17  # a daemon's ids may be texts, a Connection's are not
    message = _received(encode({**frame, "id": mine}), asked=17)
    assert isinstance(message, (Response, ErrorResponse))
    if isinstance(message, ErrorResponse):
        assert type(read_error(message.code, message.message, message.data)).reason == message.data["reason"]  # type: ignore[attr-defined]


def test_every_message_has_an_entry_with_words_and_every_code_its_row(page: str) -> None:
    for method in METHODS:
        assert re.search(rf"^### `{re.escape(method.name)}`", page, flags=re.MULTILINE), method.name
        assert method.doc in page
    for reason, code in CODES.items():
        assert f"| `{code}` | `{reason}` |" in page


def test_the_limits_on_the_page_are_those_of_the_code(page: str) -> None:
    from ally_plugins.host.daemons.calls import IN_FLIGHT
    from ally_plugins.policy.budget import Limits
    from ally_plugins.wire.limits import WireLimits

    limits = WireLimits()
    numbers = (limits.frame_bytes, limits.depth, limits.nodes, limits.malformed, limits.in_flight, IN_FLIGHT)
    for number in (*numbers, Limits().calls_in_flight):
        assert re.search(rf"^\|.*\b{number:,}\b", page, flags=re.MULTILINE), number


INITIALIZE = {"protocol": "1", "protocols": ["1"], "plugin": "p", "host": {"name": "h", "version": "1", "api": "1"}}
FAILED = {"event_type": "TOOL_CALL_END", "event_data": {"toolName": "bash", "success": False}, "id": "s:1"}


@pytest.mark.skipif(sys.platform == "win32", reason="it is a shell script")
def test_the_least_daemon_answers(page: str) -> None:
    (script,) = _blocks(page, "sh")
    assert _spoken(["/bin/sh", "-c", script]) == [(1, {"protocol": "1"}), (2, None)]


def test_the_daemon_in_python_answers_and_talks_back(page: str) -> None:
    (script,) = _blocks(page, "py")
    spoken = _spoken([sys.executable, "-c", script])
    assert spoken == [
        (1, {"protocol": "1", "hooks": ["ally_tool_call_end"]}),
        ("add_message", {"role": "user", "content": "that failed"}),
        (2, None),
    ]


def _spoken(command: list[str]) -> list[tuple[Any, Any]]:
    """Return what a daemon answers to `initialize`, an event and `shutdown`: ids with results, methods with params."""
    host = Connection()
    host.request("initialize", INITIALIZE)
    host.notify("on_event", FAILED)
    host.request("shutdown", {"reason": "done"})
    done = subprocess.run(command, input=host.data_to_send(), capture_output=True, timeout=60, check=True)
    messages = host.receive_data(done.stdout)
    assert done.stderr == b""
    return [(m.id, m.result) if isinstance(m, Response) else (m.method, m.params) for m in messages]  # type: ignore[union-attr]
