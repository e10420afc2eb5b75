"""What is alive of a host beside its sessions: who keeps it running, and the agents that work in each session.

One for each host, whoever drives it, so that adapters with options of their own share conversations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary, ref

from attrs import define, field

from .compaction_wishes import COMPACT, CompactionWish, CompactionWishes
from .mirror import Mirror
from .permission import PermissionFlow
from .upkeep import Upkeep

if TYPE_CHECKING:
    from ally_plugins.contract.values.conversation import ActionRequest, Message  # noqa: TC004 - nobody reads these at run time
    from ally_plugins.host.host import Host
    from ally_plugins.host.sessions.session import Session  # noqa: TC004
    from ally_plugins.host.sessions.toolcalls import OpenCall  # noqa: TC004

__all__ = ["IDLE_SESSIONS", "Live", "LiveSession"]

IDLE_SESSIONS: Final = 256
"""Sessions without an agent at work that stay open; the longest idle are closed, and found again by their id."""


@define(eq=False)
class LiveSession:
    """One session and the agents at work in it. It lives until the session has been idle for long, or the host ends."""

    session: Session
    permission: PermissionFlow = field(init=False, factory=PermissionFlow)
    mirror: Mirror = field(init=False)
    at_work: dict[str, Callable[[str], None] | None] = field(init=False, factory=dict)
    """The agents at work by their run's id, each with what interrupts it; a sub-agent ends with its main agent."""
    compactions: CompactionWishes = field(init=False, factory=CompactionWishes)
    todos: dict[str | None, tuple[dict[str, str], ...]] = field(init=False, factory=dict)
    """What was last told of each agent's todos; None is the agent that the person talks to."""
    deferred: dict[str, OpenCall] = field(init=False, factory=dict)
    """Calls whose question waits for another run, by what `key_of` says."""
    undelivered: dict[str, Message] = field(init=False, factory=dict)
    """Plugins' messages that have entered the conversation and not yet the framework's history."""
    doubtful: dict[str, Message] = field(init=False, factory=dict)
    """Those that entered in a run that failed: whoever goes on may have its history, or the one before."""

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
        """Stop the agents at work, for a reason that their AGENT_END carries; say whether there was any."""
        main = [interrupt for interrupt in self.at_work.values() if interrupt is not None]
        for interrupt in main:
            interrupt(cause)
        return bool(main)


@define(eq=False)
class Live:
    """What is alive of one host. It lives as long as the host object."""

    upkeep: Upkeep
    sessions: dict[str, LiveSession] = field(init=False, factory=dict)

    @classmethod
    def of(cls, host: Host) -> Live:
        """Return what is alive of a host, the same for everybody."""
        known = _LIVE.get(host)
        if known is None:
            known = _LIVE[host] = cls(Upkeep(ref(host)))
            host.offer_action("interrupt", known._interrupt)
        return known

    @property
    def host(self) -> Host:
        """The host. Raises HostError when nobody holds it any more."""
        return self.upkeep.host

    def session(self, session_id: str) -> LiveSession:
        """Return a live session, opened or found again. Raises HostError when the host does not run."""
        known = self.sessions.pop(session_id, None)
        if known is None or known.session.is_closed:
            known = LiveSession(self.host.session(session_id))
        self.sessions[session_id] = known  # the last used comes last
        return known

    async def let_go(self) -> None:
        """Close the sessions that have been idle for long, when there are many."""
        idle = [live for live in self.sessions.values() if not live.is_busy and not live.session.triggered.is_set()]
        for live in idle[: max(len(idle) - IDLE_SESSIONS, 0)]:
            del self.sessions[live.id]
            await live.session.close()

    def offer_compaction(self) -> None:
        """Let plugins and the person ask for a compaction: somebody can do it."""
        if COMPACT not in self.host.services.host_actions:
            self.host.offer_action(COMPACT, self._compact)

    def _compact(self, session: Session, request: ActionRequest) -> Any:
        """Take up the wish at the next safe point, where the framework's history can be changed."""
        reason = str(request.arguments.get("reason") or f"{request.requested_by} asked for it")
        self.session(session.id).compactions.wish = CompactionWish(request.requested_by, reason)
        return {"scheduled": True}

    def _interrupt(self, session: Session, request: ActionRequest) -> Any:
        live = self.sessions.get(session.id)
        by = request.requested_by
        cause = str(request.arguments.get("reason") or f"{by} asked for it")
        return {"interrupted": live.interrupt(cause) if live is not None else False}


_LIVE: Final[WeakKeyDictionary[Host, Live]] = WeakKeyDictionary()
