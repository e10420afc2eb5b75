"""The entries of a session by their position, as a list that is scrolled asks for them, and those that pass a filter.

Entries are events, and all other records of the session and, between its first and its last, of the host. Only where
they stand is kept in memory: some ten bytes for each that passes a filter, less for a session as it is.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import orjson
from attrs import field, frozen

from ally_plugins.contract.values.errors import JournalError
from ally_plugins.journal.values import EVENTS, StoredEvent, StoredRecord

if TYPE_CHECKING:
    from ally_plugins.journal.reader import JournalReader, TimelineRow

__all__ = ["GROUPS", "Entry", "Query", "Timeline", "View"]

_BLOCKS: Final = 64  # decoded blocks that are kept: those around what is looked at; a busy host's have some 100 KB
_VIEWS: Final = 8  # filters of one session that are kept: somebody who types has a new one with each letter

GROUPS: Final[dict[str, frozenset[str]]] = {
    "tools": frozenset({
        "TOOL_CALL_START", "TOOL_CALL_END", "DIFF_PREVIEW", "AGENT_START", "AGENT_END", "TODO_UPDATE", "tool_call",
    }),
    "messages": frozenset({
        "USER_MESSAGE", "ASSISTANT_MESSAGE", "THOUGHT_COMPLETE", "PLUGIN_MESSAGE_RECEIVED", "message", "message_state",
    }),
    "decisions": frozenset({
        "DECISION", "PERMISSION_REQUEST", "PERMISSION_RESPONSE", "decision", "transform", "question", "answer", "allow",
        "pause", "ungated_tools",
    }),
    "problems": frozenset({
        "EVENTS_DROPPED", "blocked", "crash", "journal", "lost_host", "loosen", "quarantine", "refusal",
    }),
    "plugins": frozenset({
        "PLUGIN_STATE", "PLUGIN_EVENT_EMITTED", "PLUGIN_ACTION_REQUESTED", "TASK_PROGRESS", "action", "action_end",
        "activation", "context_read", "disable", "enable", "env", "forget", "grant", "install", "place",
        "plugin_state", "registration", "release", "revoke", "session_plugins", "setting", "shadow", "task", "task_end",
        "uninstall", "unregistration", "usage",
    }),
    "model": frozenset({
        "MODEL_REQUEST", "MODEL_RESPONSE", "COMPACTION_START", "COMPACTION_COMPLETE", "CONTEXT_USAGE_UPDATE",
        "CONTEXT_THRESHOLD", "PROMPT_PREFIX_CHANGED", "prompt_prefix",
    }),
}  # fmt: skip
"""Types of events and kinds of records by what somebody looks for."""

_DENIES: Final = (b'"verdict":"deny"', b'"denied":true', b'"success":false', b'"state":"quarantined"', b'"failed"')
_UNREADABLE: Final = (ValueError, KeyError, TypeError)


@frozen
class Entry:
    """One entry. `event` and `record` are None both where its content was removed, or cannot be read (`problem`)."""

    position: int
    n: int
    at: int
    type: str
    plugin: str | None
    session_id: str | None
    seq: int
    event: StoredEvent | None = None
    record: StoredRecord | None = None
    problem: str = ""

    @property
    def id(self) -> str:
        """What finds it again: an event's or a record's own id, or the record's number."""
        if self.seq:
            return f"{self.session_id}:{self.seq}"
        return self.record.ref if self.record is not None and self.record.ref is not None else f"#{self.n}"


@frozen
class Query:
    """What is looked for: a text anywhere in an entry, types or kinds, groups of these, a plugin that it names."""

    text: str = ""
    types: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    plugin: str = ""
    _needle: bytes = field(init=False, default=b"")
    _named: bytes = field(init=False, default=b"")
    _types: frozenset[str] = field(init=False, default=frozenset())

    def __attrs_post_init__(self) -> None:
        # As it stands in JSON, where a quote has a backslash. Of other letters than ASCII the case counts.
        object.__setattr__(self, "_needle", orjson.dumps(self.text)[1:-1].lower())
        object.__setattr__(self, "_named", orjson.dumps(self.plugin))
        grouped = frozenset[str]().union(*(GROUPS.get(group, ()) for group in self.groups))
        object.__setattr__(self, "_types", self.types | grouped)

    @property
    def is_empty(self) -> bool:
        """Whether everything passes."""
        return not (self.text or self.types or self.groups or self.plugin)

    def may_have(self, content: bytes) -> bool:
        """Say whether anything in a block of events may pass; the columns of a block have all types and origins."""
        return not self.text or self._needle in content.lower()

    def passes(self, type_: str, plugin: str, ref: str, content: bytes) -> bool:
        """Say whether an entry passes: `plugin` are those that it is of, `ref` its id."""
        if self._types and type_ not in self._types:
            is_problem = "problems" in self.groups and any(word in content for word in _DENIES)
            if not is_problem:
                return False
        if self.plugin and self.plugin not in plugin.split(">") and self._named not in content:
            return False
        if not self._needle:
            return True
        return any(self._needle in text for text in (content.lower(), f"{type_} {plugin} {ref}".lower().encode()))


class Timeline:
    """The entries of a session; of all sessions for None. It grows with the journal, and no position ever changes.

    Used by the server's threads. Every method raises JournalError when the journal cannot be read.
    """

    def __init__(self, reader: JournalReader, session_id: str | None) -> None:
        self.session_id: Final = session_id
        self._reader: Final = reader
        self._lock: Final = threading.RLock()
        self._numbers: Final = array("q")
        self._ends: Final = array("q")
        self._firsts: Final = array("q")
        """Of each record: its number, the position after its last entry, and the `seq` of its first event or 0."""
        self._waiting: Final = array("q")
        """Records of the host after the last one of the session: its own once another one of it follows."""
        self._looked_upto = 0
        self._blocks: Final[OrderedDict[int, list[Entry]]] = OrderedDict()
        self._views: Final[OrderedDict[Query, View]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many entries there were at the last `refresh`."""
        return self._ends[-1] if self._ends else 0

    def refresh(self, *, is_live: bool) -> None:
        """Look for what was recorded since the last time.

        Of a session that no host has, what is recorded after its last record is not its own.
        """
        with self._lock:
            upto = self._reader.last_n()  # before: no record after it is passed over
            for row in self._reader.timeline(self.session_id, after_n=self._looked_upto, upto_n=upto):
                if row.session_id is None and self.session_id is not None:
                    if self._numbers:  # what stood before its first record was about others
                        self._waiting.append(row.n)
                    continue
                self._take_waiting()
                self._add(row)
            self._looked_upto = max(self._looked_upto, upto)
            if is_live:
                self._take_waiting()

    def _take_waiting(self) -> None:
        for n in self._waiting:
            self._add_place(n, 0, 1)
        del self._waiting[:]

    def _add(self, row: TimelineRow) -> None:
        try:
            first, count = row.span
        except ValueError:  # damaged
            first, count = 0, 1
        self._add_place(row.n, first, max(count, 1))

    def _add_place(self, n: int, first: int, count: int) -> None:
        self._numbers.append(n)
        self._firsts.append(first)
        self._ends.append(len(self) + count)

    def entries(self, start: int, stop: int) -> list[Entry]:
        """Return those from one position to before another, as far as there are any."""
        with self._lock:
            stop = min(stop, len(self))
            found: list[Entry] = []
            place = bisect_right(self._ends, start)
            while start < stop:
                begin = self._begin(place)
                block = self._block(place)
                found += block[start - begin : stop - begin]
                start, place = self._ends[place], place + 1
            return found

    def entry(self, position: int) -> Entry | None:
        """Return one; None where there is none."""
        return next(iter(self.entries(position, position + 1)), None) if position >= 0 else None

    def find(self, id_: str) -> int | None:
        """Return the position of an entry by its id, as `Entry.id` gives it; None where it is not in here."""
        with self._lock:
            if id_.startswith("#"):
                return self._position_of(int(id_[1:])) if id_[1:].isdecimal() and len(id_) <= 19 else None  # noqa: PLR2004 - 64 bits
            event = self._reader.event(id_)
            if event is not None and self.session_id in {None, event.session_id}:
                position = self._position_of(event.n)
                return None if position is None else position + event.seq - self._firsts[self._place_of(event.n)]
            records = self._reader.records(ref=id_, session_id=self.session_id)
            positions = (self._position_of(record.n) for record in records)
            return next((position for position in positions if position is not None), None)

    def view(self, query: Query) -> View:
        """Return the entries that pass a filter."""
        with self._lock:
            view = self._views.pop(query, None) or View(self, query)
            self._views[query] = view
            while len(self._views) > _VIEWS:
                self._views.popitem(last=False)
            return view

    def matches(self, query: Query, found: View, scanned: int) -> int:
        """Add those from the position `scanned` on that pass, and return how far it has looked.

        It takes a second for a long session and holds nothing meanwhile: what is there stays where it is.
        """
        upto = len(self)
        place = bisect_right(self._ends, scanned)
        if place == len(self._numbers) or scanned >= upto:
            return scanned
        last = self._numbers[bisect_left(self._ends, upto)]
        rows = self._reader.timeline(self.session_id, after_n=self._numbers[place] - 1, upto_n=last, with_contents=True)
        for row in rows:
            if (place := self._place_of(row.n)) >= 0:
                self._match(query, row, range(self._begin(place), self._ends[place]), found)
        return upto

    @staticmethod
    def _match(query: Query, row: TimelineRow, places: range, found: View) -> None:
        content = row.content.encode("utf-8", "surrogatepass") if isinstance(row.content, str) else row.content or b""
        if row.kind != EVENTS:
            if query.passes(row.kind, row.plugin or "", f"{row.ref or ''} #{row.n}", content):
                found.add(places[0], row.kind, row.plugin)
            return
        if not query.may_have(content):
            return
        try:
            # Not strict: a damaged block may have others than its record says.
            for position, event in zip(places, row.events(), strict=False):
                if query.passes(event.type, event.origin or "", event.id, event.written):
                    found.add(position, event.type, event.origin)
        except _UNREADABLE:  # damaged from here on: `audit verify` says so
            return

    # --- where they stand

    def _begin(self, place: int) -> int:
        return self._ends[place - 1] if place else 0

    def _place_of(self, n: int) -> int:
        place = bisect_left(self._numbers, n)
        return place if place < len(self._numbers) and self._numbers[place] == n else -1

    def _position_of(self, n: int) -> int | None:
        place = self._place_of(n)
        return None if place < 0 else self._begin(place)

    def _block(self, place: int) -> list[Entry]:
        """Return all entries of one record."""
        n = self._numbers[place]
        found = self._blocks.pop(n, None)
        if found is None:
            rows = self._reader.timeline(None, after_n=n - 1, upto_n=n, with_contents=True)
            found = [entry for row in rows for entry in self._entries(row, place)]
        self._blocks[n] = found
        while len(self._blocks) > _BLOCKS:
            self._blocks.popitem(last=False)
        return found

    def _entries(self, row: TimelineRow, place: int) -> Iterator[Entry]:
        begin, end, first = self._begin(place), self._ends[place], self._firsts[place]
        about: dict[str, Any] = {"n": row.n, "at": row.at, "plugin": row.plugin, "session_id": row.session_id}
        if row.kind != EVENTS:
            try:
                record, problem = row.record(), ""
            except _UNREADABLE:
                record, problem = None, _DAMAGED
            yield Entry(begin, type=row.kind, seq=0, record=record, problem=problem, **about)
            return
        removed_from = begin
        problem = _DAMAGED if row.content is not None else ""
        try:
            for position, event in zip(range(begin, end), row.events(), strict=False):
                yield Entry(position, row.n, event.at, event.type, None, event.session_id, event.seq, event=event)
                removed_from = position + 1
        except _UNREADABLE:
            problem = _DAMAGED
        # Those that were removed have their place all the same.
        for position in range(removed_from, min(end, removed_from + _MOST_REMOVED)):
            yield Entry(position, type=EVENTS, seq=first + position - begin, problem=problem, **about)


_DAMAGED: Final = "it cannot be read: see `ally-plugins audit verify`"
_MOST_REMOVED: Final = 100_000  # events that one record may stand for here; a host writes some hundreds


class View:
    """The entries of a timeline that pass a filter, by their place among these; all of them for an empty one."""

    def __init__(self, timeline: Timeline, query: Query) -> None:
        self.timeline: Final = timeline
        self.query: Final = query
        self.counts: Final[Counter[str]] = Counter()
        """How many of each type or kind there are; of everything, only after `count`."""
        self.plugins: Final[set[str]] = set()
        self._lock: Final = threading.Lock()
        self._positions: Final = array("q")
        self._scanned = 0

    def add(self, position: int, type_: str, plugins: str | None) -> None:
        """Add an entry; `plugins` are those that it is of, as an origin is written."""
        if not self.query.is_empty:
            self._positions.append(position)
        self.counts[type_] += 1
        if plugins:
            self.plugins.update(plugins.split(">"))

    def __len__(self) -> int:
        """Return how many there are, after `refresh`."""
        return len(self.timeline) if self.query.is_empty else len(self._positions)

    def refresh(self) -> None:
        """Look at what the timeline has got since the last time; about 0.5 s for 100,000 events."""
        if not self.query.is_empty:
            self.count()

    def count(self) -> None:
        """Look at each entry, also where all pass."""
        with self._lock:  # two requests would both add what is new
            found, counts = len(self._positions), self.counts.copy()
            try:
                self._scanned = self.timeline.matches(self.query, self, self._scanned)
            except JournalError:  # it is looked at once more, from where this began
                del self._positions[found:]
                self.counts.clear()
                self.counts.update(counts)
                raise

    def entries(self, start: int, stop: int) -> list[tuple[int, Entry]]:
        """Return those from one place to before another, each with its place."""
        if self.query.is_empty:
            return list(enumerate(self.timeline.entries(start, stop), start))
        found = ((place, self.timeline.entry(self._positions[place])) for place in range(start, min(stop, len(self))))
        return [(place, entry) for place, entry in found if entry is not None]

    def place_of(self, position: int) -> int:
        """Return the place of an entry, or of the first after it."""
        return position if self.query.is_empty else bisect_left(self._positions, position)
