"""Actions of the host's own and of plugins: recorded, announced as an event, and run, whoever requests them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from attrs import define

from ally_plugins.contract.tools.declared import DEFAULT_TIMEOUT
from ally_plugins.contract.values.errors import (
    NotFoundRefused,
    RefusedError,
    SessionError,
    ToolCallError,
    UnavailableRefused,
)
from ally_plugins.contract.values.events import Event, PluginActionRequested
from ally_plugins.contract.values.ids import new_id
from ally_plugins.contract.values.scope import SCOPE, Scope
from ally_plugins.runtime.lanes.plugin import describe

from .capabilities import Capabilities
from .contributions import Contribution, Contributions
from .records import Records

if TYPE_CHECKING:
    from ally_plugins.contract.values.conversation import ActionRequest
    from ally_plugins.host.sessions.session import Session
    from ally_plugins.runtime.lanes.plugin import Plugin

__all__ = ["ActionRunner", "announce"]

_log: Final = logging.getLogger(__name__)


@define(eq=False)
class ActionRunner:
    """Carries out the actions of one host. `own` are the names of the host's own; no plugin stands in for one."""

    offered: Contributions
    own: set[str]
    capabilities: Capabilities
    records: Records
    may: Callable[[str, str, str | None], bool]
    """Whether what a plugin offers (`tools` or `actions`) may be used in a session, by their names."""

    async def run(
        self,
        session: Session,
        request: ActionRequest,
        timeout: float = DEFAULT_TIMEOUT,
        requested_by: Plugin | None = None,
    ) -> Any:
        """Carry out an action and return its result; `requested_by` is the plugin that requests it, if one does.

        Its secrets are masked in what is recorded and announced; the action gets them.

        `timeout` is in seconds. Raises NotFoundRefused, ArgumentsError before anything runs, ToolCallError when the
        action fails, and UnavailableRefused when it cannot be recorded. Cancelling cancels the action, whose end is
        recorded as such.
        """
        owner, plugin, arguments = self._owner(request.action), None, request.arguments
        if owner is not None and not self.may(owner.plugin.name, "actions", session.id):
            name = owner.plugin.name
            raise NotFoundRefused(f"{request.action!r} is of {name!r}, without which session {session.id!r} was opened")
        if requested_by is not None:
            plugin, arguments = requested_by.name, requested_by.secrets.masked_value(arguments)
        request_id, scope = new_id("a"), SCOPE.get()
        data = {"action": request.action, "arguments": arguments, "requested_by": request.requested_by,
                "origin": request.origin, "cause": scope.cause_id if scope is not None else None}  # fmt: skip
        # On disk before it is announced and runs: what cannot be recorded must not happen.
        await self.records.write("action", plugin, session.id, request_id, data)
        announced = PluginActionRequested(
            plugin_name=owner.plugin.name if owner is not None else "host",
            action=request.action,
            arguments=arguments,
            requested_by=request.requested_by,
        )
        announce(plugin, session, announced, request.origin)
        try:
            if owner is not None:
                result = await _run(owner, session, request, request_id, timeout)
            else:
                result = await self._run_own(session, request, timeout, plugin)
        # Cancellations too: whatever began has an end in the records.
        except BaseException as error:
            self._record_end(plugin, session, request_id, request.action, error)
            raise
        self._record_end(plugin, session, request_id, request.action, None)
        return result

    def _owner(self, action: str) -> Contribution | None:
        """Return the plugin's action of this name, None for one of the host's own."""
        if action in self.own:
            return None
        if ":" in action or any(each.spec.name == action for each in self.offered):
            # Raises for a name that several plugins have, with the full names; the host is not asked then.
            return self.offered.find(action)
        # Left to the host, whose implementation may carry out actions that it has not listed.
        return None

    async def _run_own(self, session: Session, request: ActionRequest, timeout: float, plugin: str | None) -> Any:
        """Have the host carry out an action of its own."""
        name, limit = request.action, asyncio.timeout(timeout)
        try:
            async with limit:
                result = await self.capabilities.call("ally_request_action", session=session, request=request)
        except (RefusedError, ToolCallError):
            raise
        except TimeoutError as error:
            # The host's code may raise a TimeoutError of its own, which is no lapse of this limit.
            if limit.expired():
                raise ToolCallError(f"the action {name!r} did not end within {timeout:g} s", tool=name) from None
            raise ToolCallError(f"the host's action {name!r} failed with {describe(error)}", tool=name) from error
        except Exception as error:
            _log.exception("the host's action %r failed", name)
            raise ToolCallError(f"the host's action {name!r} failed with {describe(error)}", tool=name) from error
        if result is None:
            names = ", ".join(sorted(each.full_name for each in self.offered)) or "none"
            text = f"this host has no action {name!r}; actions of plugins: {names}"
            raise NotFoundRefused(text, plugin=plugin)
        return result

    def _record_end(
        self, plugin: str | None, session: Session, request_id: str, action: str, error: BaseException | None
    ) -> None:
        """Queue the record of how an action ended."""
        state = "done" if error is None else "cancelled" if isinstance(error, asyncio.CancelledError) else "failed"
        data = {"name": action, "state": state, "reason": "" if error is None else describe(error)}
        # Soon: it has happened, and a disk that fails must not turn its result into a refusal.
        self.records.write_soon("action_end", plugin, session.id, request_id, data)


async def _run(owner: Contribution, session: Session, request: ActionRequest, request_id: str, timeout: float) -> Any:
    """Run a plugin's action; its scope holds the caller's, so that it cannot wait for what waits for the caller."""
    caller = SCOPE.get()
    held = caller.held if caller is not None else frozenset()
    scope = Scope(owner.plugin.name, session.id, request.origin, held, cause=request_id)
    return await owner.run(request.arguments, scope, timeout)


def announce(plugin: str | None, session: Session, event: Event, chain: tuple[str, ...]) -> None:
    """Emit what a plugin's call has led to. Raises UnavailableRefused when the session was closed meanwhile."""
    try:
        session.emit_caused(event, chain)
    except SessionError as error:
        raise UnavailableRefused(str(error), plugin=plugin) from error
