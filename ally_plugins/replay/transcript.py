"""Claude Code transcripts: one JSON record a line.

What has no event is skipped and counted under its record type; parts of user records under a name of their own:
`local-command` (a command that the program itself carried out, and its output), `meta` (text that the program put in),
`compact-summary`, `duplicate` (a record that a resumed session repeats), `rewound` (a record of a branch that the
person took back), `block:<type>` (content that is no text). A person's message that never left the queue, since it was
taken back or the session ended, is counted as `queued-message`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO, Final

from attrs import define, field

from .agent_files import AgentFile, RecordEntry, linked, with_agents
from .branches import REWOUND, Abandoned
from .clock import TimestampClock
from .content import Notes, flatten, iterate_blocks, required_text, text_of
from .context_use import ContextUse
from .held_steps import HeldSteps
from .json_recovery import iterate_records
from .queued_messages import QueuedMessages
from .rewound import find_rewound
from .sidechains import BoundedMap, Sidechains
from .steps import (
    MAX_NAME,
    AgentEnded,
    AgentStarted,
    AssistantReplied,
    BrokenLine,
    Interrupted,
    ModelRequested,
    ModelResponded,
    PersonMessage,
    SessionEnded,
    SessionStarted,
    Skipped,
    Thought,
)
from .transcript_calls import TranscriptCalls
from .turns import MAX_AGENTS
from .user_texts import TextKind, command_text, kind_of_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .steps import Step

__all__ = ["CONTEXT_WINDOW", "is_record", "read_transcript"]

# Tokens; the window of the models that wrote most transcripts. Transcripts do not record it.
CONTEXT_WINDOW: Final = 200_000

_SYNTHETIC: Final = "<synthetic>"
_NEVER_ENTERED: Final = "queued-message"
# Bytes that are read while steps wait for the end of an answer.
_HELD_BYTES: Final = 1024 * 1024
# Every record has a type, whatever it is, and one of these.
_RECORD_KEYS: Final = frozenset({"leafUuid", "message", "messageId", "sessionId", "summary", "timestamp", "uuid"})
_SAID: Final = frozenset({TextKind.COMMAND, TextKind.PERSON})
_SETTLES_COMMAND: Final = frozenset({*_SAID, TextKind.LOCAL})
_SKIPPED_AS: Final = {
    TextKind.LOCAL: "local-command",
    TextKind.META: "meta",
    TextKind.NOTICE: "meta",
    TextKind.SUMMARY: "compact-summary",
}


def read_transcript(
    file: BinaryIO, context_window: int = CONTEXT_WINDOW, agent_files: Sequence[AgentFile] = ()
) -> Iterator[Step]:
    """Yield the steps of a transcript, without safe points. Never raises for what a line holds.

    `file` must be seekable, since it is read twice. `context_window` is in tokens; the percentages of `Usage` are of
    it. `agent_files` are those of the sub-agents, and are read once.
    """
    file.seek(0)
    # A reading of its own: that a record was taken back is known only from one that comes later.
    abandoned = find_rewound(linked(iterate_records(file, is_record), agent_files))
    file.seek(0)
    transcript = _Transcript(context_window, abandoned)
    held_at = 0
    for entry in with_agents(iterate_records(file, is_record), agent_files):
        transcript.receive_entry(entry)
        if not transcript.out.answers:
            held_at = 0
        elif (position := file.tell()) - (held_at or position) > _HELD_BYTES:
            transcript.out.close_all()
        else:
            held_at = held_at or position
        yield from transcript.out.take()
    transcript.end()
    yield from transcript.out.take()


def is_record(record: dict[str, Any]) -> bool:
    """Return whether an object is a record, and no part of one."""
    return type(record.get("type")) is str and not _RECORD_KEYS.isdisjoint(record)


@define
class _Answer:
    """The model's answer that a chain of records is in the middle of: it may be spread over several records."""

    message_id: str | None = None
    is_open: bool = False
    tokens: int = -1


@define
class _Transcript:
    """State between records, and the steps of the latest one. Lives as long as one reading of a file.

    Methods append to `out` instead of yielding: nested generators took longer than all of the work here together.
    """

    context_window: int
    abandoned: Abandoned = field(factory=Abandoned)
    clock: TimestampClock = field(factory=TimestampClock)
    sidechains: Sidechains = field(factory=Sidechains)
    seen: BoundedMap = field(factory=BoundedMap)
    answers: dict[str | None, _Answer] = field(factory=dict)
    notes: Notes = field(factory=Notes)
    out: HeldSteps = field(factory=HeldSteps)
    queue: QueuedMessages = field(factory=QueuedMessages)
    has_started: bool = False
    command: str | None = None
    context: ContextUse = field(init=False)
    calls: TranscriptCalls = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.context = ContextUse(self.context_window, self.out)
        self.calls = TranscriptCalls(self.out, self.sidechains)

    def receive_entry(self, entry: RecordEntry) -> None:
        """Add the steps of one record, and a BrokenLine too when a part of it cannot be read."""
        record, now = entry.record, self.clock.now
        if record is None:
            self._agent_file_ended(entry)
        elif type(record) is str:
            self.out.add(BrokenLine(now, entry.number, record, entry.file))
        elif entry.place in self.abandoned:
            self.out.add(Skipped(now, REWOUND))
        elif type(record) is dict:
            self._record(record, entry)

    def _record(self, record: dict[str, Any], entry: RecordEntry) -> None:
        self.notes = notes = Notes()
        if entry.file:
            record = {**record, "isSidechain": True, "agentId": text_of(record, "agentId") or entry.agent_id}
        self._steps(record, entry)
        for step in notes.steps(self.clock.now, entry.number, entry.file):
            self.out.add(step)

    def end(self) -> None:
        """Add the last steps, at the end of the file."""
        if not self.has_started:
            self.out.add(SessionStarted(self.clock.now))
        # Nobody answered it: it was for the program itself.
        self._settle_command(is_local=True)
        self.context.settle(self.clock.now)
        self._enter_queued()
        for text, is_notice in self.queue.waiting:
            if not is_notice and text:
                self.out.add(Skipped(self.clock.now, _NEVER_ENTERED))
        self.out.add(SessionEnded(self.clock.now))
        self.out.close_all()

    def _steps(self, record: dict[str, Any], entry: RecordEntry) -> None:
        kind, is_main = record.get("type"), record.get("isSidechain") is not True
        if type(kind) is not str:
            self.notes.wrong("type", kind, "a text")
        elif kind == "assistant" or kind == "user":  # noqa: PLR1714 - half the time of a set for the commonest case
            self._message(record, kind, entry.call_id, is_apart=bool(entry.file))
        elif kind == "progress":
            self._progress(record)
        elif kind == "system" and record.get("subtype") == "compact_boundary" and is_main:
            now = self._time(record)
            self._start(record)
            self.context.compact(now, record.get("compactMetadata"))
        elif not (is_main and self._queued(record, kind)):
            self.out.add(Skipped(self._time(record), kind))

    def _time(self, record: dict[str, Any]) -> int:
        return self.clock.read(record.get("timestamp"))

    def _start(self, record: dict[str, Any]) -> None:
        if not self.has_started:
            self.has_started = True
            self.out.add(SessionStarted(self.clock.now, text_of(record, "sessionId"), text_of(record, "cwd")))

    def _message(self, record: dict[str, Any], kind: str, call_id: str = "", *, is_apart: bool = False) -> None:
        if self._is_repeated(record):
            self.out.add(Skipped(self.clock.now, "duplicate"))
            return
        message = record.get("message")
        if type(message) is not dict:
            self.notes.wrong("message", message, "an object")
            return
        # A request has no record: it was sent when the record before its answer was written.
        requested_at = self.clock.now
        self._time(record)
        self._start(record)
        is_sidechain = record.get("isSidechain") is True
        agent_id = self._agent(record, message, call_id, is_apart=is_apart) if is_sidechain else None
        if kind == "assistant":
            self._assistant(message, agent_id, requested_at or self.clock.now)
        else:
            self._user(record, message, agent_id)

    def _is_repeated(self, record: dict[str, Any]) -> bool:
        """Return whether a record was read before, which a resumed session repeats; remember it."""
        uuid = text_of(record, "uuid")
        if not uuid:
            return False
        is_repeated = uuid in self.seen
        self.seen.remember(uuid, "")
        return is_repeated

    def _agent(self, record: dict[str, Any], message: dict[str, Any], call_id: str, *, is_apart: bool) -> str:
        content = message.get("content")
        # With notes that nobody reads: what is wrong is noted when the blocks are read as steps.
        blocks = iterate_blocks(content, Notes())
        texts = [text_of(block, "text") for block in blocks] if message.get("role") == "user" else []
        agent_id, is_new = self.sidechains.find(record, call_id, texts, is_apart=is_apart)
        if is_new:
            self.out.add(AgentStarted(self.clock.now, agent_id, None, prompt="\n".join(texts)))
        return agent_id

    # -- from the model

    def _assistant(self, message: dict[str, Any], agent_id: str | None, requested_at: int) -> None:
        if agent_id is None:
            self._settle_command(is_local=False)
            if (answer := self.answers.get(None)) is None or answer.message_id != text_of(message, "id"):
                self._enter_queued()
        model = text_of(message, "model")
        if model != _SYNTHETIC:
            self._answer(message, agent_id, model, requested_at)
        for block in iterate_blocks(message.get("content"), self.notes):
            self._block(block, agent_id, model)

    def _answer(self, message: dict[str, Any], agent_id: str | None, model: str, requested_at: int) -> None:
        answer, now = self.answers.get(agent_id), self.clock.now
        message_id = text_of(message, "id") or None
        usage = _token_counts(message.get("usage"))
        # Records without an id, of old versions, are of one answer until something goes to the model.
        if answer is None or answer.message_id != message_id or not (answer.is_open or message_id):
            answer = _Answer(message_id)
            # A damaged file may invent agents without end.
            if len(self.answers) > MAX_AGENTS:
                self.answers.clear()
            self.answers[agent_id] = answer
            self.out.close(agent_id)
            self.out.add(ModelRequested(requested_at, model, agent_id=agent_id))
            self.out.add(ModelResponded(now, model, agent_id=agent_id))
        self.out.amend(
            agent_id,
            stop_reason=text_of(message, "stop_reason") or None,
            input_tokens=usage.get("input_tokens"),
            output_tokens=usage.get("output_tokens"),
            cache_read_tokens=usage.get("cache_read_input_tokens"),
            cache_creation_tokens=usage.get("cache_creation_input_tokens"),
        )
        answer.is_open = True
        # Each record of an answer repeats its counts.
        if agent_id is None and usage and (tokens := sum(usage.values())) != answer.tokens:
            answer.tokens = tokens
            self.context.used(now, tokens)

    def _block(self, block: dict[str, Any], agent_id: str | None, model: str) -> None:
        kind, now = block.get("type"), self.clock.now
        if kind == "tool_use":
            self.calls.begin(now, block, agent_id, self.notes)
        elif kind == "text":
            text = required_text(block, "text", self.notes)
            if text and not text.isspace():
                self.out.add(AssistantReplied(now, text, model, agent_id=agent_id))
        elif kind == "thinking":
            text = required_text(block, "thinking", self.notes)
            if text and not text.isspace():
                self.out.add(Thought(now, text, agent_id=agent_id))
        else:
            self.notes.placeholders.append(kind if type(kind) is str else "unknown")

    # -- to the model

    def _user(self, record: dict[str, Any], message: dict[str, Any], agent_id: str | None) -> None:
        if (answer := self.answers.get(agent_id)) is not None:
            answer.is_open = False
        texts: list[str] = []
        has_results = False
        for block in iterate_blocks(message.get("content"), self.notes):
            kind = block.get("type")
            if kind == "tool_result":
                has_results = True
                self.calls.end(self.clock.now, block, record.get("toolUseResult"), self.notes)
            elif kind == "text":
                texts.append(required_text(block, "text", self.notes))
            else:
                name = kind if type(kind) is str else "unknown"
                self.notes.placeholders.append(name)
                texts.append(f"[{name[:MAX_NAME]}]")
        if agent_id is None and texts:
            self._text(record, "\n".join(texts), is_interjection=has_results)

    def _text(self, record: dict[str, Any], text: str, *, is_interjection: bool) -> None:
        kind, now = kind_of_text(record, text), self.clock.now
        if kind in _SAID:
            self.queue.entered(text, in_turn=False)
        if kind is TextKind.INTERRUPTION:
            self.out.add(Interrupted(now))
        elif kind is TextKind.META:
            self._settle_command(is_local=False)
        elif kind in _SETTLES_COMMAND:
            self._settle_command(is_local=True)
        if kind is TextKind.COMMAND:
            self.command = text
        elif kind is TextKind.PERSON:
            self.context.settle(now)
            self.out.add(PersonMessage(now, text, is_interjection))
        elif kind in _SKIPPED_AS:
            self.out.add(Skipped(now, _SKIPPED_AS[kind]))

    def _settle_command(self, *, is_local: bool) -> None:
        """Decide what a slash command was: one for the program itself, or, when the model answers, a prompt."""
        command, self.command = self.command, None
        if command is not None and is_local:
            self.out.add(Skipped(self.clock.now, _SKIPPED_AS[TextKind.LOCAL]))
        elif command is not None:
            self.out.add(PersonMessage(self.clock.now, command_text(command)))

    # -- what the person typed while the agent worked

    def _queued(self, record: dict[str, Any], kind: str) -> bool:
        """Read a record of the queue of messages; return whether it is one."""
        if kind == "queue-operation":
            return self._queue_operation(record)
        return kind == "attachment" and self._attachment(record)

    def _queue_operation(self, record: dict[str, Any]) -> bool:
        """Follow the program's queue; return whether the operation is known."""
        self._time(record)
        text = flatten(record.get("content"), self.notes)
        is_notice = bool(text) and kind_of_text({}, text) is not TextKind.PERSON
        reason = text_of(record, "reason")
        return self.queue.receive_operation(text_of(record, "operation"), text, reason, is_notice=is_notice)

    def _attachment(self, record: dict[str, Any]) -> bool:
        """Read a message that entered in the middle of a turn; return whether it is one."""
        attachment = record.get("attachment")
        if type(attachment) is not dict or attachment.get("type") != "queued_command":
            return False
        now = self._time(record)
        self._start(record)
        text = flatten(attachment.get("prompt"), self.notes)
        kind = kind_of_text(attachment, text)
        if self._is_repeated(record):
            self.out.add(Skipped(now, "duplicate"))
        elif kind is TextKind.PERSON:
            self.queue.entered(text, in_turn=True)
            self.out.add(PersonMessage(now, text, is_interjection=True))
        else:
            self.out.add(Skipped(now, _SKIPPED_AS.get(kind, "attachment")))
        return True

    def _enter_queued(self) -> None:
        """Add the messages that have left the queue, and stand nowhere but there, once the model answers them."""
        for text in self.queue.take_entered():
            self.out.add(PersonMessage(self.clock.now, text, is_interjection=True))

    # -- sub-agents in progress records and files of their own, compactions

    def _agent_file_ended(self, entry: RecordEntry) -> None:
        """End a sub-agent that no result ends: it was only launched, or nothing says who started it."""
        agent_id = self.sidechains.agents.get(entry.agent_id)
        if agent_id is not None and self.sidechains.has_no_result(agent_id):
            self.out.add(AgentEnded(self.clock.now, agent_id, None))

    def _progress(self, record: dict[str, Any]) -> None:
        """Read a sub-agent's record out of the progress record that wraps it; other progress has no event."""
        data = record.get("data")
        data = data if type(data) is dict else {}
        inner = data.get("message") if data.get("type") == "agent_progress" else None
        kind = text_of(inner, "type") if type(inner) is dict else ""
        if type(inner) is dict and kind in {"assistant", "user"}:
            inner = {**inner, "agentId": data.get("agentId"), "isSidechain": True}
            self._message(inner, kind, text_of(record, "parentToolUseID"))
        else:
            self.out.add(Skipped(self._time(record), "progress"))


def _token_counts(usage: Any) -> dict[str, int]:
    if type(usage) is not dict:
        return {}
    keys = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    return {key: usage[key] for key in keys if type(usage.get(key)) is int and usage[key] >= 0}
