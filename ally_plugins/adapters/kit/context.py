"""The run of an agent, and the tool call of it, that code runs in: the parent of an agent that is started there.

It is a default, for frameworks whose contexts carry so far. Leaving in another context than that of entering is no
error: frameworks run their hooks in contexts of their own.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from attrs import frozen

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


@contextmanager
def inside(work: AgentRun, call_id: str | None) -> Generator[None]:
    """Let a block run in a run, or in a tool call of it."""
    before, here = _PLACE.get(), RunPlace(work, call_id)
    # No token: it could be reset in this very context alone, and a framework may leave in another.
    _PLACE.set(here)
    try:
        yield
    finally:
        if _PLACE.get() is here:  # else the block has ended in another context; the one of its beginning goes with it
            _PLACE.set(before)


def enter_call(work: AgentRun, opened: OpenCall) -> None:
    """Let the code that follows in this context run in a tool call, until that has ended."""
    _PLACE.set(RunPlace(work, opened.call.call_id, opened, current_place()))
