"""An entry as a row of the list, and with all that is recorded of it: JSON values, whose texts the page only shows.

What plugins, models and tools wrote is inert in a row, and whole in its content.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import orjson

from ally_plugins.cli.shell.journal_rows import PRUNED_TEXT, parties, summary
from ally_plugins.cli.shell.text import inert, preview
from ally_plugins.journal.values import ACCEPTED, DECISION

if TYPE_CHECKING:
    from ally_plugins.journal.reader import JournalReader

    from .timelines import Entry

__all__ = ["content_of", "message_of", "row_of", "votes_of"]

_TEXT: Final = 240  # characters of a row: more than the widest screen shows
_MOST_BYTES: Final = 512 * 1024
"""Of one content as a page shows it; what is larger is cut, and says so. `export` has all of it."""

_BAD: Final = frozenset({"crash", "quarantine", "refusal", "lost_host", "EVENTS_DROPPED"})
_BAD_STATES: Final = frozenset({"failed", "quarantined", "backoff"})
_TONES: Final = {"deny": "bad", "ask": "warn", "allow": "good"}
_TEXTS: Final = ("content", "message", "reason", "error", "thinking", "filePath", "question", "text")
"""What of an event's data says most, for a type that has no line of its own below."""


def row_of(place: int, entry: Entry) -> dict[str, Any]:
    """Return an entry as a row; `place` is that in the list which is shown."""
    who, text, more = _event_row(entry) if entry.event is not None else _record_row(entry)
    return {
        "place": place, "position": entry.position, "id": entry.id, "n": entry.n, "at": entry.at,
        "type": entry.type, "isEvent": bool(entry.seq), "who": inert(who), "text": text, "tone": "", **more,
    }  # fmt: skip


def _record_row(entry: Entry) -> tuple[str, str, dict[str, Any]]:
    record = entry.record
    if record is None:
        return "", entry.problem or PRUNED_TEXT, {"tone": "muted"}
    data = record.data or {}
    who, _ = parties(record)
    more: dict[str, Any] = {"tone": _tone(entry.type, data)}
    if record.kind == DECISION:
        times = [vote.get("elapsed_ms") for vote in votes_of(data)]
        more["ms"] = max((time for time in times if isinstance(time, (int, float))), default=None)
    if record.data is None:
        more["tone"] = "muted"
    # Its id has a place of its own.
    return who, preview(summary(record).removeprefix(f"{inert(record.ref)} "), _TEXT), more


def _event_row(entry: Entry) -> tuple[str, str, dict[str, Any]]:
    event = entry.event
    assert event is not None  # noqa: S101 - the caller has looked
    try:
        value = event.value()
        data = value.get("event_data")
        data = data if isinstance(data, dict) else {}
    except (ValueError, AttributeError):
        return "", "it cannot be read: see `ally-plugins audit verify`", {"tone": "muted"}
    who = data.get("pluginName") or value.get("agent_id") or (event.origin or "").replace(">", " > ")
    describe = _LINES.get(event.type, _plain)
    more: dict[str, Any] = {"tone": _tone(event.type, data), "call": value.get("call_id")}
    for name in ("durationMs", "duration_ms"):
        if isinstance(data.get(name), (int, float)):
            more["ms"] = data[name]
    return str(who), preview(describe(data).strip(), _TEXT), more


def _tone(type_: str, data: Mapping[str, Any]) -> str:
    """Return how a row is coloured: what went wrong, what waits, and what plugins and persons said stand out."""
    verdict = data.get("verdict")
    if type_ in _BAD or data.get("denied") or data.get("state") in _BAD_STATES or data.get("success") is False:
        return "bad"
    if isinstance(verdict, str):
        return _TONES.get(verdict, "")
    return "said" if type_ in {"message", "PLUGIN_MESSAGE_RECEIVED", "USER_MESSAGE", "ASSISTANT_MESSAGE"} else ""


# --- one line for an event


def _plain(data: Mapping[str, Any]) -> str:
    for name in _TEXTS:
        if isinstance(text := data.get(name), str) and text:
            return text
    return _json(data) if data else ""


def _json(data: Any) -> str:
    return orjson.dumps(data, option=orjson.OPT_NON_STR_KEYS).decode("utf-8", "replace")


def _call(data: Mapping[str, Any]) -> str:
    arguments = data.get("arguments")
    if data.get("unshown"):
        return f"{data.get('toolName')}: {data['unshown']}"
    values = list(arguments.values()) if isinstance(arguments, dict) else []
    # One argument says by itself what it is.
    return (
        f"{data.get('toolName')} {values[0] if len(values) == 1 and isinstance(values[0], str) else _json(arguments)}"
    )


def _call_end(data: Mapping[str, Any]) -> str:
    outcome = data.get("error") or data.get("output") or _json(data.get("result") or {})
    word = "denied" if data.get("denied") else "failed" if data.get("success") is False else "→"
    return f"{data.get('toolName')} {word} {outcome}"


def _decision(data: Mapping[str, Any]) -> str:
    return f"{data.get('kind')} of {data.get('subject')}: {data.get('verdict')} {data.get('reason') or ''}"


def _message(data: Mapping[str, Any]) -> str:
    message = data.get("message")
    return str(message.get("content", "")) if isinstance(message, dict) else _json(message)


def _state(data: Mapping[str, Any]) -> str:
    return f"{data.get('state')}{': ' if data.get('reason') else ''}{data.get('reason') or ''}"


def _response(data: Mapping[str, Any]) -> str:
    counts = [(data.get(name), word) for name, word in (("inputTokens", "in"), ("outputTokens", "out"),
              ("cacheReadTokens", "read from cache"))]  # fmt: skip
    tokens = ", ".join(f"{count:,} {word}" for count, word in counts if isinstance(count, int))
    return f"{data.get('model') or 'the model'}{': ' if tokens else ''}{tokens}"


def _emitted(data: Mapping[str, Any]) -> str:
    return f"{data.get('type') or data.get('eventType')} {_json(data.get('data'))}"


_LINES: Final[dict[str, Callable[[Mapping[str, Any]], str]]] = {
    "TOOL_CALL_START": _call,
    "TOOL_CALL_END": _call_end,
    "PERMISSION_REQUEST": _call,
    "DECISION": _decision,
    "PLUGIN_MESSAGE_RECEIVED": _message,
    "PLUGIN_STATE": _state,
    "PLUGIN_EVENT_EMITTED": _emitted,
    "MODEL_RESPONSE": _response,
}


# --- all of it


def content_of(entry: Entry) -> dict[str, Any]:
    """Return what is recorded of an entry, as text of JSON, and whether that is all."""
    if entry.event is not None:
        raw = entry.event.body
        with suppress(ValueError):  # damaged: shown as it is
            raw = orjson.dumps(entry.event.value(), option=orjson.OPT_INDENT_2)
    elif entry.record is not None and entry.record.data is not None:
        raw = orjson.dumps(entry.record.data, option=orjson.OPT_INDENT_2)
    else:
        return {"content": None, "why": entry.problem or PRUNED_TEXT, "bytes": 0}
    cut = raw[:_MOST_BYTES].decode("utf-8", "replace")
    return {"content": cut, "bytes": len(raw), "isCut": len(raw) > _MOST_BYTES}


def message_of(reader: JournalReader, entry: Entry) -> dict[str, Any] | None:
    """Return of a message who wrote it, through whom it came, and what became of it; None for what is no message."""
    message = reader.message(entry.id) if entry.type == ACCEPTED else None
    if message is None:
        return None
    body = message.body or {}
    metadata = body.get("metadata")
    origin = metadata.get("origin") if isinstance(metadata, dict) else None
    return {
        "plugin": message.plugin, "role": message.role, "content": body.get("content"),
        "origin": [str(each) for each in origin or (message.plugin,)], "permission": body.get("permission"),
        "deliverAs": message.deliver_as, "wakes": message.trigger_turn, "state": message.state,
        "acceptedAt": message.accepted_at, "settledAt": message.settled_at, "cause": message.cause,
    }  # fmt: skip


def votes_of(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the votes of a decision, each with the milliseconds that it took."""
    votes = data.get("votes")
    return [vote for vote in votes if isinstance(vote, dict)] if isinstance(votes, list) else []
