"""Codex.

One field that it does not know voids a whole answer, and what it was to deny runs. `ask` runs the call, and so does
`updatedInput` without `allow`. No hook says whether a command failed: its event file does, at the next one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve

from ally_plugins.contract.serves import Serves
from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values.codec import decode, encode

from .claude import CLAUDE
from .command_hooks import (
    base_of,
    block,
    block_reply,
    call_of,
    context_reply,
    output_text,
    parts_text,
    prompt_reply,
    read_plain,
    result_of,
    specific,
)
from .dialect import Dialect, Write
from .event_records import read_codex_record
from .payloads import AgentHook, HookKind, Payload
from .replies import UnsayableError

if TYPE_CHECKING:
    from .replies import Answer, Reply

__all__ = ["CODEX"]

_KINDS: Final = {
    "SessionStart": HookKind.SESSION_START,
    "SessionEnd": HookKind.SESSION_END,
    "UserPromptSubmit": HookKind.PROMPT,
    "PreToolUse": HookKind.BEFORE_TOOL,
    "PostToolUse": HookKind.AFTER_TOOL,
    "Stop": HookKind.STOP,
    "SubagentStart": HookKind.AGENT_START,
    "SubagentStop": HookKind.AGENT_STOP,
    "PreCompact": HookKind.COMPACTION_START,
    "PostCompact": HookKind.COMPACTION_END,
}


_EXIT: Final = re.compile(r"\A(?:[^\n]{0,200}\n){0,4}?Process exited with code (-?\d{1,10})\b")
_HEAD: Final = 1024

_UNASKED: Final = "bypassPermissions"
"""The `permission_mode` in which Codex asks nothing, so that `allow` waives no question of its own."""


def _read(dialect: Dialect, event: str, payload: Payload) -> AgentHook:
    hook = base_of(dialect, event, payload)
    if hook.kind is HookKind.PROMPT:
        # A sub-agent's task comes as a prompt too.
        return evolve(read_plain(hook, payload), is_person=hook.agent_id is None)
    if hook.kind not in {HookKind.BEFORE_TOOL, HookKind.AFTER_TOOL}:
        return read_plain(hook, payload)
    call = call_of(dialect, hook, payload)
    if hook.kind is HookKind.BEFORE_TOOL:
        return evolve(hook, tool=call, may_ask=payload.maybe_text("permission_mode") != _UNASKED)
    raw = payload.anything("tool_response")
    failed = isinstance(raw, dict) and raw.get("isError") is True
    ended = evolve(call, result=result_of(_text_of(raw), raw, failed=failed), raw=raw)
    # Other tools say in their result whether they failed.
    is_command = ended.call.common_name == "bash"
    return evolve(hook, tool=ended, event_file=payload.maybe_text("transcript_path") if is_command else None)


def find_exit_code(lines: bytes, call_id: str) -> int | None:
    """Return the code that a command ended with, from the end of Codex's event file; None where it is not there."""
    for line in reversed(lines.split(b"\n")):
        if call_id.encode() not in line:
            continue
        try:
            said = decode(line).get("payload")
        except (ValueError, AttributeError):  # the line that the end begins with is cut
            continue
        if isinstance(said, dict) and said.get("type") == "function_call_output" and said.get("call_id") == call_id:
            # Only the head: what follows is the command's own output.
            output = said.get("output")
            named = _EXIT.match(output[:_HEAD]) if isinstance(output, str) else None
            return int(named[1]) if named is not None else None
    return None


def _text_of(raw: Any) -> str:
    if isinstance(raw, str):
        return raw
    parts = raw.get("content") if isinstance(raw, dict) else raw
    return parts_text(raw, parts)


def _before_tool(hook: AgentHook, answer: Answer) -> Reply:
    if answer.refusal is not None:
        return specific(hook, permissionDecision="deny", permissionDecisionReason=answer.refusal)
    if answer.arguments is not None and hook.may_ask:
        changed = encode(thaw(answer.arguments)).decode()
        raise UnsayableError(
            f"plugins have changed the arguments, which Codex takes only with its own question waived; use {changed}"
        )
    if answer.arguments is not None:
        return specific(hook, permissionDecision="allow", updatedInput=thaw(answer.arguments))
    return context_reply(hook, answer.context)


def _after_tool(hook: AgentHook, answer: Answer) -> Reply:
    if answer.refusal is None and answer.result is None:
        return context_reply(hook, answer.context)
    return block(output_text(answer))


_WRITERS: Final[Mapping[HookKind, Write]] = {
    HookKind.SESSION_START: lambda hook, answer: context_reply(hook, answer.context),
    HookKind.PROMPT: partial(prompt_reply, "Codex"),
    HookKind.BEFORE_TOOL: _before_tool,
    HookKind.AFTER_TOOL: _after_tool,
    HookKind.STOP: block_reply,
}


CODEX: Final = Dialect(
    name="codex",
    versions=("0.171.0",),
    kinds=_KINDS,
    serves=Serves(
        events=CLAUDE.serves.events - {"PERMISSION_REQUEST"},
        gates=CLAUDE.serves.gates - {"permission"},
        transforms=CLAUDE.serves.transforms,
    ),
    takes_context=frozenset({"SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse"}),
    read_event=_read,
    writers=_WRITERS,
    tool_prefix="mcp__ally__",
    asks_person=False,
    find_exit_code=find_exit_code,
    read_record=read_codex_record,
    limits={
        "gate:tool_call": (
            "typing into a running command (`write_stdin`) fires no hook; a question to the person is a deny; that a "
            "command failed is known at the next hook, from its event file"
        ),
        "transform:tool_input": (
            "changed arguments run only where Codex asks for no approval; else the call is denied, with its command in "
            "Codex's own words; the model goes on reading its own call as it was"
        ),
        "transform:tool_output": "a patch that is applied from the shell has no output hook",
        "transform:user_message": "a message that a plugin changes is blocked, with the changed one as the reason",
    },
)
