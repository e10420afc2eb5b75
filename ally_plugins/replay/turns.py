"""Where a recorded conversation could have changed, and what became of calls whose end was not recorded.

The readers yield what the file says; `with_safe_points` closes what stays open and puts a `SafePoint` wherever a live
host would have called `safe_point`. The rule for all formats is here and only here: never between an assistant's tool
calls and their results. Whether more calls of one answer follow is known only when the next answer begins, so a point
after results comes right before the next request to the model, or the person's next message, or the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import define, evolve, field

from .steps import (
    AgentEnded,
    AgentStarted,
    Interrupted,
    ModelRequested,
    PermissionAnswered,
    PermissionRequested,
    PersonMessage,
    SafePoint,
    SafePointKind,
    SessionEnded,
    Skipped,
    Step,
    ToolCalled,
    ToolReturned,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


__all__ = ["MAX_AGENTS", "MAX_OPEN", "ORPHANED_END", "ORPHANED_RESULT", "with_safe_points"]

# Bounds what is remembered of calls (and of agents) without an end. Real sessions have a few dozen at most.
MAX_OPEN: Final = 4096
# Sub-agents at work at one time; also bounds how deep they may have started one another.
MAX_AGENTS: Final = 128
ORPHANED_RESULT: Final = "result without a call"
ORPHANED_END: Final = "end without an agent"

_NO_RESULT: Final = "no result was recorded"
_INTERRUPTED: Final = "interrupted by the person"
_ENDED: Final = "the session ended before it returned"


def with_safe_points(steps: Iterable[Step]) -> Iterator[Step]:
    """Yield `steps` with safe points, and with what is missing for each call to have one result and each agent an end.

    `Interrupted` stays in the stream. A result without a call, or an end without an agent, becomes a `Skipped` step. A
    reader need not yield an agent's end: it ends when the call that started it returns.
    """
    turns = _Turns()
    handlers = turns.handlers
    for step in steps:
        turns.before, turns.now = turns.now, step.at
        handler = handlers.get(type(step))
        if handler is None:
            yield step
        else:
            handler(step)
            yield from turns.take_steps()


@define
class _Agent:
    """A sub-agent at work, until the call that started it returns."""

    started: AgentStarted
    tool_use_count: int = 0


@define
class _Turns:
    """The calls, agents and turn that are open. Lives as long as one reading of a file."""

    now: int = 0
    before: int = 0
    calls: dict[str, ToolCalled] = field(factory=dict)
    agents: dict[str, _Agent] = field(factory=dict)
    out: list[Step] = field(factory=list)
    in_turn: bool = False
    is_step_due: bool = False
    waiting: list[PersonMessage] = field(factory=list)

    @property
    def handlers(self) -> dict[type[Step], Callable[..., None]]:
        return {
            AgentEnded: self.agent_ended,
            AgentStarted: self.agent_started,
            Interrupted: self.interrupted,
            ModelRequested: self.model_requested,
            PersonMessage: self.person_message,
            SessionEnded: self.session_ended,
            ToolCalled: self.tool_called,
            ToolReturned: self.tool_returned,
        }

    def take_steps(self) -> list[Step]:
        steps, self.out = self.out, []
        return steps

    def person_message(self, step: PersonMessage) -> None:
        if step.is_interjection:
            self.interject(step)
            return
        # The turn ended when the last thing happened, not when the person came back.
        self.end_turn(_INTERRUPTED, self.before)
        self.out.append(step)
        self.out.append(SafePoint(self.now, SafePointKind.TURN_START))
        self.in_turn = True

    def interject(self, step: PersonMessage) -> None:
        if not any(call.agent_id is None for call in self.calls.values()):
            self.out.append(step)
            return
        self.waiting.append(step)
        # The result does not come: better out of place than not at all.
        if len(self.waiting) >= MAX_OPEN:
            self.close_calls(_NO_RESULT, None)
            self.flush_waiting()

    def model_requested(self, step: ModelRequested) -> None:
        # No model answers before it has all results: a call that is still open here has lost its own.
        self.close_calls(_NO_RESULT, step.agent_id)
        if step.agent_id is None:
            self.flush_waiting()
            if self.is_step_due:
                self.is_step_due = False
                self.out.append(SafePoint(self.now, SafePointKind.STEP))
            self.in_turn = True
        self.out.append(step)

    def tool_called(self, step: ToolCalled) -> None:
        if step.call_id in self.calls:
            self.close(self.calls[step.call_id], _NO_RESULT)
        if len(self.calls) >= MAX_OPEN:
            self.close(next(iter(self.calls.values())), _NO_RESULT)
        self.calls[step.call_id] = step
        if step.agent_id is None:
            self.is_step_due = self.in_turn = True
        elif (agent := self.agents.get(step.agent_id)) is not None:
            agent.tool_use_count += 1
        self.out.append(step)

    def tool_returned(self, step: ToolReturned) -> None:
        call = self.calls.pop(step.call_id, None)
        if call is None:
            self.out.append(Skipped(self.now, ORPHANED_RESULT))
            return
        if step.is_rejected:
            self.out.append(
                PermissionRequested(
                    self.now,
                    call.call_id,
                    call.tool_name,
                    call.arguments,
                    call_id=call.call_id,
                    common=call.common,
                    agent_id=call.agent_id,
                )
            )
            self.out.append(PermissionAnswered(self.now, call.call_id, "deny", agent_id=call.agent_id))
        if not step.is_launch:
            result, cause = (step.output, None) if step.success else ("", step.error)
            # Before the result: a sub-agent ends within the call that started it.
            self.end_agents_of(call, result, cause)
        self.out.append(
            ToolReturned(
                self.now,
                call.call_id,
                step.success,
                step.output,
                step.error,
                step.is_rejected,
                step.is_launch,
                call.tool_name,
                self.now - call.at,
                agent_id=call.agent_id,
                is_denied=step.is_denied or step.is_rejected,
                unshown=step.unshown,
            )
        )

    def agent_started(self, step: AgentStarted) -> None:
        if (running := self.agents.get(step.agent_id)) is not None:
            self.end_agent(running, "", _NO_RESULT)
        if len(self.agents) >= MAX_AGENTS:
            self.end_agent(next(iter(self.agents.values())), "", _NO_RESULT)
        self.agents[step.agent_id] = _Agent(step)
        self.out.append(step)

    def agent_ended(self, step: AgentEnded) -> None:
        agent = self.agents.pop(step.agent_id, None)
        if agent is None:
            self.out.append(Skipped(self.now, ORPHANED_END))
            return
        self.close_calls(step.interruption_cause or _NO_RESULT, step.agent_id)
        started = agent.started
        self.out.append(
            evolve(
                step,
                call_id=step.call_id or started.call_id,
                agent_name=step.agent_name or started.agent_name,
                duration_ms=step.duration_ms or self.now - started.at,
                tool_use_count=step.tool_use_count or agent.tool_use_count,
            )
        )

    def interrupted(self, step: Interrupted) -> None:
        self.out.append(step)
        self.end_turn(_INTERRUPTED, self.now)

    def session_ended(self, step: SessionEnded) -> None:
        self.end_turn(_ENDED, self.now)
        for agent in tuple(self.agents.values()):
            self.end_agent(agent, "", _ENDED)
        for call in tuple(self.calls.values()):
            self.close(call, _ENDED)
        self.out.append(step)

    def end_turn(self, reason: str, at: int) -> None:
        # What is closed here has the time of now, and the point comes behind it.
        if self.calls or self.waiting:
            at = self.now
        self.close_calls(reason, None)
        self.flush_waiting()
        if self.in_turn:
            self.out.append(SafePoint(at, SafePointKind.TURN_END))
        self.in_turn = self.is_step_due = False

    def flush_waiting(self) -> None:
        self.out += (evolve(step, at=self.now) for step in self.waiting)
        self.waiting.clear()

    def close_calls(self, reason: str, agent_id: str | None) -> None:
        for call in [call for call in self.calls.values() if call.agent_id == agent_id]:
            self.close(call, reason)

    def close(self, call: ToolCalled, reason: str) -> None:
        # The end of a sub-agent, which closes its calls, may have come here first.
        if self.calls.pop(call.call_id, None) is None:
            return
        self.end_agents_of(call, "", reason)
        self.out.append(
            ToolReturned(
                self.now,
                call.call_id,
                success=False,
                error=reason,
                tool_name=call.tool_name,
                duration_ms=self.now - call.at,
                agent_id=call.agent_id,
            )
        )

    def end_agents_of(self, call: ToolCalled, result: str, cause: str | None) -> None:
        if (agent := self.agents.get(call.call_id)) is not None:
            self.end_agent(agent, result, cause)

    def end_agent(self, agent: _Agent, result: str, cause: str | None) -> None:
        started = agent.started
        self.close_calls(cause or _NO_RESULT, started.agent_id)
        if self.agents.pop(started.agent_id, None) is None:
            return
        self.out.append(
            AgentEnded(
                self.now,
                started.agent_id,
                started.call_id,
                started.agent_name,
                result,
                is_interrupted=cause is not None,
                interruption_cause=cause,
                duration_ms=self.now - started.at,
                tool_use_count=agent.tool_use_count,
            )
        )
