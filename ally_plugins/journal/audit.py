"""`verify`: whether the chain of hashes holds, and if not, which record is the first that is wrong, and how.

Somebody who can write both the journal and `audit.head` can recompute every hash unnoticed: keep a copy of
`audit.head` elsewhere, and compare with that too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import attrs
import orjson

from ally_plugins.contract.values.errors import AuditError, JournalError, JournalVersionError

from .audit_head import read_head
from .chain import Head, genesis, link
from .removals import Removals
from .schema import connect_read_only, describe_error, is_in_memory, read_chain_id
from .values import ACCEPTED, EVENTS, NEVER_PRUNED, PRUNED, SETTLED

__all__ = ["AuditReport", "Problem", "ProblemKind", "verify"]

ProblemKind: TypeAlias = Literal[
    "altered", "removed", "reordered", "cut", "content_removed", "state", "replaced", "head_missing", "unreadable"
]

_QUERY: Final = "SELECT n, at, kind, plugin, session_id, ref, key, data, digest, hash FROM records ORDER BY n"
_QUICK: Final = (
    "SELECT n, at, kind, plugin, session_id, ref, key, data, digest, hash, state, settled_at FROM records ORDER BY n"
)
# A changed byte may also turn a text into a blob of the same bytes, or back, which the hashes cannot tell.
_MISTYPED: Final = (
    "SELECT n FROM records WHERE typeof(at) != 'integer' OR typeof(kind) != 'text' "
    "OR typeof(plugin) NOT IN ('null', 'text') OR typeof(session_id) NOT IN ('null', 'text') "
    "OR typeof(ref) NOT IN ('null', 'text') OR typeof(key) NOT IN ('null', 'text') "
    "OR typeof(digest) != 'blob' OR typeof(hash) != 'blob' "
    "OR typeof(state) NOT IN ('null', 'text') OR typeof(settled_at) NOT IN ('null', 'integer') "
    "OR typeof(data) NOT IN ('null', CASE kind WHEN 'events' THEN 'blob' ELSE 'text' END) ORDER BY n LIMIT 1"
)
# What is no message has no state, and a message that is pending was not settled: nothing records such a change.
_MISPLACED: Final = (
    f"SELECT n FROM records WHERE settled_at IS NOT NULL AND (kind IS NOT '{ACCEPTED}' OR state IS 'pending') "  # noqa: S608
    f"OR state IS NOT NULL AND kind IS NOT '{ACCEPTED}' ORDER BY n LIMIT 1"
)
_NOTED: Final = frozenset({PRUNED.encode(), SETTLED.encode()})
_NOTED_KINDS: Final = frozenset({PRUNED, SETTLED})
_PROGRESS_EVERY: Final = 20_000  # records between two words on how far it is: some tenths of a second
_Row: TypeAlias = tuple[Any, ...]


@attrs.frozen
class Problem:
    """The first fault that was found. `record` is the number of the record, None where it concerns no single one."""

    kind: ProblemKind
    record: int | None
    text: str


@attrs.frozen
class AuditReport:
    """What `verify` found. `records` were checked, `pruned` of them without their content, as recorded.

    `lag` is how many records `audit.head` had not seen yet; some are normal while a host runs and after it was killed.
    """

    records: int
    pruned: int
    lag: int
    head: Head | None
    problem: Problem | None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.problem is None

    def raise_if_broken(self) -> None:
        """Raise AuditError when something is wrong."""
        if self.problem is not None:
            raise AuditError(self.problem.text, record=self.problem.record, kind=self.problem.kind)


class _BrokenError(Exception):
    """Ends the check with the problem that was found; never leaves this module."""

    def __init__(self, kind: ProblemKind, record: int | None, text: str) -> None:
        super().__init__(text)
        self.problem = Problem(kind, record, text)


def verify(
    path: Path,
    head_path: Path | None = None,
    *,
    copy: Head | None = None,
    on_progress: Callable[[int], object] = lambda _: None,
) -> AuditReport:
    """Check the whole chain of a journal, which may be written meanwhile. Takes some 4 µs a record, and blocks.

    `on_progress` is called with the number of the record that it has come to, a few times a second.

    `head_path` is `audit.head` beside the journal if not given; `copy` is what it was at some time, kept elsewhere.
    What is wrong is returned as the report's `problem`; raises JournalError only when there is no journal, and
    JournalVersionError for one that this program cannot read.
    """
    in_memory = is_in_memory(path)
    head_path = head_path or path.with_name("audit.head")
    if not in_memory and not path.exists():
        raise JournalError(f"there is no journal {str(path)!r}")
    check = _Check(copy=copy, needs_head=not in_memory, on_progress=on_progress)
    try:
        check.read_head(head_path)  # before the records, so that it cannot be newer than they are
        with closing(connect_read_only(path)) as db:
            check.run(db)
    except _BrokenError as broken:
        return check.report(broken.problem)
    # A JournalError too, and no fault of the journal: an upgrade can read it.
    except JournalVersionError:
        raise
    except (sqlite3.Error, JournalError, ValueError) as error:  # ValueError: SQLite's own message is not UTF-8
        return check.report(Problem("unreadable", check.n + 1, describe_error(error, path)))
    return check.report(None)


@attrs.define
class _Check:
    """The state of one run over the records."""

    head: Head | None = None
    copy: Head | None = None
    needs_head: bool = True
    n: int = 0
    hash: bytes = b""
    settled: int = 0
    on_progress: Callable[[int], object] = lambda _: None
    allowed: Removals = attrs.field(factory=Removals)
    pruned: int = 0
    """Records without content."""
    settled_found: int = 0
    """Messages that are no longer pending."""
    unexplained: int | None = None
    """The first of them whose removal nothing records."""

    def report(self, problem: Problem | None) -> AuditReport:
        lag = max(0, self.n - self.head.n) if self.head else 0
        return AuditReport(self.n, self.pruned, lag, self.head, problem)

    def read_head(self, path: Path) -> None:
        try:
            # Anybody's: what is verified may be a copy that was brought here.
            self.head = read_head(path, is_own=False)
        except JournalError as error:
            raise _BrokenError("unreadable", None, str(error)) from error

    def heads(self) -> Iterator[tuple[Head, str]]:
        """Yield what the chain must have come to once, and what to call it; the copy first, which nobody forged."""
        if self.copy is not None:
            yield self.copy, "the copy of audit.head"
        if self.head is not None:
            yield self.head, "audit.head"

    def run(self, db: sqlite3.Connection) -> None:
        db.execute("BEGIN")  # one snapshot for all that follows
        chain = read_chain_id(db)
        for head, name in self.heads():
            if head.chain != chain:
                raise _BrokenError("replaced", None, f"the journal is not the one that {name} belongs to")
        self.allowed = Removals.read(db)
        self.hash = genesis(chain)
        if self.check_quickly(db):
            # All that follows of each record was looked at on the way.
            self.check_end()
            self.raise_unexplained([])
            if self.settled_found != self.settled:
                self.check_settled_count(db)
            return
        db.text_factory = bytes  # a changed byte need not be UTF-8
        with closing(db.execute(_QUERY.replace("ORDER", "WHERE n > ? ORDER"), (self.n,))) as rows:
            self.check_records(rows, db)
        # After the hashes, which name a fault more exactly; before `check_pruned`, which compares `at` as a number.
        self.check_types(db)
        self.check_misplaced(db)
        self.check_end()
        self.check_pruned(db)
        self.check_settled_count(db)

    def check_quickly(self, db: sqlite3.Connection) -> bool:
        """Check the records that are as they were written, and say whether all are; `n` is the last one that is.

        What differs in any way, in a type too, is left to `check_records`, which finds out what is wrong with it. Here
        a record passes only by its hash over the values as they are, which is half of the time for the usual journal.
        """
        numbers = {head.n for head, _ in self.heads()}
        hash_before, last, dumps, is_noting = self.hash, self.n, orjson.dumps, False
        try:
            with closing(db.execute(_QUICK)) as rows:
                for n, at, kind, plugin, session_id, ref, key, data, digest, hash_, state, settled_at in rows:
                    link_ = sha256(hash_before + digest + dumps((n, at, kind, plugin, session_id, ref, key))).digest()
                    if n != last + 1 or link_ != hash_ or (n in numbers and not self.has_seen(n, hash_)):
                        return False
                    is_stateless = kind != ACCEPTED and state is None and settled_at is None
                    if not (is_stateless or self.is_state(kind, state, settled_at)):
                        return False
                    content: Any = data if kind == EVENTS else data.encode() if data.__class__ is str else None
                    is_there = content.__class__ is bytes and sha256(content).digest() == digest
                    if not is_there and not (data is None and self.may_miss(n, at, kind, session_id, state)):
                        return False
                    self.n, self.hash = last, hash_before = n, hash_
                    if is_there and kind in _NOTED_KINDS:
                        is_noting = True
                        self.note(n, kind.encode(), content, db)
                        is_noting = False
                    if not n % _PROGRESS_EVERY:
                        self.on_progress(n)
        # A text that is no UTF-8, or what no JSON is made of: the other way says which record it is.
        except (sqlite3.Error, TypeError, ValueError, AttributeError):
            if is_noting:  # by then the record has passed, and what it says is at fault
                raise
            return False
        return True

    def has_seen(self, n: int, hash_: bytes) -> bool:
        """Say whether a record is the one that the heads have seen at its number."""
        return all(head.n != n or head.hash == hash_ for head, _ in self.heads())

    def may_miss(self, n: int, at: int, kind: str, session_id: str | None, state: str | None) -> bool:
        """Say whether content of this kind is ever removed, and note whose was."""
        if state == "pending" or kind in NEVER_PRUNED:
            return False
        self.note_missing(n, at, kind.encode(), None if session_id is None else session_id.encode())
        return True

    def is_state(self, kind: str, state: Any, settled_at: Any) -> bool:
        """Say whether the state of a record may be, and count messages that were settled."""
        if kind != ACCEPTED:
            return False
        if state == "pending":
            return settled_at is None
        self.settled_found += 1
        return (state is None or state.__class__ is str) and (settled_at is None or settled_at.__class__ is int)

    def check_records(self, rows: Iterable[_Row], db: sqlite3.Connection) -> None:
        """Check each record by itself and with the one before; in one loop, since there may be millions."""
        seen = list(self.heads())
        numbers = {head.n for head, _ in seen}
        for row in rows:
            n, at, kind, *_, data, digest, hash_ = row
            expected = self.n + 1
            if n != expected:
                raise _BrokenError("removed", expected, f"record {expected} was removed: record {n} follows {self.n}")
            if _link_of(self.hash, n, row) != hash_:
                raise self.altered_or_reordered(n, db)
            if data is None:
                self.note_missing(n, at, kind, row[4])
            elif sha256(data if data.__class__ is bytes else _as_bytes(data)).digest() != digest:
                raise _BrokenError("altered", n, f"record {n} was altered: its content is not the one that was written")
            self.n, self.hash = n, hash_
            # Whoever computes all hashes anew makes a chain that holds; what was seen of the old one does not fit it.
            for head, name in seen if n in numbers else ():
                if head.n == n and head.hash != hash_:
                    raise _BrokenError("replaced", n, f"record {n} is not the one that {name} has seen")
            if kind in _NOTED and data is not None:
                self.note(n, kind, data, db)
            if not n % _PROGRESS_EVERY:
                self.on_progress(n)

    def note_missing(self, n: int, at: int, kind: bytes, session_id: bytes | None) -> None:
        self.pruned += 1
        if self.unexplained is None and not self.allowed.allow(n, at, kind, session_id):
            self.unexplained = n

    def check_types(self, db: sqlite3.Connection) -> None:
        found = db.execute(_MISTYPED).fetchone()
        if found is not None:
            raise _BrokenError("altered", found[0], f"record {found[0]} was altered: a column is not of its type")

    def altered_or_reordered(self, n: int, db: sqlite3.Connection) -> _BrokenError:
        """Distinguish an altered record from one that was swapped with a later one, whose hash still fits here."""
        # The rest is read once more, which happens once: this fault ends the check.
        with closing(db.execute(_QUERY.replace("ORDER", "WHERE n > ? ORDER"), (n,))) as rows:
            for row in rows:
                if _link_of(self.hash, n, row) == row[9]:
                    text = f"record {n} was reordered: the one that belongs here stands as record {row[0]}"
                    return _BrokenError("reordered", n, text)
        return _BrokenError("altered", n, f"record {n} was altered: it does not fit the hash that was written")

    def note(self, n: int, kind: bytes, data: bytes, db: sqlite3.Connection) -> None:
        if kind == PRUNED.encode():
            _fields(n, data, before=int)
        elif kind == SETTLED.encode():
            ids, state = _fields(n, data, ids=list, state=str)
            self.check_settled(n, ids, state, db)

    def check_settled(self, n: int, ids: list[Any], said: str, db: sqlite3.Connection) -> None:
        """Compare the state of messages with the record of their change: the hashes do not cover `state`."""
        query = (
            "SELECT m.n, CAST(m.state AS BLOB), m.settled_at, r.at "
            "FROM records r JOIN json_each(CAST(r.data AS TEXT), '$.ids') i "
            "LEFT JOIN records m ON m.ref = i.value AND m.kind = 'message' WHERE r.n = ?"
        )
        for message, state, settled_at, at in db.execute(query, (n,)):
            if state != said.encode() or settled_at != at:
                text = f"the state of message record {message} was altered: record {n} says {said!r}"
                raise _BrokenError("state", message, text)
        self.settled += len(ids)

    def check_settled_count(self, db: sqlite3.Connection) -> None:
        where = f"kind = '{ACCEPTED}' AND state IS NOT 'pending'"
        found = db.execute(f"SELECT count(*) FROM records WHERE {where}").fetchone()[0]  # noqa: S608 - constants
        if found == self.settled:
            return
        query = (
            f"SELECT min(n) FROM records WHERE {where} AND ref NOT IN (SELECT i.value FROM records r "  # noqa: S608
            f"JOIN json_each(CAST(r.data AS TEXT), '$.ids') i WHERE r.kind = '{SETTLED}')"
        )
        n = db.execute(query).fetchone()[0]
        text = f"the state of message record {n} was altered: no record says that it was settled"
        raise _BrokenError("state", n, text)

    def check_misplaced(self, db: sqlite3.Connection) -> None:
        found = db.execute(_MISPLACED).fetchone()
        if found is not None:
            text = f"the state of record {found[0]} was altered: no record says that it was settled"
            raise _BrokenError("state", found[0], text)

    def check_end(self) -> None:
        # Of an empty journal nothing can be cut, and one in memory has no file beside it.
        if self.head is None and self.n and self.needs_head:
            raise _BrokenError("head_missing", None, "audit.head is missing, so a cut end could not be noticed")
        for head, name in self.heads():
            if head.n > self.n:
                text = f"the journal was cut: it ends at record {self.n}, and {name} has seen {head.n}"
                raise _BrokenError("cut", self.n + 1, text)

    def check_pruned(self, db: sqlite3.Connection) -> None:
        """Check that content is missing only where a later record of the kind "pruned" allows it."""
        unprunable = "data IS NULL AND (state = 'pending' OR kind IN (?, ?, ?))"
        # One is enough: the check ends with the first.
        query = f"SELECT n FROM records WHERE {unprunable} ORDER BY n LIMIT 1"  # noqa: S608 - constants
        self.raise_unexplained([n for (n,) in db.execute(query, NEVER_PRUNED)])

    def raise_unexplained(self, found: list[int]) -> None:
        if self.unexplained is not None:
            found.append(self.unexplained)
        if found:
            n = min(found)
            raise _BrokenError("content_removed", n, f"the content of record {n} was removed without being pruned")


def _fields(n: int, data: bytes, **kinds: type) -> list[Any]:
    """Return fields of a record's content. Raises _BrokenError where one is not of its kind: somebody forged it."""
    content = orjson.loads(data)
    for name, kind in kinds.items():
        if not (isinstance(content, dict) and type(content.get(name)) is kind):
            raise _BrokenError("altered", n, f"record {n} was altered: it has no {name!r} as such records have")
    return [content[name] for name in kinds]


def _link_of(before: bytes, n: int, row: _Row) -> bytes | None:
    """Return the hash that a row should have as record `n`; None when its columns cannot be what was written."""
    _, at, kind, plugin, session_id, ref, key, _, digest, _ = row
    try:
        # Spelled out, and not `text.decode()`: what a changed byte made a number has none, and here is a TypeError.
        return link(
            before,
            digest,
            n,
            at,
            "" if kind is None else str(kind, "utf-8"),
            None if plugin is None else str(plugin, "utf-8"),
            None if session_id is None else str(session_id, "utf-8"),
            None if ref is None else str(ref, "utf-8"),
            None if key is None else str(key, "utf-8"),
        )
    # TypeError: what JSON, `bytes` or `str` does not take; ValueError: what is no UTF-8.
    except (TypeError, ValueError):
        return None


def _as_bytes(data: Any) -> bytes:
    return data if isinstance(data, bytes) else str(data).encode()
