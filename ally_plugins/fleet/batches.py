"""What goes over the wire: some records of one home's chain, in order, as JSON. No input or output.

The home's journal is the truth; a collector checks each record against the hash before it, as `audit verify` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import attrs
import orjson

from ally_plugins.contract.values.frozen import FrozenDict
from ally_plugins.contract.wording import describe
from ally_plugins.journal.audit import Problem
from ally_plugins.journal.chain import Head, digest_of, genesis, link
from ally_plugins.journal.values import ChainedRecord

__all__ = ["UNREADABLE", "Alive", "Held", "RecordBatch", "check", "decode", "encode"]

_VERSION: Final = 1
_HASH_BYTES: Final = 32
_MOST: Final = 2**63 - 1
_LONGEST: Final = 1000  # of what somebody else's publisher says
_MOST_PLUGINS: Final = 100  # of which it says something


@attrs.frozen
class RecordBatch:
    """Records of one chain that follow one another; never empty."""

    chain: str
    records: Sequence[ChainedRecord]

    @property
    def head(self) -> Head:
        """How far the chain has come with it."""
        return Head(self.records[-1].n, self.records[-1].hash, self.chain)


@attrs.frozen
class Held:
    """The revisions that a home holds, and the version of this package there.

    `plugins` is that of `catalog.decide.lock.revision_of`, `policy` the SHA-256 of the machine's policy file; either is
    `UNREADABLE` where it cannot be had, and `policy` empty where the machine has none.
    """

    plugins: str
    policy: str
    version: str

    def to_data(self) -> dict[str, str]:
        """Return it as JSON values."""
        return attrs.asdict(self)

    @classmethod
    def from_data(cls, value: Any) -> Held:
        """Read it. Raises ValueError, which says what was found; what it does not know is left out."""
        names = [field.name for field in attrs.fields(cls)]
        found = [value.get(name) for name in names] if isinstance(value, dict) else []
        texts = [text for text in found if isinstance(text, str) and len(text) <= _LONGEST]
        if len(texts) != len(names):
            raise ValueError(f"expected the texts {', '.join(names)}, found {describe(value)}")
        return cls(*texts)


UNREADABLE: Final = "unreadable"
"""Stands for a revision that could not be found out."""


@attrs.frozen
class Alive:
    """A home's word that it is there: how far its journal has come, and what its publisher has found wrong with it.

    `events` says, by plugin, why events for it wait, or what of them was lost.
    """

    head: Head
    problem: str | None = None
    held: Held | None = None
    events: Mapping[str, str] = FrozenDict()

    def to_bytes(self) -> bytes:
        """Return it as JSON."""
        held = None if self.held is None else self.held.to_data()
        said = {"head": self.head.to_text(), "problem": self.problem, "held": held, "events": {**self.events}}
        return orjson.dumps({"version": _VERSION, **said})

    @classmethod
    def from_bytes(cls, payload: bytes) -> Alive:
        """Read it. Raises ValueError, which says what was found."""
        value = _object(payload)
        head, problem = value.get("head"), value.get("problem")
        if not (isinstance(head, str) and isinstance(problem, str | None)):
            raise ValueError("expected the head of a chain, and a problem or null")  # noqa: TRY004 - as all here
        held, events = value.get("held"), value.get("events", {})
        if not (isinstance(events, dict) and all(isinstance(text, str) for text in events.values())):
            raise ValueError(f"expected what events wait for, by plugin, found {describe(events)}")
        return cls(
            Head.from_text(head),
            problem and problem[:_LONGEST],
            None if held is None else Held.from_data(held),
            {plugin[:_LONGEST]: text[:_LONGEST] for plugin, text in [*events.items()][:_MOST_PLUGINS]},
        )


def encode(batch: RecordBatch, max_bytes: int) -> bytes:
    """Return a batch as JSON; where it is larger than that, contents are left out, the largest first.

    Their digests are there all the same, so that the chain is verified without them.
    """
    rows = [_to_json(each) for each in batch.records]
    kept = sorted((len(row[-1] or ""), number) for number, row in enumerate(rows))
    while len(payload := orjson.dumps({"version": _VERSION, "chain": batch.chain, "records": rows})) > max_bytes:
        size, number = kept.pop()
        if not size:
            break
        rows[number][-1] = None
    return payload


def decode(payload: bytes) -> RecordBatch | Alive:
    """Read what lies at the server: a batch, or a home's word that something is wrong with its journal.

    Raises ValueError, which says what was found, for anything else: who sent it may mean harm.
    """
    value = _object(payload)
    if "problem" in value:
        return Alive.from_bytes(payload)
    chain, rows = value.get("chain"), value.get("records")
    if not (isinstance(chain, str) and chain and isinstance(rows, list) and rows):
        raise ValueError("expected the id of a chain and its records")
    records = [_from_json(row) for row in rows]
    for before, after in pairwise(records):
        if after.n != before.n + 1:
            raise ValueError(f"record {after.n} follows record {before.n}")
    return RecordBatch(chain, records)


def check(head: Head | None, batch: RecordBatch) -> tuple[Sequence[ChainedRecord], list[Problem]]:
    """Return the records that come after `head`, and what is wrong with them; what is known already is left out.

    What is wrong is returned with the record all the same: it is what the home says now, and evidence.
    """
    findings: list[Problem] = []
    first = batch.records[0].n
    known, before = (0, genesis(batch.chain)) if head is None or head.chain != batch.chain else (head.n, head.hash)
    if head is not None and head.chain != batch.chain:
        text = f"another journal took the place of the one that ended at record {head.n}"
        findings.append(Problem("replaced", first, text))
    if first > known + 1:
        text = f"records {known + 1} to {first - 1} never came: record {first} follows"
        findings.append(Problem("removed", known + 1, text))
    new = [record for record in batch.records if record.n > known]
    for record in new:
        if record.n == known + 1 and record.hash != _hash_of(before, record):
            text = f"record {record.n} was altered: it does not build on the one before it"
            findings.append(Problem("altered", record.n, text))
        if record.content is not None and digest_of(record.content) != record.digest:
            text = f"record {record.n} was altered: its content is not the one that was written"
            findings.append(Problem("altered", record.n, text))
        known, before = record.n, record.hash
    return new, findings


def _object(payload: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error}") from error
    if not isinstance(value, dict) or value.get("version") != _VERSION:
        raise ValueError(f"expected an object of version {_VERSION}, found {describe(value)}")
    return value


def _hash_of(before: bytes, record: ChainedRecord) -> bytes:
    n, at, kind, plugin, session_id, ref, key, digest, *_ = record
    return link(before, digest, n, at, kind, plugin, session_id, ref, key)


def _to_json(record: ChainedRecord) -> list[Any]:
    *fields, digest, hash_, content = record
    return [*fields, digest.hex(), hash_.hex(), None if content is None else content.decode()]


def _from_json(row: Any) -> ChainedRecord:
    if not (isinstance(row, list) and len(row) == len(ChainedRecord._fields)):
        raise ValueError(f"expected a record of {len(ChainedRecord._fields)} fields, found {describe(row)}")
    n, at, kind, plugin, session_id, ref, key, digest, hash_, content = row
    if not (_is_number(n) and n > 0 and _is_number(at)):
        raise ValueError(f"expected a record's number and its time in Unix ms, found {describe([n, at])}")
    if not isinstance(kind, str) or not all(
        isinstance(text, str | None) for text in (plugin, session_id, ref, key, content)
    ):
        raise ValueError(f"record {n} has a field that is no text")
    hashes = _hash(n, digest), _hash(n, hash_)
    return ChainedRecord(
        n, at, kind, plugin, session_id, ref, key, *hashes, None if content is None else content.encode()
    )


def _is_number(value: Any) -> bool:
    return type(value) is int and abs(value) <= _MOST


def _hash(n: int, text: Any) -> bytes:
    try:
        value = bytes.fromhex(text)
    except (TypeError, ValueError):
        value = b""
    if len(value) != _HASH_BYTES:
        raise ValueError(f"record {n} has no hash of {_HASH_BYTES} bytes where one belongs, found {describe(text)}")
    return value
