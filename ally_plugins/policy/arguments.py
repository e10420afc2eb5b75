"""Whether the arguments of a call fit a tool's JSON schema, and whether a plugin's own schema is one to trust.

`jsonschema` does the checking and is imported at the first use. Nothing is ever fetched: references stay within the
schema. Texts name paths and what the schema expects; values are never repeated, they may be secret.

A `pattern` is run by `re` on the host's own thread: those that take exponential time are refused as well as `patterns`
can tell. What it cannot tell, a plugin in a process of its own can use to stall the host.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote

from attrs import define, field

from ally_plugins.contract.tools.declared import ToolSpec
from ally_plugins.contract.tools.patterns import find_pattern_problem
from ally_plugins.contract.tools.schemas import describe, thaw
from ally_plugins.contract.values.errors import ArgumentsError, ToolCallError, ValidationRefused

from .validation import check_event_data

if TYPE_CHECKING:
    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

__all__ = ["MAX_PROBLEMS", "MAX_SCHEMA_BYTES", "ArgumentChecker"]

MAX_SCHEMA_BYTES: Final = 65_536  # all of it enters the model's context at every request
MAX_PROBLEMS: Final = 20  # problems that one error names; whoever made more has other worries
MAX_SHOWN: Final = 200  # characters of a schema's value that a problem repeats

_LITERAL: Final = frozenset({"const", "enum", "default", "examples"})  # what they hold is data and no schema


@define
class ArgumentChecker:
    """Checks the arguments of one tool; it lives as long as the tool is registered and compiles its schema once.

    Making one raises ValidationRefused for a schema of the plugin's own that is itself wrong, too large (`max_bytes`
    of JSON), refers outside itself, or has a dangerous pattern. A derived schema is right by construction.
    """

    spec: ToolSpec
    plugin: str | None = None
    max_bytes: int = MAX_SCHEMA_BYTES
    _validator: Any = field(default=None, init=False, repr=False)
    _plain: Mapping[str, type] | None = field(default=None, init=False, repr=False)
    """The types of the arguments, for a schema that demands no more than that: most do, and jsonschema takes 20 µs."""

    def __attrs_post_init__(self) -> None:
        if not self.spec.is_derived:
            self._check_schema()

    def check(self, arguments: object) -> None:
        """Check arguments against the schema.

        Raises ArgumentsError, whose `problems` names every field that is wrong, and ToolCallError when the schema
        cannot be followed to its end.
        """
        name = self.spec.name
        if not isinstance(arguments, Mapping):
            problem = f"arguments: expected object, found {describe(arguments)}"
            raise ArgumentsError(f"{name!r}: {problem}", tool=name, plugin=self.plugin, problems=(problem,))
        if self._validator is None:
            self._validator = _compile(thaw(self.spec.schema))
            self._plain = _plain_types(thaw(self.spec.schema))
        if self._plain is not None and _fits(arguments, self._plain):
            return  # what does not fit is explained below
        try:
            problems = tuple(islice(_problems(self._validator.iter_errors(thaw(arguments))), MAX_PROBLEMS))
        except Exception as error:  # an endless or dangling reference
            text = f"the schema of {name!r} cannot be followed ({type(error).__name__}); its author must mend it"
            raise ToolCallError(text, tool=name, plugin=self.plugin) from error
        if problems:
            text = f"arguments of {name!r} are wrong: {'; '.join(problems)}"
            raise ArgumentsError(text, tool=name, plugin=self.plugin, problems=problems)

    def _check_schema(self) -> None:
        schema = thaw(self.spec.schema)
        try:
            # First, since it bounds the depth to which the next one recurses.
            check_event_data(schema, self.max_bytes, field="schema")
            _check_parts(schema)
            _compile_checked(schema)
        except ValidationRefused as error:
            raise ValidationRefused(f"{self.spec.name!r}: {error}", plugin=self.plugin, field="schema") from error


# The types that one type of Python stands for: a number may be an `int` as well, and lists and objects have parts.
_TYPES: Final[Mapping[str, type]] = {"string": str, "integer": int, "boolean": bool}
_ABOUT: Final = frozenset({"title", "description"})


def _plain_types(schema: dict[str, Any]) -> Mapping[str, type] | None:
    """Return the type of each property when a schema wants an object with exactly these and demands nothing else."""
    properties = schema.get("properties", {})
    if (
        set(schema) - _ABOUT - {"properties", "required"} != {"type", "additionalProperties"}
        or schema["type"] != "object"
        or schema["additionalProperties"] is not False
        or not isinstance(properties, dict)
        or not set(schema.get("required", ())) <= set(properties)
    ):
        return None
    found = {}
    for name, part in properties.items():
        if not isinstance(part, dict) or set(part) - _ABOUT != {"type"} or not isinstance(part["type"], str):
            return None
        found[name] = _TYPES.get(part["type"])
    return None if None in found.values() else cast("Mapping[str, type]", found)


def _fits(arguments: Mapping[str, Any], types: Mapping[str, type]) -> bool:
    """Return whether there is exactly one argument of the right type for each; False proves nothing."""
    # By exact type: True is an `int`, and no integer to a schema.
    return len(arguments) == len(types) and all(types.get(name) is type(it) for name, it in arguments.items())


def _compile(schema: dict[str, Any]) -> Validator:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry

    cls = validator_for(schema, default=Draft202012Validator)
    return cls(schema, registry=Registry())  # a registry that knows nothing and fetches nothing


def _compile_checked(schema: dict[str, Any]) -> None:
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    dialect = schema.get("$schema", "https://json-schema.org/draft/2020-12/schema")
    # Without a default: jsonschema takes a dialect that it does not know for its newest.
    cls: Any = validator_for({"$schema": dialect}, default=cast("Any", None)) if isinstance(dialect, str) else None
    if cls is None:
        raise _refuse(f"$schema is {dialect!r}; leave it out, which means draft 2020-12")
    try:
        cls.check_schema(schema)
    except SchemaError as error:
        where = "".join(f"[{part!r}]" for part in error.absolute_path)
        raise _refuse(f"schema{where} is wrong: {error.message[:MAX_SHOWN]}") from None


def _check_parts(schema: dict[str, Any]) -> None:
    for part in _walk(schema):
        for key in ("$ref", "$dynamicRef"):
            if isinstance(part.get(key), str):
                _check_reference(part[key], schema)
        if isinstance(part.get("pattern"), str):
            _check_pattern(part["pattern"])
        if isinstance(part.get("patternProperties"), dict):
            for pattern in part["patternProperties"]:
                _check_pattern(pattern)


def _walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for key, item in value.items():
            if key not in _LITERAL:
                yield from _walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item)


def _check_reference(reference: str, schema: dict[str, Any]) -> None:
    if not reference.startswith("#"):
        raise _refuse(f"schema refers to {reference[:MAX_SHOWN]!r}; expected '#/...', since nothing is fetched")
    if reference.startswith("#/"):
        target: Any = schema
        for part in unquote(reference[2:]).split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            target = _step(target, key)
        if target is None:
            raise _refuse(f"schema refers to {reference[:MAX_SHOWN]!r}, which is not there")


def _step(target: Any, key: str) -> Any:
    if isinstance(target, dict):
        return target.get(key)
    # No longer than an index can be, since `int` refuses more than 4,300 digits.
    if isinstance(target, list) and key.isdecimal() and len(key) <= len(str(len(target))) and int(key) < len(target):
        return target[int(key)]
    return None


def _check_pattern(pattern: str) -> None:
    if problem := find_pattern_problem(pattern):
        raise _refuse(f"the schema's pattern {problem}")


def _refuse(text: str) -> ValidationRefused:
    return ValidationRefused(text, field="schema")


def _problems(errors: Any) -> Iterator[str]:
    for error in errors:
        yield from _explain(error)


def _explain(error: ValidationError) -> Iterator[str]:
    if error.validator in {"anyOf", "oneOf"} and (inner := _meant_arm(error)):
        for one in inner:
            yield from _explain(one)
        return
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:40]}" for part in error.absolute_path)
    yield f"arguments{path}: {_describe_error(error)}"


def _meant_arm(error: ValidationError) -> list[ValidationError]:
    """Return the errors of the only arm whose type is right: that is the one that was meant."""
    arms: dict[Any, list[ValidationError]] = {}
    for one in error.context or ():
        arms.setdefault(one.relative_schema_path[0], []).append(one)
    right = [found for found in arms.values() if not any(e.validator == "type" and not e.relative_path for e in found)]
    return right[0] if len(right) == 1 else []


def _describe_error(error: ValidationError) -> str:
    """Say what is expected, from the schema alone: jsonschema's own messages repeat the value."""
    expected: Any = error.validator_value
    if error.validator == "type":
        return f"expected {_either(expected)}, found {describe(error.instance)}"
    if error.validator in {"required", "additionalProperties", "dependentRequired"}:
        return error.message[:MAX_SHOWN]  # names of properties only
    if error.validator in {"anyOf", "oneOf"}:
        types = [arm["type"] for arm in expected if isinstance(arm, dict) and isinstance(arm.get("type"), str)]
        if error.context and len(types) == len(expected):
            return f"expected {_either(types)}, found {describe(error.instance)}"
        return f"fits {'none' if error.context else 'more than one'} of {len(expected)} alternatives"
    if error.validator in {"enum", "const"}:
        return f"expected {'one of ' if error.validator == 'enum' else ''}{repr(expected)[:MAX_SHOWN]}"
    return f"does not fit {error.validator} {repr(expected)[:MAX_SHOWN]}"


def _either(names: str | list[str]) -> str:
    return names if isinstance(names, str) else " or ".join(names)
