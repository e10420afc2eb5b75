"""What a home sends of its events to a shared plugin: some at a time, in its journal's order. No input or output."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import attrs
import orjson

from ally_plugins.contract.wording import describe
from ally_plugins.host.durable.offsets import Place

__all__ = ["ACK_WAIT_S", "EventBatch", "OtherVersion", "Wanted", "end_of", "events_of", "is_digest", "lost_before"]

ACK_WAIT_S: Final = 5.0
"""Seconds after which a message comes to another worker, where nobody has said that it is at work on it."""

_VERSION: Final = 1
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def is_digest(value: Any) -> bool:
    """Say whether a value is the digest of a plugin's files."""
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


class OtherVersion(ValueError):
    """A batch of a version that is not known here, though it may be elsewhere."""


@attrs.frozen
class Wanted:
    """A worker's question to the collector: a place in the stream of a plugin's events, for files with that digest."""

    plugin: str
    digest: str
    certificate: str

    def to_bytes(self) -> bytes:
        """Return it as JSON."""
        return orjson.dumps(attrs.asdict(self))

    @classmethod
    def from_bytes(cls, payload: bytes) -> Wanted:
        """Read it; the certificate is not looked at. Raises ValueError."""
        try:
            value = orjson.loads(payload)
        except orjson.JSONDecodeError as error:
            raise ValueError("a question that is no JSON") from error
        names = [field.name for field in attrs.fields(cls)]
        if not (isinstance(value, dict) and set(value) == {*names} and all(isinstance(value[n], str) for n in names)):
            raise ValueError(f"expected a plugin, a digest and a certificate, found {describe(value)}")
        return cls(**value)


@attrs.frozen
class EventBatch:
    """Events of one home after `begin` and up to `end`; `chain` says in which journal these places are.

    `lost` are events before its end that the home could not send: it has pruned them, or no message holds them.
    """

    chain: str
    begin: Place
    end: Place
    events: Sequence[bytes]
    lost: int = 0

    @property
    def id(self) -> str:
        """What is the same for the same events, so that the server takes them once."""
        return f"{self.chain}-{self.begin}-{self.end}"

    def to_bytes(self) -> bytes:
        """Return it as JSON; events are spliced in as the journal has them."""
        head: dict[str, Any] = {"version": _VERSION, "chain": self.chain}
        head |= {"begin": str(self.begin), "end": str(self.end)}
        if self.lost:
            head["lost"] = self.lost
        return b'%b,"events":[%b]}' % (orjson.dumps(head)[:-1], b",".join(self.events))


def end_of(payload: bytes) -> tuple[str, Place]:
    """Return the journal and the place that a batch has come to. Raises ValueError for what is no batch."""
    value = _object(payload)
    if not isinstance(chain := value.get("chain"), str):
        raise ValueError("expected the id of a chain")  # noqa: TRY004 - as all here
    return chain, Place.parse(value.get("end"))


def lost_before(payload: bytes) -> int:
    """Return how many events a batch says that its home could not send. Raises ValueError for what is no batch."""
    lost = _object(payload).get("lost", 0)
    return lost if type(lost) is int else 0


def events_of(payload: bytes, home: str) -> list[bytes]:
    """Return the events of a batch, each as the params of `on_event` without an offset.

    Their sessions are named after their home, since two homes may have sessions of one name: an event's id is one of
    all homes'. Raises OtherVersion, and ValueError for anything else: who sent it may mean harm.
    """
    events = _object(payload).get("events")
    if not (isinstance(events, list) and all(isinstance(event, dict) for event in events)):
        raise ValueError("expected a list of events")
    for event in events:
        session_id, seq = event.get("session_id"), event.get("seq")
        if not (isinstance(session_id, str) and type(seq) is int):
            raise ValueError(f"expected an event with its session and number, found {describe(event)}")
        event.pop("offset", None)  # the worker's own, at the end
        event["session_id"] = f"{home}/{session_id}"
        event["id"] = f"{home}/{session_id}:{seq}"
    try:
        return [orjson.dumps(event) for event in events]
    except TypeError as error:  # nested deeper than it writes
        raise ValueError(f"an event cannot be written: {error}") from error


def _object(payload: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error}") from error
    version = value.get("version") if isinstance(value, dict) else None
    if type(version) is not int:
        raise ValueError(f"expected an object with a version, found {describe(value)}")
    if version != _VERSION:
        raise OtherVersion(f"events of version {version} of the wire, expected {_VERSION}")
    found: dict[str, Any] = value
    return found
