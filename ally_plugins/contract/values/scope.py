"""What a plugin's code is running for: the event, session and chain of plugins behind a call.

The host sets it around every hook, tool, action and task; tasks that the plugin creates inherit it with the context.
The bus reads it, so that no plugin has to state, or could misstate, what caused its call.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from attrs import define

if TYPE_CHECKING:
    from .events import Event  # noqa: TC004 - nobody reads this annotation at run time

__all__ = ["SCOPE", "Scope", "current_scope"]


@define(slots=True, eq=False)
class Scope:
    """One stretch of a plugin's work; it lives as long as code that was started in it.

    `event` moves on while a lane delivers a run of events. `held` are the lanes that wait, directly or through others,
    for this code to finish: a call that would wait for one of them cannot be answered.
    """

    plugin: str
    session_id: str | None = None
    origin: tuple[str, ...] = ()
    held: frozenset[str] = frozenset()
    event: Event | None = None
    cause: str | None = None
    task_id: str | None = None

    @property
    def cause_id(self) -> str | None:
        """The identity of what the code reacts to: an event's id, or the id of a call or task."""
        return self.event.id if self.event is not None else self.cause


# A context variable, since a task that a hook starts inherits it: what it asks for later is still that plugin's. An
# attribute of the handle would be the scope of whatever hook runs at the moment.
SCOPE: Final[ContextVar[Scope | None]] = ContextVar("ally_scope", default=None)


def current_scope(plugin: str) -> Scope | None:
    """Return the scope of the running code if it is this plugin's, else None."""
    scope = SCOPE.get()
    return scope if scope is not None and scope.plugin == plugin else None
