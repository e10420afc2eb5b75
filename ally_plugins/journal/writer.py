"""The thread that owns the writing connection: group commit, what may wait, and what happens when the disk fails.

Whenever it becomes free it takes all that is queued, without waiting for more where somebody waits for the result.
Coroutines that queue something in one turn of the loop still share a batch: the thread gets the GIL once they all have
run.
"""

from __future__ import annotations

import logging
import math
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import orjson

from ally_plugins.contract.values.errors import JournalError

from .audit_head import write_head
from .entries import Entry, Item, batch_of, count_of, split_by_session
from .folds import FOLD_S, Folds
from .leases import BEAT_S, Lease
from .rows import Row, row_of, size_of
from .salvage import is_disk_failure, write_one_by_one
from .schema import IN_FORK, describe_error
from .store import Claim, Store, now_ms
from .values import JOURNAL, LeaseLostError, Record
from .waiters import BlockingWaiter, Waiter, pair_outcomes, resolve

if TYPE_CHECKING:
    from ally_plugins.policy.keeping import Keeping

__all__ = ["Writer"]

_log: Final = logging.getLogger("ally_plugins.journal")

# What nobody waits for is written this long after it came, in seconds: 20 commits a second at most for a slow trickle.
_SOON_S: Final = 0.05
_HEAD_S: Final = 0.05  # without a batch before audit.head is written, synced: nobody is likely to wait for it then
# Between two writes of audit.head amid the work, which are not synced. One takes 0.3 ms, most of it the file system's.
_HEAD_BUSY_S: Final = 0.25
_UPKEEP_S: Final = 6 * 3600.0
"""Between two looks for contents that are older, or more, than is to be kept."""
_PROBE_S: Final = 0.25  # between two attempts while the disk fails
_BATCH_ENTRIES: Final = 500  # in one transaction: what one statement holds (`store`), less some blocks of events
_BATCH_BYTES: Final = 8 * 1024 * 1024  # in one transaction, which others who share the file wait for
# What may wait in memory while the disk is slow or fails: about 200,000 events. More is lost, and counted.
_SOON_BYTES: Final = 64 * 1024 * 1024


class _Bell:
    """Wakes one thread: an Event of a single lock, since that one's two take 10 µs of the loop for each decision.

    The lock is held while it is silent, so that `ring` releases what another thread has acquired.
    """

    __slots__ = ("_is_silent",)

    def __init__(self) -> None:
        self._is_silent: Final = threading.Lock()
        self._is_silent.acquire()

    def ring(self) -> None:
        """Wake the thread that waits, or the next wait; may be called by any thread."""
        try:  # noqa: SIM105 - `suppress` takes twice as long as all the rest
            self._is_silent.release()
        except RuntimeError:  # it has rung, and nobody has waited since
            pass

    def wait(self, timeout: float | None) -> None:
        """Wait until it rings, `timeout` seconds at most; returns at once when it has since the last wait."""
        # More than TIMEOUT_MAX is an OverflowError.
        self._is_silent.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX))


class Writer:
    """The writing thread of one journal. Lives from the first call until `close` has returned."""

    def __init__(
        self,
        store: Store,
        reopen: Callable[[], Store],
        held: Mapping[str, Lease],
        dated: Callable[[Record], Record] = lambda record: record,
        keeping: Keeping | None = None,
    ) -> None:
        self._keeping: Final = keeping
        # At once: a host that lives for seconds only would never come to it.
        self._upkeep_at = math.inf if keeping is None else time.monotonic()
        self._dated: Final = dated  # called when folded records are written: they fold by their own time
        self._store: Store | None = store
        self._path: Final = store.path
        self._pid: Final = os.getpid()
        self._reopen: Final = reopen
        self._held: Final = held
        self._queue: Final[deque[Entry]] = deque()
        self._chores: Final[deque[tuple[Iterator[int], BlockingWaiter, list[int]]]] = deque()
        self._lock: Final = threading.Lock()
        self._bell: Final = _Bell()
        self._awake_by = math.inf
        """When the thread wakes by itself at the latest; infinite while it is awake, and may have looked already."""
        self._urgent = False
        self._closing = False
        self._folds: Final = Folds()
        self._soon_bytes = 0
        self._soon_since: float | None = None
        self._head_written_at = 0.0
        self._written_at = 0.0
        self._head_is_dirty = True
        self._head_fails = False
        self._has_ended = False
        self._reported_lost = 0
        self._failed_at = 0.0
        self.beaten_at = 0.0
        """When the leases were last renewed, in seconds of `time.monotonic`."""
        self.lost = 0
        self.reason: str | None = None
        # A daemon: a host that nobody closes must not keep the program. `Journal` closes at exit.
        self._thread: Final = threading.Thread(target=self._run, name="ally-journal", daemon=True)
        self._thread.start()

    # --- called by any thread

    def put(self, item: Item, waiter: Waiter) -> None:
        """Queue what somebody waits for; `waiter` gets its result.

        Raises JournalError at once while the disk fails, after `close`, and in a fork of the process.
        """
        # Here as well as in `_check`: the usual case costs no call.
        if self.reason is not None or os.getpid() != self._pid:
            self._check()
        # Without the lock, for the loop's sake: `append` of a deque is atomic.
        self._queue.append((item, waiter, 0))
        if self._has_ended:
            self._fail_remaining()
        # The writer clears the flag before it drains the queue, so whoever finds it set is drained with the others.
        if not self._urgent:
            self._urgent = True
            self._bell.ring()

    def _check(self) -> None:
        if self.is_elsewhere:
            raise JournalError(IN_FORK.format(str(self._path)))
        if self.reason is not None:
            raise JournalError(self.reason)

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is a fork of the process that writes: the thread is not here, and its locks may be held."""
        return os.getpid() != self._pid

    def put_soon(self, item: Item, size: int) -> None:
        """Queue what nobody waits for. Never raises; what does not fit, or comes from a fork, is lost and counted."""
        if self.is_elsewhere:
            self.lost += count_of(item)
            return
        with self._lock:
            if self._closing or self._soon_bytes + size > _SOON_BYTES:
                self.lost += count_of(item)
                return
            self._soon_bytes += size
            self._queue.append((item, None, size))
            is_late = False
            if self._soon_since is None:
                self._soon_since = time.monotonic()
                # Amid decisions it wakes soon anyway: to wake it twice for each of them, and to hand it the interpreter
                # twice, takes as long as asking a gate.
                is_late = self._awake_by > self._soon_since + _SOON_S
        if is_late or self._soon_bytes > _BATCH_BYTES:
            self._bell.ring()

    def put_folded(self, record: Record, fold: Hashable) -> None:
        """Queue a record that may repeat; see `Folds`."""
        if self.is_elsewhere:
            self.lost += 1
            return
        with self._lock:
            is_first, now = self._folds.due_at is None, time.monotonic()
            is_full = self._folds.add(record, fold, now)
        if is_full:
            self.release_folds()
        elif is_first and self._awake_by > now + FOLD_S:
            self._bell.ring()

    def release_folds(self) -> None:
        """Queue the records that were folded until now, whether or not they are due."""
        with self._lock:
            records = self._folds.take()
        for record in records:
            try:
                row = row_of(self._dated(record))
            except JournalError as error:
                self.note_lost(error)
            else:
                self.put_soon(row, size_of(row))

    def note_lost(self, error: Exception) -> None:
        """Log and count a record that cannot be written at all."""
        _log.error("%s", error)
        with self._lock:
            self.lost += 1

    def put_chore(self, steps: Callable[[Store], Iterator[int]]) -> BlockingWaiter:
        """Run a generator on the writing thread, one step between two batches; the result is the sum of what it yields.

        Raises JournalError at once while the disk fails, after `close`, and in a fork of the process.
        """
        self._check()
        waiter = BlockingWaiter()
        self._chores.append((self._steps(steps), waiter, [0]))
        if self._has_ended:
            self._fail_remaining()
        self._urgent = True
        self._bell.ring()
        return waiter

    def _steps(self, steps: Callable[[Store], Iterator[int]]) -> Iterator[int]:
        if self._store is None:
            raise JournalError(self.reason or "the journal is closed")
        yield from steps(self._store)

    def _keep_up(self, store: Store) -> Iterator[int]:
        """Remove what is not to be kept any longer, and what a purge that was broken off has left."""
        assert self._keeping is not None  # noqa: S101 - else it is never due
        for steps in (store.go_on_purging(now_ms()), store.retain(self._keeping, now_ms())):
            for removed in steps:
                yield removed
                if self._closing:  # the next host goes on
                    return

    def close(self) -> None:
        """Have the thread write what is queued, then end. Returns at once; `join` waits."""
        self.release_folds()
        with self._lock:
            self._closing = True
        self._bell.ring()

    def join(self) -> None:
        """Wait until the thread has ended and its files are closed."""
        self._thread.join()

    # --- the thread

    def _run(self) -> None:
        while True:
            self._wait()
            # Before the cycle: what is queued later still finds a thread, or `_fail_remaining`.
            last = self._closing
            try:
                self._cycle()
            except Exception as error:  # noqa: BLE001 - a thread that dies would leave callers waiting for ever
                self._fail((), error)
            if last and (self.reason is not None or not (self._queue or self._chores)):
                break
        self._finish()

    def _wait(self) -> None:
        """Wait until there is something to do."""
        while (timeout := self._timeout()) is None or timeout > 0:
            # Before it waits, and behind the look: what is queued between the two rings.
            self._awake_by = math.inf if timeout is None else time.monotonic() + timeout
            self._bell.wait(timeout)
            self._awake_by = math.inf

    def _timeout(self) -> float | None:
        """Return the seconds until there is something to do; None when nothing is due until something is queued."""
        if self._closing:
            return 0
        now = time.monotonic()
        if self.reason is not None:
            return self._failed_at + _PROBE_S - now
        if self._urgent or self._chores or self._soon_bytes > _BATCH_BYTES:
            return 0
        if self._soon_since is not None:
            return self._soon_since + _SOON_S - now
        # Awake once more behind a batch, where no head is to be written: see `put_soon`.
        look_at = self._written_at + _SOON_S
        due = (
            look_at if look_at > now else None,
            self._folds.due_at,
            self._head_due_at if self._head_is_dirty else None,
            self.beaten_at + BEAT_S if self._held else None,
            self._upkeep_at,
        )
        return min((at - now for at in due if at is not None), default=None)

    def _cycle(self) -> None:
        """Write one batch, or what else is due."""
        if (self._folds.due_at or math.inf) <= time.monotonic():
            self.release_folds()
        entries = self._take()
        if not self._held:
            self.beaten_at = time.monotonic()  # what is claimed now is as new as this
        try:
            store = self._opened(entries)
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing of them was written
            self._fail(entries, error)
            return
        try:
            if entries:
                self._write(store, entries)
        except (sqlite3.Error, OSError, JournalError) as error:
            self._fail(entries, error)
            return
        except Exception as error:  # noqa: BLE001 - who waits would wait for ever
            self._give_up(entries, error)
            return
        self._write_head(store)
        if self._held and time.monotonic() - self.beaten_at >= BEAT_S:
            self._beat(store)
        if self._upkeep_at <= time.monotonic() and not self._closing:
            self._upkeep_at = time.monotonic() + _UPKEEP_S
            self._chores.append((self._steps(self._keep_up), BlockingWaiter(), [0]))
        if self._chores:
            self._do_chore()

    def _take(self) -> list[Entry]:
        self._urgent = False
        entries: list[Entry] = []
        queue, size = self._queue, 0
        while queue and len(entries) < _BATCH_ENTRIES and size < _BATCH_BYTES:
            entry = queue.popleft()
            size += entry[2]
            entries.append(entry)
        with self._lock:
            if queue:
                self._urgent = True
            else:
                self._soon_since = None
        return entries

    def _opened(self, entries: list[Entry]) -> Store:
        """Return the store; after a failure open it anew, and add a record of the failure to `entries`."""
        if self._store is None:
            self._store = self._reopen()
        if self.reason is not None or self.lost > self._reported_lost:
            note = {"state": "recovered" if self.reason else "lost", "reason": self.reason, "lost": self.lost}
            row: Row = (now_ms(), JOURNAL, None, None, None, None, orjson.dumps(note), None)
            entries.append((row, None, 0))
        return self._store

    def _write(self, store: Store, entries: list[Entry]) -> None:
        # As the note in `entries` says it; what is lost from here on is for the next note.
        lost = self.lost
        batch, *waiters = batch_of(entries)
        if batch.claims and (claims := [entry for entry in entries if type(entry[0]) is Claim]) != entries:
            # By themselves they need not wait for the disk, as who claims does, on a loop's thread.
            self._write(store, claims)
            entries[:] = [entry for entry in entries if type(entry[0]) is not Claim]
            batch, *waiters = batch_of(entries)
        try:
            written = store.write(batch)
        except Exception as error:
            if is_disk_failure(error):
                raise
            if isinstance(error, LeaseLostError) and self._refuse(entries, error):
                self._write(store, entries)
                return
            # One row of many is wrong, and which is not said: alone, each of the others is written.
            for size in write_one_by_one(store, entries, self.note_lost):
                with self._lock:
                    self._soon_bytes -= size
        else:
            resolve(pair_outcomes(store, written, *waiters))
        self._succeed(entries, lost)

    def _refuse(self, entries: list[Entry], error: LeaseLostError) -> bool:
        """Take out of a batch what is for sessions that another host has; return whether there was any."""
        kept, taken = split_by_session(entries, error.sessions)
        if not taken:
            return False
        entries[:] = kept
        self._release(taken)
        resolve([(entry[1], error) for entry in taken if entry[1] is not None])
        unseen = sum(count_of(entry[0]) for entry in taken if entry[1] is None)
        if unseen:
            _log.warning("%d records and events were left out: %s", unseen, error)
            with self._lock:
                self.lost += unseen
        return True

    def _succeed(self, entries: Iterable[Entry], lost: int) -> None:
        self._release(entries)
        self._head_is_dirty = True
        self._written_at = time.monotonic()
        self._reported_lost = lost
        if self.reason is not None:
            _log.warning("the journal is written again; %d records were lost", self.lost)
            self.reason = None

    def _release(self, entries: Iterable[Entry]) -> None:
        with self._lock:
            self._soon_bytes -= sum(entry[2] for entry in entries)

    def _fail(self, entries: Sequence[Entry], error: Exception) -> None:
        """Fail all waiters, keep in the queue what nobody waits for, and have the next cycle open the file anew."""
        reason = describe_error(error, self._path)
        if self.reason != reason:
            _log.error("%s", reason)
        # Before the queue is taken: from here on `put` refuses, and nobody waits out the failure.
        self.reason, self._failed_at = reason, time.monotonic()
        queued = [*entries, *(self._queue.popleft() for _ in range(len(self._queue)))]
        self._queue.extendleft(entry for entry in reversed(queued) if entry[2])
        failure = JournalError(reason)
        resolve([(entry[1], failure) for entry in queued])
        while self._chores:
            resolve([(self._chores.popleft()[1], failure)])
        # A connection that has failed may be in a transaction still, or have files open that nobody will find.
        self._close_store()

    def _give_up(self, entries: Sequence[Entry], error: Exception) -> None:
        """Fail as the disk does, but keep nothing of a batch: what was written may be all, and would be there twice."""
        self._release(entries)
        with self._lock:
            self.lost += sum(count_of(item) for item, _, size in entries if size)
        # Size 0: it is kept no more.
        self._fail([(item, waiter, 0) for item, waiter, _ in entries], error)

    @property
    def _head_due_at(self) -> float:
        """When audit.head is to be written: when there was no batch for a while, or has been one for long enough."""
        idle_at, busy_at = self._written_at + _HEAD_S, self._head_written_at + _HEAD_BUSY_S
        # Not at once after the last time, which may have failed.
        return max(self._head_written_at + _HEAD_S, min(idle_at, busy_at))

    def _write_head(self, store: Store, *, is_last: bool = False) -> None:
        if store.head_path is None:
            self._head_is_dirty = False
        now = time.monotonic()
        if store.head_path is None or not self._head_is_dirty or (now < self._head_due_at and not is_last):
            return
        self._head_written_at = now
        try:
            # Synced when idle only: amid the work another write follows soon, and a sync costs as much as a batch's.
            write_head(store.head_path, store.head, sync=is_last or now >= self._written_at + _HEAD_S)
        except (OSError, JournalError) as error:
            # `audit.head` may lag behind the journal; the next cycle tries again, in 50 ms.
            if not self._head_fails:
                _log.warning("cannot write %s: %s", store.head_path, error)
            self._head_fails = True
        else:
            self._head_is_dirty = self._head_fails = False
        # Here, and not behind each batch: a host is likely to be stopped just when it was answered, and others would
        # wait for the lock that this takes.
        if not is_last:
            store.make_room()

    def _beat(self, store: Store) -> None:
        began = time.monotonic()  # from before it, since the time that others go by may begin at once
        try:
            store.beat()
        except (sqlite3.Error, OSError, JournalError) as error:
            self._fail((), error)
        else:
            self.beaten_at = began

    def _do_chore(self) -> None:
        steps, waiter, total = self._chores[0]
        self._head_is_dirty = True  # a chore writes records past `_write`
        try:
            total[0] += next(steps)
        except StopIteration:
            self._chores.popleft()
            resolve([(waiter, total[0])])
        except (sqlite3.Error, OSError, JournalError) as error:
            self._fail((), error)

    def _finish(self) -> None:
        """Write the head a last time, fail what was queued too late, and close the file."""
        if self._store is not None:
            self._write_head(self._store, is_last=True)
            with suppress(sqlite3.Error):  # they end by themselves, when nobody renews them
                self._store.release_all()
        # In this order, against that of `put`: it looks at the reason, queues, then looks at `_has_ended`.
        self.reason = self.reason or "the journal is closed"
        self._has_ended = True
        self._fail_remaining()
        self._close_store()

    def _fail_remaining(self) -> None:
        """Fail what is queued when the thread has ended; `put` calls it too, since its entry may come just after."""
        failure = JournalError(self.reason or "the journal is closed")
        with self._lock:
            left = [self._queue.popleft() for _ in range(len(self._queue))]
            chores = [self._chores.popleft() for _ in range(len(self._chores))]
            self.lost += sum(count_of(entry[0]) for entry in left if entry[2])
        resolve([(entry[1], failure) for entry in left])
        resolve([(chore[1], failure) for chore in chores])

    def _close_store(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            try:
                store.close()
            except sqlite3.Error as error:
                _log.warning("%s", describe_error(error, self._path))
