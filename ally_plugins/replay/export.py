"""Exports of our own journal: JSON lines, a header and then events and messages of one or more sessions.

Replayed is what the host and its agent did. What plugins did at that time (their messages, their events, decisions,
dropped events, thresholds) is skipped and counted under the event type: plugins act anew in a replay. Of several
sessions in one file one is replayed; the lines of the others are counted as `other session`. An event's line has the
params of `on_event`; in version 1 it had `type`, `at` and, as `data`, the event with names that are gone, or its data.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import attrs
import orjson
from attrs import define, field

from ally_plugins.contract.tables import Table, keys_of
from ally_plugins.contract.tools.common_names import CommonName, argument_names
from ally_plugins.contract.tools.todo_tools import todos_of
from ally_plugins.contract.values.eventjson import camel
from ally_plugins.contract.values.events import EVENT_TYPES, Event
from ally_plugins.journal.export import FORMAT, VERSION
from ally_plugins.journal.values import DECISION

from .clock import TimestampClock
from .content import Notes, text_of
from .json_recovery import iterate_records
from .steps import (
    AgentEnded,
    AgentStarted,
    AssistantReplied,
    BrokenLine,
    CompactionCompleted,
    CompactionStarted,
    Diff,
    DiffMade,
    ModelRequested,
    ModelResponded,
    PermissionAnswered,
    PermissionRequested,
    PersonMessage,
    SessionEnded,
    SessionStarted,
    Skipped,
    Thought,
    TodosChanged,
    ToolCalled,
    ToolReturned,
    Usage,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .steps import Step

__all__ = ["EXPORT_VERSIONS", "read_export"]

EXPORT_VERSIONS: Final = range(1, VERSION + 1)
"""The versions that are read."""


def read_export(file: BinaryIO, session_id: str | None = None) -> Iterator[Step]:
    """Yield the steps of one session of an export, without safe points; the first one where none is named.

    Never raises for what a line holds.
    """
    export = _Export(session_id)
    for number, record in iterate_records(file, _is_record):
        if type(record) is str:
            yield BrokenLine(export.clock.now, number, record)
        elif type(record) is dict:
            yield from export.receive_record(number, record)
    yield from export.end()


def _is_record(record: dict[str, Any]) -> bool:
    return record.get("format") == FORMAT or (type(record.get("kind")) is str and "session_id" in record)


@cache
def _data_of(event_type: str) -> Table:
    """Return the keys of a type's data, which are read by the names that its class has for them."""
    envelope: dict[str, None] = dict.fromkeys(attrs.fields_dict(Event))
    return Table(keys_of(EVENT_TYPES[event_type], camel, **envelope))


@define
class _Event:
    """One exported event: its time, what is right of its data by the fields' names, and the ids of its envelope."""

    at: int
    data: Mapping[str, Any]
    notes: Notes
    call_id: str
    agent_id: str | None

    def text(self, name: str) -> str:
        return str(self.data.get(name, ""))

    @property
    def tool_name(self) -> str:
        if "tool_name" not in self.data:
            self.notes.missing("", "toolName", "a string")
        return self.text("tool_name")

    @property
    def common(self) -> CommonName:
        common = self.text("common_name") or None
        return common, {} if common is None else argument_names(self.tool_name, common)


@define
class _Export:
    """State between records. Lives as long as one reading of a file."""

    session_id: str | None
    clock: TimestampClock = field(factory=TimestampClock)
    has_started: bool = False
    end_reason: str = ""

    def receive_record(self, number: int, record: dict[str, Any]) -> Iterator[Step]:
        """Yield the steps of one line, and a BrokenLine too when a part of it cannot be read."""
        notes = Notes()
        yield from self._steps(record, notes)
        if notes.problem is not None:
            yield BrokenLine(self.clock.now, number, notes.problem)

    def end(self) -> Iterator[Step]:
        """Yield the last steps, at the end of the file."""
        yield from self._start("")
        yield SessionEnded(self.clock.now, self.end_reason or "end_of_recording")

    def _steps(self, record: dict[str, Any], notes: Notes) -> Iterator[Step]:
        kind = record.get("kind")
        if kind != "event":
            if kind is None and record.get("format") == FORMAT:
                return
            if kind == DECISION:  # the event DECISION says so too, and counts
                return
            if type(kind) is str:
                yield Skipped(self.clock.now, kind)
            else:
                notes.wrong("kind", kind, "a text")
            return
        session_id = text_of(record, "session_id")
        self.session_id = self.session_id or session_id
        if session_id != self.session_id:
            yield Skipped(self.clock.now, "other session")
        else:
            yield from self._event(record if "event_type" in record else _from_version_1(record), notes)

    def _event(self, record: dict[str, Any], notes: Notes) -> Iterator[Step]:
        event_type, data = record.get("event_type"), record.get("event_data")
        if type(event_type) is not str:
            notes.wrong("event_type", event_type, "a text")
            return
        if type(data) is not dict:
            notes.wrong("event_data", data, "an object")
            return
        at = self.clock.read(record.get("timestamp"))
        if event_type not in _STEPS and event_type not in {"SESSION_START", "SESSION_END"}:
            yield from self._start("")
            yield Skipped(at, event_type)
            return
        given = _data_of(event_type).read(data, "", notes)
        event = _Event(at, given, notes, text_of(record, "call_id"), text_of(record, "agent_id") or None)
        yield from self._start(event.text("focus") if event_type == "SESSION_START" else "")
        if event_type == "SESSION_END":
            self.end_reason = event.text("reason")
        elif event_type in _STEPS:
            yield _STEPS[event_type](event)

    def _start(self, focus: str) -> Iterator[Step]:
        if not self.has_started:
            self.has_started = True
            yield SessionStarted(self.clock.now, self.session_id or "", focus)


def _from_version_1(record: dict[str, Any]) -> dict[str, Any]:
    """Return the line of an event of version 1 with the names of version 2."""
    kind, data, about = record.get("type"), record.get("data"), record
    if type(data) is dict and type(data.get("data")) is dict and data.get("type") == kind:
        about, data = data, data["data"]  # the event with its own envelope
    params = {"event_type": kind, "event_data": data, "timestamp": record.get("at")}
    for name, old in (("call_id", "callId"), ("agent_id", "agentId")):
        if (found := record.get(name) or about.get(old)) is not None:
            params[name] = found
    return params


def _tool_called(event: _Event) -> Step:
    name = event.tool_name
    # A host that gives its calls no ids runs one call of each tool at a time: the name identifies it.
    return ToolCalled(
        event.at,
        event.call_id or name,
        name,
        event.data.get("arguments", {}),
        common=event.common,
        agent_id=event.agent_id,
        unshown=event.text("unshown") or None,
    )


def _tool_returned(event: _Event) -> Step:
    result = event.data.get("result", {})
    output = event.text("output") or text_of(result, "output") or (orjson.dumps(result).decode() if result else "")
    success = event.data.get("success", True)
    error = None if success else event.text("error") or text_of(result, "error") or output
    return ToolReturned(
        event.at,
        event.call_id or event.tool_name,
        success=success,
        output=output,
        error=error,
        is_denied=event.data.get("denied", False),
        unshown=event.text("unshown") or None,
    )


def _agent_started(event: _Event) -> Step:
    agent_id = event.text("instance_id") or event.agent_id or event.call_id
    prompt = event.text("task_prompt") or event.text("message")
    return AgentStarted(
        event.at, agent_id, event.call_id or None, event.text("agent_name"), prompt, event.text("model")
    )


def _agent_ended(event: _Event) -> Step:
    result = event.data.get("result")
    return AgentEnded(
        event.at,
        event.text("instance_id") or event.agent_id or event.call_id,
        event.call_id or None,
        event.text("agent_name"),
        result if type(result) is str else event.text("content"),
        is_interrupted=event.data.get("interrupted", False),
        interruption_cause=event.text("interruption_cause") or None,
        duration_ms=round(1000 * (event.data.get("duration") or 0)),
        tool_use_count=event.data.get("tool_use_count") or 0,
    )


def _permission_requested(event: _Event) -> Step:
    return PermissionRequested(
        event.at,
        event.text("request_id"),
        event.tool_name,
        event.data.get("arguments", {}),
        event.text("path") or None,
        event.text("command") or None,
        event.text("sensitivity"),
        tuple(option for option in event.data.get("options", ()) if type(option) is str),
        call_id=event.call_id or None,
        common=event.common,
        agent_id=event.agent_id,
    )


def _permission_answered(event: _Event) -> Step:
    return PermissionAnswered(event.at, event.text("request_id"), event.text("choice"), agent_id=event.agent_id)


def _compaction_completed(event: _Event) -> Step:
    return CompactionCompleted(
        event.at,
        event.data.get("old_context_usage"),
        event.data.get("new_context_usage"),
        event.data.get("threshold"),
        event.text("strategy") or None,
        (event.text("error_message") or "failed") if event.data.get("error", False) else None,
    )


def _diff_made(event: _Event) -> Step:
    diff = Diff(
        event.text("file_path"),
        event.text("old_content"),
        event.text("new_content"),
        event.text("operation_type") or "edit",
        event.data.get("edits_count") or 1,
    )
    return DiffMade(event.at, event.call_id or None, event.tool_name, diff, agent_id=event.agent_id)


def _model_responded(event: _Event) -> Step:
    return ModelResponded(
        event.at,
        event.text("model"),
        event.text("stop_reason") or None,
        event.data.get("input_tokens"),
        event.data.get("output_tokens"),
        event.data.get("cache_read_tokens"),
        event.data.get("cache_creation_tokens"),
        agent_id=event.agent_id,
    )


def _todos_changed(event: _Event) -> Step:
    return TodosChanged(
        event.at, todos_of(event.data.get("todos")) or (), event.call_id or None, agent_id=event.agent_id
    )


def _usage(event: _Event) -> Step:
    return Usage(event.at, min(100.0, max(0.0, event.data.get("context_usage") or 0.0)))


_STEPS: Final[dict[str, Callable[[_Event], Step]]] = {
    "AGENT_END": _agent_ended,
    "AGENT_START": _agent_started,
    "ASSISTANT_MESSAGE": lambda event: AssistantReplied(event.at, event.text("content"), agent_id=event.agent_id),
    "COMPACTION_COMPLETE": _compaction_completed,
    "COMPACTION_START": lambda event: CompactionStarted(event.at),
    "CONTEXT_USAGE_UPDATE": _usage,
    "DIFF_PREVIEW": _diff_made,
    "MODEL_REQUEST": lambda event: ModelRequested(event.at, event.text("model"), agent_id=event.agent_id),
    "MODEL_RESPONSE": _model_responded,
    "PERMISSION_REQUEST": _permission_requested,
    "PERMISSION_RESPONSE": _permission_answered,
    "THOUGHT_COMPLETE": lambda event: Thought(event.at, event.text("thinking"), agent_id=event.agent_id),
    "TODO_UPDATE": _todos_changed,
    "TOOL_CALL_END": _tool_returned,
    "TOOL_CALL_START": _tool_called,
    "USER_MESSAGE": lambda event: PersonMessage(event.at, event.text("content")),
}
