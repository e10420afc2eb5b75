"""What single records of agents' own files say: which calls the model made, its thoughts, how full its context is.

Pure, one function for each agent whose file is JSON lines. A record that is not known says nothing; none raises. Each
is read by itself, so that what was taken back, or rolled back, counts too: those calls have run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final, TypeAlias

from attrs import frozen

__all__ = [
    "ContextUse",
    "Fact",
    "ReadRecord",
    "RecordedCall",
    "SessionNamed",
    "ThoughtRecorded",
    "read_claude_record",
    "read_codex_record",
    "read_gemini_record",
    "read_pi_record",
]

_CLAUDE_WINDOW: Final = 200_000
"""Tokens; Claude Code's file does not say how many there are, and most of its models have these."""


@frozen
class SessionNamed:
    """The agent's own id of the conversation that the records are of."""

    session_id: str


@frozen
class RecordedCall:
    """A call of a tool that the model made. `at` is in Unix ms, None where the record does not say it."""

    call_id: str
    tool_name: str
    at: int | None = None


@frozen
class ThoughtRecorded:
    """The model has finished thinking. `message_id` is that of a message which the agent may write more than once."""

    text: str
    message_id: str = ""


@frozen
class ContextUse:
    """How many tokens the main agent's conversation has, and how many its window holds."""

    tokens: int
    window: int


Fact: TypeAlias = SessionNamed | RecordedCall | ThoughtRecorded | ContextUse
ReadRecord: TypeAlias = Callable[[Mapping[str, Any]], Iterator[Fact]]
"""Says what a record of an agent's file says."""


def read_claude_record(record: Mapping[str, Any]) -> Iterator[Fact]:
    """Yield the facts of a record of Claude Code's transcript, a sub-agent's within another record too."""
    if session_id := _text(record, "sessionId"):
        yield SessionNamed(session_id)
    at, is_main = _time(record), record.get("isSidechain") is not True
    message = _object(record, "message")
    if record.get("type") == "progress":
        inner = _object(_object(record, "data"), "message")
        message, is_main = (_object(inner, "message") if inner.get("type") == "assistant" else {}), False
    elif record.get("type") != "assistant":
        return
    for block in _objects(message, "content"):
        if block.get("type") in {"tool_use", "server_tool_use", "mcp_tool_use"}:
            yield from _call(block, "id", "name", at)
        elif block.get("type") == "thinking" and is_main and (text := _text(block, "thinking")).strip():
            yield ThoughtRecorded(text)
    usage = _object(message, "usage")
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    if is_main and message.get("model") != "<synthetic>" and (tokens := sum(_count(usage, name) for name in names)):
        yield ContextUse(tokens, _CLAUDE_WINDOW)


_GEMINI_WINDOW: Final = 1_048_576
"""Tokens; what Gemini CLI takes all Gemini models to have."""


def read_gemini_record(record: Mapping[str, Any]) -> Iterator[Fact]:
    """Yield the facts of a line of Gemini CLI's recording, which has a message again when something comes to it.

    Its calls are not among them: no hook tells of the ids that they have there.
    """
    if record.get("type") != "gemini":
        return
    message_id = _text(record, "id")
    for thought in _objects(record, "thoughts"):
        parts = (_text(thought, "subject"), _text(thought, "description"))
        if text := "\n\n".join(part for part in parts if part.strip()):
            yield ThoughtRecorded(text, message_id)
    if tokens := _count(_object(record, "tokens"), "total"):
        yield ContextUse(tokens, _GEMINI_WINDOW)


_CODEX_CALLS: Final = {
    "function_call": "", "custom_tool_call": "", "tool_search_call": "tool_search", "local_shell_call": "local_shell",
    "web_search_call": "web_search", "image_generation_call": "image_generation",
}  # fmt: skip
"""Items that are calls, with the name of the tool where the item has none."""


def read_codex_record(record: Mapping[str, Any]) -> Iterator[Fact]:
    """Yield the facts of a record of Codex's rollout."""
    payload, kind = _object(record, "payload"), record.get("type")
    item = _text(payload, "type")
    if kind == "session_meta" and (session_id := _text(payload, "session_id") or _text(payload, "id")):
        yield SessionNamed(session_id)
    elif kind == "event_msg" and item == "token_count":
        info = _object(payload, "info")
        tokens = _count(_object(info, "last_token_usage"), "total_tokens")
        if tokens and (window := _count(info, "model_context_window")):
            yield ContextUse(tokens, window)
    elif kind == "response_item" and item == "reasoning":
        parts = [_text(part, "text") for name in ("summary", "content") for part in _objects(payload, name)]
        if text := "\n\n".join(part for part in parts if part.strip()):
            yield ThoughtRecorded(text)
    elif kind == "response_item" and item in _CODEX_CALLS:
        named = {"name": _CODEX_CALLS[item], **payload}
        yield from _call(named, "call_id" if payload.get("call_id") else "id", "name", _time(record))


def read_pi_record(record: Mapping[str, Any]) -> Iterator[Fact]:
    """Yield the facts of an entry of pi's session."""
    if record.get("type") == "session" and (session_id := _text(record, "id")):
        yield SessionNamed(session_id)
    message = _object(record, "message")
    if record.get("type") == "message" and message.get("role") == "assistant":
        for block in _objects(message, "content"):
            if block.get("type") == "toolCall":
                yield from _call(block, "id", "name", _time(record))


def _call(block: Mapping[str, Any], call_id: str, name: str, at: int | None) -> Iterator[RecordedCall]:
    # One without a name, or an id, is a call all the same: nothing can have seen it under none.
    yield RecordedCall(_text(block, call_id), _text(block, name) or "unnamed", at)


def _time(record: Mapping[str, Any]) -> int | None:
    try:
        return int(datetime.fromisoformat(_text(record, "timestamp")).timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        return None


def _text(value: Mapping[str, Any], name: str) -> str:
    found = value.get(name)
    return found if isinstance(found, str) else ""


def _count(value: Mapping[str, Any], name: str) -> int:
    found = value.get(name)
    return found if type(found) is int and found > 0 else 0


def _object(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _objects(value: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    found = value.get(name)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
