"""The example in JavaScript makes every outbound call once, over real pipes."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.contract.manifest import Manifest
from ally_plugins.contract.values.codec import encoded
from ally_plugins.contract.values.events import Event, ToolCallEnd, UserMessage, stamp
from ally_plugins.wire.answers import verdict_from_wire
from ally_plugins.wire.codes import METHOD_NOT_FOUND
from ally_plugins.wire.eventlines import event_lines, with_offset
from ally_plugins.wire.messages import ErrorResponse
from ally_plugins.wire.methods import PLUGIN_METHODS, read_initialize_result
from ally_plugins.wire.samples import SAMPLES
from ally_plugins.wire.values import tool_result_from

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="there is no node on PATH")

INITIALIZE = {**SAMPLES["host"]["initialize"].params, "plugin": "node_outbound"}
ANSWERS = {name: sample.result for name, sample in SAMPLES["plugin"].items()}
REFUSED = (-32001, "not granted", {"reason": "permission", "permission": "x", "command": "y"})


def _event(event: Event, offset: str | None = None) -> bytes:
    stamp(event, 41, 1767225599000, "s1", (), None)
    return event_lines([encoded(event) if offset is None else with_offset(encoded(event), offset)])


def _question(command: str) -> dict[str, Any]:
    call = {"toolName": "bash", "arguments": {"command": command}}
    return {"on": "tool_call", "session_id": "s1", "cause": "c1", "origin": [], "deadline": 15, "call": call}


def _tool(name: str) -> dict[str, Any]:
    return {"name": name, "arguments": {}, "session_id": "s1", "cause": "c2", "origin": [], "timeout": 60}


@pytest.fixture
def host(start: Callable[..., Any], host_of: Callable[..., Any]) -> Any:
    """Return the host of the daemon, which has been greeted and started."""
    made = host_of(start("node_outbound", "node", "daemon.js"), **ANSWERS)
    result = read_initialize_result(made.ask("initialize", INITIALIZE), "node_outbound")
    assert [hook.name for hook in result.hooks if "gate" in hook.name] == ["ally_gate_tool_call"]
    assert [tool.name for tool in result.tools] == ["outbound-report"]
    assert made.ask("start") is None
    return made


def test_the_manifest_is_taken_and_declares_what_the_daemon_says(examples: Path) -> None:
    manifest = Manifest.from_text((examples / "node_outbound" / "ally-plugin.toml").read_text(encoding="utf-8"))
    assert manifest.daemon is not None
    assert manifest.daemon.command == ("node", "daemon.js")
    assert manifest.durable == ("TOOL_CALL_END",)


def test_it_makes_every_call_once_and_reports_what_came_of_each(host: Any) -> None:
    def start_task(params: Any) -> dict[str, str]:
        task = {"task_id": "k1", "name": params.name, "session_id": "s1", "origin": ["node_outbound"]}
        tasks.append(host.connection.request("run_task", task))
        return {"task_id": "k1"}

    tasks: list[int] = []
    host.answers["start_task"] = start_task
    assert host.ask("call_tool", _tool("outbound-report")) == {
        "success": False,
        "error": "nobody has said anything yet",
    }
    host.write(_event(UserMessage(content="hi")) + _event(ToolCallEnd(tool_name="bash"), "s1:41"))
    assert host.ask("drain") is None
    calls_by_then = len(host.calls)
    result = tool_result_from(host.ask("call_tool", _tool("outbound-report")))
    assert len(host.calls) == calls_by_then, "it said that it was done"
    requests = {name for name, method in PLUGIN_METHODS.items() if method.is_request}
    expected = requests - {"initialize", "ack_events"}
    assert result.data["report"] == dict.fromkeys(expected, "ok")
    assert result.data["toolCalls"] == 1
    assert host.wait(tasks[0]) == "counted"
    made = [method for method, _ in host.calls]
    assert set(made) == expected | {"ack_events"}
    assert sorted(made) == sorted([*expected, "ack_events", "task_progress", "task_progress"])
    assert [method for method, _ in host.notices] == ["log"]
    by_name = dict(host.calls)
    assert by_name["ack_events"].offset == "s1:41"
    assert by_name["request_action"].action == "node_outbound:greet"
    assert by_name["add_message"].cause == "s1:41"
    assert by_name["task_progress"].progress == 1


def test_what_is_refused_is_reported_and_nothing_breaks(host: Any) -> None:
    host.answers |= dict.fromkeys(ANSWERS, REFUSED)
    host.write(_event(UserMessage(content="hi")))
    result = tool_result_from(host.ask("call_tool", _tool("outbound-report")))
    assert set(result.data["report"].values()) == {"refused: permission"}
    assert host.ask("ping") == "pong"


def test_its_gate_denies_what_would_remove_everything(host: Any) -> None:
    denied = verdict_from_wire(host.ask("gate", _question("rm -rf / ")))
    assert repr(denied) == "Deny(reason='that would remove everything')"
    assert repr(verdict_from_wire(host.ask("gate", _question("rm -rf /tmp/x")))) == "Allow()"


def test_its_action_and_the_tool_that_it_registers_answer(host: Any) -> None:
    action = {**_tool("greet"), "arguments": {"name": "Ada"}, "requested_by": "person"}
    assert host.ask("run_action", action) == {"greeting": "hello Ada"}
    assert tool_result_from(host.ask("call_tool", _tool("shout"))).output == "HELLO"


def test_a_cancelled_task_stops_and_what_there_is_not_is_said(host: Any) -> None:
    cancelled: list[int] = []

    def cancel(_: Any) -> None:
        cancelled.append(number)
        host.connection.cancel(number)

    host.answers["task_progress"] = cancel
    number = host.send("run_task", {"task_id": "k1", "name": "count", "session_id": "s1", "origin": []})
    host.serve_until(lambda: bool(cancelled))
    unknown = host.ask("dance")
    assert isinstance(unknown, ErrorResponse)
    assert unknown.code == METHOD_NOT_FOUND
    host.serve_until(lambda: host.connection.counts.late == 1)
    assert len(cancelled) == 1, "it went on"


@pytest.mark.slow
def test_it_ends_when_its_host_goes_away(host: Any, start: Callable[..., Any], ended: Callable[..., Any]) -> None:
    assert host.ask("shutdown", {"reason": "done"}) is None
    process = start("node_outbound", "node", "daemon.js")
    assert isinstance(process, subprocess.Popen)
    assert ended(process) == (0, "")
