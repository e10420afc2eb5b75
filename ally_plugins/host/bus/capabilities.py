"""The host's implementations of the capability hooks: the host author's, with the default behind it.

A manager of its own, apart from the plugins', so that no plugin can stand in for the host.
"""

# ruff: noqa: ARG002 - the capability hooks are described, with their arguments, in `hookspecs`

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pluggy

from ally_plugins.contract.hookspecs import HostHooks
from ally_plugins.contract.markers import PROJECT, hookimpl
from ally_plugins.contract.values.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping, Sequence

    from ally_plugins.contract.values.conversation import ActionRequest, Context, Message
    from ally_plugins.contract.values.events import PluginEvent
    from ally_plugins.host.sessions.session import Session

__all__ = ["CAPABILITIES", "Capabilities", "HostAction"]

HostAction: TypeAlias = "Callable[[Session, ActionRequest], Any]"
"""Carries out an action of the host's own; may return an awaitable. A result of None means that it cannot."""

CAPABILITIES: Final = frozenset(
    {
        "add_message",
        "emit_event",
        "get_context",
        "register_tool",
        "register_action",
        "request_action",
        "ask",
        "start_task",
    }
    | {"trigger_turn", "steer", "follow_up", "next_turn"}
)
"""What every host of this version offers to plugins, as `Ally.supports` names it."""


class DefaultCapabilities:
    """Implements the capability hooks where the host author's implementation does not, or returns None."""

    def __init__(self) -> None:
        self.actions: dict[str, HostAction] = {}

    @hookimpl
    def ally_add_message(self, session: Session, message: Message) -> bool:
        # A mirror copies the message from the framework's history, where the adapter puts it.
        if not session.conversation.is_mirror:
            session.conversation.add(message)
        return True

    @hookimpl
    def ally_emit_event(self, session: Session, event: PluginEvent) -> bool:
        return True

    @hookimpl
    def ally_get_context(self, session: Session, parts: Sequence[str], since: str | None) -> Context:
        return session.conversation.snapshot(session.id, parts, since)

    @hookimpl
    def ally_request_action(self, session: Session, request: ActionRequest) -> Any:
        handler = self.actions.get(request.action)
        return handler(session, request) if handler is not None else None


class Capabilities:
    """The capability hooks of one host. Raises HostError for an implementation that cannot be used."""

    def __init__(self, implementation: object | None) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(HostHooks)
        self._default = DefaultCapabilities()
        # First: pluggy calls what was registered last before the others.
        self._manager.register(self._default, "default")
        self._own: frozenset[str] = frozenset()
        """The hooks that the host author implements."""
        if implementation is not None:
            _check_implementation(implementation)
            self._manager.register(implementation, "host")
            self._own = frozenset(name for name in dir(HostHooks) if hasattr(implementation, name))

    @property
    def actions(self) -> MutableMapping[str, HostAction]:
        """The actions of the host's own that have a handler, by name."""
        return self._default.actions

    async def call(self, hook: str, **arguments: Any) -> Any:
        """Call a hook: the host author's implementation, and the default where that returns None.

        Raises what the implementation raises. Cancelling cancels one that is a coroutine.
        """
        if (
            hook not in self._own
        ):  # pluggy would find the default alone, and take as long as all that a call is looked at
            answer = getattr(self._default, hook)(**arguments)
            return await answer if inspect.isawaitable(answer) else answer
        result = getattr(self._manager.hook, hook)(**arguments)
        if inspect.isawaitable(result):
            result = await result
            # pluggy goes on to the default by itself where an implementation returns None; a coroutine is a result.
            if result is None:
                result = getattr(self._default, hook)(**arguments)
                if inspect.isawaitable(result):
                    result = await result
        return result


def _check_implementation(implementation: object) -> None:
    """Refuse what pluggy would pass over in silence: methods without the marker, names that are no capability."""
    wrong = []
    for name in dir(implementation):
        if name.startswith("ally_") and callable(method := getattr(implementation, name)):
            if not hasattr(HostHooks, name):
                names = ", ".join(each for each in dir(HostHooks) if each.startswith("ally_"))
                wrong.append(f"{name!r} is no capability hook; there are {names}")
            elif not hasattr(method, f"{PROJECT}_impl"):
                wrong.append(f"{name!r} lacks the decorator @hookimpl")
    if wrong:
        raise HostError(f"the implementation cannot be used: {'; '.join(wrong)}")
