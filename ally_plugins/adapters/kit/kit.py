"""What an adapter is built on: one host, and how its author wants agents to be run with it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from attrs import define, field

from .live_sessions import HostSessions
from .options import KitOptions
from .tool_calls import CALL
from .work import AgentWork

if TYPE_CHECKING:
    from .live_sessions import LiveSession

__all__ = ["AgentKit", "current_work"]

_WORK: Final[ContextVar[AgentWork | None]] = ContextVar("ally_agent_work", default=None)


@define(eq=False, kw_only=True)
class AgentKit(KitOptions):
    """What runs agents with one host. Lives as long as the adapter's object; several may share a host."""

    host_sessions: HostSessions = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.host_sessions = HostSessions.of(self.host)
        if self.can_compact:
            self.host_sessions.offer_compaction()

    @asynccontextmanager
    async def work(
        self, session_id: str, run_id: str, name: str, *, model: str | None = None
    ) -> AsyncGenerator[AgentWork]:
        """Enter one run of an agent: starts the host if needed; a run within another one joins that one's session.

        Leaving ends the run, also when it is cancelled, and stops a host that was started for it; it may happen in
        another task than entering. Raises HostError as the host's start does.
        """
        parent = current_work(self)
        async with self.host_sessions.lifetime.running():
            live = parent.live if parent is not None else await self.host_sessions.open(session_id)
            work = AgentWork(self, live, run_id, name, parent, CALL.get() if parent is not None else None, model)
            token = _WORK.set(work)
            try:
                yield work
            finally:
                with suppress(ValueError):  # left in another context: the one that entered ends with its task
                    _WORK.reset(token)
                work.end()
                await self.host_sessions.close_idle()

    def session(self, session_id: str) -> LiveSession:
        """Return a live session. Raises HostError when the host does not run."""
        return self.host_sessions.session(session_id)


def current_work(kit: AgentKit) -> AgentWork | None:
    """Return the run of an agent, on the same host, that the caller is part of, None outside of one."""
    work = _WORK.get()
    return work if work is not None and not work.is_ended and work.kit.host is kit.host else None
