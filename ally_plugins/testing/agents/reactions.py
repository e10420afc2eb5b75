"""Coding agents as they were seen to behave: what each does with the answer of a hook, and which fields it lists.

Written from recorded runs of the real programs and not from the dialects, so that the two can disagree. What was never
tried is taken for the worst: the call runs, the output is shown.
"""

from __future__ import annotations

import json
from typing import Any, Final

from attrs import evolve, field, frozen

__all__ = ["LISTED", "Reaction", "fields_of", "react"]


@frozen
class Reaction:
    """What becomes of what the hook was about.

    `stopped` says that the call does not run, the prompt does not reach the model, or the model never sees the raw
    output. `value` is what runs, or is shown, in its place: None for what the agent had itself. `asks` says that the
    person is asked, `goes_on` that an agent that wanted to stop does not. `context` reaches the model,
    and so does `reason`, in the place of what was stopped.
    """

    stopped: bool = False
    value: Any = None
    asks: bool = False
    waived: bool = False
    goes_on: bool = False
    context: str = ""
    reason: str = field(default="", eq=False)


_SPECIFIC = "hookSpecificOutput"

_BLOCKED: Final = 2
"""The exit code by which a hook stops what it is about."""

_REASONS: Final = ("permissionDecisionReason", "reason", "stopReason", "message", "throw", "send", "notify")
"""Where the reason of a refusal stands, in one agent or another."""

LISTED: Final[dict[str, dict[str, set[str]]]] = {
    "claude": {
        "SessionStart": {f"{_SPECIFIC}.additionalContext"},
        "UserPromptSubmit": {"decision", "reason", f"{_SPECIFIC}.additionalContext"},
        "PreToolUse": {
            "decision",
            "reason",
            f"{_SPECIFIC}.permissionDecision",
            f"{_SPECIFIC}.permissionDecisionReason",
            f"{_SPECIFIC}.updatedInput",
            f"{_SPECIFIC}.additionalContext",
        },
        "PostToolUse": {
            "decision",
            "reason",
            "continue",
            "stopReason",
            f"{_SPECIFIC}.updatedToolOutput",
            f"{_SPECIFIC}.additionalContext",
        },
        "PostToolUseFailure": {"decision", "reason", f"{_SPECIFIC}.additionalContext"},
        "PostToolBatch": {"decision", "reason", "continue", "stopReason"},
        "PermissionRequest": {f"{_SPECIFIC}.decision"},
        "Stop": {"decision", "reason"},
    },
    "codex": {
        "SessionStart": {f"{_SPECIFIC}.additionalContext"},
        "UserPromptSubmit": {"decision", "reason", f"{_SPECIFIC}.additionalContext"},
        "PreToolUse": {
            "decision",
            "reason",
            f"{_SPECIFIC}.permissionDecision",
            f"{_SPECIFIC}.permissionDecisionReason",
            f"{_SPECIFIC}.updatedInput",
            f"{_SPECIFIC}.additionalContext",
        },
        "PostToolUse": {"decision", "reason", f"{_SPECIFIC}.additionalContext"},
        "Stop": {"decision", "reason"},
    },
    "gemini": {
        "SessionStart": {f"{_SPECIFIC}.additionalContext"},
        "BeforeAgent": {"decision", "reason", f"{_SPECIFIC}.additionalContext"},
        "BeforeTool": {"decision", "reason", f"{_SPECIFIC}.tool_input"},
        "AfterTool": {"decision", "reason", f"{_SPECIFIC}.additionalContext"},
        "AfterAgent": {"decision", "reason"},
    },
    "copilot": {
        "sessionStart": {"additionalContext"},
        "userPromptSubmitted": {"decision", "reason", "additionalContext", "modifiedPrompt"},
        "preToolUse": {"permissionDecision", "permissionDecisionReason", "modifiedArgs"},
        "postToolUse": {"decision", "reason", "additionalContext", "modifiedResult"},
        "permissionRequest": {"behavior", "message"},
        "agentStop": {"decision", "reason"},
    },
    "opencode": {
        "chat.message": {"throw", "text"},
        "tool.execute.before": {"throw", "args"},
        "tool.execute.after": {"output", "append"},
    },
    "pi": {
        "input": {"return", "notify"},
        "tool_call": {"return", "args"},
        "tool_result": {"return", "send", "as"},
        "agent_end": {"send", "as"},
    },
    "goose": {"PreToolUse": {"decision", "reason"}, "Stop": {"decision", "reason"}},
}
"""The fields that an agent reads in the answer to each event, beside `hookSpecificOutput.hookEventName`."""


def fields_of(stdout: str) -> set[str]:
    """Return the fields of an answer, those within `hookSpecificOutput` with their path."""
    said = json.loads(stdout) if stdout else {}
    inner = said.pop(_SPECIFIC, {})
    return {*said, *(f"{_SPECIFIC}.{name}" for name in inner if name != "hookEventName")}


def react(agent: str, event: str, payload: dict[str, Any], reply: tuple[int, str, str]) -> Reaction:
    """Return what an agent does when a hook's command ends with this code, and has printed this."""
    found = _REACT[agent](event, payload, *reply)
    return evolve(found, reason=_reason(*reply)) if found.stopped or found.asks or found.goes_on else found


def _reason(code: int, stdout: str, stderr: str) -> str:
    said = _parsed(stdout) if code == 0 else {}
    inner = [each for name in (_SPECIFIC, "return") if isinstance(each := said.get(name), dict)]
    found = (each[name] for each in (*inner, said) for name in _REASONS if isinstance(each.get(name), str))
    return next(found, stderr)


def _parsed(stdout: str) -> dict[str, Any]:
    try:
        said = json.loads(stdout)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _same_shape(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return (
            isinstance(other, dict) and one.keys() == other.keys() and all(_same_shape(one[k], other[k]) for k in one)
        )
    if isinstance(one, list):
        return isinstance(other, list)
    return type(one) is type(other)


def _claude(event: str, payload: dict[str, Any], code: int, stdout: str, _: str) -> Reaction:  # noqa: C901, PLR0911 - a table
    said = _parsed(stdout) if code == 0 else {}
    inner = said.get(_SPECIFIC, {})
    if inner and inner.get("hookEventName") != event:
        inner = {}
    context = inner.get("additionalContext", "")
    blocks = said.get("decision") == "block" or code == _BLOCKED
    match event:
        case "PreToolUse":
            how = inner.get("permissionDecision")
            stopped = blocks or how == "deny"
            changed = None if stopped else inner.get("updatedInput")
            return Reaction(stopped, changed, asks=how == "ask", waived=how == "allow", context=context)
        case "UserPromptSubmit":
            return Reaction(blocks, context=context)
        case "PostToolUse":
            if said.get("continue") is False:
                return Reaction(stopped=True)
            new = inner.get("updatedToolOutput")
            if new is not None and _same_shape(payload.get("tool_response"), new):
                return Reaction(stopped=True, value=new, context=context)
            return Reaction(context=context)
        case "PostToolUseFailure":
            return Reaction(context=context)
        case "PostToolBatch":
            return Reaction(blocks or said.get("continue") is False)
        case "PermissionRequest":
            behavior = inner.get("decision", {}).get("behavior")
            return Reaction(behavior == "deny", waived=behavior == "allow")
        case "Stop":
            return Reaction(goes_on=blocks)
        case "SessionStart":
            return Reaction(context=context)
        case _:
            return Reaction(stopped=code == _BLOCKED)


def _codex(event: str, payload: dict[str, Any], code: int, stdout: str, stderr: str) -> Reaction:  # noqa: ARG001
    said = _parsed(stdout) if code == 0 else {}
    if said and not fields_of(stdout) <= LISTED["codex"].get(event, set()):
        said = {}  # one field that it does not know voids the whole answer
    inner = said.get(_SPECIFIC, {})
    context = inner.get("additionalContext", "")
    reason = said.get("reason") or stderr
    blocks = bool((said.get("decision") == "block" or code == _BLOCKED) and reason)
    match event:
        case "PreToolUse":
            how = inner.get("permissionDecision")
            stopped = blocks or (how == "deny" and bool(inner.get("permissionDecisionReason")))
            changed = inner.get("updatedInput") if how == "allow" and not stopped else None
            return Reaction(stopped, changed, waived=how == "allow", context=context)
        case "UserPromptSubmit":
            return Reaction(blocks, context=context)
        case "PostToolUse":
            return Reaction(blocks, reason if blocks else None, context=context)
        case "Stop":
            return Reaction(goes_on=blocks)
        case "SessionStart":
            return Reaction(context=context)
        case _:
            return Reaction(stopped=code == _BLOCKED)


def _gemini(event: str, payload: dict[str, Any], code: int, stdout: str, stderr: str) -> Reaction:  # noqa: ARG001
    said = _parsed(stdout) if code == 0 else {}
    inner = said.get(_SPECIFIC, {})
    context = inner.get("additionalContext", "")
    reason = said.get("reason") or stderr
    denies = said.get("decision") in {"deny", "block"} or code == _BLOCKED
    match event:
        case "BeforeTool":
            return Reaction(denies, None if denies else inner.get("tool_input"))
        case "BeforeAgent":
            return Reaction(denies, context=context)
        case "AfterTool":
            return Reaction(denies, {"error": reason} if denies else None, context=context)
        case "AfterAgent":
            return Reaction(goes_on=denies)
        case "SessionStart":
            return Reaction(context=context)
        case _:
            return Reaction(stopped=code == _BLOCKED)


def _copilot(event: str, payload: dict[str, Any], code: int, stdout: str, _: str) -> Reaction:  # noqa: ARG001, PLR0911
    said = _parsed(stdout) if code == 0 else {}
    blocks, context = said.get("decision") == "block", said.get("additionalContext", "")
    match event:
        case "preToolUse":
            how = said.get("permissionDecision")
            stopped = how == "deny" or code != 0
            return Reaction(stopped, None if stopped else said.get("modifiedArgs"), how == "ask", how == "allow")
        case "userPromptSubmitted":
            return Reaction(blocks, None if blocks else said.get("modifiedPrompt"), context=context)
        case "postToolUse":
            shown = said.get("modifiedResult", {}).get("textResultForLlm")
            shown = f"Tool result blocked: {said['reason']}" if blocks else shown
            return Reaction(shown is not None, shown, context=context)
        case "permissionRequest":
            return Reaction(said.get("behavior") == "deny" or code == _BLOCKED)
        case "agentStop":
            return Reaction(goes_on=blocks)
        case "sessionStart":
            return Reaction(context=context)
        case _:
            return Reaction(stopped=code == _BLOCKED)


def _goose(event: str, payload: dict[str, Any], code: int, stdout: str, _: str) -> Reaction:  # noqa: ARG001
    blocks = _parsed(stdout).get("decision") == "block" if code == 0 else code == _BLOCKED
    return Reaction(blocks and event == "PreToolUse", goes_on=blocks and event == "Stop")


def _opencode(event: str, payload: dict[str, Any], code: int, stdout: str, _: str) -> Reaction:  # noqa: ARG001
    """Return what the plugin in opencode's process does; without an answer it throws where it guards."""
    said, guards = _parsed(stdout), event in {"chat.message", "tool.execute.before", "tool.execute.after"}
    if code != 0:
        return Reaction(stopped=guards)
    if event == "tool.execute.after":
        return Reaction("output" in said, said.get("output"), context=said.get("append", ""))
    return Reaction(guards and "throw" in said, said.get("args" if event.startswith("tool") else "text"))


def _pi(event: str, payload: dict[str, Any], code: int, stdout: str, _: str) -> Reaction:  # noqa: ARG001
    """Return what pi does with what the extension returns; without an answer that throws where it guards."""
    said = _parsed(stdout)
    back = said.get("return", {})
    if code != 0:
        return Reaction(stopped=event in {"input", "tool_call", "tool_result"})
    match event:
        case "input":
            return Reaction(
                back.get("action") == "handled", back.get("text") if back.get("action") == "transform" else None
            )
        case "tool_call":
            return Reaction(back.get("block") is True, said.get("args"))
        case "tool_result":
            context = said.get("send", "") if said.get("as") == "steer" else ""
            return Reaction("content" in back, back.get("content"), context=context)
        case _:
            return Reaction(goes_on=event == "agent_end" and said.get("as") == "followUp")


_REACT = {
    "claude": _claude,
    "codex": _codex,
    "gemini": _gemini,
    "copilot": _copilot,
    "goose": _goose,
    "opencode": _opencode,
    "pi": _pi,
}
