"""Objects with keys: what each key holds, read into a dict or a class, and written from a class again.

A `Table` has the keys of an object, each with its shape. A class describes its own keys in its fields (`holds`), or has
them by the types of its fields (`keys_of`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias, TypeVar

import attrs
from attrs import frozen

from ally_plugins.contract.values.errors import ValidationRefused

from .shapes import (
    ANY,
    FLAG,
    INTEGER,
    LENIENT,
    NUMBER,
    OBJECT,
    STRICT,
    TEXT,
    TEXTS,
    WRONG,
    Convert,
    Mistakes,
    Shape,
    WrongShape,
    described_json,
    or_null,
    schema_or_null,
    several,
)

__all__ = [
    "Key",
    "Table",
    "annotations_of",
    "described_fields",
    "holds",
    "keys",
    "keys_of",
    "object_of",
    "object_schema",
    "read_object",
    "table_of",
    "write_object",
]

T = TypeVar("T")


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
        # Unpacked once, since every message is read through them: attributes would be looked up for each key.
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
            # Only those that are not there: what is there and wrong was reported as it was read.
            for each in self.keys:
                if each.is_required and each.key not in value:
                    mistakes.missing(path, each.key, each.shape.expected)
        # By number: as many as were seen means that there are no others, and none need be looked for.
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
        return schema_or_null(schema) if self._takes_null and not each.is_required else schema


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
    "tuple[float, ...]": several(NUMBER),
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
    # Base classes first, so that a field that a class annotates anew has its own type.
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


_DESCRIBED: Final[dict[type[Any], tuple[attrs.Attribute[Any], ...]]] = {}


def described_fields(cls: type[Any]) -> tuple[attrs.Attribute[Any], ...]:
    """Return the fields of a params class that stand on the wire; found once."""
    fields = _DESCRIBED.get(cls)
    if fields is None:
        fields = _DESCRIBED[cls] = tuple(a for a in attrs.fields(cls) if "shape" in a.metadata)
    return fields


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
        # What comes over the wire was decoded by orjson, which makes nothing else.
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
        # None is left out only where leaving it out means None.
        if item is not None or field.default is not None:
            written[field.name] = item if type(item) in _PLAIN else _written(item)
    return written


_PLAIN: Final = frozenset((str, int, float, bool, dict, type(None)))
"""What is written as it is, without a look whether it is one of ours: that costs as much as all the rest of a call."""


def _written(item: Any) -> Any:
    if attrs.has(type(item)):
        return item.to_wire() if hasattr(item, "to_wire") else write_object(item)
    if not isinstance(item, (tuple, list, set, frozenset)):
        return item
    return [each if type(each) in _PLAIN else _written(each) for each in item]
