"""What adapters keep for a running host and its sessions: the agents at work, permissions, undelivered messages.

One for each host, so that adapters with different options share its conversations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol
from weakref import WeakKeyDictionary, ref

from attrs import define, field

from ally_plugins.contract.values.inert import inert
from ally_plugins.host.lifetime import HostLifetime
from ally_plugins.host.person.permission import PermissionFlow
from ally_plugins.host.sessions.mirror import Mirror

from .compaction_requests import COMPACT, CompactionRequest, PendingCompactions

if TYPE_CHECKING:
    from ally_plugins.contract.serves import Serves
    from ally_plugins.contract.values.conversation import ActionRequest, Message  # noqa: TC004 - nobody reads these at run time
    from ally_plugins.host.host import Host
    from ally_plugins.host.sessions.open_calls import OpenCall  # noqa: TC004
    from ally_plugins.host.sessions.session import Session  # noqa: TC004

__all__ = ["IDLE_SESSIONS", "HostSessions", "LiveSession"]

IDLE_SESSIONS: Final = 256
"""Sessions without an agent at work that stay open; the longest idle are closed, and found again by their id."""


class AtWork(Protocol):
    """One run of an agent, as its session knows it; `work.AgentWork`, which stands above it, is that."""

    @property
    def parent(self) -> object:
        """The run that waits for it, and is interrupted in its place; None where there is none."""
        ...

    def interrupt(self, cause: str) -> None:
        """Stop it."""

    def end(self, *, cause: str) -> None:
        """Emit its end, with a cause in words."""


@define(eq=False)
class LiveSession:
    """One session and the agents at work in it. It lives until the session has been idle for long, or the host ends."""

    session: Session
    permission: PermissionFlow = field(init=False, factory=PermissionFlow)
    mirror: Mirror = field(init=False)
    at_work: dict[AtWork, None] = field(init=False, factory=dict)
    """The agents at work, in the order in which they came; a sub-agent ends with its main agent."""
    compactions: PendingCompactions = field(init=False, factory=PendingCompactions)
    todos: dict[str | None, tuple[dict[str, str], ...]] = field(init=False, factory=dict)
    """The todos last emitted for each agent; None is the agent that the person talks to."""
    deferred: dict[str, OpenCall] = field(init=False, factory=dict)
    """Calls that wait for another run, by their id, or their tool's name without one."""
    undelivered: dict[str, Message] = field(init=False, factory=dict)
    """Plugins' messages that have entered the conversation and not yet the framework's history."""
    doubtful: dict[str, Message] = field(init=False, factory=dict)
    """Those that entered in a run that failed: the next run may go on with its history, or with the one before."""

    def __attrs_post_init__(self) -> None:
        self.mirror = Mirror(self.session.id, self.session.conversation)

    @property
    def id(self) -> str:
        """The session's id, which is the framework's of the conversation."""
        return self.session.id

    @property
    def is_busy(self) -> bool:
        """Whether an agent is at work."""
        return bool(self.at_work)

    def interrupt(self, cause: str) -> bool:
        """Stop the agents at work, for a reason that their AGENT_END carries; return whether there was any."""
        main = [work for work in list(self.at_work) if work.parent is None]  # another thread may add some
        for work in main:
            work.interrupt(cause)
        return bool(main)


@define(eq=False)
class HostSessions:
    """The sessions of one host in which adapters run agents. Lives as long as the host object."""

    lifetime: HostLifetime
    sessions: dict[str, LiveSession] = field(init=False, factory=dict)

    @classmethod
    def of(cls, host: Host) -> HostSessions:
        """Return the one for a host; the first call offers the action `interrupt`, and has runs end when it stops."""
        found = _LIVE.get(host)
        if found is None:
            # A weak reference in it too: a value that holds its own key would keep it in the map for ever.
            found = _LIVE[host] = cls(HostLifetime(ref(host)))
            host.offer_action("interrupt", found._interrupt)
            host.services.before_stop.append(found._end_runs)
        return found

    @property
    def host(self) -> Host:
        """The host. Raises HostError when it was garbage collected."""
        return self.lifetime.host

    async def open(self, session_id: str, serves: Serves | None = None) -> LiveSession:
        """Return a live session, on whatever loop the caller runs; `serves` is what plugins are served in it.

        Raises HostError when the host does not run.
        """

        async def session() -> LiveSession:
            return self.session(session_id, serves)

        return await self.host.services.own_loop.run(session())

    def session(self, session_id: str, serves: Serves | None = None) -> LiveSession:
        """Return a live session, opened or found again, as `open` does; call it on the host's loop."""
        live = self.sessions.pop(session_id, None)
        # Closed: the host was stopped, and started again.
        if live is None or live.session.is_closed:
            live = LiveSession(self.host.session(session_id, serves=serves))
        elif serves is not None:
            live.session.serves = self.host.services.serves & serves
        self.sessions[session_id] = live  # the last used comes last
        return live

    async def close_idle(self) -> None:
        """Close the longest idle sessions beyond IDLE_SESSIONS. Cancelling leaves some of them open."""
        own_loop = self.host.services.loop
        if own_loop is not None and len(self.sessions) > IDLE_SESSIONS:
            await own_loop.run(self._close_idle())

    async def _close_idle(self) -> None:
        # One that a plugin has triggered is about to be run.
        idle = [live for live in self.sessions.values() if not live.is_busy and not live.session.triggered.is_set()]
        for live in idle[: max(len(idle) - IDLE_SESSIONS, 0)]:
            # Before the close, which awaits: a run that comes meanwhile gets a session of its own.
            del self.sessions[live.id]
            await live.session.close()

    def _end_runs(self) -> None:
        for live in list(self.sessions.values()):
            for work in reversed(list(live.at_work)):  # a sub-agent before the one that it works for
                work.end(cause="the host has stopped")

    def offer_compaction(self) -> None:
        """Offer the action `compact` to plugins and the person; call it when the adapter can shorten conversations."""
        if COMPACT not in self.host.services.host_actions:
            self.host.offer_action(COMPACT, self._compact)

    def _compact(self, session: Session, request: ActionRequest) -> Any:
        """Keep the request until the next safe point, where the framework's history can be changed."""
        reason = _reason(request)
        self.session(session.id).compactions.pending = CompactionRequest(request.requested_by, reason)
        return {"scheduled": True}

    def _interrupt(self, session: Session, request: ActionRequest) -> Any:
        live = self.sessions.get(session.id)
        return {"interrupted": live.interrupt(_reason(request)) if live is not None else False}


def _reason(request: ActionRequest) -> str:
    """Return why an action is requested, in one line: the model reads it, and no line of it may pass for another's."""
    return inert(request.arguments.get("reason") or f"{request.requested_by} asked for it")


_LIVE: Final[WeakKeyDictionary[Host, HostSessions]] = WeakKeyDictionary()
