"""Codex rollouts: one JSON record a line, as `~/.codex/sessions/**/rollout-*.jsonl` has them: timestamp, type, payload.

Two logs lie in one file: `response_item` is what the model was sent and answered, and is what is replayed; `event_msg`
is what the program showed, and is read for what stands only there: token counts, exit codes, interruptions, turns that
were rolled back, a person's message that is no item. Records without a `payload`, of versions before 0.32, are items.

What has no event is skipped and counted under its type, an event as `event:TYPE`, a message as `message:ROLE`; text
that the program put into a person's message as `meta`; what was rolled back as `rewound`; a sub-agent, whose records
lie in a rollout of its own, as `subagent-rollout`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from attrs import define, field

from ally_plugins.contract.tools.common_names import common_name
from ally_plugins.contract.values.compat import override

from .content import text_of
from .json_lines import decode_record
from .record_reading import RecordReading
from .rollout_records import CALLS, SERVER_CALLS, find_rolled_back, is_rollout_record, unwrapped
from .rollout_texts import exit_code_of, is_injected, is_refusal, persons_texts, texts_of
from .steps import (
    AgentEnded,
    AgentStarted,
    AssistantReplied,
    CompactionCompleted,
    CompactionStarted,
    Interrupted,
    ModelRequested,
    ModelResponded,
    PersonMessage,
    SessionEnded,
    SessionStarted,
    Thought,
    ToolCalled,
    ToolReturned,
    Usage,
    percent_of,
)
from .tool_effects import steps_of_call

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .steps import Step

__all__ = ["read_rollout"]

_MAX_KEPT: Final = 4096  # calls that are remembered until their result comes, which some never do
_SPAWN: Final = "spawn_agent"


def read_rollout(file: BinaryIO, context_window: int) -> Iterator[Step]:
    """Yield the steps of a rollout, without safe points. Never raises for what a line holds.

    `file` must be seekable, since it is read twice. `context_window` is in tokens, for files that do not record it.
    """
    return _Rollout(context_window).read(file, is_rollout_record, find_rolled_back)


@define
class _Rollout(RecordReading):
    """State between records."""

    model: str = ""
    agent_id: str | None = None
    agent_name: str = ""
    is_agent_started: bool = False
    is_answering: bool = False
    calls: int = 0
    tokens: int = -1
    percent: float | None = None
    unanswered: list[str] = field(factory=list)  # the person's messages since the model's last answer
    exit_codes: dict[str, int] = field(factory=dict)
    spawns: set[str] = field(factory=set)  # calls that start sub-agents

    @override
    def receive_record(self, record: dict[str, Any]) -> None:
        self.clock.read(record.get("timestamp"))
        kind, payload = unwrapped(record)
        if kind == "session_meta" and not self.has_started:
            self._start(payload)
        elif kind == "response_item":
            self._item(payload)
        elif kind == "event_msg":
            self._event(payload)
        elif kind == "compacted":
            self._compacted()
        elif kind == "token_usage_record":
            self._used(payload.get("usage"))
        else:
            # Read though it is skipped: answers do not name their model.
            if kind == "turn_context":
                self.model = text_of(payload, "model") or self.model
            self.skip(kind or "unknown")

    @override
    def end(self) -> None:
        self._start({})
        if self.is_agent_started and self.agent_id is not None:
            self.out.add(AgentEnded(self.clock.now, self.agent_id, None))
        self.out.add(SessionEnded(self.clock.now))

    def _start(self, meta: dict[str, Any]) -> None:
        if self.has_started:
            return
        self.has_started = True
        session_id = text_of(meta, "id")
        source = meta.get("source")
        if type(source) is dict and "subagent" in source:  # all of the file is what a sub-agent did
            self.agent_id = session_id or "subagent"
            self.agent_name = text_of(meta, "agent_role") or text_of(meta, "agent_nickname")
        self.out.add(SessionStarted(self.clock.now, session_id, text_of(meta, "cwd")))

    # -- items

    def _item(self, item: dict[str, Any]) -> None:
        self._start({})
        kind = text_of(item, "type") or ("message" if "role" in item else "")
        if kind == "message":
            self._message(item)
        elif kind == "reasoning":
            self._answer()
            texts = [*texts_of(item.get("summary"), self.notes), *texts_of(item.get("content"), self.notes)]
            if any(text.strip() for text in texts):
                self.out.add(Thought(self.clock.now, "\n\n".join(texts), agent_id=self.agent_id))
        elif kind in CALLS:
            self._call(kind, item)
        elif kind in SERVER_CALLS:
            self._server_call(SERVER_CALLS[kind], item)
        elif kind.endswith("_output"):
            self._result(item)
        else:
            self.skip(kind or "unknown")

    def _message(self, item: dict[str, Any]) -> None:
        role = text_of(item, "role")
        if role == "assistant":
            self._answer()
            text = "\n".join(texts_of(item.get("content"), self.notes))
            if text.strip():
                self.out.add(AssistantReplied(self.clock.now, text, self.model, agent_id=self.agent_id))
        elif role == "user":
            own, injected = persons_texts(item, self.notes)
            for _ in range(injected):
                self.skip("meta")
            if own:
                self._person("\n".join(own))
        else:
            self.skip(f"message:{role or 'unknown'}")

    def _person(self, text: str) -> None:
        """Add what the person said; it stands in both logs, and in one of them perhaps with more around it."""
        if self.is_answering:
            self.is_answering = False
            self.unanswered.clear()
        for other in self.unanswered:
            # In part, since one of the logs may have the program's own text around it.
            if text in other or other in text:
                self.unanswered.remove(other)  # its second half; the next equal message is another one
                return
        self.unanswered.append(text)
        now = self.clock.now
        if self.agent_id is None:
            self.out.add(PersonMessage(now, text))
        elif not self.is_agent_started:
            self.is_agent_started = True
            self.out.add(AgentStarted(now, self.agent_id, None, self.agent_name, text, self.model))

    def _answer(self) -> None:
        """Begin an answer of the model, unless one is under way."""
        if not self.is_answering:
            self.is_answering = True
            now = self.clock.now
            self.out.close(self.agent_id)
            self.out.add(ModelRequested(now, self.model, agent_id=self.agent_id))
            self.out.add(ModelResponded(now, self.model, agent_id=self.agent_id))

    def _call(self, kind: str, item: dict[str, Any]) -> None:
        self._answer()
        tool_name = text_of(item, "name") or kind.removesuffix("_call")
        call_id = text_of(item, "call_id") or text_of(item, "id")
        if not call_id:
            self.notes.wrong("a call's call_id", item.get("call_id"), "a text that is not empty")
            return
        given = item.get("input") if kind == "custom_tool_call" else item.get("arguments", item.get("action"))
        self._add_call(call_id, tool_name, self._arguments(given, is_free=kind == "custom_tool_call"))

    def _add_call(self, call_id: str, tool_name: str, arguments: dict[str, Any]) -> None:
        if tool_name == _SPAWN and len(self.spawns) < _MAX_KEPT:
            self.spawns.add(call_id)
        common = common_name("codex", tool_name)
        called = ToolCalled(self.clock.now, call_id, tool_name, arguments, common=common, agent_id=self.agent_id)
        for step in steps_of_call(called):
            self.out.add(step)

    def _arguments(self, given: Any, *, is_free: bool) -> dict[str, Any]:
        """Return a call's arguments, which are JSON inside a text, or free text."""
        if type(given) is dict:
            return given
        if given is None or given == "":
            return {}
        if is_free:
            return {"input": given}
        found = decode_record(given.encode("utf-8", "replace")) if type(given) is str else ""
        if type(found) is dict:
            return found
        self.notes.wrong("a call's arguments", given, "a JSON object as a text")
        return {"raw": given}

    def _server_call(self, tool_name: str, item: dict[str, Any]) -> None:
        """Add a call that the model's provider carried out: its result is not recorded."""
        self._answer()
        self.calls += 1
        call_id = text_of(item, "id") or f"{tool_name}-{self.calls}"
        action = item.get("action")
        self._add_call(call_id, tool_name, action if type(action) is dict else {})
        success = item.get("status") != "failed"
        self.out.add(ToolReturned(self.clock.now, call_id, success, error=None if success else "failed"))

    def _result(self, item: dict[str, Any]) -> None:
        call_id = text_of(item, "call_id")
        if not call_id:
            self.notes.wrong("an output's call_id", item.get("call_id"), "a text that is not empty")
            return
        self.is_answering = False
        self.unanswered.clear()
        output, code = exit_code_of(item.get("output", item.get("tools")), self.notes)
        known = self.exit_codes.pop(call_id, None)
        success = (code if known is None else known) in {0, None}
        is_rejected = is_refusal(output)
        if call_id in self.spawns:
            self.spawns.remove(call_id)
            self.skip("subagent-rollout")
        self.out.add(
            ToolReturned(
                self.clock.now,
                call_id,
                success=success and not is_rejected,
                output=output,
                error=None if success and not is_rejected else output,
                is_rejected=is_rejected,
            )
        )

    # -- events

    def _event(self, event: dict[str, Any]) -> None:
        kind = text_of(event, "type")
        handle = _EVENTS.get(kind)
        if handle is None:
            self.skip(f"event:{kind}")
        else:
            self._start({})
            handle(self, event)

    def _user_message(self, event: dict[str, Any]) -> None:
        text = text_of(event, "message")
        if text.strip() and not is_injected(text):
            self._person(text)

    def _token_count(self, event: dict[str, Any]) -> None:
        info = event.get("info")
        info = info if type(info) is dict else {}
        self._window(info)
        self._used(info.get("last_token_usage"))

    def _used(self, usage: Any) -> None:
        if type(usage) is not dict:
            return
        given, cached, made, total = (
            _count(usage, f"{key}_tokens") for key in ("input", "cached_input", "output", "total")
        )
        if given is not None and cached is not None and given >= cached:
            given -= cached  # what is read from the cache is counted apart
        self.out.amend(self.agent_id, input_tokens=given, cache_read_tokens=cached, output_tokens=made)
        self.out.close(self.agent_id)
        # One count may stand in several records.
        if total and total != self.tokens and self.agent_id is None:
            self.tokens = total
            self.percent = percent_of(total, self.context_window)
            self.out.add(Usage(self.clock.now, self.percent, total))

    def _window(self, event: dict[str, Any]) -> None:
        self.context_window = _count(event, "model_context_window") or self.context_window

    def _exit_code(self, event: dict[str, Any]) -> None:
        code = event.get("exit_code")
        # A patch has no exit code.
        if type(code) is not int and type(event.get("success")) is bool:
            code = 0 if event["success"] else 1
        if type(code) is int and len(self.exit_codes) < _MAX_KEPT:
            self.exit_codes[text_of(event, "call_id")] = code

    def _aborted(self, _event: dict[str, Any]) -> None:
        self.is_answering = False
        if self.agent_id is None:
            self.out.add(Interrupted(self.clock.now))

    def _compacted(self) -> None:
        self._start({})
        now = self.clock.now
        if self.agent_id is None:
            self.out.add(CompactionStarted(now))
            self.out.add(CompactionCompleted(now, self.percent, None))
        else:
            self.skip("compacted")


_EVENTS: Final[dict[str, Callable[[_Rollout, dict[str, Any]], None]]] = {
    "exec_command_end": _Rollout._exit_code,  # noqa: SLF001 - this module's own class
    "patch_apply_end": _Rollout._exit_code,  # noqa: SLF001 - likewise
    "task_started": _Rollout._window,  # noqa: SLF001 - likewise
    "token_count": _Rollout._token_count,  # noqa: SLF001 - likewise
    "turn_aborted": _Rollout._aborted,  # noqa: SLF001 - likewise
    "turn_started": _Rollout._window,  # noqa: SLF001 - likewise
    "user_message": _Rollout._user_message,  # noqa: SLF001 - likewise
}


def _count(values: dict[str, Any], key: str) -> int | None:
    value = values.get(key)
    return value if type(value) is int and value >= 0 else None
