"""pi, by an extension of ours in its process that runs the hook client for each event, and returns what it prints.

The events say no session: the extension adds `session_id` and `cwd`. An extension that throws closes a call; pi waits
for one for ever. Whoever sends it on without a condition at the end of its loop never ends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve

from ally_plugins.contract.serves import Serves
from ally_plugins.contract.tools.schemas import thaw

from .claude import CLAUDE
from .command_hooks import output_text, result_of
from .dialect import FROM_EVENT_FILE, Dialect, Write
from .payloads import AgentHook, EndedCall, HookKind, Payload, PayloadError
from .replies import Reply, say

if TYPE_CHECKING:
    from .replies import Answer

__all__ = ["PI"]

_KINDS: Final = {
    "session_start": HookKind.SESSION_START,
    "session_shutdown": HookKind.SESSION_END,
    "input": HookKind.PROMPT,
    "tool_call": HookKind.BEFORE_TOOL,
    "tool_result": HookKind.AFTER_TOOL,
    "agent_end": HookKind.STOP,
}


def _read(dialect: Dialect, event: str, payload: Payload) -> AgentHook:
    named = payload.text("type")
    if named != event:
        raise PayloadError(f"'type' is {named!r:.80}; expected {event!r}")
    kind = dialect.kinds[event]
    hook = AgentHook(kind=kind, event=event, session_id=payload.text("session_id"), cwd=payload.maybe_text("cwd"))
    if kind is HookKind.PROMPT:
        # What an extension sends is no person's.
        return evolve(hook, text=payload.any_text("text"), is_person=payload.maybe_text("source") != "extension")
    if kind in {HookKind.BEFORE_TOOL, HookKind.AFTER_TOOL}:
        arguments, call_id = payload.anything("input"), payload.text("toolCallId")
        call = dialect.call(payload.text("toolName"), arguments, call_id, None, "input")
        return evolve(hook, tool=call if kind is HookKind.BEFORE_TOOL else _ended(call, payload))
    return evolve(hook, text=payload.maybe_text("text") or payload.maybe_text("reason") or "")


def _ended(call: EndedCall, payload: Payload) -> EndedCall:
    parts = payload.objects("content")
    texts = [part.any_text("text") for part in parts if "text" in part.data]
    raw: dict[str, Any] = {"content": [dict(part.data) for part in parts]}
    if "structuredContent" in payload.data:
        raw["structuredContent"] = payload.anything("structuredContent")
    return evolve(call, result=result_of("\n".join(texts), raw, failed=payload.flag("isError")), raw=raw)


def _before_tool(_: AgentHook, answer: Answer) -> Reply:
    if answer.refusal is not None:
        return say({"return": {"block": True, "reason": answer.refusal}})
    return say({"args": thaw(answer.arguments)}) if answer.arguments is not None else Reply()


def _after_tool(_: AgentHook, answer: Answer) -> Reply:
    said: dict[str, Any] = {"send": answer.context, "as": "steer"} if answer.context else {}
    if answer.refusal is not None or answer.result is not None:
        text = output_text(evolve(answer, context=""))
        said["return"] = {"content": [{"type": "text", "text": text}]}
    return say(said) if said else Reply()


def _prompt(_: AgentHook, answer: Answer) -> Reply:
    if answer.refusal is not None:
        return say({"return": {"action": "handled"}, "notify": answer.refusal})
    return say({"return": {"action": "transform", "text": answer.prompt}}) if answer.prompt is not None else Reply()


def _stop(_: AgentHook, answer: Answer) -> Reply:
    return say({"send": answer.refusal, "as": "followUp"}) if answer.refusal is not None else Reply()


_WRITERS: Final[Mapping[HookKind, Write]] = {
    HookKind.PROMPT: _prompt,
    HookKind.BEFORE_TOOL: _before_tool,
    HookKind.AFTER_TOOL: _after_tool,
    HookKind.STOP: _stop,
}

PI: Final = Dialect(
    name="pi",
    versions=("1.6.0",),
    kinds=_KINDS,
    serves=Serves(
        events=CLAUDE.serves.events
        - FROM_EVENT_FILE
        - {"COMPACTION_START", "COMPACTION_COMPLETE", "PERMISSION_REQUEST"},
        gates=("tool_call", "message", "user_message", "stop"),
        transforms=("tool_input", "tool_output", "user_message", "plugin_message"),
    ),
    takes_context=frozenset({"tool_result"}),
    read_event=_read,
    writers=_WRITERS,
    asks_person=False,
    takes_prompts=True,
    limits={
        "gate:tool_call": "a question to the person is a deny",
        "transform:tool_input": "the model goes on reading its own call as it was",
    },
)
