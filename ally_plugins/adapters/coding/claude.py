"""Claude Code.

It ignores fields that it does not know, and an `updatedToolOutput` of another shape than the tool's own, without a
word. The output of a call that failed cannot be withheld: the turn ends at PostToolBatch instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from attrs import evolve

from ally_plugins.contract.serves import Serves
from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values.conversation import ToolResult

from .command_hooks import (
    base_of,
    block,
    block_reply,
    call_of,
    context_reply,
    prompt_reply,
    read_plain,
    result_of,
    specific,
)
from .dialect import FROM_EVENT_FILE, Dialect, Write
from .event_records import read_claude_record
from .payloads import AgentHook, EndedCall, HookKind, Payload
from .replies import Answer, Reply, say

__all__ = ["CLAUDE"]

_KINDS: Final = {
    "SessionStart": HookKind.SESSION_START,
    "SessionEnd": HookKind.SESSION_END,
    "UserPromptSubmit": HookKind.PROMPT,
    "PreToolUse": HookKind.BEFORE_TOOL,
    "PostToolUse": HookKind.AFTER_TOOL,
    "PostToolUseFailure": HookKind.AFTER_TOOL,
    "PostToolBatch": HookKind.AFTER_CALLS,
    "PermissionRequest": HookKind.PERMISSION,
    "Stop": HookKind.STOP,
    "SubagentStart": HookKind.AGENT_START,
    "SubagentStop": HookKind.AGENT_STOP,
    "PreCompact": HookKind.COMPACTION_START,
    "PostCompact": HookKind.COMPACTION_END,
}


_FAILED: Final = "PostToolUseFailure"

_NOTIFICATION: Final = re.compile(r"\s*<task-notification>")
"""How the prompt begins that Claude Code itself writes when a task in the background has ended."""

_WORD: Final = re.compile(r"[a-z_]{1,24}\Z")
"""What names the kind of a part of an output (`text`, `tool_reference`), and is no place for a secret."""


def _read(dialect: Dialect, event: str, payload: Payload) -> AgentHook:
    hook = base_of(dialect, event, payload)
    match hook.kind:
        case HookKind.PROMPT:
            hook = read_plain(hook, payload)
            return evolve(hook, is_person=hook.agent_id is None and _NOTIFICATION.match(hook.text) is None)
        case HookKind.AFTER_CALLS:
            return evolve(hook, tools=tuple(_answered(dialect, hook, each) for each in payload.objects("tool_calls")))
        case HookKind.PERMISSION:  # without the call's id
            return evolve(hook, tool=call_of(dialect, hook, payload, has_id=False))
        case HookKind.BEFORE_TOOL:
            return evolve(hook, tool=call_of(dialect, hook, payload))
        case HookKind.AFTER_TOOL:
            return evolve(
                hook, tool=_failed(dialect, hook, payload) if event == _FAILED else _answered(dialect, hook, payload)
            )
        case _:
            return read_plain(hook, payload)


def _failed(dialect: Dialect, hook: AgentHook, payload: Payload) -> EndedCall:
    text = payload.any_text("error")
    result = ToolResult(success=False, output=text, error=text)
    return evolve(call_of(dialect, hook, payload), result=result, raw=text)


def _answered(dialect: Dialect, hook: AgentHook, payload: Payload) -> EndedCall:
    return _with_output(call_of(dialect, hook, payload), payload.anything("tool_response"))


def _with_output(call: EndedCall, raw: Any) -> EndedCall:
    """Return the call with its result: all of the agent's own form as data, and as text what the model will read."""
    return evolve(call, result=result_of(_text_of(raw), raw, failed=False), raw=raw)


def _text_of(raw: Any) -> str:
    """Return the text of an output: a shell's two streams, a file's content, the texts of MCP; else all its strings."""
    if isinstance(raw, str):
        return raw
    if isinstance(raw, Mapping):
        if isinstance(raw.get("stdout"), str):
            streams = (raw["stdout"], raw.get("stderr"))
            return "\n".join(each for each in streams if isinstance(each, str) and each)
        if isinstance(raw.get("file"), Mapping) and isinstance(raw["file"].get("content"), str):
            return str(raw["file"]["content"])
    if isinstance(raw, list) and all(isinstance(each, Mapping) and isinstance(each.get("text"), str) for each in raw):
        return "\n".join(each["text"] for each in raw)
    return "\n".join(_strings(raw))


def _strings(raw: Any) -> list[str]:
    if isinstance(raw, str):
        return [raw]
    if isinstance(raw, Mapping):
        return [text for each in raw.values() for text in _strings(each)]
    return [text for each in raw for text in _strings(each)] if isinstance(raw, list) else []


def _permission(hook: AgentHook, answer: Answer) -> Reply:
    if answer.refusal is not None:
        return specific(hook, decision={"behavior": "deny", "message": answer.refusal})
    return specific(hook, decision={"behavior": "allow"}) if answer.waives else Reply()


def _before_tool(hook: AgentHook, answer: Answer) -> Reply:
    if answer.refusal is not None:
        return specific(hook, permissionDecision="deny", permissionDecisionReason=answer.refusal)
    if answer.question is not None:
        return specific(hook, permissionDecision="ask", permissionDecisionReason=answer.question)
    said: dict[str, Any] = {"additionalContext": answer.context} if answer.context else {}
    if answer.arguments is not None:
        # Without `allow`, which would waive Claude Code's own question.
        said["updatedInput"] = thaw(answer.arguments)
    return specific(hook, **said) if said else Reply()


def _after_tool_of_any_end(hook: AgentHook, answer: Answer) -> Reply:
    return _after_failure(hook, answer) if hook.event == _FAILED else _after_tool(hook, answer)


def _after_failure(hook: AgentHook, answer: Answer) -> Reply:
    if answer.refusal is not None or answer.result is not None:
        # The raw output stands beside it: whoever answers has to end the turn at PostToolBatch.
        return block(answer.refusal or "plugins have changed this output, and Claude Code shows what failed as it is")
    return context_reply(hook, answer.context)


def _after_tool(hook: AgentHook, answer: Answer) -> Reply:
    if answer.refusal is None and answer.result is None:
        return context_reply(hook, answer.context)
    raw = hook.tool.raw if hook.tool is not None else None
    new = _in_shape(raw, answer.result) if answer.refusal is None and answer.result is not None else None
    if new is None:
        reason = (
            answer.refusal or (answer.result.error if answer.result is not None else None) or "the output is withheld"
        )
        new = _withheld(raw, reason)
        if new == raw:  # no text in it to be replaced
            return say({"continue": False, "stopReason": reason})
    said = {"updatedToolOutput": new}
    return specific(hook, **(said | ({"additionalContext": answer.context} if answer.context else {})))


def _in_shape(raw: Any, result: ToolResult) -> Any:
    """Return what plugins made of an output in the shape that its tool gives, None where that cannot be done."""
    given = _text_of(raw)
    data = given if isinstance(raw, str) else thaw(result.data)
    if not result.success or not _has_shape(raw, data):
        return None
    return data if _text_of(data) == result.output else _with_text(data, result.output)


def _has_shape(raw: Any, new: Any) -> bool:
    """Say whether two values are of one shape: the same keys, the same kinds; lists may have other lengths."""
    if isinstance(raw, Mapping):
        return isinstance(new, Mapping) and raw.keys() == new.keys() and all(_has_shape(raw[k], new[k]) for k in raw)
    if isinstance(raw, list):
        return isinstance(new, list) and (not raw or all(any(_has_shape(old, each) for old in raw) for each in new))
    return type(raw) is type(new)


def _with_text(data: Any, text: str) -> Any:
    """Return an output with another text in its place, None for a shape whose text is in more than one place."""
    if isinstance(data, str):
        return text
    if isinstance(data, Mapping) and isinstance(data.get("stdout"), str):
        return {**data, "stdout": text, **({"stderr": ""} if isinstance(data.get("stderr"), str) else {})}
    if isinstance(data, Mapping) and isinstance(data.get("file"), Mapping) and "content" in data["file"]:
        return {**data, "file": {**data["file"], "content": text}}
    if isinstance(data, list) and data and all(isinstance(each, Mapping) and "text" in each for each in data):
        return [{**data[0], "text": text}]
    return None


def _withheld(raw: Any, reason: str) -> Any:
    """Return a value of the same shape with the reason in the place of each text, but for words that name a kind.

    Empty texts, which tell nothing, stay, unless there is no other.
    """
    has_text = any(_strings(raw))

    def without(value: Any, name: str = "") -> Any:
        if isinstance(value, str):
            is_kept = (has_text and not value) or (name == "type" and _WORD.match(value) is not None)
            return value if is_kept else reason
        if isinstance(value, Mapping):
            return {key: without(each, key) for key, each in value.items()}
        return [without(each) for each in value] if isinstance(value, list) else value

    return without(raw)


_WRITERS: Final[Mapping[HookKind, Write]] = {
    HookKind.SESSION_START: lambda hook, answer: context_reply(hook, answer.context),
    HookKind.PROMPT: partial(prompt_reply, "Claude Code"),
    HookKind.BEFORE_TOOL: _before_tool,
    HookKind.AFTER_TOOL: _after_tool_of_any_end,
    HookKind.AFTER_CALLS: block_reply,
    HookKind.STOP: block_reply,
    HookKind.PERMISSION: _permission,
}


CLAUDE: Final = Dialect(
    name="claude",
    versions=("2.1.332",),
    kinds=_KINDS,
    serves=Serves(
        events=(
            "SESSION_START", "SESSION_END", "TOOL_CALL_START", "TOOL_CALL_END", "AGENT_START", "AGENT_END",
            "PERMISSION_REQUEST", "COMPACTION_START", "COMPACTION_COMPLETE", "USER_MESSAGE", "ASSISTANT_MESSAGE",
            "PLUGIN_MESSAGE_RECEIVED", "PLUGIN_EVENT_EMITTED", "PLUGIN_ACTION_REQUESTED", "PLUGIN_STATE",
            "TASK_PROGRESS", "DECISION", "EVENTS_DROPPED", *FROM_EVENT_FILE,
        ),
        gates=("tool_call", "message", "permission", "user_message", "stop"),
        transforms=("tool_input", "tool_output", "user_message", "plugin_message"),
    ),
    takes_context=frozenset({"SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", _FAILED}),
    read_event=_read,
    writers=_WRITERS,
    tool_prefix="mcp__ally__",
    asks_person=True,
    shown_events=frozenset({_FAILED}),
    read_record=read_claude_record,
    limits={
        "transform:tool_input": "the model goes on reading its own call as it was",
        "transform:tool_output": (
            "the output of a call that failed cannot be changed: where a plugin changes it, the turn ends before the "
            "model sees it"
        ),
        "transform:user_message": "a message that a plugin changes is blocked, with the changed one as the reason",
    },
)  # fmt: skip
