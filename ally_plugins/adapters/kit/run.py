"""The state of one run of one agent: its session, its parent, and the way to emit its events.

What happens in it, from its beginning to its end, is left to `work`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

from ally_plugins.contract.values.errors import SessionError

if TYPE_CHECKING:
    from ally_plugins.contract.values.events import Event
    from ally_plugins.host.person.permission import Approver

    from .live_sessions import LiveSession  # noqa: TC004 - nobody reads these annotations at run time
    from .options import KitOptions  # noqa: TC004

__all__ = ["AgentRun", "Interrupted"]

_log: Final = logging.getLogger(__name__)

_NO_ABOUT: Final[dict[str, Any]] = {}


class Interrupted(Exception):
    """Raised where a run waits, in place of the cancellation that its interruption is; the text is the cause."""


@define(eq=False)
class _Waiting:
    """A task that waits in a block which is cancelled when the run is interrupted."""

    task: asyncio.Task[Any]
    is_stopped: bool = False


@define(eq=False)
class AgentRun:
    """One run of an agent. `call_id` is the tool call in which a sub-agent works, `parent` the run that makes it.

    `stop` is what interrupts the framework's run, beside what is `stoppable`. `can_defer`: a permission question
    without an approver may wait for another run. `context_usage` is in percent.
    """

    kit: KitOptions
    live: LiveSession
    session_id: str
    """The framework's id of the conversation: a sub-agent's may be another one than that of the session it works in."""
    id: str
    name: str
    parent: AgentRun | None = None
    call_id: str | None = None
    model: str | None = None
    can_defer: bool = False
    stop: Callable[[], object] | None = None
    interruption_cause: str | None = None
    context_usage: float | None = None
    is_ended: bool = False
    about: dict[str, Any] = field(init=False)
    _waiting: dict[_Waiting, None] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        self.about = _NO_ABOUT if self.parent is None else {"agent_id": self.id, "parent_id": self.call_id}

    @property
    def approve(self) -> Approver | None:
        """The approver: its own, else that of the agent that called this sub-agent."""
        own = self.kit.approve
        return own if own is not None or self.parent is None else self.parent.approve

    @property
    def is_heard(self) -> bool:
        """Whether anybody gets what is emitted; see `Session.is_heard`."""
        return self.live.session.is_heard

    @property
    def emit_heard(self) -> Callable[[Event], None] | None:
        """What emits the events of a call that begins now, None where nobody gets them."""
        return self.emit if self.is_heard else None

    def emit(self, event: Event) -> None:
        """Emit an event in the session; dropped once the host has stopped."""
        try:
            self.live.session.emit(event)
        except SessionError as error:
            # Ends of runs and calls come behind a host's stop, in the ordinary course of things.
            _log.debug("%s is not emitted: %s", event.type, error)

    def wants(self, topic: str) -> bool:
        """Say whether any plugin takes part in a topic of gates or transforms, whether it runs or not.

        After the host's stop too: what was set to block when it cannot look at something blocks then.
        """
        return self.live.session.wants(topic)

    def interrupt(self, cause: str) -> None:
        """Stop this run; AGENT_END carries the cause. From any thread; an ended one is left alone."""
        if self.is_ended or (self.stop is None and not self._waiting):
            return
        self.interruption_cause = cause  # before `stop`, which may end the run at once
        if self.stop is not None:
            self.stop()
        for waiting in list(self._waiting):
            with suppress(RuntimeError):  # its loop has ended
                waiting.task.get_loop().call_soon_threadsafe(self._cancel, waiting)

    def _cancel(self, waiting: _Waiting) -> None:
        # On the task's own loop: it may have left the block since. Once: a second cancellation would be one of others.
        if waiting in self._waiting and not waiting.is_stopped:
            waiting.is_stopped = True
            waiting.task.cancel()

    @contextmanager
    def stoppable(self) -> Generator[None]:
        """Let what a block awaits be cancelled when the run is interrupted. Raises Interrupted then.

        A cancellation by others is raised as it is, also where both come.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - only a task can wait
        self._waiting[waiting := _Waiting(task)] = None
        try:
            yield
        except asyncio.CancelledError:
            if waiting.is_stopped and not task.uncancel():
                raise Interrupted(self.interruption_cause) from None
            raise
        finally:
            del self._waiting[waiting]

    @property
    def current_usage(self) -> float | None:
        """How much of the window is used, in percent, as far as is known: of this run, or of the session before."""
        own = self.context_usage
        return own if own is not None or self.parent is not None else self.live.session.conversation.token_usage

    @property
    def parent_id(self) -> str | None:
        """The call in which a sub-agent works; None for the agent that the person talks to."""
        return self.about.get("parent_id")
