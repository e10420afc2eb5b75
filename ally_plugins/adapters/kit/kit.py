"""What an adapter is built on: one host, and how its author wants agents to be run with it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from attrs import define, field

from ally_plugins.contract.values.errors import HostError

from .context import current_place, inside
from .endings import close_with
from .live_sessions import HostSessions
from .options import KitOptions
from .work import AgentWork

if TYPE_CHECKING:
    import asyncio

    from ally_plugins.host.lifetime import HostUse

    from .live_sessions import LiveSession

__all__ = ["AgentKit", "current_work"]


@define(eq=False, kw_only=True)
class AgentKit(KitOptions):
    """What runs agents with one host. Lives as long as the adapter's object; several may share a host."""

    host_sessions: HostSessions = field(init=False)
    _runs: WeakValueDictionary[tuple[str, str], AgentWork] = field(init=False, factory=WeakValueDictionary)
    """By the ids of the conversation and the run: those that are open, which their sessions keep, and ended ones."""

    def __attrs_post_init__(self) -> None:
        self.host_sessions = HostSessions.of(self.host)
        if self.serves is not None:
            self.host.declare_served(self.serves)
        if self.compact is not None:
            self.host_sessions.offer_compaction()

    # --- runs ---

    @asynccontextmanager
    async def work(
        self, session_id: str, run_id: str, name: str, *, model: str | None = None
    ) -> AsyncGenerator[AgentWork]:
        """Enter one run of an agent, as `open` does; a run within another one joins that one's session.

        Leaving closes the run, also when it is cancelled; it may happen in another task than entering.
        """
        work = await self.open(session_id, run_id, name, model=model)
        # Before anything is awaited: a parent that closes must leave this to the block.
        work.is_scoped = True
        try:
            with inside(work, work.call_id):
                yield work
        finally:
            await work.close()

    async def open(
        self,
        session_id: str,
        run_id: str,
        name: str,
        *,
        model: str | None = None,
        parent: AgentWork | None = None,
        call_id: str | None = None,
        ends_with: asyncio.Task[Any] | None = None,
        is_exclusive: bool = False,
    ) -> AgentWork:
        """Open one run of an agent, which lives until `AgentWork.close`, in whatever task, context or thread.

        It starts a host that does not run. `parent` is the run that a sub-agent works for, in its session, and
        `call_id` the tool call of that run in which it does; without a parent it is the run that the caller's context
        is inside of, if any. Code is inside of a run in a tool that `carry_out` runs, and in the block of `work`.

        A run whose framework never says that it has ended is closed when the task `ends_with` is done, with its error
        or cancellation; by the next run of the conversation that `is_exclusive`, which closes all that are open there,
        unless it is a sub-agent's; and by the host's stop. Its AGENT_END says so.

        Raises HostError as the host's start does, for a run that is open already, for a parent that has ended or is of
        another host, for a task whose loop has ended, and where a mandatory plugin was granted what the adapter does
        not serve. After that, and when it is cancelled, nothing is open.
        """
        if parent is None and (parent := current_work(self)) is not None:
            place = current_place()
            call_id = call_id or (place.call_id if place is not None else None)
        key = (session_id, run_id)
        # Before the host is started: a mistake must not start one.
        self._check_opening(key, parent)
        use = await self.host_sessions.lifetime.enter()
        try:
            if self.serves is not None:  # also where it is open: a grant may be new, a parent's adapter another
                self.host.check_served(self.serves)
            live = parent.live if parent is not None else await self.host_sessions.open(session_id, self.serves)
            if is_exclusive and parent is None:
                await self._close_others(session_id)
            work = AgentWork(self, live, session_id, run_id, name, parent, call_id, model)
            work.release = partial(self._release, use)
            # Again: another run may have come, or the parent have ended, while the host and the session were awaited.
            self._check_opening(key, parent)
            live.at_work[work] = None
            self._runs[key] = work
        # A cancellation too, or this user would keep the host running for ever.
        except BaseException:
            await use.leave()
            raise
        if ends_with is not None:
            try:
                # After the run is listed: the task may have ended already, and the run is closed at once then.
                close_with(work, ends_with)
            except RuntimeError as error:
                await work.close(cause="the task that it was to end with is of a loop that has ended")
                raise HostError(f"the run {run_id!r} cannot end with a task of another loop: {error}") from error
        return work

    def find(self, session_id: str, run_id: str | None = None) -> AgentWork | None:
        """Return an open run of a conversation, from any thread, None when there is none.

        Without `run_id` it is the newest that is no sub-agent's. Where there is none, plugins know of no run: refuse
        its tool calls.
        """
        if run_id is not None:
            work = self._runs.get((session_id, run_id))
            return work if work is not None and not work.is_ended else None
        return next(iter(self._main_runs(session_id)), None)

    def _main_runs(self, session_id: str) -> list[AgentWork]:
        """Return the open runs of a conversation that are no sub-agents, the newest first."""
        live = self.host_sessions.sessions.get(session_id)
        found = reversed(list(live.at_work)) if live is not None else ()
        return [work for work in found if isinstance(work, AgentWork) and work.kit is self and work.parent is None]

    def _check_opening(self, key: tuple[str, str], parent: AgentWork | None) -> None:
        if self.find(*key) is not None:
            raise HostError(f"a run with the id {key[1]!r} is under way; give each run an id of its own")
        if parent is not None and (parent.is_ended or parent.kit.host is not self.host):
            found = "has ended" if parent.is_ended else "is one of another host"
            raise HostError(f"the run {parent.id!r} {found}; a sub-agent works for one that is open on its host")

    async def _close_others(self, session_id: str) -> None:
        # Looked up anew each time: while one closes, others may come or go.
        while others := self._main_runs(session_id):
            await others[0].close(cause="another run of the conversation has begun")

    async def _release(self, use: HostUse) -> None:
        try:
            # Before the host is let go, which may stop it: there would be nothing to close the sessions of.
            await self.host_sessions.close_idle()
        finally:
            await use.leave()

    # --- sessions ---

    def session(self, session_id: str) -> LiveSession:
        """Return a live session. Raises HostError when the host does not run."""
        return self.host_sessions.session(session_id)


def current_work(kit: AgentKit) -> AgentWork | None:
    """Return the run of an agent, on the same host, that the caller is inside of, None outside of one."""
    place = current_place()
    work = place.work if place is not None else None
    if not isinstance(work, AgentWork) or work.is_ended or work.kit.host is not kit.host:
        return None
    return work
