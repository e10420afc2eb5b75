"""Whatever a host sends as long as it is JSON-RPC: the daemon answers each request and lives on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable

    Start = Callable[..., Any]

METHODS = ["gate", "transform", "call_tool", "run_action", "run_task", "start", "drain", "ping", "initialize", "", "x"]
NAMES = [
    "on", "name", "arguments", "session_id", "cause", "origin", "deadline", "call", "message", "result", "request",
    "context", "task_id", "timeout", "event_type", "event_data", "seq", "timestamp", "id", "offset", "toolName",
]  # fmt: skip
WORDS = ["tool_call", "tool_input", "user_message", "bash", "echo", "TOOL_CALL_END", "other:x", "s1"]

EVENT = {
    "event_type": "TOOL_CALL_END",
    "event_data": {"toolName": "x", "success": True},
    "seq": 1,
    "timestamp": 1,
    "session_id": "s1",
}

values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 2**53)
    | st.floats(allow_nan=False)
    | st.sampled_from(WORDS)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(), inner, max_size=4),
    max_leaves=8,
)
params = st.dictionaries(st.sampled_from(NAMES), values, max_size=6)


@pytest.mark.slow
@pytest.mark.parametrize("plugin", ["Judges", "Changes", "Tools", "Durable"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=st.lists(st.tuples(st.sampled_from(METHODS), params), max_size=8), events=st.lists(params, max_size=5))
def test_every_request_is_answered_and_the_daemon_lives_on(
    shared: Start, plugin: str, sent: list[tuple[str, dict[str, Any]]], events: list[dict[str, Any]]
) -> None:
    host = shared(plugin)
    for each in events:
        host.notify("on_event", **{**EVENT, **each})
    asked = [host.request(method or "?", **each) for method, each in sent]
    for request_id in asked:
        host.answer(request_id)
    host.drain()
    assert host.ask("ping") == "pong"


@pytest.fixture
def shared(in_thread: Start) -> Start:
    """Return the one daemon of this test for a plugin's name: all the examples meet the same one."""
    hosts: dict[str, Any] = {}

    def of(plugin: str) -> Any:
        if plugin not in hosts:
            hosts[plugin] = in_thread(plugin)
        return hosts[plugin]

    return of
