"""The hooks of one plugin for `info`: which it implements, when each was last called, and what it answered.

From its sources, its manifest and the journal; nothing of it runs, and no running host is asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import define

from ally_plugins.cli.shell.journal_rows import reading_of
from ally_plugins.cli.shell.text import columns, inert, preview, when
from ally_plugins.contract.hookspecs import HOOKS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.journal.reader import JournalReader
    from ally_plugins.journal.values import StoredRecord

__all__ = ["hook_facts", "hook_lines"]

_LOOKED_AT: Final = 2_000
"""Decisions, the latest, of which those are looked for that a plugin took part in: 20 ms to read. What is older than
these is shown as never answered; `audit --kind decision` has it."""


@define
class _Hook:
    calls: int = 0
    at: int | None = None
    answer: str = ""
    answered_at: int = -1

    def take_answer(self, at: int, answer: str) -> None:
        """Keep the later one of two answers."""
        if at >= self.answered_at:
            self.answered_at, self.answer = at, answer
            self.at = max(self.at or at, at)


def hook_facts(home: Home, record: PluginRecord) -> list[dict[str, Any]]:
    """Return each hook with the calls that are recorded, the time of the last (Unix ms), and what it answered then."""
    found = {name: _Hook() for name in _implemented(record)}
    with reading_of(home) as reading:
        if reading is not None:
            _count(reading, record.name, found)
            for hook, at, answer in _answers(reading, record.name):
                found.setdefault(hook, _Hook()).take_answer(at, answer)
    order = list(HOOKS)
    names = sorted(found, key=lambda name: order.index(name) if name in order else len(order))
    return [{"hook": name, "calls": found[name].calls, "last": found[name].at, "answer": found[name].answer or None}
            for name in names]  # fmt: skip


def hook_lines(facts: list[dict[str, Any]]) -> list[str]:
    """Return the lines of `info`."""
    rows = []
    for each in facts:
        calls = f"{each['calls']} call{'s' * (each['calls'] != 1)}" if each["calls"] else ""
        last = f"last {when(each['last'])}" if each["last"] is not None else "no call is recorded"
        rows.append((inert(each["hook"]), calls, last, preview(each["answer"] or "")))
    return columns(rows)


def _implemented(record: PluginRecord) -> list[str]:
    """Return the hooks that the code has, as its sources say, or those that the manifest asks for by name."""
    requested, found = record.requested, record.found
    asked = [info.name for info in HOOKS.values() if info.topic is not None
             and (requested.gates if info.kind == "gate" else requested.transforms)(info.topic)]  # fmt: skip
    asked += [name for name, info in HOOKS.items() if info.event_type in record.manifest.subscribe]
    if found is None or not found.is_class or not found.root or not found.entry_point:
        return asked
    from ally_plugins.author.project import Project
    from ally_plugins.author.source_model import read_sources

    root = Path(found.root)
    project = Project(
        root=root.parent, name=record.name, target=found.entry_point, base=root.parent, code=root, manifest_path=root
    )
    methods = read_sources(project).methods.values()
    marked = [str(each.marks["hookimpl"].get("specname") or each.name) for each in methods if "hookimpl" in each.marks]
    return marked or asked


def _count(reading: JournalReader, name: str, found: dict[str, _Hook]) -> None:
    for record in reading.records(kind="usage", plugin=name):
        for hook, counted in _table(record, "hooks").items():
            if isinstance(counted, dict) and isinstance(counted.get("calls"), int) and counted["calls"]:
                each = found.setdefault(hook, _Hook())
                each.calls += counted["calls"]
                each.at = max(each.at or 0, record.at)


def _answers(reading: JournalReader, name: str) -> Iterator[tuple[str, int, str]]:
    """Yield what the plugin answered: the hook, when (Unix ms), and the answer."""
    for record in reading.last_records(_LOOKED_AT, kind="decision"):
        data = record.data or {}
        for vote in data.get("votes") or ():
            if isinstance(vote, dict) and vote.get("plugin") == name:
                yield f"ally_gate_{data.get('kind')}", record.at, _vote(vote)
    for record in reading.last_records(_LOOKED_AT, kind="transform"):
        data = record.data or {}
        if data.get("blocked_by") == name:
            yield str(data.get("hook")), record.at, f"blocked: {data.get('reason', '')}"
        elif any(isinstance(each, dict) and each.get("plugin") == name for each in data.get("changes") or ()):
            yield str(data.get("hook")), record.at, "changed it"
    for record in reading.last_records(_LOOKED_AT, kind="crash", plugin=name):
        data = record.data or {}
        yield str(data.get("hook")), record.at, f"crashed: {data.get('error', '')}"


def _vote(vote: Mapping[str, Any]) -> str:
    verdict = vote.get("verdict") or "abstained"
    cause = vote.get("cause")
    if cause not in (None, "verdict"):
        return f"{cause} {vote.get('detail') or ''}".rstrip()
    return f"{verdict}: {vote['reason']}" if vote.get("reason") else str(verdict)


def _table(record: StoredRecord, key: str) -> Mapping[str, Any]:
    value = (record.data or {}).get(key)
    return value if isinstance(value, dict) else {}
