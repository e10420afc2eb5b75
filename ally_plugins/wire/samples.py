"""One example of every message, with its answer: what the protocol's page and the OpenRPC documents show.

They tell one short story: a plugin `loop-warner` in the session `s1`. Tests hold them against the readers and schemas.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

from attrs import frozen

__all__ = ["SAMPLES", "Sample", "sample_frames"]


@frozen
class Sample:
    """The params of one message, and what it may be answered."""

    params: Mapping[str, Any]
    result: Any = None


_TOLD: Final = {
    "protocol": "1",
    "protocols": ["1"],
    "plugin": "loop-warner",
    "host": {"name": "myagent", "version": "1.0.0", "api": "1.0"},
    "capabilities": ["add_message", "emit_event", "get_context", "register_tool", "start_task", "TOOL_CALL_END"],
    "grants": ["events:TOOL_CALL_END", "add_message:user", "gate:tool_call"],
    "settings": {"limit": 3},
    "sessions": ["s1"],
    "data_dir": "/home/ana/.local/share/myagent/data/loop-warner",
    "deadlines": {"gate": 15.0, "transform": 15.0, "observe": 30.0, "start": 30.0, "stop": 5.0},
    "limits": {"frame_bytes": 1048576},
}
_CALL: Final = {"toolName": "bash", "arguments": {"command": "rm -r build"}, "callId": "c7"}
_MESSAGE: Final = {
    "id": "m3",
    "role": "user",
    "content": "bash failed three times; try another way",
    "timestamp": 1767225600000,
    "metadata": {"sourcePlugin": "loop-warner", "isPluginGenerated": True, "origin": ["loop-warner"]},
    "toolCalls": [],
    "toolCallId": None,
}
_CONTEXT: Final = {
    "sessionId": "s1",
    "messages": [_MESSAGE],
    "focus": "/home/ana/project",
    "tokenUsage": 41.5,
    "todos": [{"id": "t1", "task": "fix the build", "status": "in_progress", "activeForm": "fixing the build"}],
    "agents": [{"agentId": "main", "agentName": "ally", "started": 1767225590000}],
    "isProcessing": True,
    "cursor": "12",
    "isReset": False,
    "readOnly": True,
}
_TOOL: Final = {
    "name": "count_failures",
    "description": "Say how often a tool has failed in this session.",
    "schema": {"type": "object", "properties": {"tool": {"type": "string"}}, "required": ["tool"]},
    "timeout": 10,
}
_ASKED: Final = {"session_id": "s1", "cause": "c7", "origin": [], "deadline": 15.0}

_FROM_HOST: Final = {
    "initialize": Sample(
        _TOLD,
        {
            "protocol": "1",
            "name": "loop-warner",
            "version": "0.3.0",
            "hooks": [
                "ally_start",
                "ally_tool_call_end",
                {"name": "ally_gate_tool_call", "arguments": ["call", "context"], "placement": "last"},
            ],
            "events": ["TOOL_CALL_END"],
            "tools": [_TOOL],
            "actions": [{"name": "reset", "description": "Forget all failures.", "agent": False}],
        },
    ),
    "start": Sample({}),
    "shutdown": Sample({"reason": "the host is closing"}),
    "ping": Sample({}, "pong"),
    "drain": Sample({}),
    "on_event": Sample(
        {
            "event_type": "TOOL_CALL_END",
            "event_data": {
                "toolName": "bash",
                "success": False,
                "result": {"success": False, "error": "exit status 1"},
                "error": "exit status 1",
            },
            "timestamp": 1767225599000,
            "id": "s1:41",
            "seq": 41,
            "session_id": "s1",
            "origin": [],
            "turn_id": "u4",
            "call_id": "c6",
        }
    ),
    "gate": Sample(
        {"on": "tool_call", **_ASKED, "call": _CALL, "context": {**_CONTEXT, "messages": []}},
        {"verdict": "deny", "reason": "build/ is not to be removed while a build runs"},
    ),
    "transform": Sample(
        {"on": "tool_input", **_ASKED, "call": _CALL},
        {"replace": {"arguments": {"command": "rm -r -- build"}}},
    ),
    "call_tool": Sample(
        {"name": "count_failures", "arguments": {"tool": "bash"}, "session_id": "s1", "cause": "c8", "origin": [],
         "timeout": 10.0},
        {"success": True, "output": "bash failed 3 times", "data": {"bash": 3}},
    ),
    "run_action": Sample(
        {"name": "reset", "arguments": {}, "session_id": "s1", "cause": "a2", "origin": [], "timeout": 120.0,
         "requested_by": "person"},
        {"forgotten": 3},
    ),
    "run_task": Sample({"task_id": "k5", "name": "watch-ci", "session_id": "s1", "origin": ["loop-warner"]}, "green"),
    "$/cancel": Sample({"id": 17}),
    "$/progress": Sample({"id": "d4", "progress": 0.5, "message": "compacting"}),
}  # fmt: skip

_FROM_PLUGIN: Final = {
    "initialize": Sample({"token": "oTo0vGbHk3yJ", "protocol": "1", "name": "loop-warner"}, _TOLD),
    "add_message": Sample(
        {
            "role": "user",
            "content": "bash failed three times; try another way",
            "cause": "s1:41",
            "key": "warn-s1-bash",
        },
        {"id": "m3", "offset": 118, "state": "pending"},
    ),
    "emit_event": Sample(
        {"type": "warned", "data": {"tool": "bash", "failures": 3}, "cause": "s1:41"},
        {"id": "s1:42", "offset": 42, "state": "recorded"},
    ),
    "get_context": Sample({"parts": ["messages", "focus"], "since": "11", "session_id": "s1"}, _CONTEXT),
    "register_tool": Sample(_TOOL, {"id": "loop-warner:count_failures", "offset": 119, "state": "recorded"}),
    "register_action": Sample(
        {"name": "reset", "description": "Forget all failures.", "agent": True},
        {"id": "loop-warner:reset", "offset": 120, "state": "recorded"},
    ),
    "unregister": Sample({"name": "count_failures"}),
    "request_action": Sample(
        {"action": "compact", "arguments": {}, "session_id": "s1", "timeout": 60},
        {"old_usage": 91.0, "new_usage": 34.5},
    ),
    "ask": Sample(
        {
            "question": "bash failed three times. Go on?",
            "choices": ["go on", "stop"],
            "session_id": "s1",
            "timeout": 60,
        },
        "stop",
    ),
    "start_task": Sample({"name": "watch-ci", "session_id": "s1"}, {"task_id": "k5"}),
    "task_progress": Sample({"task_id": "k5", "progress": 0.5, "message": "2 of 4 jobs are green"}),
    "ack_events": Sample({"offset": "s1:41"}),
    "log": Sample({"level": "warning", "message": "bash failed three times in s1"}),
    "report_times": Sample({"session_id": "s1", "times": [{"seq": 41, "us": 850, "hook": "ally_tool_call_end"}]}),
    "report_crash": Sample({"hook": "ally_tool_call_end", "error": "TypeError", "event_id": "s1:41"}),
    "$/cancel": Sample({"id": "d4"}),
    "$/progress": Sample({"id": 17, "progress": 0.25, "message": "counting"}),
}

SAMPLES: Final[Mapping[Literal["host", "plugin"], Mapping[str, Sample]]] = MappingProxyType(
    {"host": _FROM_HOST, "plugin": _FROM_PLUGIN}
)
"""The examples by sender and method."""

_IDS: Final = {"host": 17, "plugin": "d4"}  # a daemon may count as it likes; the host's ids are integers


def sample_frames(sender: Literal["host", "plugin"], method: str, *, is_request: bool) -> tuple[dict[str, Any], ...]:
    """Return an example of a message as it is sent, and of its answer when it is a request."""
    sample = SAMPLES[sender][method]
    head = {"jsonrpc": "2.0"} | ({"id": _IDS[sender]} if is_request else {})
    frame = {**head, "method": method} | ({"params": dict(sample.params)} if sample.params else {})
    return (frame, {**head, "result": sample.result}) if is_request else (frame,)
