"""JSON-like values that cannot change: what events and messages carry.

Freezing copies containers once, when a value is built, so that neither the host nor a plugin can change what others
were given. Strings and numbers are shared, never copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any, Final, NoReturn, Self

from .compat import override
from .errors import EventError

__all__ = ["EMPTY", "MAX_DEPTH", "FrozenDict", "freeze", "freeze_mapping", "trusted", "unreadable"]

MAX_DEPTH: Final = 64
"""Containers within containers; deeper values are refused. JSON of real tool calls stays under ten."""


class FrozenDict(dict[str, Any]):
    """A dict that refuses to change, as does all that it holds; `dict(value)` makes a copy that may.

    It is a subclass of dict, so that every JSON encoder and `isinstance` check takes it as one. Making one freezes the
    values, and raises EventError as `freeze` does.
    """

    __slots__ = ()

    def __new__(cls, values: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), /, **more: Any) -> Self:
        """Return the frozen copy of a mapping."""
        made = super().__new__(cls)
        _fill(made, _freeze_items(dict(values, **more), "", 0))
        return made

    def __init__(self, *_: object, **__: object) -> None:  # pyright: ignore[reportInconsistentConstructor] - reads nothing
        """Leave alone what `__new__` has filled: a dict's own `__init__` would add to it."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        message = "this mapping must not change; change a copy made with dict(...)"
        raise TypeError(message)

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse  # pyright: ignore[reportAssignmentType] - never returns

    # Itself: what cannot change need not be copied.
    def __copy__(self) -> FrozenDict:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenDict:
        return self

    @override
    # Made anew by the class: pickle would fill an empty one item by item, which it refuses.
    def __reduce__(self) -> tuple[type[FrozenDict], tuple[dict[str, Any]]]:
        return (FrozenDict, (dict(self),))


_new: Final = dict.__new__
_fill: Final = dict.update


def trusted(values: Mapping[str, Any]) -> FrozenDict:
    """Return a frozen dict of values that are known to be frozen already; nothing is looked at."""
    made = _new(FrozenDict)
    _fill(made, values)
    return made


def freeze(value: Any, path: str = "", depth: int = 0) -> Any:
    """Return `value` with every dict and list in it replaced by a frozen copy.

    Raises EventError, which names the path, for anything that JSON lacks: other types, keys that are not strings,
    numbers that are not finite, nesting deeper than `MAX_DEPTH`, and objects that raise when they are looked at.
    """
    try:
        return _freeze(value, path, depth)
    # Ours already, with the path: not to be wrapped as a stranger's below.
    except EventError:
        raise
    except Exception as error:  # noqa: BLE001 - a class of somebody's own may do anything
        raise unreadable(error, path) from None


def _freeze(value: Any, path: str, depth: int) -> Any:
    # The plain types first, by identity: `isinstance` of each value of an event would cost more than the rest. And by
    # `type`, which no object answers for itself, as it may for `__class__`: what passes here is shown as it is.
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is FrozenDict:
        return value  # frozen all the way down already
    if depth > MAX_DEPTH:
        message = f"{path[:80] or 'value'}... is nested deeper than {MAX_DEPTH} levels"
        raise EventError(message, path=path)
    if kind is dict or (kind is not tuple and kind is not list and isinstance(value, Mapping)):  # the ABC is slow
        return trusted(_freeze_items(value, path, depth))
    if isinstance(value, (list, tuple)):
        # A list first: a tuple of a generator takes longer.
        return tuple([_freeze(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)])
    return _freeze_scalar(value, path)


def _freeze_items(value: Mapping[Any, Any], path: str, depth: int) -> dict[str, Any]:
    return {_key(k, path): _freeze(v, f"{path}.{k}" if path else k, depth + 1) for k, v in value.items()}


def freeze_mapping(value: Mapping[str, Any] | None) -> FrozenDict:
    """Return a frozen copy of a mapping; None becomes the empty one. Raises EventError as `freeze` does."""
    # At once, since a value that is passed on is frozen at each step.
    if type(value) is FrozenDict:
        return value
    try:
        is_empty, is_mapping = not value, type(value) is dict or isinstance(value, Mapping)  # the ABC is slow
    except Exception as error:  # noqa: BLE001 - as in `freeze`
        raise unreadable(error, "") from None
    if is_empty:
        return EMPTY
    if not is_mapping:
        message = f"expected a mapping, found {type(value).__name__}"
        raise EventError(message, found=type(value).__name__)
    frozen: FrozenDict = freeze(value)
    return frozen


def _key(key: object, path: str) -> str:
    if type(key) is str:
        return key
    if isinstance(key, str):  # an enum's member
        return str.__str__(key)
    try:
        found = f"{key!r:.80}"
    except Exception:  # noqa: BLE001 - an integer of thousands of digits, a class of somebody's own
        found = f"of the type {type(key).__name__}"
    message = f"{path or 'value'} has the key {found}; expected a string, as JSON has"
    raise EventError(message, path=path, found=found)


def unreadable(error: Exception, path: str) -> EventError:
    """Return the error for a value that raises when it is looked at, with its place."""
    found = f"raises {type(error).__name__}"
    return EventError(
        f"{path or 'value'} {found} when it is looked at; expected plain data, as JSON has", path=path, found=found
    )


def _freeze_scalar(value: Any, path: str) -> Any:
    if isinstance(value, float) and isfinite(value):
        # By the base class's own method: a subclass may answer what it likes, and may change it later.
        return float.__float__(value)
    if isinstance(value, (str, int)):  # an enum member, or another subclass: kept as the plain value
        return str.__str__(value) if isinstance(value, str) else int.__int__(value)
    found = repr(value) if isinstance(value, float) else type(value).__name__
    message = f"{path or 'value'} is {found}; expected a string, finite number, boolean, None, list or dict"
    raise EventError(message, path=path, found=found)


EMPTY: Final = FrozenDict()
