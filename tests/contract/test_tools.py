"""`@tool` and `@action`: what becomes of a method, and of the arguments it is called with."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType, NotRequired, TypedDict

import attrs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.contract.tools.declared import ToolSpec, action, collect_actions, collect_tools, make_spec, tool
from ally_plugins.contract.values.errors import ArgumentsError, ValidationRefused
from ally_plugins.contract.values.frozen import freeze

if TYPE_CHECKING:
    from nowhere import OnlyForTheTypeChecker  # type: ignore[import-not-found]  # noqa: TC004  # that is the point


class Level(Enum):
    LOW = "low"
    HIGH = "high"


class Number(Enum):
    ONE = 1
    YES = True


@attrs.frozen
class Point:
    x: int
    _y: float = attrs.field(default=1.5)
    tags: list[str] = attrs.Factory(list)
    hidden: int = attrs.field(default=7, init=False)

    @_y.validator
    def _check_y(self, _: object, value: float) -> None:
        if value < 0:
            raise ValueError("below the ground")


@dataclasses.dataclass
class Line:
    start: Point
    end: Point | None = None
    names: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Tree:
    children: list[Tree]


class Options(TypedDict):
    depth: int
    follow: NotRequired[bool]


UserId = NewType("UserId", str)


def spec_of(function: Any, **given: Any) -> ToolSpec:
    return make_spec("tool", function, **given)


def schema_of(function: Any) -> dict[str, Any]:
    """Return the schema of the parameter `it`, as JSON would carry it."""
    plain: dict[str, Any] = orjson.loads(orjson.dumps(spec_of(function).schema))
    it: dict[str, Any] = plain["properties"]["it"]
    return it


def read(function: Any, value: Any) -> Any:
    return spec_of(function).read_arguments(freeze({"it": value}))["it"]


class Searcher:
    """A plugin with a tool, two actions, and traps for whoever looks too closely."""

    @property
    def trap(self) -> None:
        raise RuntimeError("looking for tools must not run properties")

    @tool
    def find(self, query: str, limit: int = 10) -> OnlyForTheTypeChecker:
        """Find notes that hold
        the query.

        Slow on large collections.

        Args:
            query: words to look for,
                in any order
            limit (int): how many at most
        """
        return f"{query}:{limit}"

    @action(name="re-index", timeout=5, description="Index again", agent=True)
    async def index_again(self) -> None:
        """Not this text."""

    @staticmethod
    @action
    def purge() -> str:
        """Forget everything."""
        return "gone"

    def helper(self) -> None: ...


def test_a_method_becomes_a_tool_with_what_the_author_wrote_anyway() -> None:
    (spec,) = collect_tools(Searcher())
    assert (spec.kind, spec.name, spec.description) == ("tool", "find", "Find notes that hold the query.")
    assert orjson.loads(orjson.dumps(spec.schema)) == {
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "words to look for, in any order"},
            "limit": {"type": "integer", "description": "how many at most", "default": 10},
        },
        "required": ["query"],
        "additionalProperties": False,
    }
    assert (spec.is_async, spec.timeout, spec.visible_to, spec.agent) == (False, 120.0, (), True)
    assert spec.handler(**spec.read_arguments({"query": "x"})) == "x:10"


def test_actions_are_collected_in_the_order_of_the_source_and_are_for_the_agent_only_by_choice() -> None:
    reindex, purge = collect_actions(Searcher())
    assert (reindex.name, reindex.description, reindex.is_async) == ("re-index", "Index again", True)
    assert (reindex.timeout, reindex.agent) == (5.0, True)
    assert (purge.name, purge.agent, purge.handler()) == ("purge", False, "gone")


def test_a_marked_method_stays_an_ordinary_method() -> None:
    assert Searcher.purge() == "gone"
    assert Searcher().find("x", 2) == "x:2"


def test_an_override_without_the_decorator_is_no_tool_and_one_with_it_is_the_only_one() -> None:
    class Silent(Searcher):
        def find(self, query: str, limit: int = 10) -> Any: ...

    class Loud(Searcher):
        @tool(name="search")
        def find(self, query: str, limit: int = 10) -> Any: ...

    assert collect_tools(Silent()) == ()
    assert [spec.name for spec in collect_tools(Loud())] == ["search"]


def test_functions_of_a_module_are_tools_too() -> None:
    module = types.ModuleType("plugin")
    module.__dict__["greet"] = tool(lambda_named("greet"))
    assert [spec.name for spec in collect_tools(module)] == ["greet"]


def lambda_named(name: str) -> Any:
    def greet() -> str:
        return "hello"

    greet.__name__ = name
    return greet


def test_two_tools_of_one_name_are_refused() -> None:
    class Twice:
        @tool
        def find(self) -> None: ...

        @tool(name="find")
        def look(self) -> None: ...

    with pytest.raises(ValidationRefused, match="two tools called 'find'; give one a name="):
        collect_tools(Twice())


@pytest.mark.parametrize("target", [int, 3, Searcher, print], ids=str)
def test_only_functions_can_be_marked(target: Any) -> None:
    with pytest.raises(ValidationRefused, match="@tool marks functions and methods"):
        tool(target)


def scalars(it: str) -> None: ...
def whole(it: int) -> None: ...
def number(it: float) -> None: ...
def truth(it: bool) -> None: ...  # noqa: FBT001
def nothing(it: None) -> None: ...
def anything(it: Any) -> None: ...
def strings(it: list[str]) -> None: ...
def sequence(it: Sequence[int]) -> None: ...
def bare(it: list) -> None: ...  # type: ignore[type-arg]
def unique(it: set[int]) -> None: ...
def unhashable(it: set) -> None: ...  # type: ignore[type-arg]
def pair(it: tuple[int, str]) -> None: ...
def numbers(it: tuple[int, ...]) -> None: ...
def mapping(it: dict[str, list[int]]) -> None: ...
def abstract(it: Mapping[str, Any]) -> None: ...
def maybe(it: int | None) -> None: ...
def either(it: int | list[Point] | Point) -> None: ...
def literal(it: Literal["a", 1, True, None, Level.LOW]) -> None: ...  # noqa: PYI061
def level(it: Level) -> None: ...
def odd_enum(it: Number) -> None: ...
def point(it: Point) -> None: ...
def line(it: Line) -> None: ...
def options(it: Options) -> None: ...
def described(it: Annotated[int, "how many"]) -> None: ...
def user(it: UserId) -> None: ...
def defaulted(it: Level = Level.HIGH) -> None: ...
def endless_default(it: float = float("inf")) -> None: ...
def keyword(*, it: str) -> None: ...


POINT = {
    "type": "object",
    "properties": {
        "x": {"type": "integer"},
        "y": {"type": "number", "default": 1.5},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["x"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("function", "schema"),
    [
        (scalars, {"type": "string"}),
        (whole, {"type": "integer"}),
        (number, {"type": "number"}),
        (truth, {"type": "boolean"}),
        (nothing, {"type": "null"}),
        (anything, {}),
        (strings, {"type": "array", "items": {"type": "string"}}),
        (sequence, {"type": "array", "items": {"type": "integer"}}),
        (bare, {"type": "array", "items": {}}),
        (unique, {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}),
        (
            pair,
            {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 2, "maxItems": 2},
        ),
        (numbers, {"type": "array", "items": {"type": "integer"}}),
        (mapping, {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "integer"}}}),
        (abstract, {"type": "object", "additionalProperties": {}}),
        (maybe, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (literal, {"enum": ["a", 1, True, None, "low"]}),
        (level, {"enum": ["low", "high"]}),
        (point, POINT),
        (
            options,
            {
                "type": "object",
                "properties": {"depth": {"type": "integer"}, "follow": {"type": "boolean"}},
                "required": ["depth"],
                "additionalProperties": False,
            },
        ),
        (described, {"type": "integer", "description": "how many"}),
        (user, {"type": "string"}),
        (defaulted, {"enum": ["low", "high"], "default": "high"}),
        (endless_default, {"type": "number"}),
        (keyword, {"type": "string"}),
    ],
)
def test_each_type_has_its_schema(function: Any, schema: dict[str, Any]) -> None:
    assert schema_of(function) == schema


@pytest.mark.parametrize(
    ("function", "given", "expected"),
    [
        (whole, 5.0, 5),
        (number, 5, 5.0),
        (unique, [1, 2, 1], {1, 2}),
        (pair, [1, "a"], (1, "a")),
        (numbers, [1, 2], (1, 2)),
        (strings, ["a"], ["a"]),
        (mapping, {"a": [1]}, {"a": [1]}),
        (anything, {"a": [1, {}]}, {"a": [1, {}]}),
        (maybe, None, None),
        (either, 3, 3),
        (either, [{"x": 1}], [Point(1)]),
        (either, {"x": 1, "y": 2}, Point(1, 2.0)),
        (literal, True, True),
        (literal, 1, 1),
        (literal, "low", Level.LOW),
        (level, "high", Level.HIGH),
        (line, {"start": {"x": 1}, "end": None}, Line(Point(1))),
        (options, {"depth": 1}, {"depth": 1}),
    ],
)
def test_a_json_value_becomes_what_the_signature_names(function: Any, given: Any, expected: Any) -> None:
    result = read(function, given)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("function", "given", "problem"),
    [
        (whole, True, r"arguments\.it: expected integer, found boolean"),
        (whole, 1.5, "expected integer, found number"),
        (truth, 1, "expected boolean, found number"),
        (scalars, None, "expected string, found null"),
        (strings, ["a", 1], r"arguments\.it\[1\]: expected string, found number"),
        (strings, "abc", "expected array, found string"),
        (pair, [1], "expected 2 items, found 1"),
        (mapping, {"k": "v"}, r"arguments\.it\.k: expected array"),
        (literal, 0, "expected one of"),
        (literal, [1], "expected one of"),
        (either, "x", "fits none of 3 types, found string"),
        (point, {"y": 1.0}, "lacks 'x'"),
        (point, {"x": 1, "hidden": 2}, "has the unknown 'hidden'"),
        (point, {"x": 1, "y": -1.0}, r"is no Point \(ValueError: below the ground\)"),
        (line, {"start": {"x": "1"}}, r"arguments\.it\.start\.x: expected integer, found string"),
        (number, True, "expected number, found boolean"),
        (nothing, False, "expected null, found boolean"),
        (defaulted, None, "expected one of"),
        (point, {"x": 1, "tags": None}, r"arguments\.it\.tags: expected array, found null"),
        (options, {"depth": 1, "follow": None}, "expected boolean, found null"),
        (unhashable, [[1]], "holds what a set cannot"),
        (mapping, [["k", []]], "expected object, found array"),
        (numbers, {"0": 1}, "expected array, found object"),
    ],
)
def test_a_value_that_does_not_fit_is_an_error_with_its_path(function: Any, given: Any, problem: str) -> None:
    with pytest.raises(ArgumentsError, match=problem) as caught:
        read(function, given)
    assert caught.value.problems


def test_what_is_missing_or_unknown_is_said_with_what_was_expected() -> None:
    with pytest.raises(ArgumentsError, match=r"arguments: lacks 'it', expected integer$"):
        spec_of(whole).read_arguments({})
    with pytest.raises(ArgumentsError, match=r"arguments: has the unknown 'its', did you mean 'it'\?$"):
        spec_of(whole).read_arguments({"it": 1, "its": 2})


def test_true_and_one_are_different_choices_as_they_are_in_json() -> None:
    def only_one(it: Literal[1]) -> None: ...

    assert read(only_one, 1) == 1
    with pytest.raises(ArgumentsError, match="found boolean"):
        read(only_one, True)  # noqa: FBT003


def variadic(*it: str) -> None: ...
def keywords(**it: str) -> None: ...
def positional(it: str, /) -> None: ...
def unannotated(it) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001
def binary(it: bytes) -> None: ...
def integer_keys(it: dict[int, str]) -> None: ...
def recursive(it: Tree) -> None: ...
def unresolved(it: OnlyForTheTypeChecker) -> None: ...
def nested_unresolved(it: list[OnlyForTheTypeChecker]) -> None: ...
def callback(it: types.FunctionType) -> None: ...


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (variadic, "variadic positional"),
        (keywords, "variadic keyword"),
        (positional, "positional-only"),
        (unannotated, "has no annotation"),
        (binary, "'bytes', which JSON has no word for"),
        (integer_keys, "keys of the type <class 'int'>"),
        (recursive, "'Tree', which contains itself"),
        (unresolved, "'OnlyForTheTypeChecker', which cannot be resolved .*outside `if TYPE_CHECKING`"),
        (nested_unresolved, "cannot be resolved"),
        (callback, "which JSON has no word for"),
    ],
)
def test_what_no_schema_can_be_made_of_is_refused_with_the_way_out(function: Any, problem: str) -> None:
    with pytest.raises(ValidationRefused, match=problem) as caught:
        spec_of(function)
    assert f"{function.__name__!r}: parameter 'it'" in str(caught.value)
    assert str(caught.value).endswith(", or pass schema=")


def test_a_schema_of_the_authors_own_is_taken_as_it_is_and_arguments_stay_plain() -> None:
    schema = {"type": "object", "properties": {"it": {"type": "array"}}, "required": ["it"]}
    spec = spec_of(unannotated, schema=schema)
    schema["properties"] = {}
    assert orjson.loads(orjson.dumps(spec.schema))["properties"] == {"it": {"type": "array"}}
    arguments = spec.read_arguments(freeze({"it": [{"a": (1, 2)}]}))
    assert arguments == {"it": [{"a": [1, 2]}]}
    arguments["it"][0]["a"].append(3)


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({}, '"type": "object"'),
        ({"type": "array"}, '"type": "object"'),
        ([], '"type": "object"'),
        ({"type": "object", "properties": []}, "dict as properties"),
        ({"type": "object", "required": "it"}, "list of names"),
        ({"type": "object", "properties": {"it": {"default": object()}}, "required": ["it"]}, "object"),
        ({"type": "object", "properties": {"other": {}}}, "has 'other', which the handler does not take"),
        ({"type": "object", "properties": {"it": {}}}, "must require 'it', which the handler needs"),
    ],
)
def test_a_schema_that_the_handler_cannot_be_called_by_is_refused(schema: Any, problem: str) -> None:
    with pytest.raises(ValidationRefused, match=problem):
        spec_of(unannotated, schema=schema)


def test_a_handler_of_any_keywords_takes_any_schema() -> None:
    assert spec_of(keywords, schema={"type": "object", "properties": {"a": {}}}).name == "keywords"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"name": "a b"}, "is called 'a b'"),
        ({"name": "x" * 65}, "letters, digits"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": float("inf")}, "timeout is inf"),
        ({"timeout": True}, "timeout is True"),
        ({"description": 3}, "description is of the type int"),
        ({"description": "x" * 8_193}, "8193 characters"),
        ({"visible_to": "agent"}, "expected a list of agents' names"),
    ],
)
def test_every_other_mistake_is_refused_by_name(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationRefused, match=problem):
        spec_of(scalars, **given)


def test_a_generator_is_no_handler() -> None:
    def numbers_one_by_one() -> Any:
        yield 1

    async def later_one_by_one() -> Any:
        yield 1

    for handler in (numbers_one_by_one, later_one_by_one):
        with pytest.raises(ValidationRefused, match="is a generator"):
            spec_of(handler)


@pytest.mark.parametrize("handler", [3, None, "find"])
def test_what_cannot_be_called_is_no_handler(handler: Any) -> None:
    with pytest.raises(ValidationRefused, match="expected a function"):
        spec_of(handler)


def test_a_function_without_a_signature_is_refused_in_words() -> None:
    with pytest.raises(ValidationRefused, match="has no signature; wrap it in a def"):
        spec_of(max)


def test_partials_and_objects_with_a_call_are_handlers_under_a_given_name() -> None:
    class Caller:
        async def __call__(self, it: int) -> int:
            return it

    async def add(a: int, b: int) -> int:
        return a + b

    assert spec_of(Caller(), name="caller").is_async
    partial = spec_of(functools.partial(add, 1), name="add-one")
    assert (partial.is_async, list(partial.schema["properties"])) == (True, ["b"])
    with pytest.raises(ValidationRefused, match="give name="):
        spec_of(Caller())


def test_sphinx_fields_describe_parameters_and_annotated_wins_over_them() -> None:
    def find(it: Annotated[int, "from the type"], other: str) -> None:
        """Find it.

        :param it: from the text
        :param str other: another
            one
        :returns: nothing
        """

    properties = spec_of(find).schema["properties"]
    assert properties["it"]["description"] == "from the type"
    assert properties["other"]["description"] == "another one"


def test_a_docstring_of_parameters_alone_is_no_description() -> None:
    def find(it: int) -> None:
        """:param it: what"""

    spec = spec_of(find)
    assert (spec.description, spec.schema["properties"]["it"]["description"]) == ("", "what")


@given(st.text())
def test_no_docstring_breaks_a_tool(doc: str) -> None:
    def find(it: int) -> None: ...

    find.__doc__ = doc
    try:
        spec_of(find)
    except ValidationRefused as refused:
        assert refused.field == "description"  # noqa: PT017  # too long is the only objection


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "y", "start", "a"]), inner),
    max_leaves=8,
)
FUNCTIONS = [whole, number, strings, unique, pair, mapping, maybe, either, literal, level, point, line, options]


@pytest.mark.slow
@given(st.sampled_from(FUNCTIONS), json_values)
def test_any_json_value_is_read_or_refused_and_nothing_else(function: Any, value: Any) -> None:
    try:
        read(function, value)
    except ArgumentsError as error:
        assert error.tool == function.__name__  # noqa: PT017
