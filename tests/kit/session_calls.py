"""Arguments for every public call of a host and a session, for tests of what refuses all of them."""

from __future__ import annotations

from typing import Any

from ally_plugins import (
    Message,
    ModelInput,
    PermissionRequest,
    PluginRecord,
    Serves,
    Stop,
    ToolCall,
    ToolResult,
    UserMessage,
)

__all__ = ["ARGUMENTS", "CALL", "INTERNAL"]

CALL = ToolCall("fetch", {"url": "https://example.org"}, "c9")


def _run(call: ToolCall) -> ToolResult:
    raise AssertionError(f"{call} ran where every call is refused")


ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "admit_ungated": ("agent", ("web_search",)),
    "agent_tools": (),
    "begin_call": (CALL,),
    "call_agent_tool": (None,),
    "call_tool": ("add",),
    "capability": ("ally_request_action",),
    "check_served": (Serves(),),
    "confirm": ((),),
    "context": (("messages",),),
    "declare_served": (Serves(),),
    "emit": (UserMessage(content="hi"),),
    "emit_caused": (UserMessage(content="hi"), ("p",)),
    "end": ("over",),
    "end_call": ("c9", ToolResult(success=True)),
    "gate_answer": (Message(role="assistant", content="hi"),),
    "gate_permission": (PermissionRequest(request_id="r1", tool_name="fetch"),),
    "gate_stop": (Stop(),),
    "gate_tool_call": (CALL,),
    "gate_user_message": (Message(role="user", content="hi"),),
    "is_sensitive": ("c9",),
    "note_usage": (50.0,),
    "offer_action": ("compact", lambda *_: None),
    "passes": ("tool_call",),
    "refuse_call": ("fetch", "it is too deep"),
    "replace": (PluginRecord.by_code("add"),),
    "request_action": ("compact",),
    "run_tool_call": (CALL, _run),
    "safe_point": ("turn_start",),
    "scoped": ("c9",),
    "session": ("another",),
    "supports": ("USER_MESSAGE",),
    "take_back": ((),),
    "transform_answer": (Message(role="assistant", content="hi"),),
    "transform_model_request": (ModelInput(),),
    "transform_system_prompt": ((),),
    "transform_tool_input": (CALL,),
    "transform_tool_output": (CALL, ToolResult(success=True)),
    "transform_user_message": (Message(role="user", content="hi"),),
    "wants": ("tool_call",),
}
INTERNAL = {"clear_pending_wake", "enqueue", "fence", "has_plugin", "load_pending", "reload_pending"}
"""What the host calls on its sessions, and nobody else."""
