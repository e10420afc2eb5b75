"""The run of an agent, and the tool call of it, that code runs in: the parent of an agent that is started there.

It is a default, for frameworks whose contexts carry so far. Leaving in another context than that of entering is no
error: frameworks run their hooks in contexts of their own.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from attrs import define, field, frozen

if TYPE_CHECKING:
    from ally_plugins.host.sessions.open_calls import OpenCall  # noqa: TC004 - nobody reads these at run time

    from .run import AgentRun  # noqa: TC004

__all__ = ["RunPlace", "current_place", "enter_call", "inside"]


@frozen(eq=False)
class RunPlace:
    """A run, and the tool call of it that is carried out here.

    `opened` is the call where nobody says that its tool has left; `outer` is the place around it.
    """

    work: AgentRun
    call_id: str | None
    opened: OpenCall | None = None
    outer: RunPlace | None = None


_PLACE: Final[ContextVar[RunPlace | None]] = ContextVar("ally_place", default=None)


def current_place() -> RunPlace | None:
    """Return the place of the caller, None outside of any run; the run may have ended."""
    place = _PLACE.get()
    # A call whose end came elsewhere has left no trace in this context.
    while place is not None and place.opened is not None and place.opened.is_ended:
        place = place.outer
    return place


@define(eq=False)
class inside:  # noqa: N801 - a function to its callers; as a generator it would cost twice as much, in every call
    """Let a block run in a run, or in a tool call of it."""

    _work: AgentRun
    _call_id: str | None
    _here: RunPlace | None = field(init=False, default=None)
    _before: RunPlace | None = field(init=False, default=None)

    def __enter__(self) -> None:
        self._before, self._here = _PLACE.get(), RunPlace(self._work, self._call_id)
        # No token: it could be reset in this very context alone, and a framework may leave in another.
        _PLACE.set(self._here)

    def __exit__(self, *_: object) -> None:
        # Else the block has ended in another context; the one of its beginning goes with it.
        if _PLACE.get() is self._here:
            _PLACE.set(self._before)


def enter_call(work: AgentRun, opened: OpenCall) -> None:
    """Let the code that follows in this context run in a tool call, until that has ended."""
    _PLACE.set(RunPlace(work, opened.call.call_id, opened, current_place()))
