"""Steps that wait for the end of an answer, since its token counts and stop reason are known only then."""

from __future__ import annotations

from typing import Any, Final

from attrs import define, evolve, field

from .steps import ModelResponded, Step

__all__ = ["HeldSteps"]

# Bounds what waits for an answer whose end does not come, such as one whose sub-agents work for long.
_MAX_STEPS: Final = 512


@define
class HeldSteps:
    """The steps of a recording in their order. Lives as long as one reading.

    Those from an answer on wait until no more is known of it. `add` whatever happened, and `take` after each record.
    """

    waiting: list[Step] = field(factory=list)
    answers: dict[str | None, int] = field(factory=dict)  # agent to the place of its answer in `waiting`

    def add(self, step: Step) -> None:
        """Add a step. A `ModelResponded` opens its agent's answer, and closes the one before."""
        if type(step) is ModelResponded:
            self.answers[step.agent_id] = len(self.waiting)
        self.waiting.append(step)

    def amend(self, agent_id: str | None, **known: Any) -> None:
        """Set what is known better of an agent's answer than when it began, None where it is not."""
        place = self.answers.get(agent_id)
        if place is not None:
            better = {name: value for name, value in known.items() if value is not None}
            self.waiting[place] = evolve(self.waiting[place], **better)

    def close(self, agent_id: str | None) -> None:
        """Let go of an agent's answer: it is whole."""
        self.answers.pop(agent_id, None)

    def close_all(self) -> None:
        """Let go of all answers, at the end or when too much waits."""
        self.answers.clear()

    def take(self) -> list[Step]:
        """Return the steps that wait for nothing, once."""
        if len(self.waiting) > _MAX_STEPS:
            self.close_all()
        if not self.answers:
            steps, self.waiting = self.waiting, []
            return steps
        # Up to the oldest answer that is open: steps keep their order.
        first = min(self.answers.values())
        steps, self.waiting = self.waiting[:first], self.waiting[first:]
        if first:
            self.answers = {agent_id: place - first for agent_id, place in self.answers.items()}
        return steps
