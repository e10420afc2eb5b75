"""The steps that all calls of plugins share on the bus: identity, permission, chain of origin, refusal.

What each kind of call does between them is in `messages` and `bus`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

from ally_plugins.contract.values.errors import (
    BudgetRefused,
    ConfigError,
    HopLimitRefused,
    PermissionRefused,
    RefusedError,
    UnavailableRefused,
)
from ally_plugins.contract.values.scope import Scope, current_scope
from ally_plugins.policy.permissions import GrantSet, command_for
from ally_plugins.policy.validation import extend_chain
from ally_plugins.runtime.lanes.plugin import Plugin, RunState, describe

if TYPE_CHECKING:
    from .services import HostServices

__all__ = ["CONTENT_LIMIT", "BusSteps", "begin_call", "cause_of", "chain_of"]

_log: Final = logging.getLogger(__name__)

T = TypeVar("T")

_MAY_CALL: Final = frozenset({RunState.STARTING, RunState.RUNNING, RunState.STOPPING})
"""The states in which hooks run: `ally_stop` does while a process is `stopping`."""

CONTENT_LIMIT: Final = 2**31
"""No limit in effect: the size is the budget's (`message_bytes`), validation checks the characters only."""


CIRCLE_PAUSE: Final = 60.0
"""Seconds in which one circle of plugins is logged once: events can go round it hundreds of times a minute."""


class BusSteps:
    """The shared steps. Only for the loop's thread."""

    def __init__(self, services: HostServices) -> None:
        self._services = services
        self._circles: dict[frozenset[str], float] = {}

    def _identify(self, plugin: Plugin) -> Scope | None:
        if plugin.state not in _MAY_CALL:
            when = "calls may be made from ally_start on" if plugin.state == RunState.LOADED else "it may make no calls"
            text = f"the plugin {plugin.name!r} is {plugin.state}; {when}"
            raise UnavailableRefused(text, plugin=plugin.name)
        return current_scope(plugin.name)

    def _grants(self, plugin: Plugin, session_id: str | None) -> GrantSet:
        """Return what a plugin may do in the session of its call: what it was granted, as its project narrows it."""
        if not self._services.dispatcher.rules:
            return plugin.grants
        try:
            session = self._services.session_for(plugin.name, session_id)
        except RefusedError:  # the call itself is refused for it, or waits on disk for a session that is not open
            return plugin.grants
        rules = session.rules
        return rules.grants(plugin.name, plugin.grants) if rules.narrows(plugin.name) else plugin.grants

    def _permit(self, plugin: Plugin, is_granted: bool, permission: str) -> None:  # noqa: FBT001
        if not is_granted and self._is_narrowed(plugin, permission):
            text = (
                f"{plugin.name!r} is not granted {permission!r} in this project: its .ally narrows what it may do there"
            )
            raise PermissionRefused(f"{text}; to see what holds: ally-plugins project", plugin=plugin.name,
                                    permission=permission, command="ally-plugins project")  # fmt: skip
        if not is_granted:
            command = command_for(plugin.name, permission)
            text = f"{plugin.name!r} is not granted {permission!r}; the operator grants it with `{command}`"
            raise PermissionRefused(text, plugin=plugin.name, permission=permission, command=command)

    def _is_narrowed(self, plugin: Plugin, permission: str) -> bool:
        """Return whether it was granted what is refused, so that a project is the reason."""
        with suppress(ConfigError):  # a plugin may name an action that no grant could
            return bool(self._services.dispatcher.rules) and plugin.grants.covers(permission)
        return False

    async def _implemented(self, hook: str, answer: Awaitable[T]) -> T:
        """Return the answer of a capability hook; an error of the host's implementation is a refusal, and no crash."""
        try:
            return await answer
        except RefusedError:
            raise
        except Exception as error:
            _log.exception("the host's implementation of %s failed", hook)
            raise UnavailableRefused(f"the host failed in {hook}: {describe(error)}") from error

    def refuse(self, plugin: Plugin, what: str, refusal: RefusedError, session_id: str | None = None) -> None:
        """Count a refusal and queue its record, folded with those like it of the same second."""
        plugin.counts.refused[refusal.reason] += 1
        permission = getattr(refusal, "permission", None)
        data = {"call": what, "reason": refusal.reason, "permission": permission, "text": plugin.describe(refusal)}
        # By the kind of permission only: a plugin may invent a new action name for each call, and flood the journal.
        kind = permission.partition(":")[0] if isinstance(permission, str) and what == "request_action" else permission
        self._services.records.write_soon(
            "refusal",
            plugin.name,
            self._session_of(plugin, session_id),
            None,
            data,
            fold=(what, refusal.reason, kind),
        )
        if isinstance(refusal, HopLimitRefused):
            self._log_circle(plugin, what, refusal)

    def _log_circle(self, plugin: Plugin, what: str, refusal: HopLimitRefused) -> None:
        """Log plugins that set each other off, which only their operator can end."""
        # A set: the same circle may be entered at any of its plugins.
        now, circle = self._services.clock.steady(), frozenset(refusal.chain)
        if now - self._circles.get(circle, -CIRCLE_PAUSE) >= CIRCLE_PAUSE:
            self._circles[circle] = now
            _log.warning("%s of the plugin %r was refused: %s", what, plugin.name, plugin.masked(str(refusal)))

    def _session_of(self, plugin: Plugin, session_id: str | None) -> str | None:
        """Return the session that a refused call is recorded under: the one it names, its hook's, or the only one."""
        try:
            return self._services.session_for(plugin.name, session_id).id
        except RefusedError:  # of a call that names a session which is not open, or of one that could mean several
            return self._session_of(plugin, None) if session_id is not None else None


def begin_call(plugin: Plugin, take: Callable[[float], None], now: float) -> None:
    """Count a call as in flight and against its rate, both or neither; call `plugin.budget.end_call` when it ends.

    Raises BudgetRefused, and then there is nothing to end.
    """
    plugin.budget.begin_call()
    try:
        take(now)
    # Else each refusal by the rate would take away one of the calls that may be in flight.
    except BudgetRefused:
        plugin.budget.end_call()
        raise


def chain_of(plugin: Plugin, scope: Scope | None, session_id: str) -> tuple[str, ...]:
    """Return the chain of origin of what the plugin does now, with its own name last. Raises HopLimitRefused.

    A hook, tool or action has its chain in its scope. Tasks and threads of the plugin's own may react to anything that
    was delivered to it lately: the longest chain among that is assumed.
    """
    origin = scope.origin if scope is not None else ()
    lane = plugin.lane
    # A hook leaves its scope to the tasks that it makes. Once the lane is past it, those count as the plugin's own.
    if lane is not None and (scope is None or scope.task_id is not None or not (scope.cause or lane.is_at(scope))):
        recent = lane.recent_origin(session_id)
        origin = recent if len(recent) > len(origin) else origin
    return extend_chain(origin, plugin.name)


def cause_of(scope: Scope | None) -> str | None:
    """Return the id of the event or call that the running code reacts to."""
    return scope.cause_id if scope is not None else None
