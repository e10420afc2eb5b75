"""What a field of a message may hold, as one fact for three uses: reading it, its JSON schema, its words in an error.

A params class is an attrs class whose fields say their `Shape` and a description (`said`). Reading is strict: nothing
is coerced, and an error names the method, the path, what was found and what was expected. Texts are not quoted, since
they may be secret.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias, TypeVar

import attrs
from attrs import frozen

from ally_plugins.contract.tables import suggest
from ally_plugins.contract.values.errors import ValidationRefused

__all__ = [
    "ANY",
    "FLAG",
    "ID",
    "INTEGER",
    "NUMBER",
    "OBJECT",
    "SHOWN",
    "TEXT",
    "TEXTS",
    "Shape",
    "WrongShape",
    "described_fields",
    "described_json",
    "items",
    "object_schema",
    "one_of",
    "read_object",
    "ref",
    "said",
    "several",
    "write_object",
]

T = TypeVar("T")
Convert: TypeAlias = Callable[[Any, str], Any]

SHOWN: Final = 40  # characters of a wrong word or of an unknown name in an error


class WrongShape(Exception):
    """A value is not of its shape; `path` leads to it."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(problem)
        self.path: Final = path
        self.problem: Final = problem


@frozen(eq=False)
class Shape:
    """A kind of JSON value. `kinds` are the exact types that JSON gives for it; empty takes any value.

    `convert` makes our value of it, or raises WrongShape.
    """

    kinds: tuple[type, ...]
    expected: str
    schema: Mapping[str, Any]
    convert: Convert | None = None

    def read(self, value: Any, path: str) -> Any:
        """Return the value of this shape. Raises WrongShape."""
        if self.kinds and type(value) not in self.kinds:
            raise WrongShape(path, f"is {described_json(value)}; expected {self.expected}")
        return value if self.convert is None else self.convert(value, path)


ANY: Final = Shape((), "any value", {})
TEXT: Final = Shape((str,), "a string", {"type": "string"})
FLAG: Final = Shape((bool,), "true or false", {"type": "boolean"})
INTEGER: Final = Shape((int,), "an integer", {"type": "integer"})
NUMBER: Final = Shape((float, int), "a number", {"type": "number"})
OBJECT: Final = Shape((dict,), "an object", {"type": "object"})
ID: Final = Shape((int, str), "an integer or a string", {"type": ["integer", "string"]})


def ref(name: str) -> Shape:
    """Return the shape of one of our values, whose schema stands under that name; `values` reads it."""
    return Shape((dict,), "an object", {"$ref": f"#/components/schemas/{name}"})


def several(of: Shape) -> Shape:
    """Return the shape of a list."""

    def convert(value: Any, path: str) -> tuple[Any, ...]:
        return tuple([of.read(item, f"{path}[{index}]") for index, item in enumerate(value)])

    return Shape((list,), "a list", {"type": "array", "items": of.schema}, convert)


TEXTS: Final = several(TEXT)


def one_of(*words: str) -> Shape:
    """Return the shape of a choice."""

    def convert(value: Any, path: str) -> str:
        if value in words:
            return str(value)
        raise WrongShape(path, f"is {value[:SHOWN]!r}; {suggest(value, words)}")

    return Shape((str,), f"one of {', '.join(words)}", {"type": "string", "enum": list(words)}, convert)


def items(cls: type[Any], *, is_strict: bool) -> Shape:
    """Return the shape of an object that is itself described by a class."""

    def convert(value: Any, path: str) -> Any:
        return _read(cls, value, path, is_strict=is_strict)

    return Shape((dict,), "an object", object_schema(cls, is_strict=is_strict), convert)


def said(shape: Shape, words: str) -> dict[str, Any]:
    """Return the metadata of a field: what it may hold, and what it means."""
    return {"shape": shape, "words": words}


def described_fields(cls: type[Any]) -> tuple[attrs.Attribute[Any], ...]:
    """Return the fields of a params class that stand on the wire."""
    return tuple(a for a in attrs.fields(cls) if "shape" in a.metadata)


def read_object(
    cls: type[T], value: Any, where: str, *, is_strict: bool = True, plugin: str | None = None, part: str = "params"
) -> T:
    """Return the object of a message as its class; `where` names the message, `part` the whole in an error.

    An optional field that is null counts as absent. Raises ValidationRefused: for a wrong type, for what is
    missing, and when `is_strict` for what is unknown.
    """
    try:
        if type(value) is not dict:
            raise WrongShape("", f"{part} is {described_json(value)}; expected an object")  # noqa: TRY301
        return _read(cls, value, "", is_strict=is_strict)
    except WrongShape as wrong:
        text = f"{where}: {wrong.path} {wrong.problem}" if wrong.path else f"{where}: {wrong.problem}"
        raise ValidationRefused(text, plugin=plugin, field=wrong.path or part) from None


def write_object(value: Any) -> dict[str, Any]:
    """Return an instance of a params class as it is sent; optional fields that are None are left out."""
    written: dict[str, Any] = {}
    for field in described_fields(type(value)):
        item = getattr(value, field.name)
        if item is not None or field.default is not None:
            written[field.name] = _written(item)
    return written


def _written(item: Any) -> Any:
    if attrs.has(type(item)):
        return item.to_wire() if hasattr(item, "to_wire") else write_object(item)
    return [_written(each) for each in item] if isinstance(item, (tuple, list, set, frozenset)) else item


def object_schema(cls: type[Any], *, is_strict: bool) -> dict[str, Any]:
    """Return the JSON schema of a params class."""
    fields = described_fields(cls)
    schema: dict[str, Any] = {"type": "object", "properties": {a.name: _field_schema(a) for a in fields}}
    if required := [a.name for a in fields if a.default is attrs.NOTHING]:
        schema["required"] = required
    if is_strict:
        schema["additionalProperties"] = False
    return schema


def _field_schema(field: attrs.Attribute[Any]) -> dict[str, Any]:
    schema = {**field.metadata["shape"].schema, "description": field.metadata["words"]}
    return schema if field.default is attrs.NOTHING else _or_null(schema)


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        return {"anyOf": [{"$ref": schema.pop("$ref")}, {"type": "null"}], **schema}
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        schema["type"] = [*kinds, "null"]
    if "enum" in schema:
        schema["enum"] = [*schema["enum"], None]
    return schema


_Row: TypeAlias = tuple[str, tuple[type, ...], Convert | None, Shape]

_TABLES: Final[dict[type[Any], tuple[tuple[_Row, ...], frozenset[str], frozenset[str]]]] = {}


def _table(cls: type[Any]) -> tuple[tuple[_Row, ...], frozenset[str], frozenset[str]]:
    """Return a class's fields as rows, which are required, which are not; made once."""
    table = _TABLES.get(cls)
    if table is None:
        fields = described_fields(cls)
        shapes: list[tuple[str, Shape]] = [(a.name, a.metadata["shape"]) for a in fields]
        optional = frozenset(a.name for a in fields if a.default is not attrs.NOTHING)
        rows = tuple((name, shape.kinds, shape.convert, shape) for name, shape in shapes)
        table = _TABLES[cls] = (rows, frozenset(a.name for a in fields) - optional, optional)
    return table


def _read(cls: type[T], value: dict[str, Any], path: str, *, is_strict: bool) -> T:
    rows, required, optional = _table(cls)
    values: dict[str, Any] = {}
    seen = 0
    for name, kinds, convert, shape in rows:
        if name not in value:
            continue
        seen += 1
        item = value[name]
        if item is None and name in optional:
            continue
        if convert is None and (not kinds or type(item) in kinds):  # the usual case, without a call
            values[name] = item
        else:
            values[name] = shape.read(item, f"{path}.{name}" if path else name)
    if not required <= values.keys():
        _refuse_missing(cls, values, path)
    if is_strict and seen < len(value):
        _refuse_unknown(cls, value, path)
    return cls(**values)


def _refuse_missing(cls: type[Any], values: Mapping[str, Any], path: str) -> None:
    for field in described_fields(cls):
        if field.default is attrs.NOTHING and field.name not in values:
            expected = field.metadata["shape"].expected
            raise WrongShape(f"{path}.{field.name}" if path else field.name, f"is missing; expected {expected}")


def _refuse_unknown(cls: type[Any], value: Mapping[str, Any], path: str) -> None:
    known = tuple(field.name for field in described_fields(cls))
    for name in value:
        if name not in known:
            shown = name[:SHOWN]
            at = f"{path}.{shown}" if path else shown
            raise WrongShape(repr(at) if not at.isprintable() else at, f"is unknown; {suggest(name, known)}")


def described_json(value: object) -> str:
    """Return a few words about a JSON value; texts are not quoted, since they may be secret."""
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"a string of {len(value)} characters"
    if isinstance(value, (int, float)):
        return f"the number {value!r:.{SHOWN}}"
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, (list, tuple)) else f"of the type {type(value).__name__}"
