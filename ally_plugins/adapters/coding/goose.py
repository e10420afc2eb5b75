"""Goose: a gate of tool calls, and of the end of a turn.

It knows `{"decision": "block"}` and nothing else: what `deny` or `ask` would say runs. It takes no changed arguments,
holds no prompt, and no hook has a tool's output. A sub-agent has a session of its own, and nothing leads to its parent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from attrs import evolve

from ally_plugins.contract.serves import Serves
from ally_plugins.contract.values.conversation import ToolResult

from .claude import CLAUDE
from .command_hooks import block, block_reply
from .dialect import FROM_EVENT_FILE, Dialect, Write
from .payloads import AgentHook, HookKind, Payload, PayloadError
from .replies import Reply, UnsayableError

if TYPE_CHECKING:
    from .replies import Answer

__all__ = ["GOOSE"]

_FAILED: Final = "PostToolUseFailure"

_KINDS: Final = {
    "SessionStart": HookKind.SESSION_START,
    "SessionEnd": HookKind.SESSION_END,
    "UserPromptSubmit": HookKind.PROMPT,
    "PreToolUse": HookKind.BEFORE_TOOL,
    "PostToolUse": HookKind.AFTER_TOOL,
    _FAILED: HookKind.AFTER_TOOL,
    "Stop": HookKind.STOP,
}


def _read(dialect: Dialect, event: str, payload: Payload) -> AgentHook:
    named = payload.text("event")
    if named != event:
        raise PayloadError(f"'event' is {named!r:.80}; expected {event!r}")
    hook = AgentHook(
        kind=dialect.kinds[event],
        event=event,
        session_id=payload.text("session_id"),
        cwd=payload.maybe_text("working_dir"),
    )
    match hook.kind:
        case HookKind.PROMPT:
            return evolve(hook, text=payload.any_text("message"))
        case HookKind.BEFORE_TOOL | HookKind.AFTER_TOOL:
            call = dialect.call(payload.text("tool_name"), payload.anything("tool_input"), None, None, "tool_input")
            failed = event == _FAILED
            result = ToolResult(success=not failed, error="it failed; Goose does not say how" if failed else None)
            return evolve(hook, tool=call if hook.kind is HookKind.BEFORE_TOOL else evolve(call, result=result))
        case _:
            return hook


def _before_tool(_: AgentHook, answer: Answer) -> Reply:
    if answer.refusal is not None:
        return block(answer.refusal)
    if answer.arguments is not None:
        raise UnsayableError("plugins have changed the arguments, and Goose takes no changed ones")
    return Reply()


_WRITERS: Final[Mapping[HookKind, Write]] = {HookKind.BEFORE_TOOL: _before_tool, HookKind.STOP: block_reply}

GOOSE: Final = Dialect(
    name="goose",
    versions=("1.37.0",),
    kinds=_KINDS,
    serves=Serves(
        events=CLAUDE.serves.events
        - FROM_EVENT_FILE
        - {"COMPACTION_START", "COMPACTION_COMPLETE", "PERMISSION_REQUEST", "ASSISTANT_MESSAGE"},
        gates=("tool_call", "message", "stop"),
        transforms=("tool_input", "plugin_message"),
    ),
    takes_context=frozenset(),
    read_event=_read,
    writers=_WRITERS,
    asks_person=False,
    limits={
        "gate:tool_call": "a question to the person is a deny; sub-agents have conversations of their own",
        "gate:stop": "the hook does not hold the agent's answer",
        "transform:tool_input": "a call whose arguments a plugin changes is denied",
    },
)
