"""The calls in agents' own files, compared with those that the journal has: which no gate has seen."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
from attrs import define, field, frozen

from ally_plugins.adapters.coding.event_records import (
    ReadRecord,
    RecordedCall,
    SessionNamed,
    read_claude_record,
    read_codex_record,
    read_pi_record,
)
from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.journal.values import DECISION
from ally_plugins.replay.json_recovery import iterate_records

if TYPE_CHECKING:
    from ally_plugins.journal.reader import JournalReader

__all__ = ["READABLE", "ComparedAgent", "KnownCalls", "UnseenCall", "agent_of", "compare", "event_files"]


@frozen
class _Files:
    """Where an agent keeps its files, and what a record of them says."""

    folder: str
    variable: str
    inner: str
    read: ReadRecord


READABLE: Final[Mapping[str, _Files]] = {
    "claude": _Files(".claude", "CLAUDE_CONFIG_DIR", "projects", read_claude_record),
    "codex": _Files(".codex", "CODEX_HOME", "sessions", read_codex_record),
    "pi": _Files(".pi/agent", "PI_CODING_AGENT_DIR", "sessions", read_pi_record),
}
"""The agents whose files are JSON lines that are known."""

_RANDOM_ID: Final = 16
"""Characters from which an id is one that no two conversations have by chance: `toolu_01...` has thirty."""

_MAX_NAMED: Final = 10_000
"""Calls of one agent that are named; a journal that was lost would have all of them unseen."""


@frozen
class UnseenCall:
    """A call in an agent's file that no gate has seen. `is_known` says that the host was told of it all the same."""

    agent: str
    session_id: str
    call_id: str
    tool_name: str
    at: int | None
    file: str
    is_known: bool


@define
class ComparedAgent:
    """What the comparison of one agent's files came to. `since` is in Unix ms, None for all that there is."""

    since: int | None = None
    files: int = 0
    calls: int = 0
    gated: int = 0
    removed: int = 0
    """Calls of conversations of which the journal has no contents any more."""
    broken_lines: int = 0
    unread: list[str] = field(factory=list)
    """Files that could not be read, each with the reason."""
    unseen: list[UnseenCall] = field(factory=list)
    """Calls that the host was never told of."""
    ungated: list[UnseenCall] = field(factory=list)
    """Calls that it was told of, and that no plugin has a gate for."""
    more: Counter[str] = field(factory=Counter)
    """How many more there are of both than are named."""


@define
class KnownCalls:
    """The calls of one agent that the journal has, by their ids."""

    started: dict[str, set[str]] = field(factory=dict)
    """By a call's id the conversations in which the host was told of it."""
    decided: dict[str, set[str]] = field(factory=dict)
    """By a call's id those in which gates decided on it."""
    removed: set[str] = field(factory=set)
    """Conversations of which contents were removed."""
    first_at: int | None = None

    @classmethod
    def read(cls, reader: JournalReader, agent: str) -> KnownCalls:
        """Read them. Raises JournalError."""
        known = cls()
        for session in reader.sessions():
            if not session.id.startswith(f"{agent}-"):
                continue
            known.first_at = session.first_at if known.first_at is None else min(known.first_at, session.first_at)
            known._read_session(reader, session.id)
        return known

    def _read_session(self, reader: JournalReader, session_id: str) -> None:
        for record in reader.records(session_id=session_id, kind=DECISION):
            if record.data is None:
                self.removed.add(session_id)
            elif record.data.get("kind") == "tool_call" and isinstance(call_id := record.data.get("cause"), str):
                self.decided.setdefault(call_id, set()).add(session_id)
        if reader.has_removed_events(session_id):
            self.removed.add(session_id)
        for event in reader.events(session_id, type="TOOL_CALL_START"):
            call_id = orjson.loads(event.body).get("call_id")
            if isinstance(call_id, str):
                self.started.setdefault(call_id, set()).add(session_id)


def event_files(agent: str, since: int | None) -> Iterator[Path]:
    """Yield an agent's own files that were written since a time; links are not followed, and lead nowhere."""
    form = READABLE[agent]
    named = os.environ.get(form.variable)
    root = (Path(named) if named else Path.home() / form.folder) / form.inner
    for folder, _, names in os.walk(root):
        for name in sorted(names):
            file = Path(folder, name)
            if name.endswith(".jsonl") and (since is None or _changed_at(file) >= since):
                yield file


def _changed_at(file: Path) -> float:
    try:
        return file.lstat().st_mtime * 1000
    except OSError:
        return 0.0


def agent_of(file: Path) -> str:
    """Return whose file one is, by what stands in it. Raises ConfigError for one that is none, or cannot be read."""
    from ally_plugins.contract.values.errors import RecordingError
    from ally_plugins.replay.recording import RecordingFormat, open_recording

    formats = {
        RecordingFormat.TRANSCRIPT: "claude", RecordingFormat.ROLLOUT: "codex", RecordingFormat.PI_SESSION: "pi",
    }  # fmt: skip
    try:
        found = open_recording(file).format
    except RecordingError as error:
        raise ConfigError(str(error), path=str(file)) from error
    if found not in formats:
        raise ConfigError(f"{str(file)!r} is a {found}; expected a file of {', '.join(READABLE)}", path=str(file))
    return formats[found]


def compare(agent: str, files: Iterable[Path], known: KnownCalls, since: int | None) -> ComparedAgent:
    """Compare the calls in files with those that are known. What cannot be read is named, and nothing raises."""
    found, counted = ComparedAgent(since=since), set[tuple[str, str]]()
    for file in files:
        found.files += 1
        try:
            _compare_file(agent, file, known, found, counted)
        except OSError as error:
            found.unread.append(f"{file}: {error.strerror or error}")
    return found


def _compare_file(
    agent: str, file: Path, known: KnownCalls, found: ComparedAgent, counted: set[tuple[str, str]]
) -> None:
    read, session_id = READABLE[agent].read, ""
    # Not through a link, and not from a pipe, which would be waited for.
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | getattr(os, "O_NOFOLLOW", 0))
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is no regular file")
        for _, record in iterate_records(stream, _is_any):
            if isinstance(record, str):
                found.broken_lines += 1
                continue
            for fact in read(record):
                if isinstance(fact, SessionNamed):
                    session_id = fact.session_id
                elif isinstance(fact, RecordedCall) and _is_since(fact, found.since):
                    # Agents repeat records: of a conversation that goes on in a new file, of a sub-agent in two places.
                    key = (fact.call_id, "" if fact.call_id else f"{file} {len(counted)}")
                    if key not in counted:
                        counted.add(key)
                        _note(agent, f"{agent}-{session_id}", fact, str(file), known, found)


def _is_since(call: RecordedCall, since: int | None) -> bool:
    # One without a time may be of any.
    return since is None or call.at is None or call.at >= since


def _note(agent: str, session_id: str, call: RecordedCall, file: str, known: KnownCalls, found: ComparedAgent) -> None:
    found.calls += 1
    if _has(known.decided, call, session_id):
        found.gated += 1
        return
    is_known = _has(known.started, call, session_id)
    if not is_known and session_id in known.removed:
        found.removed += 1
        return
    name, into = ("ungated", found.ungated) if is_known else ("unseen", found.unseen)
    if len(into) >= _MAX_NAMED:
        found.more[name] += 1
    else:
        into.append(UnseenCall(agent, session_id, call.call_id, call.tool_name, call.at, file, is_known))


def _has(sessions: Mapping[str, set[str]], call: RecordedCall, session_id: str) -> bool:
    """Say whether a call is known: in its conversation, or in another that this one goes on with, or works for."""
    found = sessions.get(call.call_id, ())
    return session_id in found or (bool(found) and len(call.call_id) >= _RANDOM_ID)


def _is_any(record: dict[str, Any]) -> bool:
    return isinstance(record.get("type"), str)
