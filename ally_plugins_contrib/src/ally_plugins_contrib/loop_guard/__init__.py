"""loop-guard: notices an agent that repeats the same failing call, steers it once, and stops the call if it goes on."""

from __future__ import annotations

from typing import Final

from ally_plugins import (
    Ally,
    Deny,
    RefusedError,
    SessionEnd,
    ToolCall,
    ToolCallEnd,
    ToolCallStart,
    UserMessage,
    hookimpl,
)
from ally_plugins_contrib.memory import PerSession, Recent, shown

from .streaks import Failing, Streaks

__all__ = ["LoopGuard"]

LIMIT: Final = 3
"""Failures before it speaks: twice may be a flaky tool, three times is a habit."""

DENY_AFTER: Final = 5
"""Failures before it denies: the agent has had two steps to follow the advice."""

MAX_AGENTS: Final = 64
"""Agents and sub-agents remembered of one session."""


class LoopGuard:
    """Keeps the streaks of every agent of every session apart, for as long as the host runs."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally
        self._limit = max(1, int(ally.settings.get("limit", LIMIT)))
        self._deny_after = int(ally.settings.get("deny_after", DENY_AFTER))
        self._sessions: PerSession[Recent[str | None, Streaks]] = PerSession(lambda: Recent(MAX_AGENTS))

    @hookimpl
    async def ally_tool_call_start(self, event: ToolCallStart) -> None:
        if not event.group_execution:  # the announcement of a group; its members follow
            self._streaks(event.session_id, event.agent_id).started(event.tool_name, event.arguments, event.call_id)

    @hookimpl
    async def ally_tool_call_end(self, event: ToolCallEnd) -> None:
        streaks = self._streaks(event.session_id, event.agent_id)
        if event.denied:  # by the person, another plugin or itself: the call has not failed, it did not run
            streaks.denied(event.tool_name, event.call_id)
            return
        failing = streaks.ended(event.tool_name, event.call_id, success=event.success)
        if failing is None or failing.count < self._limit:
            return
        if failing.count == self._limit:
            await self._emit(failing, event.agent_id)
        if not failing.is_told:
            await self._steer(failing)
            failing.is_told = True  # only now: a refused message is tried again at the next failure

    @hookimpl
    async def ally_user_message(self, event: UserMessage) -> None:
        for streaks in self._sessions.get(event.session_id).values():
            streaks.reset()

    @hookimpl
    async def ally_session_end(self, event: SessionEnd) -> None:
        self._sessions.drop(event.session_id)

    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> Deny | None:
        session_id = self.ally.session
        if session_id is None or self._deny_after <= 0:
            return None
        failures = self._streaks(session_id, call.agent_id).failures(call.tool_name, call.arguments)
        if failures < self._deny_after:
            return None
        return Deny(
            f"this call to {shown(call.tool_name)} has failed {failures} times with the same arguments; "
            "change them, take another way, or ask the person"
        )

    async def _steer(self, failing: Failing) -> None:
        await self.ally.add_message(
            "user",
            f"{shown(failing.tool_name)} has failed {failing.count} times with the same arguments. "
            "Read the error, then change the arguments or take another way.",
            deliver_as="steer",
        )

    async def _emit(self, failing: Failing, agent_id: str | None) -> None:
        """Emit if it may: the message and the gate are of use without the event. It names no arguments."""
        data = {"tool_name": shown(failing.tool_name), "failures": failing.count, "agent_id": agent_id}
        try:
            await self.ally.emit_event("loop", data)
        except RefusedError as refusal:
            self.ally.log.debug("the loop was not emitted: %s", refusal)

    def _streaks(self, session_id: str, agent_id: str | None) -> Streaks:
        agents = self._sessions.get(session_id)
        streaks = agents.get(agent_id)
        if streaks is None:
            streaks = Streaks()
        agents.put(agent_id, streaks)
        return streaks
