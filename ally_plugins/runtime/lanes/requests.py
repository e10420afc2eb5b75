"""What a lane runs between two events (gates, transforms, lifecycle hooks), and the ways in which a hook fails.

Plain classes: attrs takes half a millisecond to build one, and every daemon that starts would pay for that.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ally_plugins.contract.values.compat import override
from ally_plugins.contract.wording import note_argument

if TYPE_CHECKING:
    from ally_plugins.contract.values.events import Event
    from ally_plugins.contract.values.scope import Scope

    from .ring import Ring

__all__ = ["Answer", "Crash", "FutureRequest", "HookCancelled", "HookRequest", "TakenBack"]


class HookCancelled(Exception):
    """A hook raised CancelledError, or cancelled its task, though nothing had cancelled it."""


class TakenBack(Exception):
    """The caller no longer waits for a hook's answer, so the hook is interrupted."""


class Crash:
    """A hook failed: with an error, or past its deadline.

    `event_id` is the event's identity where the event itself is not at hand. `is_final` says that the hook ignored its
    interruption and was abandoned, so that its plugin cannot go on.
    """

    __slots__ = ("error", "event", "event_id", "hook", "is_final", "plugin")

    def __init__(
        self,
        plugin: str,
        hook: str,
        error: BaseException,
        event: Event | None = None,
        *,
        event_id: str | None = None,
        is_final: bool = False,
    ) -> None:
        note_argument(error)
        self.plugin = plugin
        self.hook = hook
        self.error = error
        self.event = event
        self.event_id = event_id
        self.is_final = is_final


class Answer(asyncio.Future[Any]):
    """What comes of a request. `take_back` is called with it when it is cancelled before that.

    Neither that nor `on_done` is a future's callback, which would come a turn of the loop later; whoever sets the
    result calls `announce`, after which both are forgotten, since they mostly hold the request, which holds this.
    """

    def __init__(self, take_back: Callable[[Any], object] | None = None) -> None:
        super().__init__()
        self.on_done: Callable[[asyncio.Future[Any]], object] | None = None
        self.take_back = take_back

    def announce(self) -> None:
        """Call `on_done`, if there is one, once."""
        self.take_back = None
        on_done, self.on_done = self.on_done, None
        if on_done is not None:
            on_done(self)

    @override
    def cancel(self, msg: Any | None = None) -> bool:
        """Take the request back, unless it has been answered."""
        is_cancelled = super().cancel(msg)
        if is_cancelled:
            take_back, self.take_back = self.take_back, None
            if take_back is not None:
                take_back(self)
            if self.on_done is not None:
                self.get_loop().call_soon(self.announce)
        return is_cancelled


class HookRequest(ABC):
    """A hook that is called with nothing else of its plugin running, and answered once.

    Without a `function` nothing is called, and it is answered in its turn. A kind takes and sets everything by
    itself, by place: an `__init__` here too, or keywords, would take as long as all the rest of it.
    """

    __slots__ = ("arguments", "function", "hook", "is_async", "scope")

    hook: str
    function: Callable[..., Any] | None
    arguments: tuple[Any, ...]
    is_async: bool
    scope: Scope

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """Whether nobody waits for the answer any more."""

    @abstractmethod
    def settle(self, result: Any = None, error: BaseException | None = None) -> None:
        """Give the answer, unless nobody waits for it."""


class FutureRequest(HookRequest):
    """One whose answer is that of `future`, which is cancelled to take it back.

    `after` is the number of the event that comes before it, in the ring of its session; `timer` may give the answer.
    """

    __slots__ = ("after", "future", "ring", "timer")

    def __init__(
        self,
        hook: str,
        function: Callable[..., Any] | None,
        arguments: tuple[Any, ...],
        is_async: bool,  # noqa: FBT001 - as above
        scope: Scope,
        future: Answer,
        ring: Ring | None = None,
        after: int = 0,
    ) -> None:
        self.hook = hook
        self.function = function
        self.arguments = arguments
        self.is_async = is_async
        self.scope = scope
        self.future = future
        self.ring = ring
        self.after = after
        self.timer: asyncio.TimerHandle | None = None

    @property
    @override
    def is_over(self) -> bool:
        """Whether the future has its answer, or was cancelled."""
        return self.future.done()

    @override
    def settle(self, result: Any = None, error: BaseException | None = None) -> None:
        """Give the answer, unless nobody waits for it; the timer is none any more."""
        if self.timer is not None:
            self.timer.cancel()
        future = self.future
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            if isinstance(error, StopIteration):  # a future refuses to carry it
                error = RuntimeError(f"StopIteration: {error}")
            future.set_exception(error)
            future.exception()  # marks it as retrieved: the caller may be gone, and asyncio would log that as a fault
        future.announce()
