"""What a lane is asked to do between two events, and the ways in which a hook fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from attrs import define

from ally_plugins.contract.values.events import Event
from ally_plugins.contract.values.scope import Scope

from .ring import Ring
from .thread import HookExit

__all__ = ["Crash", "HookCancelled", "HookExit", "Request"]


class HookCancelled(Exception):
    """A hook raised CancelledError, or cancelled its task, though nobody had asked it to end."""


@define(eq=False)
class Crash:
    """A hook failed: with an error, or past its deadline."""

    plugin: str
    hook: str
    error: BaseException
    event: Event | None = None
    event_id: str | None = None
    """The event's identity, where the event itself is not at hand."""
    is_final: bool = False
    """The hook ignored its interruption and was abandoned: its plugin cannot go on."""


@define(eq=False)
class Request:
    """Something that a lane does between two events: `function` is called with the lane to itself.

    `future` gets the result or the exception. It is done by the deadline whatever the function does.
    """

    hook: str
    function: Callable[..., Any] | None
    arguments: tuple[Any, ...]
    is_async: bool
    future: asyncio.Future[Any]
    scope: Scope
    ring: Ring | None = None
    after: int = 0
    timer: asyncio.TimerHandle | None = None

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.future.done()

    def settle(self, result: Any = None, error: BaseException | None = None) -> None:
        """Give the answer, unless the deadline has given it already."""
        if self.timer is not None:
            self.timer.cancel()
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
            return
        if isinstance(error, StopIteration):  # a future refuses to carry it
            error = RuntimeError(f"StopIteration: {error}")
        self.future.set_exception(error)
        self.future.exception()  # who asked may be gone, which is no fault that asyncio need log
