"""What a host author does with an adapter's object while no agent of theirs runs, or beside one that does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ally_plugins.contract.values.errors import HostError

from .compaction_requests import CompactionRequest

if TYPE_CHECKING:
    from ally_plugins.host.host import Host

    from .kit import AgentKit
    from .live_sessions import LiveSession

__all__ = ["BetweenRuns"]


class BetweenRuns:
    """The part of an adapter's object that is the same in every framework."""

    kit: AgentKit

    @property
    def host(self) -> Host:
        """The host whose plugins these are."""
        return self.kit.host

    def session(self, session_id: str) -> LiveSession:
        """Return a conversation's live session. Raises HostError when the host does not run."""
        return self.kit.session(session_id)

    def interrupt(self, session_id: str, cause: str = "the person asked for it") -> bool:
        """Stop the agents at work in a conversation; their AGENT_END carries the cause. Say whether there was any."""
        live = self.kit.host_sessions.sessions.get(session_id)
        return live.interrupt(cause) if live is not None else False

    def compact(self, session_id: str, reason: str = "the person asked for it") -> None:
        """Have a conversation shortened before the model is asked next. Raises HostError when nothing can do it."""
        if self.kit.compact is None:
            raise HostError(f"nothing here can shorten a conversation; give {type(self).__name__}(compact=...)")
        self.kit.session(session_id).compactions.pending = CompactionRequest("person", reason)

    async def wait_for_trigger(self, session_id: str) -> None:
        """Wait until a plugin that may wakes the idle agent; then run it with its history and without a prompt.

        Raises HostError when the host does not run. Cancelling stops the waiting and nothing else.
        """
        session = (await self.kit.host_sessions.open(session_id)).session
        await session.own_loop.run(session.wait_for_trigger())
