"""The payloads of coding agents' hooks, made from what they were recorded to send.

Each is a template: a text that is just `<name>` stands for a value, of whatever type.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .turns import ToolUse

__all__ = ["PAYLOADS", "failure_record", "fill", "output_of", "response_of"]

_Templates = Mapping[str, tuple[str, Mapping[str, Any]]]

_PLACE: Final = {"session_id": "<session>", "transcript_path": "<event file>", "cwd": "<cwd>"}
_CALL: Final = {"tool_name": "<tool>", "tool_input": "<arguments>"}
_COMMAND: Final = {"stdout": "<output>", "stderr": "", "interrupted": False, "isImage": False}
_CODEX: Final = {**_PLACE, "model": "a-model", "permission_mode": "bypassPermissions"}
_GEMINI: Final = {**_PLACE, "timestamp": "2026-01-01T00:00:00.000Z"}
_COPILOT: Final = {"sessionId": "<session>", "timestamp": 1796003643078, "cwd": "<cwd>"}
_COPILOT_CALL: Final = {"toolName": "<tool>", "toolArgs": "<arguments>"}
_GOOSE: Final = {"session_id": "<session>", "matcher_context": None}
_GOOSE_CALL: Final = {**_GOOSE, **_CALL, "matcher_context": "<tool>", "working_dir": "<cwd>"}
_OPENCODE: Final = {"tool": "<tool>", "sessionID": "<session>", "callID": "<call>"}
_PI: Final = {"session_id": "<session>", "cwd": "<cwd>"}
_PI_CALL: Final = {**_PI, "toolName": "<tool>", "toolCallId": "<call>", "input": "<arguments>"}


def _named(event: str, /, *parts: Mapping[str, Any], **more: Any) -> tuple[str, Mapping[str, Any]]:
    """Return a payload that names its event."""
    merged = {key: value for part in parts for key, value in part.items()}
    return event, {"hook_event_name": event, **merged, **more}


def _plain(event: str, /, *parts: Mapping[str, Any], **more: Any) -> tuple[str, Mapping[str, Any]]:
    return event, {key: value for part in parts for key, value in part.items()} | more


def _opencode(event: str, given: Mapping[str, Any], output: Any = None) -> tuple[str, Mapping[str, Any]]:
    return event, {"input": given, "output": output}


def _opencode_after(code: int) -> tuple[str, Mapping[str, Any]]:
    output = {"title": "", "metadata": {"output": "<output>", "exit": code}, "output": "<output>"}
    return _opencode("tool.execute.after", {**_OPENCODE, "args": "<arguments>"}, output)


PAYLOADS: Final[Mapping[str, _Templates]] = {
    "claude": {
        "start": _named("SessionStart", _PLACE, source="startup"),
        "prompt": _named("UserPromptSubmit", _PLACE, prompt="<prompt>"),
        "before": _named("PreToolUse", _PLACE, _CALL, tool_use_id="<call>"),
        "after": _named("PostToolUse", _PLACE, _CALL, tool_use_id="<call>", tool_response="<response>"),
        "failed": _named("PostToolUseFailure", _PLACE, _CALL, tool_use_id="<call>", error="<output>"),
        "calls": _named(
            "PostToolBatch",
            _PLACE,
            tool_calls=[{**_CALL, "tool_use_id": "<call>", "tool_response": "<output>"}],
        ),
        "stop": _named("Stop", _PLACE, stop_hook_active=False, last_assistant_message="<answer>"),
    },
    "codex": {
        "start": _named("SessionStart", _CODEX, source="startup"),
        "prompt": _named("UserPromptSubmit", _CODEX, prompt="<prompt>"),
        "before": _named("PreToolUse", _CODEX, _CALL, tool_use_id="<call>"),
        "after": _named("PostToolUse", _CODEX, _CALL, tool_use_id="<call>", tool_response="<output>"),
        "stop": _named("Stop", _CODEX, stop_hook_active=False, last_assistant_message="<answer>"),
    },
    "gemini": {
        "start": _named("SessionStart", _GEMINI, source="startup"),
        "prompt": _named("BeforeAgent", _GEMINI, prompt="<prompt>"),
        "before": _named("BeforeTool", _GEMINI, _CALL),
        "after": _named(
            "AfterTool", _GEMINI, _CALL, tool_response={"llmContent": "<output>", "returnDisplay": "<output>"}
        ),
        "stop": _named("AfterAgent", _GEMINI, prompt="<prompt>", prompt_response="<answer>", stop_hook_active=False),
    },
    "copilot": {
        "start": _plain("sessionStart", _COPILOT, source="new"),
        "prompt": _plain("userPromptSubmitted", _COPILOT, prompt="<prompt>"),
        "before": _plain("preToolUse", _COPILOT, _COPILOT_CALL),
        "after": _plain(
            "postToolUse",
            _COPILOT,
            _COPILOT_CALL,
            toolResult={"resultType": "success", "textResultForLlm": "<output>"},
        ),
        "stop": _plain("agentStop", _COPILOT, stopReason="end_turn", stop_hook_active=False),
    },
    "opencode": {
        "prompt": _opencode(
            "chat.message",
            {"sessionID": "<session>"},
            {
                "message": {"id": "<call>", "role": "user", "sessionID": "<session>"},
                "parts": [{"type": "text", "text": "<prompt>"}],
            },
        ),
        "before": _opencode("tool.execute.before", _OPENCODE, {"args": "<arguments>"}),
        "after": _opencode_after(0),
        "failed": _opencode_after(1),
    },
    "pi": {
        "start": _plain("session_start", _PI, type="session_start", reason="startup"),
        "prompt": _plain("input", _PI, type="input", text="<prompt>", source="interactive"),
        "before": _plain("tool_call", _PI_CALL, type="tool_call"),
        "after": _plain(
            "tool_result", _PI_CALL, type="tool_result", content=[{"type": "text", "text": "<output>"}], isError=False
        ),
        "failed": _plain(
            "tool_result", _PI_CALL, type="tool_result", content=[{"type": "text", "text": "<output>"}], isError=True
        ),
        "stop": _plain("agent_end", _PI, type="agent_end", text="<answer>"),
    },
    "goose": {
        "start": _plain("SessionStart", _GOOSE, event="SessionStart"),
        "prompt": _plain("UserPromptSubmit", _GOOSE, event="UserPromptSubmit", message="<prompt>"),
        "before": _plain("PreToolUse", _GOOSE_CALL, event="PreToolUse"),
        "after": _plain("PostToolUse", _GOOSE_CALL, event="PostToolUse"),
        "failed": _plain("PostToolUseFailure", _GOOSE_CALL, event="PostToolUseFailure"),
        "stop": _plain("Stop", _GOOSE, event="Stop"),
    },
}
"""By agent what it sends: when a conversation begins, at a prompt, before and after a call, after one that failed,
after all calls of an answer, and at the end of a turn. Without `failed` a call that failed is sent as any other, and
without
another the agent has no such hook."""


def output_of(agent: str, use: ToolUse) -> str:
    """Return what a call comes to as the agent words it: some say of a command that failed nothing but its code."""
    if use.success or use.tool != "bash":
        return use.output
    if agent == "gemini":
        return f"Output: {use.output}\nExit Code: 1"
    return f"{use.output}\n<shellId: 0 completed with exit code 1>" if agent == "copilot" else use.output


def failure_record(call_id: str) -> str:
    """Return the line by which Codex says in its event file, and nowhere else, that a command has failed."""
    output = {"type": "function_call_output", "call_id": call_id, "output": "Process exited with code 1"}
    return json.dumps({"type": "response_item", "payload": output}) + "\n"


def response_of(agent: str, tool: str, output: str) -> Any:
    """Return an output in the form of the tool that has it: Claude Code's differ, and a changed one must be alike."""
    if agent != "claude":
        return output
    if tool == "Bash":
        return {**_COMMAND, "stdout": output}
    if tool == "Read":
        return {"type": "text", "file": {"filePath": "", "content": output, "numLines": 1}}
    return output


def fill(template: Any, values: Mapping[str, Any]) -> Any:
    """Return a template with the values in it."""
    if isinstance(template, str):
        return values[template[1:-1]] if template[:1] == "<" and template[-1:] == ">" else template
    if isinstance(template, Mapping):
        return {key: fill(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [fill(each, values) for each in template]
    return template
