"""What a JSON or TOML value may hold, described once for all uses: reading it, its JSON schema, the texts of errors.

A `Shape` is one kind of value; objects with keys of their own are in `tables`. Reading is strict: nothing is coerced.
`Mistakes` decides what a mistake leads to: here, for what comes over the wire, the first is raised, and texts are not
quoted, since they may be secret. `documents` collects all mistakes of a file that a person wrote; `tools.schemas` words
those in a tool's arguments for the model.

This is the one way to read typed data. It is not cattrs, which with strict hooks adds 27 modules and 61 ms to the 187
of a daemon's start, 18 more for the hooks of a host's messages (tables 0.4), and 55 ms to the 236 of a command that
reads the registry (processor time, medians of 20 starts), and reads a message no faster: 2.6 µs, and 2.3 here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, ClassVar, Final, TypeAlias

from attrs import frozen

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
    "WrongShape",
    "described_json",
    "inside",
    "named",
    "one_of",
    "or_null",
    "ref",
    "schema_or_null",
    "several",
]

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
        # By type first, which is nearly always enough. True is an int to `isinstance`, and no number in JSON.
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
        # A list first: a tuple of a generator takes longer.
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
        # A plain text, also of a subclass that a manifest by code may have: `str` gives an enum's name for its member.
        text = str.__str__(value)
        return text if text in choices else mistakes.wrong_choice(path, text, suggest(text, choices))

    return Shape((str,), f"one of {', '.join(choices)}", {"type": "string", "enum": list(choices)}, convert)


def or_null(of: Shape, instead: Any = None) -> Shape:
    """Return the same shape, but null is allowed too and read as `instead`."""
    inner = of.convert

    def convert(value: Any, path: str, mistakes: Mistakes) -> Any:
        return instead if value is None else value if inner is None else inner(value, path, mistakes)

    is_plain = inner is None and instead is None
    kinds, expected = (*of.kinds, type(None)), f"{of.expected} or null"
    return Shape(kinds, expected, schema_or_null(dict(of.schema)), None if is_plain else convert)


def schema_or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON schema that takes null too; the given one is changed."""
    # Keys beside a `$ref` could only narrow it.
    if "$ref" in schema:
        return {"anyOf": [{"$ref": schema.pop("$ref")}, {"type": "null"}], **schema}
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        schema["type"] = [*kinds, "null"]
    if "enum" in schema:
        schema["enum"] = [*schema["enum"], None]
    return schema


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
