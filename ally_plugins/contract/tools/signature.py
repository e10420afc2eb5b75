"""From a function's signature and docstring to the shapes of its parameters.

What a single type looks like in JSON is left to `schemas`.
"""

from __future__ import annotations

import inspect
import re
import sys
import typing
from typing import TYPE_CHECKING, Any, Final

import attrs

from .schemas import key_of, refuse, shape_of, table_of_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ally_plugins.contract.tables import Key, Table

__all__ = ["derive_table", "read_docs"]

_SECTION: Final = re.compile(r"^(Args|Arguments|Parameters):\s*$", re.MULTILINE)
_SPHINX: Final = re.compile(r"^\s*:param\s+(?:[^:\n]*\s)?(\w+):[ \t]*(.*(?:\n(?!\s*:|\s*$).*)*)", re.MULTILINE)
_GOOGLE: Final = re.compile(r"^( +)\*{0,2}(\w+)\s*(?:\([^)\n]*\))?:[ \t]*(.*(?:\n\1\s+\S.*)*)", re.MULTILINE)


def derive_table(function: Callable[..., Any], name: str, docs: Mapping[str, str]) -> Table:
    """Return the table of the parameters of `function`, a bound method or a plain function, in order.

    `docs` describes parameters, where no `Annotated[..., "text"]` does. Raises ValidationRefused, which says to pass
    `schema=`, for parameters that cannot be filled by name and for types that JSON Schema cannot describe.
    """
    keys: list[Key] = []
    for parameter in _parameters(function, name):
        where = f"{name!r}: parameter {parameter.name!r}"
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise refuse(where, f"is {parameter.kind.description}; expected one that is given by name")
        if parameter.annotation is parameter.empty:
            raise refuse(where, "has no annotation; give it one")
        shape = shape_of(_resolve(parameter.annotation, function, where), where)
        if text := docs.get(parameter.name):
            shape = attrs.evolve(shape, schema={"description": text, **shape.schema})
        keys.append(key_of(parameter.name, shape, parameter.default, parameter.empty))
    return table_of_keys(keys)


def read_docs(doc: str | None) -> tuple[str, dict[str, str]]:
    """Return the first paragraph of a docstring on one line, and its texts on parameters (`Args:`, `:param x:`)."""
    text = inspect.cleandoc(doc or "")
    section = _SECTION.search(text)
    body = re.split(r"\n(?=\S)", text[section.end() :], maxsplit=1)[0] if section else ""
    found = [(name, text) for _, name, text in _GOOGLE.findall(body)] + _SPHINX.findall(text)
    first = "" if text.startswith(":param") else text.split("\n\n", 1)[0]
    return " ".join(first.split()), {name: " ".join(text.split()) for name, text in found}


def _parameters(function: Callable[..., Any], name: str) -> Iterable[inspect.Parameter]:
    try:
        return _signature(function).parameters.values()
    except (TypeError, ValueError):  # some functions written in C have none
        raise refuse(repr(name), f"is handled by {function!r}, which has no signature; wrap it in a def") from None


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    if sys.version_info >= (3, 14):  # names that exist only under TYPE_CHECKING must not fail here
        import annotationlib

        return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(function)


def _resolve(annotation: Any, function: Callable[..., Any], where: str) -> Any:
    """Resolve one annotation by itself, so that names only the others need (the result's) are never looked up."""

    def holder() -> None: ...

    holder.__annotations__ = {"it": annotation}
    # The function itself: a decorator's wrapper has the globals of the decorator's module.
    inner = inspect.unwrap(getattr(function, "func", function))
    try:
        return typing.get_type_hints(holder, getattr(inner, "__globals__", {}), include_extras=True)["it"]
    except Exception as error:  # noqa: BLE001  # an annotation is an expression: it may raise anything
        found = f"has the annotation {annotation!r}, which cannot be resolved ({error})"
        raise refuse(where, f"{found}; import what it names outside `if TYPE_CHECKING`") from None
