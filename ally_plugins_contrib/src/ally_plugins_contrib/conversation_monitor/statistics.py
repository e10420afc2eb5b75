"""What is counted of one session, and how it is told. No host in here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ally_plugins_contrib.memory import Recent, shown

if TYPE_CHECKING:
    from ally_plugins import AgentStart, ToolCallEnd, ToolCallStart

__all__ = ["REARM", "Statistics"]

REARM: Final = 5.0
"""Percentage points that usage must fall below the threshold before a second warning; the host's own thresholds have
the same."""

_MAX_TOOLS: Final = 200
"""Tools counted by name; what comes after goes under `other`. Hosts with hundreds of tools exist."""

_MAX_GROUPS: Final = 64
_OTHER: Final = "other"


@dataclass(slots=True)
class Statistics:
    """The counts of one session; times are Unix milliseconds of its events, so that a replay counts recorded time."""

    started: int = 0
    latest: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    succeeded: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    denied: Counter[str] = field(default_factory=Counter)
    agent_runs: int = 0
    sub_agent_runs: int = 0
    agents_ended: int = 0
    todo_updates: int = 0
    context_usage: float | None = None
    is_armed: bool = True
    _groups: Recent[str, None] = field(default_factory=lambda: Recent(_MAX_GROUPS))

    def note(self, timestamp: int) -> None:
        """Take the time of an event."""
        self.started = self.started or timestamp
        self.latest = max(self.latest, timestamp)

    def call_started(self, event: ToolCallStart) -> None:
        """Count a call; the announcement of a group is no call, its members follow."""
        if event.group_execution:
            if event.call_id is not None:
                self._groups.put(event.call_id, None)
            return
        self._count(self.calls, event.tool_name)

    def call_ended(self, event: ToolCallEnd) -> None:
        """Count how a call ended; one that was denied did not run, and is no failure."""
        if event.call_id is not None and event.call_id in self._groups:
            del self._groups[event.call_id]
            return
        ended = self.denied if event.denied else self.succeeded if event.success else self.failed
        self._count(ended, event.tool_name)

    def agent_started(self, event: AgentStart) -> None:
        """Count a run, of the agent itself or of one that it delegated to."""
        if event.task_prompt is not None or event.is_specialized_agent:
            self.sub_agent_runs += 1
        else:
            self.agent_runs += 1

    def must_warn(self, usage: float, warn_at: float) -> bool:
        """Take a new usage in percent; say whether it has just passed `warn_at`."""
        self.context_usage = usage
        if usage < warn_at - REARM:
            self.is_armed = True
        if not self.is_armed or usage < warn_at or warn_at <= 0:
            return False
        self.is_armed = False
        return True

    def compacted(self, usage: float | None, warn_at: float) -> None:
        """Take the usage after a compaction; the next time that it passes `warn_at` is worth a word again."""
        if usage is not None:
            self.context_usage = usage
        self.is_armed = usage is None or usage < warn_at

    def as_data(self) -> dict[str, Any]:
        """Return the counts as JSON says them; times are in seconds, rates and usage in percent."""
        ended = self.succeeded.total() + self.failed.total()
        rate = round(100 * self.succeeded.total() / ended, 1) if ended else None
        return {
            "uptime_s": round((self.latest - self.started) / 1000, 3),
            "tool_calls": {
                "total": self.calls.total(),
                "success": self.succeeded.total(),
                "failed": self.failed.total(),
                "denied": self.denied.total(),
                "success_rate": rate,
                "by_tool": {
                    name: self._tool(name)
                    for name in sorted({*self.calls, *self.succeeded, *self.failed, *self.denied})
                },
            },
            "agent_runs": self.agent_runs,
            "sub_agent_runs": self.sub_agent_runs,
            "agents_ended": self.agents_ended,
            "todo_updates": self.todo_updates,
            "context_usage": self.context_usage,
        }

    def as_text(self) -> str:
        """Return the counts in one line, for the agent and for people."""
        ended = self.succeeded.total() + self.failed.total()
        rate = f", {100 * self.succeeded.total() / ended:.0f} % succeeded" if ended else ""
        usage = "unknown" if self.context_usage is None else f"{self.context_usage:.0f} % used"
        return (
            f"{self.calls.total()} tool calls{rate}; {self.agent_runs} agent and {self.sub_agent_runs} sub-agent runs; "
            f"{self.todo_updates} todo updates; context {usage}; {(self.latest - self.started) / 1000:.0f} s"
        )

    def _tool(self, name: str) -> dict[str, int]:
        return {
            "total": self.calls[name],
            "success": self.succeeded[name],
            "failed": self.failed[name],
            "denied": self.denied[name],
        }

    def _count(self, counter: Counter[str], tool_name: str) -> None:
        name = shown(tool_name)
        known = name in self.calls or len(self.calls) < _MAX_TOOLS
        counter[name if known else _OTHER] += 1
