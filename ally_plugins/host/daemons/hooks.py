"""The hooks that a daemon implements, as implementations that its lane turns into requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from ally_plugins.contract.grants import ANY
from ally_plugins.contract.hookspecs import HOOKS, HookInfo
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import EventError, PluginError
from ally_plugins.contract.values.events import EVENT_TYPES, Event, EventsDropped, PluginEvent
from ally_plugins.runtime.lanes.link import NonsenseAnswer, RemoteHook
from ally_plugins.runtime.lanes.observers import Implementation, Observers
from ally_plugins.wire.answers import replacement_from_wire, verdict_from_wire
from ally_plugins.wire.values import (
    call_to_wire,
    context_to_wire,
    message_to_wire,
    model_input_to_wire,
    request_to_wire,
    result_to_wire,
    sections_to_wire,
    stop_to_wire,
)

if TYPE_CHECKING:
    from ally_plugins.wire.offers import HookOffer

__all__ = ["RemoteImplementation", "remote_implementations", "remote_observers"]

_WRITERS: Final[dict[str, Callable[[Any], Any]]] = {
    "call": call_to_wire,
    "result": result_to_wire,
    "message": message_to_wire,
    "request": request_to_wire,
    "context": context_to_wire,
    "sections": sections_to_wire,
    "stop": stop_to_wire,
}
_WRITERS_OF_TOPIC: Final[dict[str, dict[str, Callable[[Any], Any]]]] = {
    "model_request": {"request": model_input_to_wire},
}
"""For topics where a name means another type: elsewhere `request` is a permission request."""


@frozen
class RemoteImplementation(Implementation):
    """A hook that a process implements; its lane makes a request of the hook's arguments."""

    @override
    def bind(self, names: tuple[str, ...]) -> Callable[..., Any]:  # noqa: ARG002
        """Return the hook as it is: it chooses the arguments itself, by those that the daemon named."""
        return self.function


def remote_implementations(plugin: str, offers: Iterable[HookOffer]) -> dict[str, Implementation]:
    """Return the implementations of a daemon by hook, without optional ones that this version does not have."""
    found: dict[str, Implementation] = {}
    for offer in offers:
        info = HOOKS.get(offer.name)
        if info is None:
            continue
        arguments = offer.arguments if offer.arguments is not None else info.arguments
        hook = _remote_hook(info, arguments)
        found[offer.name] = RemoteImplementation(plugin, offer.name, hook, arguments, True, offer.placement)  # noqa: FBT003
    return found


def _remote_hook(info: HookInfo, wanted: tuple[str, ...]) -> RemoteHook:
    names = info.arguments
    writers = _WRITERS | _WRITERS_OF_TOPIC.get(info.topic or "", {})

    def params(values: tuple[Any, ...]) -> dict[str, Any]:
        given: dict[str, Any] = {"on": info.topic}
        for name, value in zip(names, values, strict=True):
            # Only the context is left out where it is not wanted: it may be a whole conversation.
            if value is not None and (name in wanted or name != "context"):
                given[name] = writers[name](value)
        return given

    if info.kind == "gate":
        return RemoteHook("gate", params, _read_verdict)
    if info.kind == "transform":
        return RemoteHook("transform", params, _read_replacement)
    # Never called: events, `start` and `shutdown` are messages of their own. It stands for the hook being there.
    return RemoteHook(info.kind, lambda _: {}, lambda _, answer: answer)


def _read_verdict(_: tuple[Any, ...], answer: Any) -> Any:
    try:
        return verdict_from_wire(answer)
    except PluginError as error:
        raise NonsenseAnswer(str(error)) from None


def _read_replacement(values: tuple[Any, ...], answer: Any) -> Any:
    try:
        # What is to be replaced is the last argument of every transform.
        return replacement_from_wire(values[-1], answer)
    except EventError as error:  # of a wrong type: the daemon's fault, not the host's
        raise PluginError(str(error)) from None


def remote_observers(
    plugin: str,
    implementations: Mapping[str, Implementation],
    wanted: Iterable[str] | None,
    receives: Callable[[str], bool],
) -> Observers:
    """Return which events a daemon receives: those it subscribes to, of those it is granted.

    Without a subscription (`wanted` is None) it gets the types of its observe hooks; without such hooks, all granted.
    """
    names = None if wanted is None else frozenset(wanted)
    if names is None:
        hooks = {HOOKS[hook].event_type for hook in implementations if HOOKS[hook].kind == "observe"}
        names = frozenset(name for name in hooks if name is not None) or None

    def wants(name: str) -> bool:
        return names is None or name in names or ANY in names or f"{name.partition(':')[0]}:{ANY}" in names

    # EVENTS_DROPPED without a grant: a daemon must not take a gap for silence.
    types: set[type[Event]] = {
        cls for name, cls in EVENT_TYPES.items() if (receives(name) and wants(name)) or cls is EventsDropped
    }
    if names is None or ANY in names or any(":" in name for name in names):
        types.add(PluginEvent)
    return Observers(types=frozenset(types), receives=lambda name: receives(name) and wants(name), plugin=plugin)
