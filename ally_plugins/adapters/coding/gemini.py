"""Gemini CLI.

Its hooks name no call: one is told by its tool and arguments. `ask` ends the whole run without a word, so that a
question is a deny. What replaces an output is shown to the model as an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve

from ally_plugins.contract.serves import Serves
from ally_plugins.contract.tools.schemas import thaw

from .codex import CODEX
from .command_hooks import (
    base_of,
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
from .event_records import read_gemini_record
from .payloads import AgentHook, HookKind, Payload
from .replies import Reply, say

if TYPE_CHECKING:
    from .replies import Answer

__all__ = ["GEMINI"]

_KINDS: Final = {
    "SessionStart": HookKind.SESSION_START,
    "SessionEnd": HookKind.SESSION_END,
    "BeforeAgent": HookKind.PROMPT,
    "BeforeTool": HookKind.BEFORE_TOOL,
    "AfterTool": HookKind.AFTER_TOOL,
    "AfterAgent": HookKind.STOP,
}
"""Not PreCompress, which comes before each model request and says nothing of a compaction."""


_CODE: Final = re.compile(r"^Exit Code: (\d+)$", re.MULTILINE)
"""What stands in the text of a command that failed, which is told as any other."""


def _read(dialect: Dialect, event: str, payload: Payload) -> AgentHook:
    hook = base_of(dialect, event, payload)
    match hook.kind:
        case HookKind.BEFORE_TOOL:
            return evolve(hook, tool=call_of(dialect, hook, payload, has_id=False))
        case HookKind.AFTER_TOOL:
            response = payload.object("tool_response")
            raw = response.anything("llmContent")
            text = _text_of(raw)
            code = _CODE.search(text)
            failed = "error" in response.data or (code is not None and code[1] != "0")
            call = call_of(dialect, hook, payload, has_id=False)
            return evolve(hook, tool=evolve(call, result=result_of(text, raw, failed=failed), raw=raw))
        case HookKind.STOP:
            hook = evolve(hook, is_sent_on=payload.flag("stop_hook_active"))
            return evolve(hook, text=payload.maybe_text("prompt_response") or "")
        case _:
            return read_plain(hook, payload)


def _text_of(raw: Any) -> str:
    if isinstance(raw, str):
        return raw
    return parts_text(raw, raw if isinstance(raw, list) else [raw])


def _deny(reason: str) -> Reply:
    return say({"decision": "deny", "reason": reason})


def _before_tool(hook: AgentHook, answer: Answer) -> Reply:
    if answer.refusal is not None:
        return _deny(answer.refusal)
    return specific(hook, tool_input=thaw(answer.arguments)) if answer.arguments is not None else Reply()


def _after_tool(hook: AgentHook, answer: Answer) -> Reply:
    if answer.refusal is None and answer.result is None:
        return context_reply(hook, answer.context)
    return _deny(output_text(answer))


def _stop(_: AgentHook, answer: Answer) -> Reply:
    return _deny(answer.refusal) if answer.refusal is not None else Reply()


_WRITERS: Final[Mapping[HookKind, Write]] = {
    HookKind.SESSION_START: lambda hook, answer: context_reply(hook, answer.context),
    HookKind.PROMPT: partial(prompt_reply, "Gemini CLI"),
    HookKind.BEFORE_TOOL: _before_tool,
    HookKind.AFTER_TOOL: _after_tool,
    HookKind.STOP: _stop,
}

GEMINI: Final = Dialect(
    name="gemini",
    versions=("0.61.0",),
    kinds=_KINDS,
    serves=Serves(
        events=CODEX.serves.events - {"COMPACTION_START", "COMPACTION_COMPLETE"},
        gates=CODEX.serves.gates,
        transforms=CODEX.serves.transforms,
    ),
    takes_context=frozenset({"SessionStart", "BeforeAgent", "AfterTool"}),
    read_event=_read,
    writers=_WRITERS,
    read_record=read_gemini_record,
    tool_prefix="mcp_ally_",
    asks_person=False,
    limits={
        "gate:tool_call": "a question to the person is a deny; calls of sub-agents look like the main agent's",
        "transform:tool_input": "the model goes on reading its own call as it was",
        "transform:tool_output": "a changed output is shown to the model as an error",
        "transform:user_message": "a message that a plugin changes is blocked, with the changed one as the reason",
    },
)
