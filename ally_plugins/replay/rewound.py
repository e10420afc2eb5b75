"""Which records of a Claude Code transcript a person took back with `/rewind`.

Rewinding writes nothing of its own: the next message names the record before the one that was taken back as its parent.
Not every record that does not follow the last one is such: results of parallel calls name the call, the records of
hooks and progress hang where they like, and a compaction begins anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .branches import Branches
from .content import Notes, iterate_blocks, text_of
from .user_texts import TextKind, kind_of_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .branches import Abandoned

__all__ = ["find_rewound"]

_PERSONS: Final = frozenset({TextKind.PERSON, TextKind.COMMAND})


def find_rewound(records: Iterable[tuple[int, dict[str, Any] | str]]) -> Abandoned:
    """Return the places of the records that were taken back, counted from 0.

    One without a name (`uuid`) is taken back with those around it.
    """
    branches = Branches()
    session_id = ""
    for place, (_, record) in enumerate(records):
        if type(record) is not dict or record.get("isSidechain") is True or not (name := text_of(record, "uuid")):
            continue
        is_persons, is_result = _content_of(record)
        is_answer = record.get("type") == "assistant"
        own = text_of(record, "sessionId")
        # None is the first record of a conversation; a record without the key hangs on nothing that is known.
        parent = record.get("parentUuid", _MISSING)
        is_root = parent is None and is_persons and own == (session_id or own)
        branches.receive_record(
            place,
            name,
            parent if type(parent) is str else None,
            is_turn=is_persons,
            is_anchor=is_persons or is_result or is_answer,
            may_branch=is_root or ((is_persons or is_answer) and type(parent) is str),
        )
        session_id = session_id or own
    return branches.abandoned


_MISSING: Final = object()


def _content_of(record: dict[str, Any]) -> tuple[bool, bool]:
    """Return whether a person says something in a record, and whether it is a tool's result."""
    message = record.get("message")
    if record.get("type") != "user" or type(message) is not dict:
        return False, False
    blocks = list(iterate_blocks(message.get("content"), Notes()))
    if any(block.get("type") == "tool_result" for block in blocks):
        return False, True
    texts = [text_of(block, "text") for block in blocks]
    return kind_of_text(record, "\n".join(texts)) in _PERSONS, False
