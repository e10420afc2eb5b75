"""What the page asks for, answered from the journal and the running hosts. Nothing here changes anything.

Lives as long as the command; used by the server's threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.cli.look.explain import explanation_data, received_data
from ally_plugins.cli.look.stats import plugin_data
from ally_plugins.cli.shell.journal_rows import summary
from ally_plugins.cli.shell.running_hosts import ANSWER_TIMEOUT, hosts_status
from ally_plugins.cli.shell.text import inert
from ally_plugins.contract.values.errors import ConfigError, NotFoundRefused
from ally_plugins.host.control.client import call_all, hosts_of
from ally_plugins.journal.explanation import receivers
from ally_plugins.journal.reader import JournalReader
from ally_plugins.journal.statistics import statistics_of

from .rows import content_of, message_of, row_of, votes_of
from .timelines import Query, Timeline

if TYPE_CHECKING:
    from ally_plugins.catalog.home.folder import Home

    from .timelines import Entry, View

__all__ = ["Answers"]

_MOST_ROWS: Final = 500  # of one answer; the page asks for less than half
_LONGEST: Final = 1_000  # characters of what is searched for
_STATES: Final = 500  # changes of plugins' states that are shown: the latest
_USAGE_MS: Final = 65_000  # after its end a session's last costs are recorded within a minute
_LEASES_S: Final = 1.0  # for how long it is taken as known which sessions hosts have
_KEPT: Final = 4  # sessions whose positions are kept


class Answers:
    """Answers the requests of one page. Every method raises JournalError when the journal cannot be read.

    And ConfigError for a request that the page does not make, NotFoundRefused for what is not there.
    """

    def __init__(self, home: Home) -> None:
        self._home: Final = home
        # Two, since a reader does one query at a time: rows do not wait for what looks at the whole journal.
        self._rows: Final = JournalReader(home.journal_file)
        self._whole: Final = JournalReader(home.journal_file)
        self._lock: Final = threading.Lock()
        self._timelines: Final[dict[str, Timeline]] = {}
        self._held: frozenset[str] = frozenset()
        self._held_at = 0.0
        self._methods: Final = {
            "sessions": self.sessions, "rows": self.rows, "facets": self.facets, "entry": self.entry,
            "find": self.find, "explain": self.explain, "plugins": self.plugins, "costs": self.costs,
            "wire": self.wire,
        }  # fmt: skip

    def close(self) -> None:
        """Let go of the journal."""
        self._rows.close()
        self._whole.close()

    def answer(self, name: str, asked: Mapping[str, str]) -> dict[str, Any]:
        """Return the answer to a request by its name and parameters."""
        method = self._methods.get(name)
        if method is None:
            raise NotFoundRefused(f"nothing answers to {name[:40]!r}")
        if not self._is_there():
            return {"isEmpty": True, "home": str(self._home.path)}
        return method(asked)

    def has_session(self, session_id: str) -> bool:
        """Say whether anything is recorded of a session."""
        return self._is_there() and any(self._rows.records(session_id=session_id, with_events=True, limit=1))

    def session_of(self, id_: str) -> str | None:
        """Return the session of an event, message, decision or other record by its id; None where there is none."""
        if not self._is_there():
            return None
        event = self._rows.event(id_)
        if event is not None:
            return event.session_id
        return next((each.session_id for each in self._rows.records(ref=id_) if each.session_id is not None), None)

    def _is_there(self) -> bool:
        return self._home.journal_file.exists()

    # --- sessions

    def sessions(self, _: Mapping[str, str]) -> dict[str, Any]:
        """Return all sessions, the latest first."""
        live = self._live()
        return {
            "home": str(self._home.path),
            "sessions": [
                {"id": each.id, "firstAt": each.first_at, "lastAt": each.last_at, "events": each.events,
                 "messages": each.messages, "isLive": each.id in live}
                for each in reversed(self._whole.sessions())
            ],
        }  # fmt: skip

    def _live(self) -> frozenset[str]:
        """Return the sessions that a running host has."""
        now = time.monotonic()
        with self._lock:
            if now - self._held_at > _LEASES_S:
                self._held = frozenset(each.session_id for each in self._rows.leases() if not each.is_free())
                self._held_at = now
            return self._held

    def _timeline(self, asked: Mapping[str, str]) -> Timeline:
        session = asked.get("session") or self._rows.last_session() or ""
        is_live = session in self._live()
        with self._lock:
            timeline = self._timelines.pop(session, None) or Timeline(self._rows, session)
            self._timelines[session] = timeline
            while len(self._timelines) > _KEPT:
                del self._timelines[next(iter(self._timelines))]
        timeline.refresh(is_live=is_live)
        return timeline

    def _view(self, asked: Mapping[str, str]) -> View:
        view = self._timeline(asked).view(_query(asked))
        view.refresh()
        return view

    # --- entries

    def rows(self, asked: Mapping[str, str]) -> dict[str, Any]:
        """Return how many entries pass a filter, and a page of them; `from` may be `end`."""
        view = self._view(asked)
        count = min(_number(asked, "count", 0), _MOST_ROWS)
        start = max(len(view) - count, 0) if asked.get("from") == "end" else _number(asked, "from", 0)
        return {
            "session": view.timeline.session_id,
            "isLive": view.timeline.session_id in self._live(),
            "total": len(view),
            "from": start,
            "rows": [row_of(place, entry) for place, entry in view.entries(start, start + count)],
        }

    def facets(self, asked: Mapping[str, str]) -> dict[str, Any]:
        """Return how many entries of each type there are, and the plugins that they are of."""
        view = self._timeline(asked).view(Query())
        view.count()
        return {"types": dict(view.counts.most_common()), "plugins": sorted(view.plugins)}

    def find(self, asked: Mapping[str, str]) -> dict[str, Any]:
        """Return the position of an entry by its id, and its place among those that pass the filter."""
        id_ = asked.get("id", "")[:_LONGEST]
        view = self._view(asked)
        position = view.timeline.find(id_)
        if position is None:
            raise NotFoundRefused(f"the session has no {id_!r}")
        place = view.place_of(position)
        is_shown = next((entry.position == position for _, entry in view.entries(place, place + 1)), False)
        return {"position": position, "place": place, "isShown": is_shown}

    def entry(self, asked: Mapping[str, str]) -> dict[str, Any]:
        """Return all that is recorded of one entry."""
        timeline, position = self._timeline(asked), _number(asked, "position", -1)
        entry = timeline.entry(position)
        if entry is None:
            raise NotFoundRefused(f"the session has no entry {position}")
        data = (entry.record.data if entry.record is not None else None) or {}
        return {
            "row": row_of(position, entry),
            **content_of(entry),
            "message": message_of(self._whole, entry),
            "votes": votes_of(data),
            "receivers": self._receivers(entry),
            "hash": entry.record.hash if entry.record is not None else None,
        }

    def _receivers(self, entry: Entry) -> list[dict[str, Any]]:
        """Return which plugins were given an event, as `received_data`."""
        if entry.event is None:
            return []
        found = received_data(receivers(self._whole, entry.event))
        if found or entry.session_id not in self._live() or entry.at < time.time() * 1000 - _USAGE_MS:
            return found
        # A host records it once a minute, or when it is asked what plugins cost.
        call_all(hosts_of(self._home), "usage", None, ANSWER_TIMEOUT)
        return received_data(receivers(self._whole, entry.event))

    def explain(self, asked: Mapping[str, str]) -> dict[str, Any]:
        """Return what led to an entry, by its id."""
        id_, session = asked.get("id", "")[:_LONGEST], asked.get("session", "")
        found = explanation_data(self._whole, id_, session)
        if found is None:
            raise NotFoundRefused(f"the journal knows nothing of {id_!r}")
        return {
            "why": found["why"],
            "origin": found["origin"],
            "causes": [{"id": each["id"], "at": each["at"], "type": each["type"]} for each in found["causes"]],
            "permissions": [_record_line(each) for each in found["permissions"]],
            "decisions": found["decisions"],
            "related": [_record_line(each) for each in found["related"]],
        }

    # --- plugins

    def plugins(self, _: Mapping[str, str]) -> dict[str, Any]:
        """Return the plugins of the running hosts, and how the states of plugins have changed."""
        found = hosts_status(self._home, ANSWER_TIMEOUT)
        states = self._whole.last_records(_STATES, kind="plugin_state")
        return {
            "hosts": found.hosts,
            "silent": found.silent,
            "states": [{"n": each.n, "at": each.at, "plugin": each.plugin, "text": summary(each),
                        "state": inert((each.data or {}).get("state", ""))} for each in reversed(states)],
        }  # fmt: skip

    def costs(self, asked: Mapping[str, str]) -> dict[str, Any]:
        """Return what plugins and models have cost while a session went on."""
        timeline = self._timeline(asked)
        first, last = timeline.entry(0), timeline.entry(len(timeline) - 1)
        if first is None or last is None:
            return {"plugins": [], "models": []}
        is_live = timeline.session_id in self._live()
        until = None if is_live else last.at + _USAGE_MS
        found = statistics_of(self._whole, since=first.at, until=until)
        return {
            "since": first.at, "until": None if is_live else last.at,
            "plugins": [plugin_data(name, found[name]) for name in sorted(found)],
            "models": _models(self._whole, timeline.session_id or ""),
        }  # fmt: skip

    def wire(self, asked: Mapping[str, str]) -> dict[str, Any]:
        """Return the lines between a daemon and each running host: those since somebody looks at them."""
        plugin, after = asked.get("plugin", ""), _number(asked, "after", 0)
        hosts = hosts_of(self._home)
        answers = call_all(hosts, "wire", {"plugin": plugin, "after": after}, ANSWER_TIMEOUT) if hosts else []
        return {"hosts": [{"pid": each.host.pid, "error": each.error, **(each.result or {})} for each in answers]}


def _query(asked: Mapping[str, str]) -> Query:
    for name in ("q", "types", "groups", "plugin"):
        if len(asked.get(name, "")) > _LONGEST:
            raise ConfigError(f"more than {_LONGEST} characters to look for", path=name)
    types, groups = (frozenset(filter(None, asked.get(name, "").split(","))) for name in ("types", "groups"))
    return Query(asked.get("q", ""), types, groups, asked.get("plugin", ""))


def _number(asked: Mapping[str, str], name: str, default: int) -> int:
    text = asked.get(name, "")
    # Of more digits `int` may refuse, and no list is longer.
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 15 else default  # noqa: PLR2004


def _record_line(data: Mapping[str, Any]) -> dict[str, Any]:
    from ally_plugins.journal.values import StoredRecord

    names = ("n", "at", "kind", "plugin", "session_id", "id", "key", "data", "hash")
    record = StoredRecord(*(data[name] for name in names))
    return {"id": record.ref or f"#{record.n}", "n": record.n, "at": record.at, "kind": record.kind,
            "plugin": record.plugin, "text": summary(record)}  # fmt: skip


def _models(reader: JournalReader, session_id: str) -> list[dict[str, Any]]:
    """Add up the tokens of a session's model requests, by model."""
    names = ("inputTokens", "outputTokens", "cacheReadTokens", "cacheCreationTokens", "durationMs")
    found: dict[str, dict[str, Any]] = {}
    for event in reader.newest_events(session_id, "MODEL_RESPONSE"):
        value = event.value()
        data = value.get("event_data") if isinstance(value, dict) else None
        if not isinstance(data, dict):
            continue
        model = inert(data.get("model") or "?")
        each = found.setdefault(model, {"model": model, "requests": 0, **dict.fromkeys(names, 0)})
        each["requests"] += 1
        for name in names:
            number = data.get(name)
            each[name] += number if isinstance(number, (int, float)) and not isinstance(number, bool) else 0
    return [found[name] for name in sorted(found)]
