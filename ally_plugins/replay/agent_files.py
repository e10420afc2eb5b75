"""The files beside a transcript in which newer versions of Claude Code keep the records of sub-agents.

`SESSION/subagents/agent-ID.jsonl`, with `agent-ID.meta.json` beside each; older versions put `agent-ID.jsonl` beside
the session's own file. `with_agents` puts their records where they happened: by time, and before the result that they
led to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from heapq import heappop, heappush
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
from attrs import define, field, frozen

from .clock import parse_timestamp
from .content import text_of
from .json_recovery import IsRecord, iterate_records

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

__all__ = ["AgentFile", "RecordEntry", "find_agent_files", "linked", "with_agents"]

_PATTERN: Final = "agent-*.jsonl"
_META_BYTES: Final = 64 * 1024
_NEVER: Final = 1 << 62  # a file without times: it is read before its outcome, or at the end
# How many sub-agents may have started one another before their files are read in order of time alone.
_MAX_DEPTH: Final = 32
_HEAD: Final = 8  # records that are looked at for a time; the first ones may have none


@frozen
class RecordEntry:
    """One record of a recording, or in its place why it cannot be read; None for the end of a sub-agent's file.

    `place` counts the records of the main file, in which an entry of a sub-agent's file has that of the record behind
    it. `number` is that of its line. `file` is the sub-agent's file, and `agent_id` the name that it gives the agent;
    `call_id` is the call that started the agent, where that is known.
    """

    place: int
    number: int
    record: dict[str, Any] | str | None
    file: str = ""
    agent_id: str = ""
    call_id: str = ""


@define(eq=False)
class AgentFile:
    """The records of one sub-agent. Opened when the first one is needed, until the last one."""

    path: Path
    is_record: IsRecord
    agent_id: str = field(init=False)
    call_id: str = field(init=False)
    begins: int = field(init=False)
    next_at: int = field(init=False)
    _records: Iterator[tuple[int, dict[str, Any] | str]] | None = field(init=False, default=None)
    _next: tuple[int, dict[str, Any] | str] | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self.agent_id = self.path.stem.removeprefix("agent-")
        self.call_id = self._called_by()
        self.begins = self.next_at = self._first_time()

    def pull(self) -> tuple[int, dict[str, Any] | str] | None:
        """Return the next record with the number of its line, None at the end. A file that is gone has a fault."""
        if self._records is None:
            self._records = self._read()
            self._next = next(self._records, None)
        # One ahead, since the time of the next one says when this file's turn comes.
        pulled, self._next = self._next, next(self._records, None)
        if self._next is not None and self.begins != _NEVER:
            # Never back: the records of a file stay in their order, whatever their times say.
            self.next_at = max(self.next_at, _time_of(self._next[1]))
        return pulled

    def _read(self) -> Generator[tuple[int, dict[str, Any] | str]]:
        try:
            with self.path.open("rb") as file:
                yield from iterate_records(file, self.is_record)
        except OSError as error:
            yield 0, f"cannot be read: {error.strerror}"

    def _called_by(self) -> str:
        path = self.path.with_suffix(".meta.json")
        with suppress(OSError, ValueError):
            if path.is_file():  # a pipe in its place would be waited for
                with path.open("rb") as file:
                    meta = orjson.loads(file.read(_META_BYTES))
                return text_of(meta, "toolUseId") if type(meta) is dict else ""
        return ""

    def _first_time(self) -> int:
        # Closed again: there may be hundreds of these files, and most wait long for their turn.
        with closing(self._read()) as reading:
            times = (_time_of(record) for _, record in islice(reading, _HEAD))
            return next((at for at in times if at), _NEVER)


def find_agent_files(path: Path, is_record: IsRecord) -> list[AgentFile]:
    """Return the sub-agents' files that belong to a transcript, oldest first; none for one that is no file."""
    folder = path.with_suffix("") / "subagents"
    is_agent = path.match(_PATTERN)  # one sub-agent's file alone, which the others have no part in
    beside = [] if is_agent else _listed(path.parent, _PATTERN)
    session_id = _session_of(path, is_record) if beside else ""
    inside = _listed(folder, f"**/{_PATTERN}")
    own = [*inside, *(other for other in beside if session_id and _session_of(other, is_record) == session_id)]
    return sorted((AgentFile(each, is_record) for each in own), key=lambda file: file.begins)


def linked(
    main: Iterable[tuple[int, dict[str, Any] | str]], files: Sequence[AgentFile]
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield the records of a transcript, and note meanwhile which call started which of the files."""
    by_agent = {file.agent_id: file for file in files}
    for number, record in main:
        if by_agent:
            agent_id, call_id, _ = _outcome_of(record)
            if (file := by_agent.get(agent_id)) is not None and not file.call_id:
                file.call_id = call_id
        yield number, record


def with_agents(main: Iterable[tuple[int, dict[str, Any] | str]], files: Sequence[AgentFile]) -> Iterator[RecordEntry]:
    """Yield the records of a transcript with those of its sub-agents among them."""
    if not files:
        for place, (number, record) in enumerate(main):
            yield RecordEntry(place, number, record)
        return
    merge = _Merge({str(file.path): file for file in files})
    for file in files:
        merge.wait(file)
    for place, (number, record) in enumerate(main):
        merge.place = place
        yield from merge.until(_time_of(record))
        yield from merge.with_outcome(RecordEntry(place, number, record))
    merge.place += 1
    yield from merge.rest()


@define(eq=False)
class _Merge:
    """The sub-agents' files that are not read to their end. Lives as long as one reading."""

    files: dict[str, AgentFile]
    queue: list[tuple[int, str]] = field(factory=list)
    awaited: dict[str, list[AgentFile]] = field(factory=dict)  # by the call that starts them, which has not come yet
    place: int = 0
    now: int = 0

    def wait(self, file: AgentFile) -> None:
        """Read a file when its time has come, and its call where that is known: clocks may differ."""
        if file.call_id:
            self.awaited.setdefault(file.call_id, []).append(file)
        else:
            # By the path where times are equal: files have no order, and a replay is to be the same each time.
            heappush(self.queue, (file.next_at, str(file.path)))

    def until(self, at: int) -> Iterator[RecordEntry]:
        """Yield what happened before a time; at the same time, the main file's comes first."""
        self.now = max(self.now, at)
        while self.queue and self.queue[0][0] < self.now:
            file = self.files.get(heappop(self.queue)[1])
            if file is not None:
                yield from self._pull(file, 0)
                heappush(self.queue, (file.next_at, str(file.path)))

    def rest(self) -> Iterator[RecordEntry]:
        """Yield all that is left."""
        yield from self.until(_NEVER)
        for file in list(self.files.values()):
            yield from self._finish(file, 0)

    def with_outcome(self, entry: RecordEntry, depth: int = 0) -> Iterator[RecordEntry]:
        """Yield an entry, behind what is left of the sub-agent whose outcome it is."""
        agent_id, call_id, is_launch = _outcome_of(entry.record)
        own = [file for file in self.files.values() if file.agent_id == agent_id] if agent_id else []
        for file in own if depth < _MAX_DEPTH and not is_launch else ():
            file.call_id = file.call_id or call_id
            yield from self._finish(file, depth + 1)
        yield entry
        if self.awaited:
            for call in _calls_of(entry.record):
                for file in self.awaited.pop(call, ()):
                    heappush(self.queue, (file.next_at, str(file.path)))

    def _finish(self, file: AgentFile, depth: int) -> Iterator[RecordEntry]:
        while str(file.path) in self.files:
            yield from self._pull(file, depth)

    def _pull(self, file: AgentFile, depth: int) -> Iterator[RecordEntry]:
        pulled = file.pull()
        number, record = pulled or (0, None)
        entry = RecordEntry(self.place, number, record, str(file.path), file.agent_id, file.call_id)
        if pulled is None:
            self.files.pop(str(file.path), None)
            yield entry
        else:
            yield from self.with_outcome(entry, depth)


def _outcome_of(record: dict[str, Any] | str | None) -> tuple[str, str, bool]:
    """Return which agent's outcome a record is, the call that it answers, and whether that only launched the agent."""
    details = record.get("toolUseResult") if type(record) is dict else None
    agent_id = text_of(details, "agentId") if type(details) is dict else ""
    if not agent_id or type(record) is not dict or type(details) is not dict:
        return "", "", False
    ids = (text_of(block, "tool_use_id") for block in _blocks_of(record))
    return agent_id, next((each for each in ids if each), ""), details.get("status") == "async_launched"


def _calls_of(record: dict[str, Any] | str | None) -> list[str]:
    blocks = _blocks_of(record) if type(record) is dict and record.get("type") == "assistant" else ()
    return [text_of(block, "id") for block in blocks if block.get("type") == "tool_use"]


def _blocks_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    message = record.get("message")
    content = message.get("content") if type(message) is dict else None
    return [block for block in content if type(block) is dict] if type(content) is list else []


def _time_of(record: dict[str, Any] | str) -> int:
    return (parse_timestamp(record.get("timestamp")) or 0) if type(record) is dict else 0


def _listed(folder: Path, pattern: str) -> list[Path]:
    with suppress(OSError):
        return sorted(each for each in folder.glob(pattern) if each.is_file())
    return []


def _session_of(path: Path, is_record: IsRecord) -> str:
    with suppress(OSError), path.open("rb") as file:
        for _, record in islice(iterate_records(file, is_record), _HEAD):
            if type(record) is dict and (session_id := text_of(record, "sessionId")):
                return session_id
    return ""
