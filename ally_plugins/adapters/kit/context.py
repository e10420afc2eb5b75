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
    from .run import AgentRun  # noqa: TC004 - nobody reads this annotation at run time

__all__ = ["Place", "current_place", "inside"]


@frozen(eq=False)
class Place:
    """A run, and the tool call of it that is carried out here."""

    work: AgentRun
    call_id: str | None


_PLACE: Final[ContextVar[Place | None]] = ContextVar("ally_place", default=None)


def current_place() -> Place | None:
    """Return the place of the caller, None outside of any run; the run may have ended."""
    return _PLACE.get()


@contextmanager
def inside(work: AgentRun, call_id: str | None) -> Generator[None]:
    """Let a block run in a run, or in a tool call of it."""
    before, here = _PLACE.get(), Place(work, call_id)
    _PLACE.set(here)
    try:
        yield
    finally:
        if _PLACE.get() is here:  # else the block has ended in another context; the one of its beginning goes with it
            _PLACE.set(before)
