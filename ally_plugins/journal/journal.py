"""The journal of one host: what its other parts call to write records, messages and events, on a loop or without one.

That nothing secret is written is the caller's business.
"""

from __future__ import annotations

import asyncio
import atexit
import sqlite3
from asyncio import Future as LoopFuture
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self

from attrs import evolve

from ally_plugins.contract.values.errors import JournalError, SessionError

from .contents import Omission
from .leases import Lease, loss_of
from .reader import JournalReader
from .rows import Row, problem_of, row_of, size_of
from .schema import describe_error, new_memory_path
from .store import Bookmark, Claim, Mark, Release, Store, now_ms
from .values import (
    ACCEPTED,
    OWN_KINDS,
    RECORDED_AT,
    EventRow,
    PendingMessage,
    Record,
    SettledState,
    StoredMessage,
    encode,
)
from .waiters import BlockingWaiter
from .writer import Writer

if TYPE_CHECKING:
    from ally_plugins.policy.keeping import Keeping

    from .entries import Item

__all__ = ["HEAD_NAME", "JOURNAL_NAME", "Journal"]

JOURNAL_NAME: Final = "journal.db"
HEAD_NAME: Final = "audit.head"
_ITEM_BYTES: Final = 256  # what an event takes in memory beside its body, and a bookmark or lease altogether: about


class Journal:
    """Accepts records, messages and events, and writes them to disk in order.

    Lives from `open` or `in_memory` until `close`. Every method may be called from any thread, but those that return a
    future only from a running loop.
    """

    def __init__(self, path: Path, head: Path | None, keeping: Keeping | None = None) -> None:
        """Use `open` or `in_memory`."""
        self.path: Final = path
        self.keeps_contents: Final = keeping is None or keeping.content == "full"
        """Whether texts of prompts, arguments and outputs are written, or only how long they were."""
        self.head_path: Final = head
        self.reader: Final = JournalReader(path)
        self._readers: Final = [self.reader]

        held: dict[str, Lease] = {}  # outlives each store: after a failure the next one goes on with it

        def open_store(*, create: bool = False) -> Store:
            return Store(path, head, held, create=create, before_close=self._release_readers)

        self.before_durable: Final[list[Callable[[Item], object]]] = []
        """Functions that queue what they hold back (emitted events), called before something durable is queued, with
        it, so that the journal has both in the order in which they happened. None stands for a flush."""
        self.is_replay = False
        """Whether what is written belongs to a replay: then its time is that of the machine, as for `audit --since` and
        `prune`, and its own time stands beside it (`recorded_at`), which marks it."""
        store = open_store(create=True)
        self._omission: Final = None if self.keeps_contents else Omission(store.head.chain)
        self._writer: Final = Writer(store, open_store, held, self._dated, keeping)
        # The writing thread is a daemon: what waits for it would be lost with an interpreter that ends.
        atexit.register(self.close_blocking)

    @classmethod
    def open(cls, path: Path, *, head: Path | None = None, keeping: Keeping | None = None) -> Self:
        """Open the journal, or create it. `head` is `audit.head` beside it if not given.

        `keeping` is what to keep, which is applied while it is open; without it everything is kept for ever.

        Raises JournalError when it cannot be written, is something else, was written by a newer version, or
        ends before what `audit.head` has seen.
        """
        try:
            return cls(path, head or path.with_name(HEAD_NAME), keeping)
        except (sqlite3.Error, OSError, JournalError) as error:
            raise JournalError(describe_error(error, path)) from error

    @classmethod
    def in_memory(cls) -> Self:
        """Open a journal that lies in the memory of this process alone, and ends with it: no file has any of it.

        It grows with what is recorded; `prune` makes room.
        """
        journal = cls(new_memory_path(), None)
        journal.reader.last_n()  # a connection that stays: without any, the journal would be gone
        return journal

    @property
    def healthy(self) -> bool:
        """Whether durable writes are taken at the moment."""
        return self._writer.reason is None

    @property
    def reason(self) -> str | None:
        """Why durable writes are refused; None when they are not."""
        return self._writer.reason

    @property
    def lost(self) -> int:
        """How many records and events nobody waited for were lost since `open`, since the disk failed for too long."""
        return self._writer.lost

    # --- durable: on disk when the future has its result

    def append(self, record: Record) -> LoopFuture[int]:
        """Write a record; the result is its number.

        Cancelling the future does not take the record back. Raises JournalError, here or in the future, when it cannot
        be written.
        """
        row = self._checked_row(record)
        if self.is_replay:
            self._queue_held(row)  # first: these events are dated as they are queued, and came before
            row = self._checked_row(self._dated(record))
        return self._put(row)

    def _checked_row(self, record: Record) -> Row:
        return _checked_row(self._kept(record))

    def _kept(self, record: Record) -> Record:
        if self._omission is None:
            return record
        try:
            return evolve(record, data=self._omission.record(record.kind, record.data))
        except RecursionError as error:
            raise JournalError(f"a journal record must be JSON: {error}") from error

    def append_blocking(self, record: Record) -> int:
        """Write a record and wait until it is on disk. Not for a thread that runs a loop. Raises JournalError."""
        waiter = BlockingWaiter()
        self._writer.put(self._checked_row(self._dated(record)), waiter)
        return int(waiter.result())

    def accept(self, message: PendingMessage) -> LoopFuture[int]:
        """Write a message as pending; the result is its offset, the number of its record.

        Cancelling the future does not take the message back. Raises JournalError, here or in the future, when it cannot
        be written (a disk that fails amid a commit may keep it all the same: use a key to try again safely);
        DuplicateKeyError in the future when this plugin's key was in the session before (with the earlier message),
        be it in the same batch or from another process.
        """
        if self._omission is not None:
            message = message._replace(body=self._omission.record(ACCEPTED, {"body": message.body})["body"])
        row = _message_row(message)
        if self.is_replay:
            self._queue_held(row)  # as in `append`
            row = _message_row(message._replace(at=now_ms()), {RECORDED_AT: message.at})
        return self._put(row)

    def mark(self, ids: Sequence[str], state: SettledState, at: int) -> LoopFuture[None]:
        """Change the state of messages that are pending; the others keep theirs. `at` is in Unix ms.

        Cancelling the future does not take it back. Raises JournalError, here or in the future.
        """
        mark = Mark(tuple(ids), state, at)
        if self.is_replay:
            self._queue_held(mark)  # as in `append`
            mark = Mark(mark.ids, state, now_ms(), {RECORDED_AT: at})
        return self._put(mark)

    def mark_delivered(self, ids: Sequence[str], at: int) -> LoopFuture[None]:
        """Mark messages as delivered, all or none; see `mark`. `at` is in Unix ms. Raises JournalError."""
        return self.mark(ids, "delivered", at)

    def put_bookmark(self, name: str, place: str) -> LoopFuture[None]:
        """Store under a name how far a reader has come, replacing what was stored before. It is no record of the chain.

        On disk when the future has its result, which cancelling does not take back; `JournalReader.bookmark` reads it.
        Raises JournalError.
        """
        return self._put(Bookmark(name, place))

    def drop_bookmark(self, name: str, place: str) -> None:
        """Remove within some 50 ms what `put_bookmark` has stored, if it is still this. Never blocks, never raises."""
        self._writer.put_soon(Bookmark(name, place, is_over=True), _ITEM_BYTES)

    def claim(self, session_id: str, host: str, on_lost: Callable[[], object], *, is_new: bool = False) -> Lease:
        """Take a session for a host, so that no other one can write for it; it is on disk when this returns.

        It is taken from a host that is provably dead or was silent for ten seconds. `on_lost` is called, by some
        thread, when another host has taken it. With `is_new`, for an id that nobody else can have, it is written soon
        instead. Waits for the disk, on a loop's thread too: some ms. Raises SessionError when another host has the
        session, JournalError when it cannot be written.
        """
        lease = Lease(session_id, host, on_lost)
        if is_new:
            self._writer.put_soon(Claim(lease), _ITEM_BYTES)
            return lease
        waiter = BlockingWaiter()
        self._writer.put(Claim(lease), waiter)
        waiter.result()
        if lease.refused is not None:
            raise SessionError(lease.refused)
        return lease

    def check_lease(self, lease: Lease) -> None:
        """Raise SessionError when another host has taken the session. Raises JournalError when that cannot be seen.

        Asks the disk, some 15 µs, only where another host may have taken it since the last beat.
        """
        # Without an epoch it is not on disk yet, and its id is one that nobody else can have (`is_new`).
        if lease.lost is None and (not lease.epoch or lease.is_trusted(self._writer.beaten_at)):
            return
        lease.check_known()
        row = self.reader.lease(lease.session_id)
        if row is None or row.epoch != lease.epoch:
            lease.lose(loss_of(lease.session_id, row))
            lease.check_known()

    def release(self, lease: Lease) -> LoopFuture[None]:
        """Let a session go, behind what was queued for it; other hosts may take it when the future has its result.

        Cancelling does not take it back. Raises JournalError, here or in the future; the session is free ten seconds
        after the journal is closed then.
        """
        return self._put(Release(lease))

    def release_soon(self, lease: Lease) -> None:
        """Let a session go within some 50 ms. Never blocks, never raises."""
        self._writer.put_soon(Release(lease), _ITEM_BYTES)

    def _put(self, item: Item) -> LoopFuture[Any]:
        """Queue what somebody waits for, behind what `before_durable` queues."""
        future: LoopFuture[Any] = asyncio.get_running_loop().create_future()
        self._queue_held(item)
        self._writer.put(item, future)
        return future

    def _queue_held(self, item: Item) -> None:
        for source in self.before_durable:
            source(item)

    async def prune(self, before: int) -> int:
        """Remove the content of what is older than `before` (Unix ms); return of how many records.

        Pending messages stay, and so does what the chain needs. Runs between batches.
        Cancelling stops the waiting; the pruning goes on. Raises JournalError.
        """
        at = now_ms()
        return int(await asyncio.wrap_future(self._writer.put_chore(lambda store: store.prune(before, at))))

    def prune_blocking(self, before: int) -> int:
        """Do what `prune` does, for a thread that runs no loop."""
        at = now_ms()
        return int(self._writer.put_chore(lambda store: store.prune(before, at)).result())

    def purge_blocking(self, session_id: str) -> int:
        """Remove all content of a session; return of how many records. Not for a thread that runs a loop.

        What was pending of it is expired. Another host may write meanwhile; what it goes on to write for the session
        stays. Interrupted, it is finished by the next host that opens the journal with `keeping`, or the next purge.
        Raises JournalError.
        """
        at = now_ms()
        return int(self._writer.put_chore(lambda store: store.purge(session_id, at)).result())

    def fold_log_blocking(self) -> bool:
        """Take what was removed out of the write-ahead log too; return False where another program prevents that.

        Raises JournalError.
        """
        return bool(self._writer.put_chore(lambda store: iter([int(store.fold_log())])).result())

    # --- written soon: nobody waits for it

    def append_soon(self, record: Record, fold: Hashable = None) -> None:
        """Write a record within some 50 ms. Never blocks, never raises; counted in `lost` if it had to be dropped.

        With `fold`, records of the same kind, plugin, session, `fold` and second become one, with their `count`.
        """
        try:
            if fold is not None:
                self._writer.put_folded(self._kept(record), fold)
                return
            row = self._checked_row(self._dated(record))
            self._writer.put_soon(row, size_of(row))
        except (JournalError, TypeError) as error:  # TypeError: a `fold` that cannot be hashed
            self._writer.note_lost(error)

    def add_events(self, rows: Sequence[EventRow]) -> None:
        """Write events within some 50 ms, those of one session in the order given. Never blocks, never raises.

        A caller that adds more than a disk can take (replay) must await `flush` from time to time: at most 64 MiB wait,
        about 200,000 events; more are dropped, and counted in `lost`.
        """
        if self.is_replay:  # the events themselves have the recorded time
            now = now_ms()
            rows = [(session, seq, now, kind, origin, body) for session, seq, _, kind, origin, body in rows]
        if (omission := self._omission) is not None:
            rows = [(*row[:5], omission.event(row[5])) for row in rows]
        if rows:
            self._writer.put_soon(list(rows), sum(len(row[5]) + _ITEM_BYTES for row in rows))

    def new_reader(self) -> JournalReader:
        """Return a further reader, for another thread or long walks. It is closed with the journal, if not before."""
        reader = JournalReader(self.path)
        self._readers.append(reader)
        return reader

    def _release_readers(self) -> None:
        if self.head_path is None:  # it is they that keep a journal in memory
            return
        for reader in self._readers:
            reader.release()

    def _dated(self, record: Record) -> Record:
        """Return a record as it is written: that of a replay has the time at which it was."""
        if not self.is_replay:
            return record
        return evolve(record, at=now_ms(), data={**record.data, RECORDED_AT: record.at})

    # --- what the bus looks up

    def find_key(self, plugin: str, session_id: str, key: str) -> StoredMessage | None:
        """Find the message that a plugin sent to a session under a key. Some 15 µs. Raises JournalError."""
        return self.reader.find_key(plugin, session_id, key)

    def pending(self, session_id: str) -> list[StoredMessage]:
        """Return the messages of a session that are still pending, in order. Raises JournalError."""
        return self.reader.pending(session_id)

    def last_seq(self, session_id: str) -> int:
        """Return the `seq` of the last event of a session that is on disk; 0 when there is none."""
        return self.reader.last_seq(session_id)

    # --- the end

    async def flush(self) -> None:
        """Wait until everything that was queued before is on disk. Raises JournalError when that failed.

        Cancelling stops the waiting; what is queued is written all the same.
        """
        self._writer.release_folds()
        await self._put(None)

    def flush_blocking(self) -> None:
        """Do what `flush` does, for a thread that runs no loop."""
        self._writer.release_folds()
        waiter = BlockingWaiter()
        self._writer.put(None, waiter)
        waiter.result()

    async def close(self) -> None:
        """Write what is queued and `audit.head`, then end the thread and close the files. May be called again.

        Cancelling stops the waiting; the closing goes on in its thread.
        """
        await asyncio.to_thread(self.close_blocking)

    def close_blocking(self) -> None:
        """Do what `close` does, for a thread that runs no loop. In a fork of the process it does nothing."""
        if self._writer.is_elsewhere:
            return
        # First: the last connection folds the write-ahead log in, and this one, read-only, could not.
        for reader in self._readers:
            reader.close()
        self._writer.close()
        self._writer.join()
        atexit.unregister(self.close_blocking)


def _checked_row(record: Record) -> Row:
    if record.kind in OWN_KINDS:
        raise JournalError(f"the kind {record.kind!r} is the journal's own; choose another")
    return row_of(record)


def _message_row(message: PendingMessage, about: Mapping[str, Any] = MappingProxyType({})) -> Row:
    if (problem := problem_of(message.at, message.id, message.plugin, message.session_id, message.key)) is not None:
        raise JournalError(problem)
    content: dict[str, Any] = {
        "role": message.role,
        "deliver_as": message.deliver_as,
        "trigger_turn": message.trigger_turn,
        "body": message.body,
        **about,
    }
    if message.fingerprint is not None:
        content["fingerprint"] = message.fingerprint
    if message.cause is not None:
        content["cause"] = message.cause
    return (
        message.at,
        ACCEPTED,
        message.plugin,
        message.session_id,
        message.id,
        message.key,
        encode(content),
        "pending",
    )
