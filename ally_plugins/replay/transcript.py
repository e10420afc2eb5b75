"""Claude Code transcripts: one JSON record a line.

What has no event is skipped and counted under its record type; parts of user records under a name of their own:
`local-command` (a command that the program itself carried out, and its output), `meta` (text that the program put in),
`compact-summary`, `duplicate` (a record that a resumed session repeats), `block:<type>` (content that is no text).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO, Final

from attrs import define, field

from .clock import TimestampClock
from .content import Notes, flatten, iterate_blocks, text_of
from .json_lines import decode_record, iterate_lines
from .sidechains import AGENT_TOOLS, BoundedMap, Sidechains
from .steps import (
    AgentStarted,
    AssistantReplied,
    BrokenLine,
    CompactionCompleted,
    CompactionStarted,
    DiffMade,
    Interrupted,
    ModelRequested,
    ModelResponded,
    PersonMessage,
    SessionEnded,
    SessionStarted,
    Skipped,
    Step,
    Thought,
    TodosChanged,
    ToolCalled,
    ToolReturned,
    Usage,
)
from .tool_effects import derive_diff, derive_todos
from .turns import MAX_AGENTS
from .user_texts import TextKind, command_text, is_rejection, kind_of_text

if TYPE_CHECKING:
    from collections.abc import Iterator


__all__ = ["CONTEXT_WINDOW", "read_transcript"]

# Tokens; the window of the models that wrote most transcripts. Transcripts do not record it.
CONTEXT_WINDOW: Final = 200_000

# A name in `skipped` comes from the file: it must not carry the file's size.
_MAX_NAME: Final = 64
_SYNTHETIC: Final = "<synthetic>"
_SETTLES_COMMAND: Final = frozenset({TextKind.COMMAND, TextKind.LOCAL, TextKind.PERSON})
_SKIPPED_AS: Final = {
    TextKind.LOCAL: "local-command",
    TextKind.META: "meta",
    TextKind.NOTICE: "meta",
    TextKind.SUMMARY: "compact-summary",
}


def read_transcript(file: BinaryIO, context_window: int = CONTEXT_WINDOW) -> Iterator[Step]:
    """Yield the steps of a transcript, without safe points. Never raises for what a line holds.

    `context_window` is in tokens; the percentages of `Usage` are of it.
    """
    transcript = _Transcript(context_window)
    for number, line in iterate_lines(file):
        record = decode_record(line)
        if type(record) is str:
            yield BrokenLine(transcript.clock.now, number, record)
        elif type(record) is dict:
            transcript.receive_record(number, record)
            yield from transcript.take_steps()
    transcript.end()
    yield from transcript.take_steps()


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
    clock: TimestampClock = field(factory=TimestampClock)
    sidechains: Sidechains = field(factory=Sidechains)
    seen: BoundedMap = field(factory=BoundedMap)
    answers: dict[str | None, _Answer] = field(factory=dict)
    notes: Notes = field(factory=Notes)
    out: list[Step] = field(factory=list)
    has_started: bool = False
    percent: float | None = None
    compaction: CompactionCompleted | None = None
    command: str | None = None

    def receive_record(self, number: int, record: dict[str, Any]) -> None:
        """Add the steps of one record, and a BrokenLine too when a part of it cannot be read."""
        self.notes = notes = Notes()
        self._steps(record)
        now = self.clock.now
        for kind in notes.placeholders:
            self.out.append(Skipped(now, f"block:{kind[:_MAX_NAME]}"))
        if notes.problem is not None:
            self.out.append(BrokenLine(now, number, notes.problem))

    def end(self) -> None:
        """Add the last steps, at the end of the file."""
        now = self.clock.now
        if not self.has_started:
            self.out.append(SessionStarted(now))
        self._settle_command(is_local=True)
        self._settle_compaction(None)
        self.out.append(SessionEnded(now))

    def take_steps(self) -> list[Step]:
        """Return the steps since the last time."""
        steps, self.out = self.out, []
        return steps

    def _steps(self, record: dict[str, Any]) -> None:
        kind = record.get("type")
        if type(kind) is not str:
            self.notes.wrong("type", kind, "a text")
        elif kind == "assistant" or kind == "user":  # noqa: PLR1714 - half the time of a set for the commonest case
            self._message(record, kind)
        elif kind == "progress":
            self._progress(record)
        elif kind == "system" and record.get("subtype") == "compact_boundary":
            self._compact_boundary(record)
        else:
            self.out.append(Skipped(self._time(record), kind[:_MAX_NAME]))

    def _time(self, record: dict[str, Any]) -> int:
        return self.clock.read(record.get("timestamp"))

    def _start(self, record: dict[str, Any]) -> None:
        if not self.has_started:
            self.has_started = True
            self.out.append(SessionStarted(self.clock.now, text_of(record, "sessionId"), text_of(record, "cwd")))

    def _message(self, record: dict[str, Any], kind: str, call_id: str = "") -> None:
        if uuid := text_of(record, "uuid"):
            if uuid in self.seen:
                self.out.append(Skipped(self.clock.now, "duplicate"))
                return
            self.seen.remember(uuid, "")
        message = record.get("message")
        if type(message) is not dict:
            self.notes.wrong("message", message, "an object")
            return
        requested_at = self.clock.now
        self._time(record)
        self._start(record)
        is_sidechain = record.get("isSidechain") is True
        agent_id = self._agent(record, message, call_id) if is_sidechain else None
        if kind == "assistant":
            self._assistant(message, agent_id, requested_at or self.clock.now)
        else:
            self._user(record, message, agent_id)

    def _agent(self, record: dict[str, Any], message: dict[str, Any], call_id: str) -> str:
        content = message.get("content")
        blocks = iterate_blocks(content, Notes())
        texts = [text_of(block, "text") for block in blocks] if message.get("role") == "user" else []
        agent_id, is_new = self.sidechains.find(record, call_id, texts)
        if is_new:
            self.out.append(AgentStarted(self.clock.now, agent_id, None, prompt="\n".join(texts)))
        return agent_id

    # -- from the model

    def _assistant(self, message: dict[str, Any], agent_id: str | None, requested_at: int) -> None:
        if agent_id is None:
            self._settle_command(is_local=False)
        model = text_of(message, "model")
        if model != _SYNTHETIC:
            self._answer(message, agent_id, model, requested_at)
        for block in iterate_blocks(message.get("content"), self.notes):
            self._block(block, agent_id, model)

    def _answer(self, message: dict[str, Any], agent_id: str | None, model: str, requested_at: int) -> None:
        answer, now = self.answers.get(agent_id), self.clock.now
        message_id = text_of(message, "id") or None
        usage = _token_counts(message.get("usage"))
        if answer is None or answer.message_id != message_id or not (answer.is_open or message_id):
            answer = _Answer(message_id)
            if len(self.answers) > MAX_AGENTS:
                self.answers.clear()
            self.answers[agent_id] = answer
            self.out.append(ModelRequested(requested_at, model, agent_id=agent_id))
            self.out.append(
                ModelResponded(
                    now,
                    model,
                    text_of(message, "stop_reason") or None,
                    usage.get("input_tokens"),
                    usage.get("output_tokens"),
                    usage.get("cache_read_input_tokens"),
                    usage.get("cache_creation_input_tokens"),
                    agent_id=agent_id,
                )
            )
        answer.is_open = True
        if agent_id is None and usage and (tokens := sum(usage.values())) != answer.tokens:
            answer.tokens = tokens
            self._usage(tokens)

    def _usage(self, tokens: int) -> None:
        self.percent = min(100.0, 100 * tokens / self.context_window)
        self._settle_compaction(self.percent)
        self.out.append(Usage(self.clock.now, self.percent, tokens))

    def _block(self, block: dict[str, Any], agent_id: str | None, model: str) -> None:
        kind, now = block.get("type"), self.clock.now
        if kind == "tool_use":
            self._tool_use(block, agent_id)
        elif kind == "text":
            text = self._required(block, "text")
            if text and not text.isspace():
                self.out.append(AssistantReplied(now, text, model, agent_id=agent_id))
        elif kind == "thinking":
            text = self._required(block, "thinking")
            if text and not text.isspace():
                self.out.append(Thought(now, text, agent_id=agent_id))
        else:
            self.notes.placeholders.append(kind if type(kind) is str else "unknown")

    def _required(self, block: dict[str, Any], key: str) -> str:
        value = block.get(key)
        if type(value) is str:
            return value
        self.notes.wrong(key, value, "a text")
        return ""

    def _tool_use(self, block: dict[str, Any], agent_id: str | None) -> None:
        call_id, tool_name = self._required(block, "id"), self._required(block, "name")
        if not call_id or not tool_name:
            self.notes.wrong("a tool_use's id or name", "", "a text that is not empty")
            return
        arguments, now = block.get("input"), self.clock.now
        if type(arguments) is not dict:
            self.notes.wrong("a tool_use's input", arguments, "an object")
            arguments = {}
        self.out.append(ToolCalled(now, call_id, tool_name, arguments, agent_id=agent_id))
        if (diff := derive_diff(tool_name, arguments)) is not None:
            self.out.append(DiffMade(now, call_id, tool_name, diff, agent_id=agent_id))
        elif (todos := derive_todos(tool_name, arguments)) is not None:
            self.out.append(TodosChanged(now, todos, call_id, agent_id=agent_id))
        elif tool_name in AGENT_TOOLS:
            prompt = text_of(arguments, "prompt")
            self.sidechains.task_called(call_id, prompt)
            name = text_of(arguments, "subagent_type") or text_of(arguments, "description")
            self.out.append(AgentStarted(now, call_id, call_id, name, prompt, text_of(arguments, "model")))

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
                self._tool_result(block, record.get("toolUseResult"))
            elif kind == "text":
                texts.append(self._required(block, "text"))
            else:
                name = kind if type(kind) is str else "unknown"
                self.notes.placeholders.append(name)
                texts.append(f"[{name[:_MAX_NAME]}]")
        if agent_id is None and texts:
            self._text(record, "\n".join(texts), is_interjection=has_results)

    def _tool_result(self, block: dict[str, Any], details: Any) -> None:
        call_id = self._required(block, "tool_use_id")
        if not call_id:
            return
        output, is_error = flatten(block.get("content"), self.notes), block.get("is_error")
        if is_error is not None and type(is_error) is not bool:
            self.notes.wrong("is_error", is_error, "true or false")
        self.sidechains.task_returned(call_id)
        success = is_error is not True
        self.out.append(
            ToolReturned(
                self.clock.now,
                call_id,
                success=success,
                output=output,
                error=None if success else output,
                is_rejected=not success and is_rejection(output),
                is_launch=type(details) is dict and details.get("status") == "async_launched",
            )
        )

    def _text(self, record: dict[str, Any], text: str, *, is_interjection: bool) -> None:
        kind, now = kind_of_text(record, text), self.clock.now
        if kind is TextKind.INTERRUPTION:
            self.out.append(Interrupted(now))
        elif kind is TextKind.META:
            self._settle_command(is_local=False)
        elif kind in _SETTLES_COMMAND:
            self._settle_command(is_local=True)
        if kind is TextKind.COMMAND:
            self.command = text
        elif kind is TextKind.PERSON:
            self._settle_compaction(None)
            self.out.append(PersonMessage(now, text, is_interjection))
        elif kind in _SKIPPED_AS:
            self.out.append(Skipped(now, _SKIPPED_AS[kind]))

    def _settle_command(self, *, is_local: bool) -> None:
        """Decide what a slash command was: one for the program itself, or, when the model answers, a prompt."""
        command, self.command = self.command, None
        if command is not None and is_local:
            self.out.append(Skipped(self.clock.now, _SKIPPED_AS[TextKind.LOCAL]))
        elif command is not None:
            self.out.append(PersonMessage(self.clock.now, command_text(command)))

    # -- sub-agents in progress records, compactions

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
            self.out.append(Skipped(self._time(record), "progress"))

    def _compact_boundary(self, record: dict[str, Any]) -> None:
        now = self._time(record)
        self._start(record)
        self._settle_compaction(None)
        self.out.append(CompactionStarted(now))
        details = record.get("compactMetadata")
        details = details if type(details) is dict else {}
        old, new = self._percent_of(details.get("preTokens")), self._percent_of(details.get("postTokens"))
        strategy = text_of(details, "trigger") or None
        self.compaction = CompactionCompleted(now, self.percent if old is None else old, new, strategy=strategy)
        if new is not None:
            self._settle_compaction(new)

    def _percent_of(self, tokens: Any) -> float | None:
        return min(100.0, 100 * tokens / self.context_window) if type(tokens) is int and tokens >= 0 else None

    def _settle_compaction(self, new_percent: float | None) -> None:
        """Complete a compaction: its outcome is recorded only as the usage of the next answer."""
        done, self.compaction = self.compaction, None
        if done is not None:
            self.out.append(CompactionCompleted(self.clock.now, done.old_percent, new_percent, strategy=done.strategy))


def _token_counts(usage: Any) -> dict[str, int]:
    if type(usage) is not dict:
        return {}
    keys = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    return {key: usage[key] for key in keys if type(usage.get(key)) is int and usage[key] >= 0}
