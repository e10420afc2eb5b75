"""Types as JSON sees them: the shape of each (its schema in draft 2020-12, and how a value of the type is made).

It looks at types only. Reading a function's signature and docstring is left to `signature`, checking arguments against
a schema to `policy.arguments`. Errors use the terms of JSON Schema, since a model reads them.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Hashable, Iterable, Mapping, MutableMapping, Sequence
from enum import Enum
from functools import partial
from math import isfinite
from typing import Annotated, Any, Final, Literal, NoReturn, Union, get_args, get_origin

import attrs
from attrs import frozen

from ally_plugins.contract.shapes import Mistakes, Shape, WrongShape, named
from ally_plugins.contract.tables import Key, Table
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import ValidationRefused
from ally_plugins.contract.wording import suggest

__all__ = ["ARGUMENTS", "describe", "key_of", "refuse", "shape_of", "table_of_keys", "thaw"]


class _InArguments(Mistakes):
    """Raises WrongShape for the first mistake in a tool's arguments, whose values are never repeated."""

    @override
    def wrong(self, path: str, found: object, expected: str) -> Any:
        return self.refuse(path, f"expected {expected}, found {describe(found)}")

    @override
    def missing(self, path: str, key: str, expected: str) -> Any:
        return self.refuse(path, f"lacks {key!r}, expected {expected}")

    @override
    def unknown_key(self, path: str, key: str, valid: tuple[str, ...]) -> Any:
        return self.refuse(path, f"has the unknown {key!r}, {suggest(key, valid)}")


ARGUMENTS: Final = _InArguments()


@frozen
class _Site:
    """Where a type stands: the start of an error's text, and the classes around it."""

    where: str
    above: tuple[type, ...] = ()

    def of(self, hint: Any) -> Shape:
        return _find_shape(hint, self)

    def refuse(self, problem: str) -> NoReturn:
        raise refuse(self.where, problem)


def shape_of(hint: Any, where: str) -> Shape:
    """Return the shape of a type; `where` stands at the start of an error's text.

    Raises ValidationRefused, which says to pass `schema=`, for a type that JSON Schema cannot describe.
    """
    return _find_shape(hint, _Site(where))


def thaw(value: Any) -> Any:
    """Return a JSON value as plain dicts and lists that the receiver may change."""
    if isinstance(value, Mapping):
        return {key: thaw(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [thaw(item) for item in value]
    return value


def refuse(where: str, problem: str) -> ValidationRefused:
    """Return the error for what no schema can be made of."""
    return ValidationRefused(f"{where} {problem}, or pass schema=", field="schema")


def key_of(key: str, shape: Shape, default: Any, none: Any) -> Key:
    """Return a key that may be left out where it has a default, which its schema shows where JSON can represent it."""
    if default is none:
        return Key(key, shape, key, is_required=True)
    value = default.value if isinstance(default, Enum) else default
    is_shown = value is None or isinstance(value, (str, int)) or (isinstance(value, float) and isfinite(value))
    return Key(key, attrs.evolve(shape, schema={**shape.schema, "default": value}) if is_shown else shape, key)


def table_of_keys(keys: Iterable[Key]) -> Table:
    """Return the table of exactly these keys; null stands for no default."""
    return Table(keys, takes_null=False)


def _find_shape(hint: Any, site: _Site) -> Shape:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _annotated(site.of(args[0]), args[1:])
    if alias := getattr(hint, "__supertype__", None) or getattr(hint, "__value__", None):  # NewType, `type X = ...`
        return site.of(alias)
    if isinstance(hint, Hashable) and hint in _SCALARS:
        return _SCALARS[hint]
    if isinstance(hint, Hashable) and (form := origin or hint) in _FORMS:
        return _FORMS[form](args, site)
    if isinstance(hint, type):
        return _class(hint, site)
    return site.refuse(f"has the type {hint!r}, which JSON has no word for; use another")


def describe(value: Any) -> str:
    """Return the JSON name of a value's type."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    names = ((str, "string"), ((int, float), "number"), (Mapping, "object"), ((list, tuple), "array"))
    return next((name for kind, name in names if isinstance(value, kind)), type(value).__name__)


def _whole(value: float, path: str, mistakes: Mistakes) -> Any:
    # Floor division makes nan of what is infinite, and nan equals nothing: `int` would raise for both.
    return int(value) if value == value // 1 else mistakes.wrong(path, value, "integer")


_ANYTHING: Final = Shape((), "any value", {}, lambda value, _path, _mistakes: thaw(value))
_NULL: Final = Shape((types.NoneType,), "null", {"type": "null"})
_SCALARS: Final[dict[Any, Shape]] = {
    str: Shape((str,), "string", {"type": "string"}),
    bool: Shape((bool,), "boolean", {"type": "boolean"}),
    int: Shape((int, float), "integer", {"type": "integer"}, _whole),  # 5.0 is an integer in JSON Schema
    float: Shape((float, int), "number", {"type": "number"}, lambda value, _path, _mistakes: float(value)),
    None: _NULL,
    types.NoneType: _NULL,
    Any: _ANYTHING,
    object: _ANYTHING,
}


def _annotated(shape: Shape, metadata: tuple[Any, ...]) -> Shape:
    text = next((item for item in metadata if isinstance(item, str)), "")
    return attrs.evolve(shape, schema={"description": text, **shape.schema}) if text else shape


def _choice(choices: Iterable[tuple[Any, Any]], site: _Site) -> Shape:
    """Make the shape of a Literal or an Enum, from JSON values and what each stands for."""
    values: list[Any] = []
    table: dict[tuple[bool, Any], Any] = {}  # keyed with the type: True == 1 in Python and not in JSON
    for value, meaning in choices:
        if not (value is None or isinstance(value, (str, int))):
            site.refuse(f"has the choice {value!r}; expected strings, whole numbers, booleans or None")
        values.append(str(value) if isinstance(value, str) else value)
        table[type(value) is bool, value] = meaning

    def convert(value: Any, path: str, mistakes: Mistakes) -> Any:
        key = (type(value) is bool, value)
        # These first: what holds a list cannot be hashed, and the look-up would raise.
        if isinstance(value, (Mapping, list, tuple)) or key not in table:
            return mistakes.wrong(path, value, f"one of {values}")
        return table[key]

    return Shape((), f"one of {values}", {"enum": values}, convert)


def _union(arms: list[Shape]) -> Shape:
    def convert(value: Any, path: str, mistakes: Mistakes) -> Any:
        for arm in arms:
            try:
                # By the mistakes that raise, whichever are given: an arm that does not fit is none yet.
                return arm.read(value, path, ARGUMENTS)
            except WrongShape:
                continue
        return mistakes.refuse(path, f"fits none of {len(arms)} types, found {describe(value)}")

    return Shape((), f"one of {len(arms)} types", {"anyOf": [arm.schema for arm in arms]}, convert)


def _array(make: Callable[[list[Any]], Any], args: tuple[Any, ...], site: _Site) -> Shape:
    item = site.of(args[0]) if args else _ANYTHING
    schema: dict[str, Any] = {"type": "array", "items": item.schema}
    if make is set or make is frozenset:
        schema["uniqueItems"] = True

    def convert(value: Any, path: str, mistakes: Mistakes) -> Any:
        items = [item.read(one, f"{path}[{index}]", mistakes) for index, one in enumerate(value)]
        try:
            return make(items)
        except TypeError:  # a set of what cannot be hashed
            return mistakes.refuse(path, "holds what a set cannot")

    return Shape((list, tuple), "array", schema, convert)


def _tuple(args: tuple[Any, ...], site: _Site) -> Shape:
    if not args or args[-1] is Ellipsis:
        return _array(tuple, args, site)
    shapes = [site.of(arg) for arg in args]
    count = len(shapes)

    def convert(value: Any, path: str, mistakes: Mistakes) -> Any:
        if len(value) != count:
            return mistakes.refuse(path, f"expected {count} items, found {len(value)}")
        return tuple(shapes[i].read(one, f"{path}[{i}]", mistakes) for i, one in enumerate(value))

    schema = {"type": "array", "prefixItems": [s.schema for s in shapes], "minItems": count, "maxItems": count}
    return Shape((list, tuple), "array", schema, convert)


def _mapping(args: tuple[Any, ...], site: _Site) -> Shape:
    if args and args[0] is not str:
        site.refuse(f"has a mapping with keys of the type {args[0]!r}, and JSON has only strings; use str")
    item = site.of(args[1]) if args else _ANYTHING
    return attrs.evolve(named(item, "object"), kinds=(dict, Mapping))


_FORMS: Final[dict[Any, Callable[[tuple[Any, ...], _Site], Shape]]] = {
    Literal: lambda args, site: _choice(((one.value if isinstance(one, Enum) else one, one) for one in args), site),
    **dict.fromkeys((Union, types.UnionType), lambda args, site: _union([site.of(arm) for arm in args])),
    **dict.fromkeys((list, Sequence, Iterable), partial(_array, list)),
    set: partial(_array, set),
    frozenset: partial(_array, frozenset),
    tuple: _tuple,
    **dict.fromkeys((dict, Mapping, MutableMapping), _mapping),
}


def _class(cls: type, site: _Site) -> Shape:
    # Before what follows: an enum may be a dataclass, too.
    if issubclass(cls, Enum):
        return _choice(((member.value, member) for member in cls), site)
    # It would never end: shapes stand in each other and have no names to refer to.
    if cls in site.above:
        site.refuse(f"has the type {cls.__name__!r}, which contains itself; use a flat one")
    keys = _keys_of(cls, _Site(site.where, (*site.above, cls)))
    if keys is None:
        site.refuse(f"has the type {cls.__name__!r}, which JSON has no word for; use another")
    table = table_of_keys(keys)

    def convert(value: Any, path: str, mistakes: Mistakes) -> Any:
        values = table.read(value, path, mistakes)
        try:
            return cls(**values)
        except Exception as error:  # noqa: BLE001 - validators are the plugin's code
            return mistakes.refuse(path, f"is no {cls.__name__} ({type(error).__name__}: {error})")

    return Shape((dict, Mapping), "object", table.schema(is_strict=True), convert)


def _keys_of(cls: type, site: _Site) -> list[Key] | None:
    """Return the keys of an attrs class, a dataclass or a TypedDict; None for any other class."""
    is_typed_dict = issubclass(cls, dict) and hasattr(cls, "__required_keys__")
    if not (is_typed_dict or attrs.has(cls) or dataclasses.is_dataclass(cls)):
        return None
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except Exception as error:  # noqa: BLE001  # a field's annotation may raise anything
        raise refuse(site.where, f"has the type {cls.__name__!r}, whose fields cannot be resolved ({error})") from None
    if is_typed_dict:
        return [_typed_key(name, hint, name in cls.__required_keys__, site) for name, hint in hints.items()]  # type: ignore[attr-defined]
    return [key_of(alias, site.of(hints[name]), default, ...) for name, alias, default in _init_fields(cls)]


def _typed_key(name: str, hint: Any, required: bool, site: _Site) -> Key:  # noqa: FBT001
    origin = get_origin(hint)
    if origin is typing.Required or origin is typing.NotRequired:
        required, hint = origin is typing.Required, get_args(hint)[0]
    return Key(name, site.of(hint), name, required)


def _init_fields(cls: Any) -> Iterable[tuple[str, str, Any]]:
    """Return name, name in `__init__`, and default (`...` for none) of what a class is built from."""
    if attrs.has(cls):
        for one in attrs.fields(cls):
            if one.init:
                yield one.name, one.alias or one.name, ... if one.default is attrs.NOTHING else one.default
        return
    for field in dataclasses.fields(cls):
        if field.init:
            has_factory = field.default_factory is not dataclasses.MISSING
            default = field.default_factory if has_factory else field.default
            yield field.name, field.name, ... if default is dataclasses.MISSING else default
