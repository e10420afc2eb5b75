"""Copilot CLI.

Its payloads do not name their event, and name no call. After a tool, and with the prompt, only an answer closes: exit
code 2 lets them through. A sub-agent has a session of its own, with the agent that it works for in `parentAgentId`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve

from ally_plugins.contract.serves import Serves
from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values.conversation import ToolResult

from .claude import CLAUDE
from .command_hooks import block, block_reply, output_text, result_of
from .dialect import FROM_EVENT_FILE, Dialect, Write
from .payloads import AgentHook, EndedCall, HookKind, Payload
from .replies import Reply, say

if TYPE_CHECKING:
    from .replies import Answer

__all__ = ["COPILOT"]

_REFUSED: Final = "postToolUseFailure"
"""Of a call that the tool itself did not take; its text is Copilot's own."""

_KINDS: Final = {
    "sessionStart": HookKind.SESSION_START,
    "sessionEnd": HookKind.SESSION_END,
    "userPromptSubmitted": HookKind.PROMPT,
    "preToolUse": HookKind.BEFORE_TOOL,
    "postToolUse": HookKind.AFTER_TOOL,
    _REFUSED: HookKind.AFTER_TOOL,
    "permissionRequest": HookKind.PERMISSION,
    "agentStop": HookKind.STOP,
    "subagentStart": HookKind.AGENT_START,
    "subagentStop": HookKind.AGENT_STOP,
}

_ARGUMENTS: Final = {
    HookKind.BEFORE_TOOL: "toolArgs",
    HookKind.AFTER_TOOL: "toolArgs",
    HookKind.PERMISSION: "toolInput",
}


_CODE: Final = re.compile(r"completed with exit code (\d+)>\s*\Z")
"""How the text of a command ends; one that failed is told as a success."""


def _read(dialect: Dialect, event: str, payload: Payload) -> AgentHook:
    kind = dialect.kinds[event]
    hook = AgentHook(
        kind=kind,
        event=event,
        session_id=payload.text("sessionId"),
        agent_id=payload.maybe_text("agentId"),
        agent_name=payload.maybe_text("agentType"),
        parent_id=payload.maybe_text("parentAgentId"),
        cwd=payload.maybe_text("cwd"),
    )
    if kind in _ARGUMENTS:
        call = _call(dialect, hook, payload, _ARGUMENTS[kind])
        return evolve(hook, tool=_ended(hook, call, payload) if kind is HookKind.AFTER_TOOL else call)
    if kind is HookKind.PROMPT:
        return evolve(hook, text=payload.any_text("prompt"), is_person=hook.agent_id is None)
    return evolve(
        hook,
        is_sent_on=payload.flag("stop_hook_active"),
        source=payload.maybe_text("source"),
        text=payload.maybe_text("response") or payload.maybe_text("reason") or "",
    )


def _call(dialect: Dialect, hook: AgentHook, payload: Payload, arguments: str) -> EndedCall:
    return dialect.call(payload.text("toolName"), payload.anything(arguments), None, hook.agent_id, arguments)


def _ended(hook: AgentHook, call: EndedCall, payload: Payload) -> EndedCall:
    if hook.event == _REFUSED:
        text = payload.any_text("error")
        return evolve(call, result=ToolResult(success=False, output=text, error=text), raw=text)
    result = payload.object("toolResult")
    text = result.any_text("textResultForLlm")
    code = _CODE.search(text)
    failed = result.data.get("resultType") != "success" or (code is not None and code[1] != "0")
    return evolve(call, result=result_of(text, text, failed=failed), raw=text)


def _before_tool(_: AgentHook, answer: Answer) -> Reply:
    if answer.refusal is not None:
        return say({"permissionDecision": "deny", "permissionDecisionReason": answer.refusal})
    if answer.question is not None:
        return say({"permissionDecision": "ask", "permissionDecisionReason": answer.question})
    # Without `allow`, which would waive Copilot's own question.
    return say({"modifiedArgs": thaw(answer.arguments)}) if answer.arguments is not None else Reply()


def _after_tool(hook: AgentHook, answer: Answer) -> Reply:
    if hook.event == _REFUSED:
        return Reply()
    if answer.refusal is not None:
        return block(answer.refusal)
    said: dict[str, Any] = {"additionalContext": answer.context} if answer.context else {}
    if answer.result is not None:
        text = output_text(evolve(answer, context=""))
        said["modifiedResult"] = {"resultType": "success", "textResultForLlm": text}
    return say(said) if said else Reply()


def _prompt(_: AgentHook, answer: Answer) -> Reply:
    if answer.refusal is not None:
        return block(answer.refusal)
    said: dict[str, Any] = {"additionalContext": answer.context} if answer.context else {}
    if answer.prompt is not None:
        said["modifiedPrompt"] = answer.prompt
    return say(said) if said else Reply()


def _permission(_: AgentHook, answer: Answer) -> Reply:
    return say({"behavior": "deny", "message": answer.refusal}) if answer.refusal is not None else Reply()


def _start(_: AgentHook, answer: Answer) -> Reply:
    return say({"additionalContext": answer.context}) if answer.context else Reply()


_WRITERS: Final[Mapping[HookKind, Write]] = {
    HookKind.SESSION_START: _start,
    HookKind.PROMPT: _prompt,
    HookKind.BEFORE_TOOL: _before_tool,
    HookKind.AFTER_TOOL: _after_tool,
    HookKind.PERMISSION: _permission,
    HookKind.STOP: block_reply,
}

COPILOT: Final = Dialect(
    name="copilot",
    versions=("1.0.102",),
    kinds=_KINDS,
    serves=Serves(
        events=CLAUDE.serves.events
        - FROM_EVENT_FILE
        - {"COMPACTION_START", "COMPACTION_COMPLETE", "ASSISTANT_MESSAGE"},
        gates=CLAUDE.serves.gates,
        transforms=CLAUDE.serves.transforms,
    ),
    takes_context=frozenset({"sessionStart", "userPromptSubmitted", "postToolUse"}),
    read_event=_read,
    writers=_WRITERS,
    tool_prefix="ally-",
    asks_person=True,
    takes_prompts=True,
    limits={
        "gate:permission": "a waiver is not passed on: Copilot asks its own question all the same",
        "gate:stop": "the hook does not hold the agent's answer",
    },
)
