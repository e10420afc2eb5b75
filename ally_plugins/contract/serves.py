"""What a host can give its plugins: the events that it emits, the gates that it asks, the transforms that it runs.

Said by a host author for their own program, and by each adapter for its framework. What is granted and not given
follows from it in `policy.serving`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from attrs import field, frozen

from .hookspecs import HOOKS
from .values.event_types import EVENT_NAMES
from .wording import suggest

if TYPE_CHECKING:
    from attrs import Attribute

__all__ = ["SERVABLE", "Serves"]


def _of_kind(kind: str) -> frozenset[str]:
    return frozenset(info.topic for info in HOOKS.values() if info.kind == kind and info.topic is not None)


_EVENTS: Final = frozenset(EVENT_NAMES)
_GATES: Final = _of_kind("gate")
_TRANSFORMS: Final = _of_kind("transform")
_ALL: Final = {"events": _EVENTS, "gates": _GATES, "transforms": _TRANSFORMS}


def _named(events: Iterable[str], gates: Iterable[str], transforms: Iterable[str]) -> frozenset[str]:
    return frozenset({*events, *(f"gate:{name}" for name in gates), *(f"transform:{name}" for name in transforms)})


SERVABLE: Final = _named(_EVENTS, _GATES, _TRANSFORMS)
"""All that a host may serve, as `Serves.names` writes it."""


def _check(_: object, attribute: Attribute[frozenset[str]], value: frozenset[str]) -> None:
    known = _ALL[attribute.name]
    for name in sorted(value - known):
        raise ValueError(f"{attribute.name}: no host serves {name!r}; {suggest(name, sorted(known))}")


def _as_names(names: Iterable[str]) -> frozenset[str]:
    # Not `frozenset` itself as the converter: attrs would import a tokenizer to find its signature.
    return frozenset(names)


@frozen
class Serves:
    """What a host, or one session of it, gives its plugins; everything by default.

    `events` are event types, `gates` and `transforms` the topics that grants name: `tool_call`, `system_prompt`, ...
    An adapter names its gates and transforms one by one, so that what a later version adds is not claimed unseen.
    Raises ValueError for a name that no host serves.
    """

    events: frozenset[str] = field(default=_EVENTS, converter=_as_names, validator=_check)
    gates: frozenset[str] = field(default=_GATES, converter=_as_names, validator=_check)
    transforms: frozenset[str] = field(default=_TRANSFORMS, converter=_as_names, validator=_check)
    missing: frozenset[str] = field(init=False, eq=False, repr=False)
    """What other hosts may serve and this one does not, written as in `names`; each run asks for it."""

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "missing", SERVABLE - self.names)  # the way that attrs has for derived fields

    def __contains__(self, name: str) -> bool:
        # By what is missing, which is kept: the names would be joined anew at each look.
        return name in SERVABLE and name not in self.missing

    @property
    def names(self) -> frozenset[str]:
        """All of it in one set: an event by its type, the others as they are granted, `gate:tool_call`."""
        return _named(self.events, self.gates, self.transforms)

    def __and__(self, other: Serves) -> Serves:
        """Return what both serve."""
        return Serves(self.events & other.events, self.gates & other.gates, self.transforms & other.transforms)

    @classmethod
    def all_but(cls, *names: str) -> Serves:
        """Return everything but what is named as in `names`; names that this version does not know are left out."""
        left = SERVABLE.difference(names)
        return cls(
            [name for name in left if ":" not in name],
            [name.removeprefix("gate:") for name in left if name.startswith("gate:")],
            [name.removeprefix("transform:") for name in left if name.startswith("transform:")],
        )
