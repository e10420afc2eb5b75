"""conversation-monitor: counts tool calls, agent runs, todo updates and context usage of each session.

It answers as the tool `get_conversation_stats` and the action `report`, and warns once when the context fills up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ally_plugins import (
    AgentEnd,
    AgentStart,
    Ally,
    CompactionComplete,
    ContextUsageUpdate,
    Event,
    RefusedError,
    SessionEnd,
    SessionStart,
    TodoUpdate,
    ToolCallEnd,
    ToolCallStart,
    action,
    hookimpl,
    tool,
)
from ally_plugins_contrib.memory import PerSession

from .statistics import Statistics

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ConversationMonitor"]

WARN_AT: Final = 75.0
"""Percent; where the host's second threshold is, and a quarter of the window is left to finish in."""


class ConversationMonitor:
    """Counts each session apart, for as long as the host runs."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally
        self._warn_at = float(ally.settings.get("warn_at", WARN_AT))
        self._sessions = PerSession(Statistics)

    # --- counting ---

    @hookimpl
    async def ally_session_start(self, event: SessionStart) -> None:
        self._of(event)

    @hookimpl
    async def ally_session_end(self, event: SessionEnd) -> None:
        self._of(event)

    @hookimpl
    async def ally_tool_call_start(self, event: ToolCallStart) -> None:
        self._of(event).call_started(event)

    @hookimpl
    async def ally_tool_call_end(self, event: ToolCallEnd) -> None:
        self._of(event).call_ended(event)

    @hookimpl
    async def ally_agent_start(self, event: AgentStart) -> None:
        self._of(event).agent_started(event)

    @hookimpl
    async def ally_agent_end(self, event: AgentEnd) -> None:
        self._of(event).agents_ended += 1

    @hookimpl
    async def ally_todo_update(self, event: TodoUpdate) -> None:
        self._of(event).todo_updates += 1

    @hookimpl
    async def ally_compaction_complete(self, event: CompactionComplete) -> None:
        if not event.error:
            self._of(event).compacted(event.new_context_usage, self._warn_at)

    @hookimpl
    async def ally_context_usage_update(self, event: ContextUsageUpdate) -> None:
        if event.parent_call_id is None and self._of(event).must_warn(event.context_usage, self._warn_at):
            await self._warn(event.context_usage)

    # --- telling ---

    @tool
    async def get_conversation_stats(self) -> dict[str, Any]:
        """Return statistics of this conversation: tool calls, agent runs, todo updates, context usage, uptime."""
        return self._report()

    @action
    async def report(self) -> dict[str, Any]:
        """Return the statistics of this conversation, and tell other plugins of them."""
        report = self._report()
        await self._emit("report", report)
        return report

    async def _warn(self, usage: float) -> None:
        await self._emit("context-warning", {"context_usage": usage, "warn_at": self._warn_at})
        await self.ally.add_message(
            "user",
            f"The context is {usage:.0f} % full. Finish what is open, and note what must outlive a compaction.",
            deliver_as="steer",
        )

    async def _emit(self, event_type: str, data: Mapping[str, Any]) -> None:
        """Emit if it may: the statistics and the warning are of use without the event."""
        try:
            await self.ally.emit_event(event_type, data)
        except RefusedError as refusal:
            self.ally.log.debug("%s was not emitted: %s", event_type, refusal)

    def _report(self) -> dict[str, Any]:
        """Return the current session's statistics; outside of one there is nothing to count. Sessions never mix."""
        session_id = self.ally.session
        statistics = self._sessions.get(session_id) if session_id is not None else Statistics()
        return {"session": session_id, "message": statistics.as_text(), **statistics.as_data()}

    def _of(self, event: Event) -> Statistics:
        statistics = self._sessions.get(event.session_id)
        statistics.note(event.timestamp)
        return statistics
