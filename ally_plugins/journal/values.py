"""What goes into the journal and what comes out of it: plain values, no SQLite.

Nothing here may hold a secret: the journal is kept for long and shown in `audit`; who writes a record redacts first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import attrs
import orjson

from ally_plugins.contract.values.errors import JournalError

from .version_1 import upgrade_event

__all__ = [
    "ACCEPTED",
    "DECISION",
    "EVENTS",
    "HISTORY",
    "HISTORY_BEGIN",
    "HISTORY_REPLACE",
    "JOURNAL",
    "NEVER_PRUNED",
    "OWN_KINDS",
    "PRUNED",
    "RECEIVED",
    "RECORDED_AT",
    "SETTLED",
    "UNLISTED",
    "ChainedRecord",
    "DuplicateKeyError",
    "EventRow",
    "LeaseLostError",
    "MessageState",
    "PendingMessage",
    "Record",
    "SettledState",
    "StoredEvent",
    "StoredMessage",
    "StoredRecord",
    "encode",
]

ACCEPTED: Final = "message"  # a message; its `state` is the only part of a record that changes
SETTLED: Final = "message_state"  # messages left the state "pending": {"state", "ids"}
EVENTS: Final = "events"  # a block of events of one session; `ref` is "first-last"
RECEIVED: Final = "received"  # which events a plugin was given; see `receipts`
UNLISTED: Final = "('events', 'history', 'received')"
"""Kinds that are shown only where they are asked for, as SQL has them."""
HISTORY: Final = "history"  # a part of a saved conversation; see `histories`
HISTORY_BEGIN: Final = "history:begin"  # the `ref` of the part that says what the session is
HISTORY_REPLACE: Final = "history:replace"  # the `ref` of one that replaces all before it
DECISION: Final = "decision"  # of gates; `ref` is its id
PRUNED: Final = "pruned"  # content older than `before` was removed
RECORDED_AT: Final = "recorded_at"
"""In the data of what a replay writes, and only there: the recording's time (Unix ms), where `at` is the replay's."""
JOURNAL: Final = "journal"  # the journal about itself: it failed for a time, and what was lost meanwhile
# Written by the journal alone, so that nobody can forge what `verify` relies on.
OWN_KINDS: Final = frozenset({ACCEPTED, SETTLED, EVENTS, PRUNED, JOURNAL})

# What `verify` goes by, and what the journal says of its own failures.
NEVER_PRUNED: Final = (SETTLED, PRUNED, JOURNAL)

SettledState: TypeAlias = Literal["delivered", "expired", "pending_at_end"]
MessageState: TypeAlias = Literal["pending", "delivered", "expired", "pending_at_end"]

# (session_id, seq, at in Unix ms, type, origin as the emitter writes it, the params of `on_event` as JSON)
EventRow: TypeAlias = tuple[str, int, int, str, str | None, bytes]


@attrs.frozen
class Record:
    """One record to be written. `at` is in Unix ms, `ref` the id by which `explain` finds it."""

    kind: str
    at: int
    plugin: str | None = None
    session_id: str | None = None
    ref: str | None = None
    data: Mapping[str, Any] = attrs.field(factory=dict)


class PendingMessage(NamedTuple):
    """A message that passed the gates and is not yet on disk. A named tuple, the cheapest to make: one a message.

    `body` is what the conversation gets (role, content, metadata), after transforms. `key` is the plugin's idempotency
    key in the session; `fingerprint` is a digest of the request under it, before transforms, so that a retry can be
    distinguished from another message under the same key. `cause` is the id of the event whose hook sent it.
    """

    id: str
    session_id: str
    plugin: str
    at: int
    role: str
    deliver_as: str
    trigger_turn: bool
    body: Mapping[str, Any]
    key: str | None = None
    fingerprint: str | None = None
    cause: str | None = None


@attrs.frozen
class StoredMessage:
    """A message as it is stored. `n` is its offset; `body` is None once it is pruned; times are in Unix ms.

    `recorded_at` is the recording's time where a replay has accepted it.
    """

    n: int
    id: str
    session_id: str
    plugin: str
    role: str
    deliver_as: str
    trigger_turn: bool
    state: MessageState
    accepted_at: int
    settled_at: int | None
    body: dict[str, Any] | None
    key: str | None = None
    fingerprint: str | None = None
    cause: str | None = None
    recorded_at: int | None = None


@attrs.frozen
class StoredRecord:
    """A record as it is stored. `data` is None once it is pruned; `hash` is its place in the chain, as hex."""

    n: int
    at: int
    kind: str
    plugin: str | None
    session_id: str | None
    ref: str | None
    key: str | None
    data: dict[str, Any] | None
    hash: str


class ChainedRecord(NamedTuple):
    """A record as its hash covers it; `content` is None where it was pruned, or is kept back."""

    n: int
    at: int
    kind: str
    plugin: str | None
    session_id: str | None
    ref: str | None
    key: str | None
    digest: bytes
    hash: bytes
    content: bytes | None


@attrs.frozen
class StoredEvent:
    """An event as it is stored; `n` is the record that covers it, `written` the JSON that was handed in."""

    n: int
    session_id: str
    seq: int
    at: int
    type: str
    origin: str | None
    written: bytes

    @property
    def id(self) -> str:
        """The event's id, `session:seq`."""
        return f"{self.session_id}:{self.seq}"

    @property
    def body(self) -> bytes:
        """The event as JSON: the params of `on_event`, also where an older journal has other names."""
        return upgrade_event(self.written)

    def value(self) -> Any:
        """Return the parsed body."""
        return orjson.loads(self.body)


class DuplicateKeyError(JournalError):
    """The session has a message with this plugin and idempotency key: `stored` is the earlier one."""

    def __init__(self, stored: StoredMessage) -> None:
        super().__init__(
            f"plugin {stored.plugin!r} used the key {stored.key!r} in session {stored.session_id!r} before, "
            f"for message {stored.id!r}"
        )
        self.stored: Final = stored


class LeaseLostError(JournalError):
    """Some of `sessions` belong to another host by now, and nothing was written for them."""

    def __init__(self, sessions: tuple[str, ...]) -> None:
        names = ", ".join(map(repr, sessions))
        super().__init__(f"another host has taken over the session {names}")
        self.sessions: Final = sessions


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        # Sorted, so that equal sets have equal digests.
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def encode(value: Any) -> bytes:
    """Encode to JSON. Raises JournalError, with what was found, for what JSON cannot represent."""
    try:
        return orjson.dumps(value, default=_plain)
    except (TypeError, RecursionError) as error:
        raise JournalError(f"a journal record must be JSON: {error}") from error
