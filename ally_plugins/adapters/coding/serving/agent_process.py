"""The process of the agent that runs a conversation, as `peers` finds it."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from ally_plugins.journal.process_identity import has_ended, start_ticks

__all__ = ["AgentProcess"]


@frozen
class AgentProcess:
    """A running agent: its number, and when it started, since numbers are given out again."""

    pid: int
    started: int

    def folder(self) -> str | None:
        """Return the folder that it works in; None where the system does not tell."""
        try:
            return str(Path(f"/proc/{self.pid}/cwd").readlink())
        except OSError:
            return None

    def is_gone(self) -> bool:
        """Say whether it has ended."""
        return has_ended(self.pid) or start_ticks(self.pid) not in {None, self.started}
