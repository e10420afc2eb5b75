"""What an adapter is built on: one host, and how its author wants agents to be run with it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from attrs import define, field

from .live import Live
from .permission import Approver, Sensitive, sensitivity_of
from .toolwork import CALL, Preview
from .work import AgentWork

if TYPE_CHECKING:
    from ally_plugins.host.host import Host  # noqa: TC004 - nobody reads this annotation at run time

    from .live import LiveSession

__all__ = ["AgentKit", "current_work"]

_WORK: Final[ContextVar[AgentWork | None]] = ContextVar("ally_agent_work", default=None)


@define(eq=False, kw_only=True)
class AgentKit:
    """How agents run with one host. Lives as long as the adapter's object; several may share a host.

    `approve` asks the person. `sensitive` names the tools that need permission. `preview` tells what an edit would
    change. `context_window` is in tokens, where the framework does not know the model's. `can_compact` says that the
    adapter has a way to shorten conversations, which it does by itself when `compact_at` percent of the window is used.
    """

    host: Host
    approve: Approver | None = None
    sensitive: Sensitive = ()
    preview: Preview | None = None
    context_window: int | None = None
    compact_at: float | None = None
    can_compact: bool = False
    live: Live = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.live = Live.of(self.host)
        if self.can_compact:
            self.live.offer_compaction()

    def sensitivity(self, tool: str) -> str | None:
        """Return how sensitive a tool is, None when it needs no permission."""
        return sensitivity_of(self.sensitive, tool)

    @asynccontextmanager
    async def work(
        self, session_id: str, run_id: str, name: str, *, model: str | None = None
    ) -> AsyncGenerator[AgentWork]:
        """Give one run of an agent its session, with the host running; a run within another one joins its session.

        Raises HostError as the host's start does.
        """
        parent = current_work(self)
        async with self.live.upkeep.running():
            live = parent.live if parent is not None else self.live.session(session_id)
            work = AgentWork(self, live, run_id, name, parent, CALL.get() if parent is not None else None, model)
            token = _WORK.set(work)
            try:
                yield work
            finally:
                _WORK.reset(token)
                work.end()
                await self.live.let_go()

    def session(self, session_id: str) -> LiveSession:
        """Return a live session. Raises HostError when the host does not run."""
        return self.live.session(session_id)


def current_work(kit: AgentKit) -> AgentWork | None:
    """Return the run of an agent, on the same host, that the caller is part of, None outside of one."""
    work = _WORK.get()
    return work if work is not None and not work.is_ended and work.kit.host is kit.host else None
