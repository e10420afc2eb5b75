"""Leases: a session belongs to one host at a time, and what another one writes for it is refused.

A lease is a row of the journal with an epoch that no other lease has or had. Every statement that writes for a session
that is held here looks, inside its transaction, whether the row still has the epoch; so a host that was stopped, and
wakes after another one took its sessions over, can write nothing for them. The writing thread renews the rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from attrs import define, field, frozen

from ally_plugins.contract.values.errors import SessionError

from .process_identity import ProcessIdentity
from .values import LeaseLostError

if TYPE_CHECKING:
    import sqlite3

__all__ = ["BEAT_S", "SILENT_S", "Lease", "LeaseRow", "LeaseTable", "loss_of", "read_leases"]

SILENT_S: Final = 10.0
"""Seconds without a beat after which a session may be taken from its host."""

BEAT_S: Final = 3.0
"""Seconds between two beats: three may be late before a host that lives is taken for silent."""

_MARGIN_S: Final = 1.0
"""Seconds before the end of its time from which a holder no longer trusts its last beat."""

_LOST: Final = "the lease is lost"
_NEW: Final = "(SELECT 1 FROM temp.held h WHERE h.session_id = NEW.session_id AND NOT EXISTS "
_ROW: Final = "(SELECT 1 FROM main.leases l WHERE l.session_id = h.session_id AND l.epoch = h.epoch)"
_REFUSE: Final = f"EXISTS {_NEW}{_ROW}) BEGIN SELECT RAISE(ABORT, '{_LOST}'); END"
# Triggers of one connection, on tables of the file: no way of writing gets around them. A row costs two look-ups. What
# is inserted is looked at afterwards, and is not there when that aborts its statement: for a trigger before it SQLite
# makes each row twice, which takes as long as the look-ups.
_HELD: Final = (
    "CREATE TEMP TABLE held(session_id TEXT PRIMARY KEY, epoch INTEGER NOT NULL) WITHOUT ROWID",
    f"CREATE TEMP TRIGGER lease_of_insert AFTER INSERT ON main.records WHEN {_REFUSE}",
    # `state` alone: pruning removes `data`, and may do so for the sessions of any host.
    f"CREATE TEMP TRIGGER lease_of_state BEFORE UPDATE OF state ON main.records WHEN {_REFUSE}",
)
_COLUMNS: Final = "session_id, epoch, host, pid, started, boot, namespace, beat"


@define(eq=False)
class Lease:
    """One host's hold on one session, from `Journal.claim` until `release` or its loss.

    `lose` may be called by any thread; everything else is the host's and the writing thread's.
    """

    session_id: str
    host: str
    on_lost: Callable[[], object]
    """Called once when the lease is lost, by the thread that finds out."""
    valid_from: float = field(factory=time.monotonic)
    """From before the row's first beat, so that the holder's trust ends before others may take the session."""
    epoch: int = 0
    """0 until it is on disk."""
    refused: str | None = None
    """Why it was not granted."""
    lost: str | None = None
    """Why it is not held any more."""

    def lose(self, reason: str) -> None:
        """Note that the session belongs to another host, and tell the owner of the lease, once."""
        if self.lost is None:
            self.lost = reason
            self.on_lost()

    def check_known(self) -> None:
        """Raise SessionError when the loss is known; asks nobody."""
        if self.lost is not None:
            raise SessionError(self.lost)

    def is_trusted(self, beaten_at: float) -> bool:
        """Say whether nobody can have taken the session since the last beat, in seconds of `time.monotonic`."""
        now = time.monotonic()
        return now - beaten_at < SILENT_S - _MARGIN_S or now - self.valid_from < SILENT_S - _MARGIN_S


@frozen
class LeaseRow:
    """A lease as it is on disk. `beat` is in ms of `time.monotonic`, which all processes since one boot share."""

    session_id: str
    epoch: int
    host: str
    owner: ProcessIdentity
    beat: int

    def is_free(self, is_dead: Callable[[ProcessIdentity], bool] = ProcessIdentity.is_dead) -> bool:
        """Say whether the session may be taken: its owner is provably dead, or was silent for `SILENT_S`.

        `is_dead` may remember its answers, for many sessions of one host.
        """
        silent_ms = _now_ms() - self.beat
        if silent_ms < 0 and self.owner.boot is None:
            return True  # a beat that is yet to come: the machine was started again since
        # Silence first: it costs no look into /proc.
        return silent_ms >= SILENT_S * 1000 or is_dead(self.owner)

    def describe(self) -> str:
        """Return who holds it."""
        own = ProcessIdentity.own()
        return "another host of this process" if self.owner == own else f"the host of process {self.owner.pid}"


def read_leases(db: sqlite3.Connection, session_id: str | None = None) -> list[LeaseRow]:
    """Return the leases that are on disk, or that of one session."""
    where, params = ("", ()) if session_id is None else (" WHERE session_id = ?", (session_id,))
    rows = db.execute(f"SELECT {_COLUMNS} FROM leases{where}", params).fetchall()  # noqa: S608 - constants
    return [LeaseRow(row[0], row[1], row[2], ProcessIdentity(*row[3:7]), row[7]) for row in rows]


class LeaseTable:
    """The leases of one journal that are held here, as the connection that writes sees them; used by one thread.

    `held` is shared by all connections of the journal, one after the other: after a failure the next one goes on.
    Rows that `claim` and `release` change belong to the transaction that is open; `commit` and `roll_back` follow it.
    """

    def __init__(self, db: sqlite3.Connection, held: dict[str, Lease]) -> None:
        self._db: Final = db
        self._held: Final = held
        self._changes: dict[str, Lease | None] = {}
        self._is_swept = False
        # The table of what is held is looked at in every batch; a file for it would be one more that can fail.
        db.execute("PRAGMA temp_store = MEMORY")
        for statement in _HELD:
            db.execute(statement)
        db.executemany(
            "INSERT INTO temp.held VALUES (?, ?)", [(lease.session_id, lease.epoch) for lease in held.values()]
        )

    def restore(self) -> None:
        """Write again what is held, where the file lost it: its write-ahead log was removed, or it was put back older.

        A file that has given more epochs than the lease's own has lost nothing; the lease was taken, and closed since.
        """
        found = self._db.execute("SELECT value FROM meta WHERE name = 'lease_epoch'").fetchone()
        given = int(found[0]) if found is not None else 0
        # Of all: `held` is in no order of epochs, and with a lost one's epoch its holder would be taken for the owner.
        highest = max((lease.epoch for lease in self._held.values()), default=0)
        if highest > given:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('lease_epoch', ?)", (str(highest),))
        for lease in self._held.values():
            if lease.epoch > given and lease.lost is None:
                self._insert("INSERT OR IGNORE", lease)

    def _insert(self, insert: str, lease: Lease) -> None:
        own = ProcessIdentity.own()
        row = (lease.session_id, lease.epoch, lease.host, own.pid, own.started, own.boot, own.namespace, _now_ms())
        self._db.execute(f"{insert} INTO leases({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def claim(self, lease: Lease) -> None:
        """Take a session for a host, or set why it is `refused`."""
        if not self._is_swept:
            self._sweep()
        found = next(iter(read_leases(self._db, lease.session_id)), None)
        if found is not None and found.host != lease.host and not found.is_free():
            lease.refused = (
                f"session {lease.session_id!r} is open in {found.describe()}; close it there (session.close()), or "
                "send what belongs to it to that one"
            )
            return
        self._db.execute(
            # A counter, since a closed session's row is gone: one epoch more than those that are there may be given
            # again.
            "INSERT INTO meta VALUES ('lease_epoch', '1') "
            "ON CONFLICT(name) DO UPDATE SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT)"
        )
        lease.epoch = int(self._db.execute("SELECT value FROM meta WHERE name = 'lease_epoch'").fetchone()[0])
        self._insert("INSERT OR REPLACE", lease)
        self._db.execute("INSERT OR REPLACE INTO temp.held VALUES (?, ?)", (lease.session_id, lease.epoch))
        self._changes[lease.session_id] = lease

    def release(self, lease: Lease) -> None:
        """Let a session go, unless it was lost or is held anew. What is written for it from now on is not looked at."""
        where = "WHERE session_id = ? AND epoch = ?"
        self._db.execute(f"DELETE FROM leases {where}", (lease.session_id, lease.epoch))  # noqa: S608 - constant
        self._db.execute(f"DELETE FROM temp.held {where}", (lease.session_id, lease.epoch))  # noqa: S608
        if self._changes.get(lease.session_id, self._held.get(lease.session_id)) is lease:
            self._changes[lease.session_id] = None

    def release_all(self) -> None:
        """Let all sessions go that are still held."""
        for lease in list(self._held.values()):
            self.release(lease)
        self.commit()

    def commit(self) -> None:
        """Take over what the transaction has changed; it is on disk."""
        for session_id, lease in self._changes.items():
            if lease is None:
                self._held.pop(session_id, None)
            else:
                self._held[session_id] = lease
        self._changes.clear()

    def roll_back(self) -> None:
        """Forget what the transaction has changed; SQLite has rolled `temp.held` back with all the rest."""
        self._changes.clear()

    def beat(self) -> None:
        """Renew what is held, and tell the owners of what was taken."""
        self._db.execute(
            "UPDATE leases SET beat = ? WHERE EXISTS "
            "(SELECT 1 FROM temp.held h WHERE h.session_id = leases.session_id AND h.epoch = leases.epoch)",
            (_now_ms(),),
        )
        self._find_lost()

    def _sweep(self) -> None:
        """Remove the leases of processes that are provably dead, or they would only become more."""
        self._is_swept = True
        rows = read_leases(self._db)
        # Each process is looked at once, however many sessions it had.
        dead = {owner for owner in {row.owner for row in rows} if owner.is_dead()}
        gone = [(row.session_id, row.epoch) for row in rows if row.owner in dead]
        self._db.executemany("DELETE FROM leases WHERE session_id = ? AND epoch = ?", gone)

    def explain(self, error: sqlite3.IntegrityError) -> LeaseLostError | None:
        """Return which leases were lost when that is why a statement was refused; None when it is not."""
        return LeaseLostError(self._find_lost()) if _LOST in str(error) else None

    def _find_lost(self) -> tuple[str, ...]:
        """Return the sessions that another host has taken, and tell their owners, once."""
        query = f"SELECT h.session_id FROM temp.held h WHERE NOT EXISTS {_ROW}"  # noqa: S608 - constants
        lost = tuple(session_id for (session_id,) in self._db.execute(query).fetchall())
        for session_id in lost:
            self._lose(session_id)
        return lost

    def _lose(self, session_id: str) -> None:
        if (lease := self._held.get(session_id)) is not None:
            row = next(iter(read_leases(self._db, session_id)), None)
            lease.lose(loss_of(session_id, row))


def loss_of(session_id: str, row: LeaseRow | None) -> str:
    """Return the text for a host that has lost a session."""
    by = row.describe() if row is not None else "another host, which has closed it since"
    return (
        f"session {session_id!r} was taken over by {by}, since this one was silent for {SILENT_S:g} s; nothing of it "
        "is accepted here any more: open it again with host.session()"
    )


def _now_ms() -> int:
    # Not the time of day, which people set: then hosts that live would look silent.
    return time.monotonic_ns() // 1_000_000
