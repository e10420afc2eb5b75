"""opencode, by a plugin of ours in its process that runs the hook client for each hook, and does what it prints.

Its plugins wait for ever and change values in place; what they throw denies. Sub-agents have sessions of their own,
and the event that makes one says for whom it works.
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
from .payloads import AgentHook, EndedCall, HookKind, Payload
from .replies import Reply, say

if TYPE_CHECKING:
    from .replies import Answer

__all__ = ["OPENCODE"]

_KINDS: Final = {
    "event.session.created": HookKind.SESSION_START,
    "chat.message": HookKind.PROMPT,
    "tool.execute.before": HookKind.BEFORE_TOOL,
    "tool.execute.after": HookKind.AFTER_TOOL,
    "event.session.idle": HookKind.STOP,
}


def _read(dialect: Dialect, event: str, payload: Payload) -> AgentHook:
    kind, given = dialect.kinds[event], payload.object("input")
    cwd = payload.maybe_text("directory")  # our plugin's: a prompt may come before the event that says where it is
    if kind in {HookKind.SESSION_START, HookKind.STOP}:
        about = given.object("properties")
        hook = AgentHook(kind=kind, event=event, session_id=about.text("sessionID"), cwd=cwd)
        return _started(hook, about.object("info")) if kind is HookKind.SESSION_START else hook
    hook = AgentHook(kind=kind, event=event, session_id=given.text("sessionID"), cwd=cwd)
    output = payload.object("output")
    if kind is HookKind.PROMPT:
        # Parts without a text are files, which the plugin leaves as they are.
        texts = [part.any_text("text") for part in output.objects("parts") if "text" in part.data]
        return evolve(hook, text="\n".join(texts))
    arguments = (output if kind is HookKind.BEFORE_TOOL else given).anything("args")
    call = dialect.call(given.text("tool"), arguments, given.text("callID"), None, "args")
    return evolve(hook, tool=_ended(call, output) if kind is HookKind.AFTER_TOOL else call)


def _started(hook: AgentHook, info: Payload) -> AgentHook:
    parent = info.maybe_text("parentID")
    hook = evolve(hook, cwd=info.maybe_text("directory") or hook.cwd)
    if parent is None:
        return hook
    name = info.maybe_text("agent")
    return evolve(hook, kind=HookKind.AGENT_START, agent_id=hook.session_id, parent_id=parent, agent_name=name)


def _ended(call: EndedCall, output: Payload) -> EndedCall:
    if "output" in output.data:
        text, code = output.any_text("output"), _exit_code(output)
        return evolve(call, result=result_of(text, text, failed=code not in {0, None}), raw=text)
    parts = output.objects("content")
    texts = [part.any_text("text") for part in parts if "text" in part.data]
    raw = [dict(part.data) for part in parts]
    return evolve(call, result=result_of("\n".join(texts), raw, failed=output.flag("isError")), raw=raw)


def _exit_code(output: Payload) -> Any:
    metadata = output.data.get("metadata")
    return metadata.get("exit") if isinstance(metadata, Mapping) else None


def _before_tool(_: AgentHook, answer: Answer) -> Reply:
    if answer.refusal is not None:
        return say({"throw": answer.refusal})
    return say({"args": thaw(answer.arguments)}) if answer.arguments is not None else Reply()


def _after_tool(_: AgentHook, answer: Answer) -> Reply:
    if answer.refusal is None and answer.result is None:
        return say({"append": answer.context}) if answer.context else Reply()
    return say({"output": output_text(answer)})


def _prompt(_: AgentHook, answer: Answer) -> Reply:
    if answer.refusal is not None:
        return say({"throw": answer.refusal})
    return say({"text": answer.prompt}) if answer.prompt is not None else Reply()


_WRITERS: Final[Mapping[HookKind, Write]] = {
    HookKind.PROMPT: _prompt,
    HookKind.BEFORE_TOOL: _before_tool,
    HookKind.AFTER_TOOL: _after_tool,
}

OPENCODE: Final = Dialect(
    name="opencode",
    versions=("1.18.33",),
    kinds=_KINDS,
    serves=Serves(
        events=CLAUDE.serves.events
        - FROM_EVENT_FILE
        - {"COMPACTION_START", "COMPACTION_COMPLETE", "PERMISSION_REQUEST", "ASSISTANT_MESSAGE"},
        gates=("tool_call", "message", "user_message"),
        transforms=("tool_input", "tool_output", "user_message", "plugin_message"),
    ),
    takes_context=frozenset({"tool.execute.after"}),
    read_event=_read,
    writers=_WRITERS,
    tool_prefix="ally_",
    asks_person=False,
    takes_prompts=True,
    limits={
        "gate:tool_call": "a question to the person is a deny",
        "gate:user_message": "files beside the text of a message are not shown to it",
    },
)
