"""What Claude Code and Codex have in common: the fields of their payloads, and most of their answers.

Both say `hook_event_name`, `session_id` and `agent_id`, tools as `tool_name`, `tool_input`, `tool_use_id`, and read
`hookSpecificOutput` and `decision: block`. What they do with these differs, and is in their own modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve

from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.conversation import ToolResult
from ally_plugins.contract.values.errors import EventError

from .payloads import AgentHook, EndedCall, HookKind, Payload, PayloadError
from .replies import Answer, Reply, UnsayableError, say

if TYPE_CHECKING:
    from .dialect import Dialect

__all__ = [
    "base_of",
    "block",
    "block_reply",
    "call_of",
    "context_reply",
    "output_text",
    "parts_text",
    "prompt_reply",
    "read_plain",
    "result_of",
    "specific",
]

_TEXTS: Final = {HookKind.STOP: "last_assistant_message", HookKind.AGENT_STOP: "last_assistant_message",
                 HookKind.SESSION_END: "reason"}  # fmt: skip


def base_of(dialect: Dialect, event: str, payload: Payload) -> AgentHook:
    """Return what every hook says. Raises PayloadError, also where the payload is of another event."""
    named = payload.text("hook_event_name")
    if named != event:
        raise PayloadError(f"'hook_event_name' is {named!r:.80}; expected {event!r}")
    return AgentHook(
        kind=dialect.kinds[event],
        event=event,
        session_id=payload.text("session_id"),
        agent_id=payload.maybe_text("agent_id"),
        agent_name=payload.maybe_text("agent_type"),
        cwd=payload.maybe_text("cwd"),
        model=payload.maybe_text("model"),
        transcript=_transcript(dialect, payload),
    )


def _transcript(dialect: Dialect, payload: Payload) -> str | None:
    # By itself: only observers are told what stands there, so that a strange one is no reason to close a hook.
    path = payload.data.get("transcript_path")
    return path if isinstance(path, str) and dialect.read_record is not None else None


def read_plain(hook: AgentHook, payload: Payload) -> AgentHook:
    """Return a hook that is about no tool, with its text."""
    if hook.kind is HookKind.PROMPT:
        return evolve(hook, text=payload.any_text("prompt"))
    if hook.kind is HookKind.SESSION_START:
        return evolve(hook, source=payload.maybe_text("source"))
    if hook.kind in {HookKind.STOP, HookKind.AGENT_STOP}:
        hook = evolve(hook, is_sent_on=payload.flag("stop_hook_active"))
    named = _TEXTS.get(hook.kind)
    return evolve(hook, text=payload.maybe_text(named) or "") if named is not None else hook


def call_of(dialect: Dialect, hook: AgentHook, payload: Payload, *, has_id: bool = True) -> EndedCall:
    """Return the call that a hook is about, by its id where there has to be one. Raises PayloadError."""
    where = f"{payload.path}.tool_input" if payload.path else "tool_input"
    call_id = payload.text("tool_use_id") if has_id else None
    return dialect.call(payload.text("tool_name"), payload.anything("tool_input"), call_id, hook.agent_id, where)


def result_of(text: str, raw: Any, *, failed: bool) -> ToolResult:
    """Return what a tool came to: the text that the model will read, and the agent's own form as data beside it."""
    data = None if isinstance(raw, str) else raw
    error = text if failed else None
    try:
        return ToolResult(success=not failed, output=text, error=error, data=data)
    except EventError as why:
        return ToolResult(success=not failed, output=text, error=error, unshown=str(why))


def parts_text(raw: Any, parts: Any) -> str:
    """Return the texts of an output's parts; all of it as JSON where that is not what they are."""
    if isinstance(parts, list) and all(
        isinstance(each, Mapping) and isinstance(each.get("text"), str) for each in parts
    ):
        return "\n".join(each["text"] for each in parts)
    return encode(raw).decode()


def output_text(answer: Answer) -> str:
    """Return the text that stands in an output's place, with what plugins say below it."""
    result, text = answer.result, answer.refusal
    if text is None and result is not None:
        # The error of one that failed is mostly its output once more.
        more = result.error if not result.success and result.error != result.output else None
        text = "\n".join(filter(None, (result.output, more)))
    # An empty reason may be none to an agent.
    return "\n".join(filter(None, (text or "(no output)", answer.context)))


def specific(hook: AgentHook, **said: Any) -> Reply:
    """Return an answer that stands in `hookSpecificOutput`."""
    return say({"hookSpecificOutput": {"hookEventName": hook.event, **said}})


def block(reason: str) -> Reply:
    """Return the answer that blocks, or sends the agent on where it wants to stop."""
    return say({"decision": "block", "reason": reason})


def block_reply(_: AgentHook, answer: Answer) -> Reply:
    """Return the answer that blocks where plugins refuse, and nothing where they do not."""
    return block(answer.refusal) if answer.refusal is not None else Reply()


def prompt_reply(agent: str, hook: AgentHook, answer: Answer) -> Reply:
    """Return the answer to a prompt. Raises UnsayableError for one that plugins changed."""
    if answer.refusal is not None:
        return block(answer.refusal)
    if answer.prompt is not None:
        raise UnsayableError(
            f"a plugin has changed this message, and {agent} takes no changed one; send: {answer.prompt}"
        )
    return context_reply(hook, answer.context)


def context_reply(hook: AgentHook, context: str) -> Reply:
    """Return text beside whatever goes on; nothing where there is none."""
    return specific(hook, additionalContext=context) if context else Reply()
