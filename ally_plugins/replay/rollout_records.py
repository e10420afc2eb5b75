"""The records of Codex rollouts: how they are recognized, with and without envelopes, and which were rolled back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .branches import Abandoned
from .content import Notes, text_of
from .rollout_texts import persons_texts

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["CALLS", "SERVER_CALLS", "find_rolled_back", "is_rollout_record", "is_rollout_start", "unwrapped"]

_ENVELOPES: Final = frozenset({
    "compacted", "event_msg", "response_item", "session_meta", "token_usage_record", "turn_context", "world_state",
})  # fmt: skip
CALLS: Final = frozenset({"function_call", "custom_tool_call", "local_shell_call", "tool_search_call"})
"""Items that are calls which the program carries out."""
SERVER_CALLS: Final = {"web_search_call": "web_search", "image_generation_call": "image_generation"}
"""Items that are calls which the model's provider carries out, with the names of their tools."""

_ITEMS: Final = frozenset({"message", "reasoning", "function_call_output", *CALLS, *SERVER_CALLS})


def is_rollout_start(record: dict[str, Any]) -> bool:
    """Return whether a record shows that its file is a rollout."""
    if type(record.get("payload")) is dict:
        return text_of(record, "type") in _ENVELOPES
    if "type" not in record:  # before 0.32
        return record.get("record_type") == "state" or {"id", "timestamp", "instructions"} <= record.keys()
    content = record.get("content")
    block = content[0] if record["type"] == "message" and type(content) is list and content else None
    return type(block) is dict and text_of(block, "type") in {"input_text", "output_text"}


def is_rollout_record(record: dict[str, Any]) -> bool:
    """Return whether an object is a record of a rollout, and no part of one."""
    is_enveloped = type(record.get("payload")) is dict and "timestamp" in record
    return (is_enveloped and type(record.get("type")) is str) or is_rollout_start(record)


def unwrapped(record: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return a record's type and payload, also of one that older versions wrote without an envelope."""
    payload = record.get("payload")
    kind = text_of(record, "type")
    if type(payload) is dict:
        return kind, payload
    if not kind and "instructions" in record:
        return "session_meta", record
    return ("response_item", record) if kind in _ITEMS else (kind or text_of(record, "record_type"), {})


def _is_persons_message(kind: str, payload: dict[str, Any]) -> bool:
    if kind == "event_msg":
        return payload.get("type") == "user_message"
    return payload.get("role") == "user" and bool(persons_texts(payload, Notes())[0])


def find_rolled_back(records: Iterable[tuple[int, dict[str, Any] | str]]) -> Abandoned:
    """Return the places of the records of turns that were rolled back, from 0."""
    abandoned = Abandoned()
    turns: list[int] = []
    in_turn = False  # the model has answered since the person's last message
    for place, (_, record) in enumerate(records):
        kind, payload = unwrapped(record) if type(record) is dict else ("", {})
        count = payload.get("num_turns")
        if kind == "event_msg" and payload.get("type") == "thread_rolled_back" and type(count) is int and count > 0:
            if turns:
                begin = turns[max(len(turns) - count, 0)]
                abandoned.add(begin, place - 1)
                turns = [turn for turn in turns if turn < begin]
        elif kind in {"event_msg", "response_item"} and _is_persons_message(kind, payload):
            if in_turn or not turns:
                turns.append(place)
            in_turn = False
        elif kind == "response_item" and payload.get("role", "assistant") == "assistant":
            in_turn = True
    return abandoned
