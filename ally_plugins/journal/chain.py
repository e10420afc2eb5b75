"""The audit chain: what is hashed, and the form of its head. No input or output.

A record's hash covers the hash before it, the digest of its content, and n, at, kind, plugin, session_id, ref and key.
The content itself is covered by the digest only, so that it can be pruned and the chain stays whole. `state` and
`settled_at` follow from the records that are hashed: a message's change is a record of its own, which `verify`
compares, and what is no message has neither.
Events are covered a block at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Final

import attrs
import orjson

from .values import EventRow, StoredEvent

__all__ = ["Head", "decode_block", "digest_of", "encode_block", "genesis", "link"]

_HEAD_FORMAT: Final = "ally-audit-head 1"
# 18 digits fit into 64 bits, as the numbers of records do.
_HEAD: Final = re.compile(rf"{_HEAD_FORMAT} (\S+) ([0-9]{{1,18}}) ([0-9a-f]{{64}})\n")


@attrs.frozen
class Head:
    """How far a chain has come: the number of its last record, that record's hash, and which chain it is."""

    n: int
    hash: bytes
    chain: str

    def to_text(self) -> str:
        """Return the text of `audit.head`."""
        return f"{_HEAD_FORMAT} {self.chain} {self.n} {self.hash.hex()}\n"

    @classmethod
    def from_text(cls, text: str) -> Head:
        """Read `audit.head`. Raises ValueError when it is not one."""
        found = _HEAD.fullmatch(text)
        if found is None:
            raise ValueError(f"expected {_HEAD_FORMAT!r}, a chain, a number and a hash, found {text[:80]!r}")
        return cls(int(found[2]), bytes.fromhex(found[3]), found[1])


def genesis(chain: str) -> bytes:
    """Return the hash that the first record builds on. It names the chain, so that chains cannot be swapped."""
    return sha256(f"ally-journal 1 {chain}".encode()).digest()


def digest_of(content: bytes) -> bytes:
    """Return the digest of a record's content."""
    return sha256(content).digest()


def link(  # noqa: PLR0913, PLR0917 - the fields that a record's hash covers, once each
    before: bytes,
    digest: bytes,
    n: int,
    at: int,
    kind: str,
    plugin: str | None,
    session_id: str | None,
    ref: str | None,
    key: str | None,
) -> bytes:
    """Return a record's hash. The two hashes have a fixed length, so that no two records write the same bytes."""
    return sha256(before + digest + orjson.dumps((n, at, kind, plugin, session_id, ref, key))).digest()


def encode_block(rows: Sequence[EventRow]) -> bytes:
    """Encode events of one session as one content: a JSON line of columns, then the events' JSON as it is, a line each.

    Columns need a few calls for a block instead of a few for each event: under 0.3 µs an event.
    """
    _, seqs, ats, types, origins, bodies = zip(*rows, strict=True)
    # By size and not by line: whoever decodes slices, and searches no body for its end.
    sizes = list(map(len, bodies))
    columns = orjson.dumps({"seq": seqs, "at": ats, "type": types, "origin": origins, "size": sizes})
    return b"\n".join((columns, *bodies))


def decode_block(n: int, session_id: str, content: bytes) -> Iterator[StoredEvent]:
    """Yield the events of a block, in order."""
    line, _, bodies = content.partition(b"\n")
    columns = orjson.loads(line)
    names: Iterable[str] = ("seq", "at", "type", "origin", "size")
    start = 0
    for seq, at, type_, origin, size in zip(*(columns[name] for name in names), strict=True):
        yield StoredEvent(n, session_id, seq, at, type_, origin, bodies[start : start + size])
        start += size + 1
