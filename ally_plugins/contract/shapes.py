"""What a JSON or TOML value may hold, described once for all uses: reading it, its JSON schema, the texts of errors.

A `Shape` is one kind of value; a `Table` has the keys of an object, each with its shape. A class describes its own keys
in its fields (`holds`). Reading is strict: nothing is coerced. `Mistakes` decides what a mistake leads to: here, for
what comes over the wire, the first is raised, and texts are not quoted, since they may be secret. `documents` collects
all mistakes of a file that a person wrote; `tools.schemas` words those in a tool's arguments for the model.

This is the one way to read typed data. It is not cattrs, which with strict hooks adds 27 modules and 61 ms to the 187
of a daemon's start, 18 more for the hooks of a host's messages (tables 0.4), and 55 ms to the 236 of a command that
reads the registry (processor time, medians of 20 starts), and reads a message no faster: 2.6 µs, and 2.3 here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any, ClassVar, Final, Literal, TypeAlias, TypeVar

import attrs
from attrs import frozen

from ally_plugins.contract.values.errors import ValidationRefused
from ally_plugins.contract.wording import suggest

__all__ = [
    "ANY",
    "FLAG",
    "ID",
    "INTEGER",
    "LENIENT",
    "NUMBER",
    "OBJECT",
    "SECONDS",
    "SHOWN",
    "STRICT",
    "TEXT",
    "TEXTS",
    "WRONG",
    "Mistakes",
    "Shape",
    "Table",
    "WrongShape",
    "annotations_of",
    "described_fields",
    "described_json",
    "holds",
    "inside",
    "keys",
    "keys_of",
    "named",
    "object_of",
    "object_schema",
    "one_of",
    "or_null",
    "read_object",
    "ref",
    "several",
    "table_of",
    "write_object",
]

T = TypeVar("T")

SHOWN: Final = 40  # characters of a wrong word or of an unknown name in an error
_LONGEST_NAME: Final = 128  # of a name that somebody chose and that leads to a mistake; plugins' are no longer

WRONG: Final[Any] = object()
"""What a shape returns for a value that is wrong, where reading goes on."""


class WrongShape(Exception):
    """A value is not of its shape; `path` leads to it, `problem` says what was found and expected, without the path."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(problem)
        self.path: Final = path
        self.problem: Final = problem


class Mistakes:
    """What mistakes in a value lead to: this one raises WrongShape for the first, with a text that quotes no value.

    Each method returns WRONG where it does not raise. With `passes_unknown`, an unknown key is no mistake.
    """

    __slots__ = ()
    passes_unknown: ClassVar[bool] = False

    def refuse(self, path: str, problem: str) -> Any:
        """Report a mistake. Raises WrongShape."""
        raise WrongShape(path, problem)

    def warn(self, path: str, text: str) -> None:
        """Report what is odd and keeps nothing from running; ignored here."""

    def wrong(self, path: str, found: object, expected: str) -> Any:
        """Report a value of a wrong kind."""
        return self.refuse(path, f"is {described_json(found)}; expected {expected}")

    def wrong_choice(self, path: str, found: str, hint: str) -> Any:
        """Report a text that is none of the valid choices; `hint` is what `suggest` returns for it."""
        return self.refuse(path, f"is {found[:SHOWN]!r}; {hint}")

    def missing(self, path: str, key: str, expected: str) -> Any:
        """Report that the object at `path` lacks a required key."""
        return self.refuse(inside(path, key), f"is missing; expected {expected}")

    def unknown_key(self, path: str, key: str, valid: tuple[str, ...]) -> Any:
        """Report a key that the object at `path` does not define."""
        at = inside(path, key[:SHOWN])
        return self.refuse(at if at.isprintable() else repr(at), f"is unknown; {suggest(key, valid)}")


class _Lenient(Mistakes):
    """Ignores unknown keys: a newer peer may send more."""

    passes_unknown = True


STRICT: Final = Mistakes()
LENIENT: Final = _Lenient()

Convert: TypeAlias = Callable[[Any, str, Mistakes], Any]


def inside(path: str, key: str) -> str:
    """Return the path of a key of the object at `path`."""
    return f"{path}.{key}" if path else key


@frozen(eq=False)
class Shape:
    """A kind of JSON value. `kinds` are the types that it is read from; empty takes any value. True is no number.

    `convert` makes our value of it, given its path and the mistakes.
    """

    kinds: tuple[type, ...]
    expected: str
    schema: Mapping[str, Any]
    convert: Convert | None = None

    def read(self, value: Any, path: str, mistakes: Mistakes = STRICT) -> Any:
        """Return the value of this shape, WRONG where it is none and reading goes on."""
        kinds = self.kinds
        if kinds and type(value) not in kinds and (type(value) is bool or not isinstance(value, kinds)):
            return mistakes.wrong(path, value, self.expected)
        return value if self.convert is None else self.convert(value, path, mistakes)


ANY: Final = Shape((), "any value", {})
TEXT: Final = Shape((str,), "a string", {"type": "string"})
FLAG: Final = Shape((bool,), "true or false", {"type": "boolean"})
INTEGER: Final = Shape((int,), "an integer", {"type": "integer"})
NUMBER: Final = Shape((float, int), "a number", {"type": "number"})
OBJECT: Final = Shape((dict,), "an object", {"type": "object"})
ID: Final = Shape((int, str), "an integer or a string", {"type": ["integer", "string"]})


def _above_zero(value: float, path: str, mistakes: Mistakes) -> Any:
    return float(value) if isfinite(value) and value > 0 else mistakes.wrong(path, value, "a number above 0")


SECONDS: Final = Shape((float, int), "a number above 0", {"type": "number", "exclusiveMinimum": 0}, _above_zero)


def ref(name: str) -> Shape:
    """Return the shape of a value of ours by the name of its schema; `wire.values` reads the value."""
    return Shape((dict,), "an object", {"$ref": f"#/components/schemas/{name}"})


def several(of: Shape) -> Shape:
    """Return the shape of a list; it is read into a tuple, without what is wrong."""

    def convert(value: Any, path: str, mistakes: Mistakes) -> tuple[Any, ...]:
        read, found = of.read, enumerate(value)
        return tuple([it for i, item in found if (it := read(item, f"{path}[{i}]", mistakes)) is not WRONG])

    return Shape((list, tuple), "a list", {"type": "array", "items": of.schema}, convert)


TEXTS: Final = several(TEXT)


def named(of: Shape, expected: str = "an object") -> Shape:
    """Return the shape of an object with names that its writer chose; it is read into a dict, without what is wrong."""

    def convert(value: Mapping[str, Any], path: str, mistakes: Mistakes) -> dict[str, Any]:
        read = {name: of.read(item, inside(path, _shown(name)), mistakes) for name, item in value.items()}
        return {name: item for name, item in read.items() if item is not WRONG}

    return Shape((dict,), expected, {"type": "object", "additionalProperties": of.schema}, convert)


def _shown(name: str) -> str:
    return name if name.isprintable() and len(name) <= _LONGEST_NAME else repr(name[:SHOWN])


def one_of(*choices: str) -> Shape:
    """Return the shape of a string that is one of `choices`."""

    def convert(value: str, path: str, mistakes: Mistakes) -> Any:
        return str(value) if value in choices else mistakes.wrong_choice(path, value, suggest(value, choices))

    return Shape((str,), f"one of {', '.join(choices)}", {"type": "string", "enum": list(choices)}, convert)


def or_null(of: Shape, instead: Any = None) -> Shape:
    """Return the same shape, but null is allowed too and read as `instead`."""
    inner = of.convert

    def convert(value: Any, path: str, mistakes: Mistakes) -> Any:
        return instead if value is None else value if inner is None else inner(value, path, mistakes)

    is_plain = inner is None and instead is None
    kinds, expected = (*of.kinds, type(None)), f"{of.expected} or null"
    return Shape(kinds, expected, _or_null(dict(of.schema)), None if is_plain else convert)


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        return {"anyOf": [{"$ref": schema.pop("$ref")}, {"type": "null"}], **schema}
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        schema["type"] = [*kinds, "null"]
    if "enum" in schema:
        schema["enum"] = [*schema["enum"], None]
    return schema


@frozen(eq=False)
class Key:
    """One key of an object: what it holds and means, and under which name its value is given to the class."""

    key: str
    shape: Shape
    name: str
    is_required: bool = False
    description: str = ""


_Row: TypeAlias = tuple[str, str, tuple[type, ...], Convert | None, Shape]


class Table:
    """The keys of an object, and what is made of their values. Made once, and lives as long as the process.

    With `takes_null` an optional key that is null counts as absent. What is not a key goes by name to `rest`, where the
    class has such a field, or else to the mistakes.
    """

    def __init__(
        self,
        keys: Iterable[Key],
        make: Callable[..., Any] = dict,
        *,
        takes_null: bool = True,
        rest: str | None = None,
    ) -> None:
        self.keys: Final = tuple(keys)
        self._make: Final = make
        self._rest: Final = rest
        self._takes_null: Final = takes_null
        self._names: Final = tuple(each.key for each in self.keys)
        self._required: Final = frozenset(each.name for each in self.keys if each.is_required)
        self._optional: Final = frozenset(each.key for each in self.keys if takes_null and not each.is_required)
        self._rows: Final[tuple[_Row, ...]] = tuple(
            (each.key, each.name, each.shape.kinds, each.shape.convert, each.shape) for each in self.keys
        )

    def read(self, value: Mapping[str, Any], path: str, mistakes: Mistakes) -> Any:
        """Return what is made of an object; WRONG where a required key is, and reading goes on.

        A dict, which needs no key, is made of those that are right.
        """
        optional = self._optional
        values: dict[str, Any] = {}
        seen = 0
        for key, name, kinds, convert, shape in self._rows:
            if key not in value:
                continue
            seen += 1
            item = value[key]
            if item is None and key in optional:
                continue
            if convert is not None or (kinds and type(item) not in kinds):  # else the usual case, without a call
                item = shape.read(item, f"{path}.{key}" if path else key, mistakes)
                if item is WRONG:
                    continue
            values[name] = item
        is_whole = self._required <= values.keys()
        if not is_whole:
            for each in self.keys:
                if each.is_required and each.key not in value:
                    mistakes.missing(path, each.key, each.shape.expected)
        if seen < len(value) and not (mistakes.passes_unknown and self._rest is None):
            self._read_rest(value, values, path, mistakes)
        return self._make(**values) if is_whole or self._make is dict else WRONG

    def _read_rest(self, value: Mapping[str, Any], values: dict[str, Any], path: str, mistakes: Mistakes) -> None:
        rest = {key: item for key, item in value.items() if key not in self._names}
        if self._rest is not None:
            values[self._rest] = rest
            return
        for key in rest:
            mistakes.unknown_key(path, key, self._names)

    def schema(self, *, is_strict: bool) -> dict[str, Any]:
        """Return the JSON schema; a strict one lets no other keys stand there."""
        schema: dict[str, Any] = {"type": "object", "properties": {each.key: self._of(each) for each in self.keys}}
        if required := [each.key for each in self.keys if each.is_required]:
            schema["required"] = required
        if is_strict:
            schema["additionalProperties"] = False
        return schema

    def _of(self, each: Key) -> dict[str, Any]:
        schema = {**each.shape.schema, "description": each.description} if each.description else dict(each.shape.schema)
        return _or_null(schema) if self._takes_null and not each.is_required else schema


def keys(needs: Iterable[str] = (), /, **shapes: Shape) -> Table:
    """Return the keys of an object that is read into a dict of what it has and is right; `needs` must be there."""
    return Table([Key(key, shape, key, key in needs) for key, shape in shapes.items()])


_BY_TYPE: Final[Mapping[str, Shape]] = {
    "Any": ANY,
    "FrozenDict": OBJECT,
    "Mapping[str, str]": OBJECT,
    "bool": FLAG,
    "bool | None": or_null(FLAG),
    "float": NUMBER,
    "float | None": or_null(NUMBER),
    "int": INTEGER,
    "int | None": or_null(INTEGER),
    "str": TEXT,
    "str | None": or_null(TEXT),
    "tuple[Any, ...]": several(ANY),
    "tuple[Any, ...] | None": or_null(several(ANY)),
    "tuple[str, ...]": TEXTS,
}


def keys_of(cls: type[Any], key_of: Callable[[str], str] = str, /, **shapes: Shape | None) -> list[Key]:
    """Return the keys of a value's class: each field has the shape given here, or else that of its type.

    `key_of` makes a key of a field's name; a field whose shape is None has none. Raises KeyError for a type that has no
    shape in `_BY_TYPE` and was given none.
    """
    types = annotations_of(cls)
    return [
        Key(key_of(name), shape, name, field.default is attrs.NOTHING)
        for name, field in attrs.fields_dict(cls).items()
        if (shape := shapes[name] if name in shapes else _BY_TYPE[types[name]]) is not None
    ]


def annotations_of(cls: type[Any]) -> dict[str, str]:
    """Return the types of a class's fields as its source says them.

    An attrs field's `type` does so only until anybody calls `attrs.resolve_types`, which puts the types there.
    """
    return {
        name: text for each in reversed(cls.__mro__) for name, text in vars(each).get("__annotations__", {}).items()
    }


def object_of(keys: Table | type[Any], expected: str = "an object", *, is_strict: bool = True) -> Shape:
    """Return the shape of an object with the keys of a table or a described class; `is_strict` is for its schema."""
    table = keys if isinstance(keys, Table) else table_of(keys)
    return Shape((dict,), expected, table.schema(is_strict=is_strict), table.read)


def holds(shape: Shape, description: str = "") -> dict[str, Any]:
    """Return the metadata of an attrs field: the shape of its value, and the description in its JSON schema."""
    return {"shape": shape, "description": description}


def described_fields(cls: type[Any]) -> tuple[attrs.Attribute[Any], ...]:
    """Return the fields of a params class that stand on the wire."""
    return tuple(a for a in attrs.fields(cls) if "shape" in a.metadata)


_TABLES: Final[dict[type[Any], Table]] = {}


def table_of(cls: type[Any]) -> Table:
    """Return the table of a class whose fields are described; made once."""
    table = _TABLES.get(cls)
    if table is None:
        table = _TABLES[cls] = Table(
            [
                Key(a.name, a.metadata["shape"], a.name, a.default is attrs.NOTHING, a.metadata["description"])
                for a in described_fields(cls)
            ],
            cls,
        )
    return table


def object_schema(cls: type[Any], *, is_strict: bool) -> dict[str, Any]:
    """Return the JSON schema of a params class."""
    return table_of(cls).schema(is_strict=is_strict)


def read_object(
    keys: Table | type[T],
    value: Any,
    where: str,
    *,
    is_strict: bool = True,
    plugin: str | None = None,
    part: Literal["params", "it"] = "params",
) -> T:
    """Return the object of a message as its class; `where` names the message, `part` the whole in an error.

    An optional field that is null counts as absent. Raises ValidationRefused: for a wrong type, for what is
    missing, and when `is_strict` for what is unknown.
    """
    table = keys if isinstance(keys, Table) else table_of(keys)
    try:
        if type(value) is not dict:
            raise WrongShape("", f"{part} is {described_json(value)}; expected an object")  # noqa: TRY301
        read: T = table.read(value, "", STRICT if is_strict else LENIENT)
    except WrongShape as wrong:
        text = f"{where}: {wrong.path} {wrong.problem}" if wrong.path else f"{where}: {wrong.problem}"
        raise ValidationRefused(text, plugin=plugin, field=wrong.path or part) from None
    return read


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
