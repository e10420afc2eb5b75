"""The examples that listen on a socket: one written from Code-Ally's facts alone, one opted in to talking back."""

from __future__ import annotations

import json
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.bridges.code_ally.manifest import read_plugin_json
from ally_plugins.contract.values.events import AgentStart, Event, ToolCallEnd, ToolCallStart, stamp
from ally_plugins.host.sockets.messages import call_message, event_message, read_answer
from ally_plugins.wire.samples import SAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets")

PATIENCE = 60.0


def _exchange(path: Path, line: bytes) -> bytes:
    """Send one message over a connection of its own and return what came until the other side closed it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(path))
        sock.sendall(line)
        received = b""
        while data := sock.recv(65_536):
            received += data
        return received


def _call(path: Path, method: str, params: dict[str, Any] | None = None) -> Any:
    return read_answer(_exchange(path, call_message(7, method, params or {})), 7, method=method, plugin="p")


def _stamped(event: Event, seq: int = 1) -> bytes:
    stamp(event, seq, 1767225599000, "s1", (), None)
    return event_message(event)


@pytest.mark.parametrize("name", ["socket_counter", "socket_talkback", "shell_tool"])
def test_the_manifest_is_taken_without_a_warning(examples: Path, name: str) -> None:
    plugin = read_plugin_json((examples / name / "plugin.json").read_bytes(), str(examples / name))
    assert plugin.name == name
    assert plugin.warnings == ()
    assert plugin.talks_back() is (name == "socket_talkback")


def test_the_daemons_import_nothing_but_the_standard_library(examples: Path) -> None:
    for path in examples.glob("socket_*/daemon.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        names = {line.split()[1].partition(".")[0] for line in lines if line.startswith(("import ", "from "))}
        assert names <= sys.stdlib_module_names


def test_the_counter_counts_events_and_answers_its_tool(
    short_dir: Path, start: Callable[..., Any], line_of: Callable[..., str], ended: Callable[..., Any]
) -> None:
    path = short_dir / "d.sock"
    process = start("socket_counter", "python3", "daemon.py", SOCKET_PATH=str(path))
    assert line_of(process.stderr) == "listening"
    for event in (AgentStart(agent_name="ally"), ToolCallStart(tool_name="bash")):
        assert _exchange(path, _stamped(event)) == b""
    for success in (True, False, False):
        _exchange(path, _stamped(ToolCallEnd(tool_name="bash", success=success)))
    counts = _call(path, "get_counts")
    assert counts["data"] == {
        "events": {"AGENT_START": 1, "TOOL_CALL_START": 1, "TOOL_CALL_END": 3},
        "failures": {"bash": 2},
    }
    assert counts["message"] == "AGENT_START: 1, TOOL_CALL_END: 3, TOOL_CALL_START: 1"
    assert _call(path, "get_counts", {"event": "AGENT_START"})["data"]["events"] == {"AGENT_START": 1}
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))  # a health check does no more
    assert _call(path, "ping") == "pong"
    refused = json.loads(_exchange(path, call_message(8, "get_counst", {})))
    assert (refused["id"], refused["error"]["code"]) == (8, -32601)
    assert ended(process, signal.SIGTERM) == (0, "")
    assert not path.exists()


def test_the_counter_takes_the_place_of_a_socket_that_was_left_behind(
    short_dir: Path, start: Callable[..., Any], line_of: Callable[..., str]
) -> None:
    path = short_dir / "d.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    process = start("socket_counter", "python3", "daemon.py", SOCKET_PATH=str(path))
    assert line_of(process.stderr) == "listening"
    assert _call(path, "ping") == "pong"


@pytest.fixture
def listener(short_dir: Path) -> Any:
    """Return the host's own socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(short_dir / "h.sock"))
        sock.listen()
        yield sock


def test_the_one_that_talks_back_says_its_token_and_adds_one_message(
    short_dir: Path,
    listener: socket.socket,
    start: Callable[..., Any],
    accepted: Callable[..., Any],
    line_of: Callable[..., str],
    ended: Callable[..., Any],
) -> None:
    path = short_dir / "d.sock"
    variables = {"SOCKET_PATH": str(path), "ALLY_SOCKET": str(short_dir / "h.sock"), "ALLY_TOKEN": "oTo0"}
    process = start("socket_talkback", "python3", "daemon.py", **variables)
    receipt = {"id": "m1", "offset": 4, "state": "pending"}
    host = accepted(listener, initialize=SAMPLES["plugin"]["initialize"].result, add_message=receipt)
    host.serve_until(lambda: host.calls)
    assert [(method, params.token, params.protocol) for method, params in host.calls] == [("initialize", "oTo0", "1")]
    assert line_of(process.stderr) == "listening"
    assert host.ask("ping") is None
    for seq in (1, 2, 3, 4):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(_stamped(ToolCallEnd(tool_name="bash", success=False), seq))
            if seq == 3:
                host.serve_until(lambda: len(host.calls) > 1)
    (_, said) = host.calls[1]
    assert (said.role, said.cause) == ("user", "s1:3")
    assert said.content == "bash failed 3 times in a row; try another way"
    assert _call(path, "get_warnings")["data"] == {"warnings": (said.content,)}
    assert len(host.calls) == 2
    assert ended(process, signal.SIGTERM) == (0, "")


def test_a_refusal_of_the_host_does_not_end_the_one_that_talks_back(
    short_dir: Path,
    listener: socket.socket,
    start: Callable[..., Any],
    accepted: Callable[..., Any],
    line_of: Callable[..., str],
) -> None:
    path = short_dir / "d.sock"
    variables = {"SOCKET_PATH": str(path), "ALLY_SOCKET": str(short_dir / "h.sock"), "ALLY_TOKEN": "oTo0"}
    process = start("socket_talkback", "python3", "daemon.py", **variables)
    refusal = (-32001, "not granted: add_message:user", {"reason": "permission"})
    host = accepted(listener, initialize=SAMPLES["plugin"]["initialize"].result, add_message=refusal)
    host.serve_until(lambda: host.calls)
    assert line_of(process.stderr) == "listening"
    for seq in (1, 2, 3):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(_stamped(ToolCallEnd(tool_name="bash", success=False), seq))
    host.serve_until(lambda: len(host.calls) > 1)
    assert line_of(process.stderr) == "the message was refused: not granted: add_message:user"
    assert _call(path, "get_warnings")["data"] == {"warnings": ()}
