"""What a run ends with that a plugin or the person stopped."""

from __future__ import annotations

from agents.exceptions import AgentsException

__all__ = ["RunInterrupted"]


class RunInterrupted(AgentsException):
    """Raised by a run that was stopped; its text is the cause. The session holds the steps that were finished."""
