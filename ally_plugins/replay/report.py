"""What a replay counted: values only. The player fills them, the command line prints them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from attrs import asdict, define, field, frozen

from ally_plugins.journal.contents import is_not_kept

if TYPE_CHECKING:
    from .steps import Step

__all__ = ["MAX_NAMED", "BrokenRecord", "PendingAtEnd", "PlayedSession", "PluginCounts", "ReplayReport"]

# Bounds what a damaged file makes a report remember: broken lines that are named, and different names that are counted.
MAX_NAMED: Final = 100
_MAX_NAMES: Final = 256
_OTHER: Final = "other"


@frozen
class BrokenRecord:
    """A line that could not be read in full. `number` counts from 1."""

    file: str
    number: int
    reason: str


@frozen
class PlayedSession:
    """One recording that was played: `recorded_id` is its own name, `session_id` is its name in the journal."""

    file: str
    format: str
    recorded_id: str
    session_id: str

    def to_json(self) -> dict[str, str]:
        """Return it as JSON values."""
        return {
            "file": self.file,
            "format": self.format,
            "recorded_id": self.recorded_id,
            "session_id": self.session_id,
        }


@frozen
class PendingAtEnd:
    """A plugin's message that was still pending when its session ended."""

    id: str
    plugin: str
    session_id: str
    content: str


@define
class PluginCounts:
    """What one plugin received and did in a replay. `refused` counts refusals by their reason code."""

    state: str = "running"
    reason: str = ""
    delivered: int = 0
    dropped: int = 0
    messages: int = 0
    emitted: int = 0
    refused: Counter[str] = field(factory=Counter)
    crashes: int = 0
    prompt_changes: int = 0
    """How often it would have changed what requests to the model begin with."""
    uncached_tokens: int = 0
    """The tokens that the recorded answers read from a cache, and that these changes would have cost."""

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {
            "delivered": self.delivered,
            "dropped": self.dropped,
            "messages": self.messages,
            "emitted": self.emitted,
            "refused": dict(sorted(self.refused.items())),
            "crashes": self.crashes,
            "prompt_changes": self.prompt_changes,
            "uncached_tokens": self.uncached_tokens,
            "state": self.state,
            "reason": self.reason,
        }


@define
class ReplayReport:
    """The counts of one replay of one or more files. Lives as long as the replay, and is its outcome afterwards."""

    events: Counter[str] = field(factory=Counter)
    plugins: dict[str, PluginCounts] = field(factory=dict)
    skipped: Counter[str] = field(factory=Counter)
    broken_lines: int = 0
    broken: list[BrokenRecord] = field(factory=list)
    decisions: Counter[str] = field(factory=Counter)
    sessions: list[PlayedSession] = field(factory=list)
    pending_messages: int = 0
    pending: list[PendingAtEnd] = field(factory=list)
    lost_records: int = 0
    not_kept: int = 0
    """Texts of which the recording says how long they were, since its journal keeps no contents."""
    is_interrupted: bool = False
    elapsed_s: float = 0.0

    @property
    def events_per_s(self) -> float:
        """How many events a second went through, 0 for a replay that took no time."""
        return self.events.total() / self.elapsed_s if self.elapsed_s > 0 else 0.0

    def count_event(self, event_type: str) -> None:
        """Count one event; a plugin cannot make the report grow by inventing types."""
        if event_type not in self.events and len(self.events) >= _MAX_NAMES:
            event_type = _OTHER
        self.events[event_type] += 1

    def count_skipped(self, record_type: str) -> None:
        """Count a record that has no event; a file cannot make the report grow by inventing types."""
        if record_type not in self.skipped and len(self.skipped) >= _MAX_NAMES:
            record_type = _OTHER
        self.skipped[record_type] += 1

    def count_broken(self, file: str, number: int, reason: str) -> None:
        """Count a broken line; the first hundred are named."""
        self.broken_lines += 1
        if len(self.broken) < MAX_NAMED:
            self.broken.append(BrokenRecord(file, number, reason))

    def count_pending(self, message: PendingAtEnd) -> None:
        """Count a message that was not delivered; the first hundred are named."""
        self.pending_messages += 1
        if len(self.pending) < MAX_NAMED:
            self.pending.append(message)

    def count_not_kept(self, step: Step) -> None:
        """Count the texts of a step that the journal which recorded it has not kept."""
        values = [getattr(step, name, None) for name in ("text", "output", "prompt")]
        arguments = getattr(step, "arguments", None) or {}
        self.not_kept += sum(map(is_not_kept, (*values, *arguments.values())))

    def plugin(self, name: str) -> PluginCounts:
        """Return the counts of a plugin, which begin with this call."""
        return self.plugins.setdefault(name, PluginCounts())

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values, with the keys in a fixed order."""
        return {
            "events": dict(sorted(self.events.items())),
            "plugins": {name: counts.to_json() for name, counts in sorted(self.plugins.items())},
            "skipped": dict(sorted(self.skipped.items())),
            "broken_lines": self.broken_lines,
            "broken": [{"file": one.file, "line": one.number, "reason": one.reason} for one in self.broken],
            "decisions": {verdict: self.decisions[verdict] for verdict in ("allow", "ask", "deny")},
            "sessions": [session.to_json() for session in self.sessions],
            "pending_messages": self.pending_messages,
            "pending": [asdict(message) for message in self.pending],
            "lost_records": self.lost_records,
            "not_kept": self.not_kept,
            "interrupted": self.is_interrupted,
            "elapsed_s": round(self.elapsed_s, 6),
            "events_per_s": round(self.events_per_s, 1),
        }
