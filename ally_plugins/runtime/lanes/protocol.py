"""What the host needs of any lane, be the plugin in its own process or in another."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from .watchdog import Watched

if TYPE_CHECKING:
    import asyncio

    from ally_plugins.contract.values.scope import Scope

    from .observers import Observers
    from .ring import Ring

__all__ = ["AnyLane"]


class AnyLane(Watched, Protocol):
    """Carries events to one plugin and keeps its hooks from overlapping; see `Lane` here, and `host.daemons.lane`."""

    observers: Observers

    @property
    def delivered(self) -> int:
        """How many events were delivered."""
        ...

    @property
    def dropped(self) -> int:
        """How many events were lost."""
        ...

    @property
    def plugin(self) -> str:
        """The plugin's name."""
        ...

    def start(self) -> None:
        """Begin to work; must be called on the loop that the lane belongs to."""

    def attach(self, session_id: str, ring: Ring, after: int | None = None) -> None:
        """Carry a session's events from here on, or from behind the one with this number."""

    def detach(self, session_id: str) -> None:
        """Carry no more of a session's events."""

    def change_observers(self, observers: Observers) -> None:
        """Deliver these events from the next one on."""

    def position(self, session_id: str) -> int | None:
        """Return the number of the last event of a session that was delivered, None when it is not attached."""
        ...

    def has_handled(self, session_id: str, number: int) -> bool:
        """Return whether the plugin has handled every event of a session up to this number."""
        ...

    def recent_origin(self, session_id: str) -> tuple[str, ...]:
        """Return the longest chain of plugins that led to what was lately delivered in a session."""
        ...

    def is_at(self, scope: Scope) -> bool:
        """Return whether the hook that the scope belongs to is the one that runs now."""
        ...

    def notify(self, session_id: str) -> bool:
        """Take note that a session has emitted; return whether the watchdog has to look at the lane now.

        Must be called on the lane's loop.
        """
        ...

    def submit(
        self,
        hook: str,
        function: Callable[..., Any] | None,
        arguments: tuple[Any, ...] = (),
        *,
        is_async: bool = True,
        scope: Scope | None = None,
        session_id: str | None = None,
        deadline: float | None = None,
    ) -> asyncio.Future[Any]:
        """Ask for a hook after the events emitted so far in a session; None calls nothing, and only waits for them."""
        ...

    def abandon(self) -> None:
        """Deliver nothing any more; what waits is answered."""

    async def close(self) -> None:
        """End the lane; what waits is answered with TimedOut.

        Cancelling it only ends the waiting: the lane is abandoned already.
        """
