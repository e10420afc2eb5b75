"""Documents that a person or an author wrote: the shapes of their values, and reading one to its end.

All mistakes are reported together, each with its path, what was found (quoted: the reader wrote it), what was expected,
and the nearest valid name. A part that is wrong counts as absent, so that the rest is read all the same. What the
values mean is left to the manifest, the configuration and the like.
"""

from __future__ import annotations

import codecs
import tomllib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs

from .shapes import WRONG, Mistakes, Shape, inside
from .tables import keys, object_of
from .values.compat import override
from .wording import describe, is_plain_text, suggest

__all__ = [
    "ARGUMENTS",
    "FILLED",
    "LINE",
    "LINES",
    "LONGEST_TEXT",
    "Document",
    "checked",
    "choices",
    "count",
    "line",
    "lines",
    "named_tables",
    "table",
    "text_of",
    "toml_of",
]

LONGEST_TEXT: Final = 1000
"""Characters of one text. The longest reasons and descriptions of published extensions stay under 300."""

_INT64: Final = 2**63  # TOML's own limit for integers, which tomllib does not hold to

_MARKS: Final = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}

Problem = Callable[[str], str | None]
"""Returns why a text is wrong, None when it is right."""


def text_of(content: bytes) -> str:
    """Return the text of a file that a person wrote: UTF-8, or what the mark of byte order before it says.

    Editors and shells of Windows put such a mark there, where nobody sees it. Raises UnicodeDecodeError, also for a
    mark of UTF-16 alone: the rest was cut off.
    """
    for mark, encoding in _MARKS.items():
        # A mark alone: one of UTF-8 is an empty file; one of UTF-16 falls through, and is no UTF-8.
        if content.startswith(mark) and content != mark:
            return content.removeprefix(mark).decode(encoding)
    return content.removeprefix(codecs.BOM_UTF8).decode("utf-8")


def toml_of(content: bytes | str) -> dict[str, Any]:
    """Return the table of a TOML file that a person wrote.

    Raises ValueError, whose text says of the file that it is `not TOML` or `not UTF-8`, and where.
    """
    try:
        return tomllib.loads(content if isinstance(content, str) else text_of(content))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start})") from None
    except RecursionError:  # a thousand brackets are enough, in a file that anybody may have written
        raise ValueError("not TOML: nested too deeply") from None
    except ValueError as error:  # also the parent of TOMLDecodeError, for integers of thousands of digits
        raise ValueError(f"not TOML: {error}") from None


class Document(Mistakes):
    """One document that is being read; `problems` are its mistakes, a line each. It lives as long as the reading."""

    def __init__(self) -> None:
        self.problems: Final[list[str]] = []

    @override
    def refuse(self, path: str, problem: str) -> Any:
        """Collect a mistake."""
        self.problems.append(f"{path}: {problem}")
        return WRONG

    @override
    def wrong(self, path: str, found: object, expected: str) -> Any:
        """Take a value of a wrong kind; a key that is null is missing."""
        # TOML has no null: where there is one, a JSON file or a manifest by code left the key empty. In a list it is an
        # item.
        is_missing = found is None and not path.endswith("]")
        text = "missing" if is_missing else f"found {self.describe(found)}"
        return self.refuse(path, f"{text}, expected {expected}")

    @override
    def wrong_choice(self, path: str, found: str, hint: str) -> Any:
        """Collect a text that is none of the valid choices."""
        return self.refuse(path, f"found {describe(found)}, {hint}")

    @override
    def missing(self, path: str, key: str, expected: str) -> Any:
        """Collect that a required key is missing."""
        return self.refuse(inside(path, key), f"missing, expected {expected}")

    @override
    def unknown_key(self, path: str, key: str, valid: tuple[str, ...]) -> Any:
        """Collect a key that the table does not define."""
        at = inside(path, key) if is_plain_text(key) else f"{path or 'the top level'}: {key!r}"
        return self.refuse(at, f"unknown key, {suggest(key, valid)}")

    def describe(self, found: object) -> str:
        """Return a short description of what was found."""
        return describe(found)


# --- texts ---


def _read_line(value: str, path: str, mistakes: Mistakes) -> Any:
    if len(value) > LONGEST_TEXT:
        return mistakes.refuse(path, f"has {len(value)} characters, expected at most {LONGEST_TEXT}")
    return value if is_plain_text(value) else mistakes.wrong(path, value, "one line without control characters")


def _read_filled(value: str, path: str, mistakes: Mistakes) -> Any:
    read = _read_line(value, path, mistakes)
    return mistakes.wrong(path, value, "a text that is not empty") if read is not WRONG and not value.strip() else read


_SCHEMA: Final = {"type": "string", "maxLength": LONGEST_TEXT}
LINE: Final = Shape((str,), "a text", _SCHEMA, _read_line)
FILLED: Final = Shape((str,), "a text", {**_SCHEMA, "minLength": 1}, _read_filled)


def line(problem: Problem, *, is_shown: bool = True) -> Shape:
    """Return the shape of a line that may be empty, or else must have no problem.

    What may be a secret, put there by mistake, is not shown: then `problem` does not quote it either.
    """

    def convert(value: str, path: str, mistakes: Mistakes) -> Any:
        # Looked at before `_read_line`, which quotes what it refuses.
        if not is_shown and not is_plain_text(value):
            return mistakes.refuse(path, "expected one line without control characters")
        read = _read_line(value, path, mistakes)
        text = problem(value) if read is not WRONG and value else None
        return read if text is None else mistakes.refuse(path, text)

    return attrs.evolve(LINE, convert=convert)


def lines(problem: Problem | None = None, *, at_least_one: bool = False) -> Shape:
    """Return the shape of a list of lines, each once and not empty; mistakes in a line carry the path of the list."""

    def convert(value: Iterable[Any], path: str, mistakes: Mistakes) -> tuple[str, ...]:
        if at_least_one and not value:
            mistakes.refuse(path, "is empty, expected at least one")
        read = [FILLED.read(item, f"{path}[{index}]", mistakes) for index, item in enumerate(value)]
        # Not a set: the order is the writer's, and what is shown keeps it.
        found: tuple[str, ...] = tuple(dict.fromkeys(item for item in read if item is not WRONG))
        for text in map(problem, found) if problem is not None else ():
            if text is not None:
                mistakes.refuse(path, text)
        return found

    return Shape((list, tuple), "a list of texts", {"type": "array", "items": FILLED.schema}, convert)


LINES: Final = lines()


def _read_arguments(value: Iterable[Any], path: str, mistakes: Mistakes) -> Any:
    if not value:
        return mistakes.refuse(path, "is empty, expected at least one")
    read = tuple([LINE.read(item, f"{path}[{index}]", mistakes) for index, item in enumerate(value)])
    # All or nothing: a command without one of its arguments is another command.
    return WRONG if WRONG in read else read


ARGUMENTS: Final = Shape((list, tuple), "a list of texts", {"type": "array", "items": LINE.schema}, _read_arguments)
"""A program and its arguments; repeated and empty ones are kept."""


def choices(*options: str, at_least_one: bool = False) -> Shape:
    """Return the shape of a list of texts out of `options`, each once; others are reported, and dropped."""
    listed = lines(at_least_one=at_least_one)

    def convert(value: Iterable[Any], path: str, mistakes: Mistakes) -> tuple[str, ...]:
        found: tuple[str, ...] = listed.read(value, path, mistakes)
        for each in found:
            if each not in options:
                mistakes.wrong_choice(path, each, suggest(each, options))
        return tuple(each for each in found if each in options)

    return attrs.evolve(listed, schema={"type": "array", "items": {"enum": list(options)}}, convert=convert)


# --- numbers ---


def count(lowest: int = 0) -> Shape:
    """Return the shape of a whole number that is not below `lowest`."""
    expected = f"a whole number from {lowest}"

    def convert(value: int, path: str, mistakes: Mistakes) -> Any:
        return value if lowest <= value < _INT64 else mistakes.wrong(path, value, expected)

    return Shape((int,), expected, {"type": "integer", "minimum": lowest}, convert)


# --- tables ---


def table(expected: str, needs: Iterable[str] = (), /, **shapes: Shape) -> Shape:
    """Return the shape of a table with these keys; `expected` describes it, and may show an example."""
    return object_of(keys(needs, **shapes), expected)


def named_tables(of: Shape, is_name: Callable[[str], bool], expected: str, what: str = "a table") -> Shape:
    """Return the shape of tables by names that their writer chose; `expected` describes a valid name."""

    def convert(value: Mapping[str, Any], path: str, mistakes: Mistakes) -> dict[str, Any]:
        read = {}
        for name, each in value.items():
            if not is_name(name):
                mistakes.refuse(path, f"found the name {describe(name)}, expected {expected}")
            # A table that is null counts as absent, as other keys do.
            elif each is not None and (found := of.read(each, inside(path, name), mistakes)) is not WRONG:
                read[name] = found
        return read

    return Shape((dict,), what, {"type": "object", "additionalProperties": of.schema}, convert)


def checked(of: Shape, check: Callable[[dict[str, Any], Mapping[str, Any]], Iterable[tuple[str, str]]]) -> Shape:
    """Return the shape of a table whose keys must agree: `check` yields keys and what is wrong.

    It is given what is right in the table, and the table as it was written.
    """
    read = of.convert

    def convert(value: Any, path: str, mistakes: Mistakes) -> Any:
        found: dict[str, Any] = read(value, path, mistakes) if read is not None else value
        for key, text in check(found, value):
            mistakes.refuse(inside(path, key), text)
        return found

    return attrs.evolve(of, convert=convert)
