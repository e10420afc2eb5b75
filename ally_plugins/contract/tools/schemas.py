"""Types as JSON sees them: the schema of each (draft 2020-12), and how a JSON value becomes a value of the type.

It looks at types only. Reading a function's signature and docstring is left to `toolschema`, checking arguments against
a schema to `arguments`.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Hashable, Iterable, Mapping, MutableMapping, Sequence
from enum import Enum
from functools import partial
from math import isfinite
from typing import Annotated, Any, Final, Literal, NoReturn, TypeAlias, Union, get_args, get_origin

import attrs
from attrs import frozen

from ally_plugins.contract.values.errors import ValidationRefused

__all__ = [
    "Fields",
    "Mismatch",
    "Shape",
    "describe",
    "object_schema",
    "read_object",
    "refuse",
    "shape_of",
    "thaw",
    "with_default",
]

Convert: TypeAlias = Callable[[Any, str], Any]
Fields: TypeAlias = dict[str, "Shape"]


class Mismatch(ValueError):
    """A JSON value is not of a shape. `path` leads to it, `problem` says what was found and expected, without it."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path: Final = path
        self.problem: Final = problem


@frozen
class Shape:
    """A type as JSON sees it. `required` is false for what may be left out of an object."""

    schema: dict[str, Any]
    convert: Convert
    required: bool = True


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

    Raises ValidationRefused, which says to pass `schema=`, for a type that JSON has no word for.
    """
    return _find_shape(hint, _Site(where))


def object_schema(fields: Fields) -> dict[str, Any]:
    """Return the schema of an object with exactly these fields."""
    required = [name for name, shape in fields.items() if shape.required]
    properties = {name: shape.schema for name, shape in fields.items()}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


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


def with_default(shape: Shape, default: Any, none: Any) -> Shape:
    """Mark what has a default as optional, and show the default where JSON can say it."""
    if default is none:
        return shape
    value = default.value if isinstance(default, Enum) else default
    is_shown = value is None or isinstance(value, (str, int)) or (isinstance(value, float) and isfinite(value))
    return attrs.evolve(shape, required=False, schema={**shape.schema, "default": value} if is_shown else shape.schema)


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


def _scalar(name: str, accepts: Callable[[Any], bool], make: Callable[[Any], Any]) -> Shape:
    def convert(value: Any, path: str) -> Any:
        if not accepts(value):
            raise Mismatch(path, f"expected {name}, found {describe(value)}")
        return make(value)

    return Shape({"type": name}, convert)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_ANYTHING: Final = Shape({}, lambda value, _: thaw(value))
_SCALARS: Final[dict[Any, Shape]] = {
    str: _scalar("string", lambda v: isinstance(v, str), str),
    bool: _scalar("boolean", lambda v: isinstance(v, bool), bool),
    int: _scalar("integer", lambda v: _is_number(v) and v == v // 1, int),  # 5.0 is an integer in JSON Schema
    float: _scalar("number", _is_number, float),
    None: _scalar("null", lambda v: v is None, lambda _: None),
    type(None): _scalar("null", lambda v: v is None, lambda _: None),
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

    def convert(value: Any, path: str) -> Any:
        key = (type(value) is bool, value)
        if isinstance(value, (Mapping, list, tuple)) or key not in table:
            raise Mismatch(path, f"expected one of {values}, found {describe(value)}")
        return table[key]

    return Shape({"enum": values}, convert)


def _union(arms: list[Shape]) -> Shape:
    def convert(value: Any, path: str) -> Any:
        for arm in arms:
            try:
                return arm.convert(value, path)
            except Mismatch:
                continue
        raise Mismatch(path, f"fits none of {len(arms)} types, found {describe(value)}")

    return Shape({"anyOf": [arm.schema for arm in arms]}, convert)


def _items(value: Any, path: str) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)):
        raise Mismatch(path, f"expected array, found {describe(value)}")
    return value


def _array(make: Callable[[list[Any]], Any], args: tuple[Any, ...], site: _Site) -> Shape:
    item = site.of(args[0]) if args else _ANYTHING
    schema: dict[str, Any] = {"type": "array", "items": item.schema}
    if make is set or make is frozenset:
        schema["uniqueItems"] = True

    def convert(value: Any, path: str) -> Any:
        items = [item.convert(one, f"{path}[{index}]") for index, one in enumerate(_items(value, path))]
        try:
            return make(items)
        except TypeError:  # a set of what cannot be hashed
            raise Mismatch(path, "holds what a set cannot") from None

    return Shape(schema, convert)


def _tuple(args: tuple[Any, ...], site: _Site) -> Shape:
    if not args or args[-1] is Ellipsis:
        return _array(tuple, args, site)
    shapes = [site.of(arg) for arg in args]
    count = len(shapes)

    def convert(value: Any, path: str) -> Any:
        items = _items(value, path)
        if len(items) != count:
            raise Mismatch(path, f"expected {count} items, found {len(items)}")
        return tuple(shapes[i].convert(one, f"{path}[{i}]") for i, one in enumerate(items))

    schema = {"type": "array", "prefixItems": [s.schema for s in shapes], "minItems": count, "maxItems": count}
    return Shape(schema, convert)


def _mapping(args: tuple[Any, ...], site: _Site) -> Shape:
    if args and args[0] is not str:
        site.refuse(f"has a mapping with keys of the type {args[0]!r}, and JSON has only strings; use str")
    item = site.of(args[1]) if args else _ANYTHING

    def convert(value: Any, path: str) -> Any:
        if not isinstance(value, Mapping):
            raise Mismatch(path, f"expected object, found {describe(value)}")
        return {key: item.convert(one, f"{path}.{key}") for key, one in value.items()}

    return Shape({"type": "object", "additionalProperties": item.schema}, convert)


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
    if issubclass(cls, Enum):
        return _choice(((member.value, member) for member in cls), site)
    if cls in site.above:
        site.refuse(f"has the type {cls.__name__!r}, which contains itself; use a flat one")
    fields = _fields_of(cls, _Site(site.where, (*site.above, cls)))
    if fields is None:
        site.refuse(f"has the type {cls.__name__!r}, which JSON has no word for; use another")

    def convert(value: Any, path: str) -> Any:
        return _build(cls, read_object(fields, value, path), path)

    return Shape(object_schema(fields), convert)


def read_object(fields: Fields, value: Any, path: str) -> dict[str, Any]:
    """Return what an object holds, each field converted. Raises Mismatch for what is missing, unknown or wrong."""
    if not isinstance(value, Mapping):
        raise Mismatch(path, f"expected object, found {describe(value)}")
    if missing := [name for name, shape in fields.items() if shape.required and name not in value]:
        raise Mismatch(path, f"lacks {', '.join(map(repr, missing))}")
    if unknown := [name for name in value if name not in fields]:
        raise Mismatch(path, f"has the unknown {', '.join(map(repr, unknown))}")
    return {name: fields[name].convert(one, f"{path}.{name}") for name, one in value.items()}


def _build(cls: type, values: dict[str, Any], path: str) -> Any:
    """Call a class with its fields; what its own validators say becomes a Mismatch."""
    try:
        return cls(**values)
    except Exception as error:  # validators are the plugin's code
        raise Mismatch(path, f"is no {cls.__name__} ({type(error).__name__}: {error})") from error


def _fields_of(cls: type, site: _Site) -> Fields | None:
    """Return the fields of an attrs class, a dataclass or a TypedDict; None for any other class."""
    is_typed_dict = issubclass(cls, dict) and hasattr(cls, "__required_keys__")
    if not (is_typed_dict or attrs.has(cls) or dataclasses.is_dataclass(cls)):
        return None
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except Exception as error:  # noqa: BLE001  # a field's annotation may raise anything
        raise refuse(site.where, f"has the type {cls.__name__!r}, whose fields cannot be resolved ({error})") from None
    if is_typed_dict:
        return {name: _key_shape(hint, name in cls.__required_keys__, site) for name, hint in hints.items()}  # type: ignore[attr-defined]
    return {alias: with_default(site.of(hints[name]), default, ...) for name, alias, default in _init_fields(cls)}


def _key_shape(hint: Any, required: bool, site: _Site) -> Shape:  # noqa: FBT001
    origin = get_origin(hint)
    if origin is typing.Required or origin is typing.NotRequired:
        required, hint = origin is typing.Required, get_args(hint)[0]
    return attrs.evolve(site.of(hint), required=required)


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
