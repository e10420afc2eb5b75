"""pi's sessions: one JSON entry a line, as `~/.pi/agent/sessions/**/*.jsonl` has them; versions 1 to 3.

From version 2 on the entries are a tree: replayed is the way to the last one, the others count as `rewound`. What has
no event is skipped and counted under its type, a message that is neither the person's, the model's nor a result as
`message:ROLE`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO, Final

from attrs import define

from ally_plugins.contract.tools.common_names import common_name
from ally_plugins.contract.values.compat import override

from .branches import Abandoned, Branches
from .content import flatten, iterate_blocks, text_of
from .record_reading import RecordReading
from .steps import (
    AssistantReplied,
    CompactionCompleted,
    CompactionStarted,
    Interrupted,
    ModelRequested,
    ModelResponded,
    PersonMessage,
    SessionEnded,
    SessionStarted,
    Step,
    Thought,
    ToolCalled,
    ToolReturned,
    Usage,
    percent_of,
)
from .tool_effects import steps_of_call

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["is_pi_record", "read_pi_session"]

_USAGE: Final = ("input", "output", "cacheRead", "cacheWrite")  # in the order of `ModelResponded`


def is_pi_record(record: dict[str, Any]) -> bool:
    """Return whether an object is an entry of a session, and no part of one."""
    kind, message = record.get("type"), record.get("message")
    if kind == "message":
        return type(message) is dict and type(message.get("role")) is str and "timestamp" in record
    if kind == "session":
        return type(record.get("id")) is str and "timestamp" in record and "cwd" in record
    return type(kind) is str and type(record.get("id")) is str and "parentId" in record


def read_pi_session(file: BinaryIO, context_window: int) -> Iterator[Step]:
    """Yield the steps of a session, without safe points. Never raises for what a line holds.

    `file` must be seekable, since it is read twice. `context_window` is in tokens, which sessions do not record.
    """
    return _PiSession(context_window).read(file, is_pi_record, _find_left)


def _find_left(records: Iterable[tuple[int, dict[str, Any] | str]]) -> Abandoned:
    """Return the places of the entries that the last one does not follow, from 0."""
    branches = Branches()
    for place, (_, record) in enumerate(records):
        if type(record) is dict and (name := text_of(record, "id")) and "parentId" in record:
            parent = record["parentId"]
            branches.receive_record(
                place,
                name,
                parent if type(parent) is str else None,
                is_turn=True,
                is_anchor=True,
                # A `parentId` of another type is a fault, and takes nothing back.
                may_branch=parent is None or type(parent) is str,
            )
    return branches.abandoned


@define
class _PiSession(RecordReading):
    """State between entries."""

    percent: float | None = None

    @override
    def receive_record(self, record: dict[str, Any]) -> None:
        # A request has no entry: it was sent when the entry before its answer was written.
        requested_at = self.clock.now
        self.clock.read(record.get("timestamp"))
        kind = record.get("type")
        if type(kind) is not str:
            self.notes.wrong("type", kind, "a text")
        elif kind == "session" and not self.has_started:
            self._start(record)
        elif kind == "message":
            self._start({})
            self._message(record.get("message"), requested_at or self.clock.now)
        elif kind == "compaction":
            self._start({})
            self._compacted(record)
        else:
            self.skip(kind)

    @override
    def end(self) -> None:
        self._start({})
        self.out.add(SessionEnded(self.clock.now))

    def _start(self, header: dict[str, Any]) -> None:
        if not self.has_started:
            self.has_started = True
            model = text_of(header, "modelId")
            self.out.add(SessionStarted(self.clock.now, text_of(header, "id"), text_of(header, "cwd"), model))

    def _message(self, message: Any, requested_at: int) -> None:
        if type(message) is not dict:
            self.notes.wrong("message", message, "an object")
            return
        role = text_of(message, "role")
        if role == "user":
            text = flatten(message.get("content"), self.notes)
            if text.strip():
                self.out.add(PersonMessage(self.clock.now, text))
        elif role == "assistant":
            self._answer(message, requested_at)
        elif role == "toolResult":
            self._result(message)
        else:
            self.skip(f"message:{role or 'unknown'}")

    def _answer(self, message: dict[str, Any], requested_at: int) -> None:
        now, model = self.clock.now, text_of(message, "model")
        counts = _counts_of(message.get("usage"))
        self.out.add(ModelRequested(requested_at, model))
        reason = text_of(message, "stopReason")
        used = map(counts.get, _USAGE)
        self.out.add(ModelResponded(now, model, reason or None, *used))
        self.out.close(None)  # its counts stand in it
        if tokens := counts.get("totalTokens") or sum(counts.values()):
            self.percent = percent_of(tokens, self.context_window)
            self.out.add(Usage(now, self.percent, tokens))
        for block in iterate_blocks(message.get("content"), self.notes):
            self._block(block, model)
        if reason == "aborted":
            self.out.add(Interrupted(now))

    def _block(self, block: dict[str, Any], model: str) -> None:
        kind, now = block.get("type"), self.clock.now
        if kind == "text":
            if (text := text_of(block, "text")).strip():
                self.out.add(AssistantReplied(now, text, model))
        elif kind == "thinking":
            if (text := text_of(block, "thinking")).strip():
                self.out.add(Thought(now, text))
        elif kind == "toolCall":
            self._call(block)
        else:
            self.notes.placeholders.append(kind if type(kind) is str else "unknown")

    def _call(self, block: dict[str, Any]) -> None:
        call_id, tool_name, arguments = text_of(block, "id"), text_of(block, "name"), block.get("arguments")
        if not call_id or not tool_name:
            self.notes.wrong("a toolCall's id or name", "", "a text that is not empty")
            return
        if type(arguments) is not dict:
            self.notes.wrong("a toolCall's arguments", arguments, "an object")
            arguments = {}
        called = ToolCalled(self.clock.now, call_id, tool_name, arguments, common=common_name("pi", tool_name))
        for step in steps_of_call(called):
            self.out.add(step)

    def _result(self, message: dict[str, Any]) -> None:
        call_id, is_error = text_of(message, "toolCallId"), message.get("isError")
        if not call_id:
            self.notes.wrong("toolCallId", message.get("toolCallId"), "a text that is not empty")
            return
        output = flatten(message.get("content"), self.notes)
        success = is_error is not True
        self.out.add(ToolReturned(self.clock.now, call_id, success, output, None if success else output))

    def _compacted(self, record: dict[str, Any]) -> None:
        now, before = self.clock.now, record.get("tokensBefore")
        old = percent_of(before, self.context_window) if type(before) is int and before >= 0 else self.percent
        self.out.add(CompactionStarted(now))
        self.out.add(CompactionCompleted(now, old, None))


def _counts_of(usage: Any) -> dict[str, int]:
    if type(usage) is not dict:
        return {}
    return {key: usage[key] for key in (*_USAGE, "totalTokens") if type(usage.get(key)) is int and usage[key] >= 0}
