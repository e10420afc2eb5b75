"""What a plugin offers: `@tool` and `@action` on its methods, and the `ToolSpec` that each becomes.

The decorators only mark; names, schemas and types are checked when the plugin is loaded (`collect_tools`) or registers
at run time (`make_spec`). Checking a call's arguments against the schema is left to `policy.arguments`.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any, Final, Literal, TypeAlias, TypeVar, overload

from attrs import field, frozen

from ally_plugins.contract.shapes import WrongShape
from ally_plugins.contract.tables import Table
from ally_plugins.contract.values.errors import ArgumentsError, EventError, ValidationRefused
from ally_plugins.contract.values.frozen import FrozenDict, freeze_mapping

from .schemas import ARGUMENTS, thaw
from .signature import derive_table, read_docs

__all__ = ["DEFAULT_TIMEOUT", "ToolSpec", "action", "collect_actions", "collect_tools", "make_spec", "tool"]

F = TypeVar("F", bound=Callable[..., Any])
Kind: TypeAlias = Literal["tool", "action"]

DEFAULT_TIMEOUT: Final = 120.0  # seconds; what Code-Ally gives its executable tools
MAX_DESCRIPTION: Final = 8_192  # characters; all of it enters the model's context at every request

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")  # what model providers accept as a function's name
_MARKABLE: Final[tuple[type, ...]] = (types.FunctionType, staticmethod, classmethod)
_MARKS: Final[dict[Kind, str]] = {"tool": "_ally_tool", "action": "_ally_action"}


@frozen(kw_only=True)
class _Offer:
    """The arguments of a decorator; None is to be read from the function."""

    name: str | None = None
    description: str | None = None
    schema: Mapping[str, Any] | None = None
    timeout: float = DEFAULT_TIMEOUT
    visible_to: tuple[str, ...] = ()
    agent: bool = True
    requires_confirmation: bool = False


@frozen(kw_only=True)
class ToolSpec:
    """A tool or an action, ready to be offered and called. It lives as long as its plugin is loaded.

    `timeout` is in seconds. `visible_to` names the agents that see it; empty is all. `agent` says whether the agent is
    offered it as a tool: always true for a tool, by choice for an action. With `requires_confirmation` the person is
    asked before each call of the agent's. `is_derived` is true of a schema that was made from the signature, and
    false of one that the plugin wrote.
    """

    kind: Kind
    name: str
    description: str
    schema: FrozenDict
    handler: Callable[..., Any]
    is_async: bool
    timeout: float = DEFAULT_TIMEOUT
    visible_to: tuple[str, ...] = ()
    agent: bool = True
    requires_confirmation: bool = False
    is_derived: bool = False
    _table: Table | None = field(default=None, alias="table", repr=False, eq=False)

    def read_arguments(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return checked arguments as the handler takes them, to be given by name.

        Enum members, attrs and dataclass instances, tuples and sets are built where the signature names them; with a
        schema of the plugin's own they stay plain dicts and lists, always fresh ones. Raises ArgumentsError for what
        the schema allows and the type does not (a validator of the plugin's class, for example).
        """
        if self._table is None:
            plain: dict[str, Any] = thaw(arguments)
            return plain
        try:
            read: dict[str, Any] = self._table.read(arguments, "arguments", ARGUMENTS)
        except WrongShape as error:
            problem = f"{error.path}: {error.problem}"
            raise ArgumentsError(
                f"arguments of {self.name!r} are wrong: {problem}", tool=self.name, problems=(problem,)
            ) from error
        return read


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    schema: Mapping[str, Any] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    visible_to: Iterable[str] = (),
) -> Callable[[F], F]: ...
def tool(
    function: F | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    schema: Mapping[str, Any] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    visible_to: Iterable[str] = (),
) -> F | Callable[[F], F]:
    """Offer a method to the agent as a tool.

    What is not given is read from the function: its name, the first paragraph of its docstring, a JSON schema of its
    parameters. `timeout` is in seconds; `visible_to` names the agents that see the tool, empty is all.
    """
    offer = _Offer(name=name, description=description, schema=schema, timeout=timeout, visible_to=_as_names(visible_to))
    return _marker("tool", offer) if function is None else _marker("tool", offer)(function)


@overload
def action(function: F, /) -> F: ...
@overload
def action(
    *,
    name: str | None = None,
    description: str | None = None,
    schema: Mapping[str, Any] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    visible_to: Iterable[str] = (),
    agent: bool = False,
) -> Callable[[F], F]: ...
def action(
    function: F | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    schema: Mapping[str, Any] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    visible_to: Iterable[str] = (),
    agent: bool = False,
) -> F | Callable[[F], F]:
    """Offer a method as an action that the person, the host and plugins that may can run.

    With `agent=True` the agent is offered it as well, as one of its tools, if the plugin is granted `tools`. Everything
    else is as for `tool`.
    """
    offer = _Offer(
        name=name,
        description=description,
        schema=schema,
        timeout=timeout,
        visible_to=_as_names(visible_to),
        agent=agent,
    )
    return _marker("action", offer) if function is None else _marker("action", offer)(function)


def collect_tools(plugin: object) -> tuple[ToolSpec, ...]:
    """Return the tools that an instance (or a module) offers by decorator, in the order of its source.

    Raises ValidationRefused for a bad name, type or schema, and for two tools of one name.
    """
    return _collect(plugin, "tool")


def collect_actions(plugin: object) -> tuple[ToolSpec, ...]:
    """Return the actions that an instance (or a module) offers by decorator; otherwise as `collect_tools`."""
    return _collect(plugin, "action")


def make_spec(  # noqa: PLR0913 - all but two by name, each a fact of one tool
    kind: Kind,
    handler: Callable[..., Any],
    *,
    name: str | None = None,
    description: str | None = None,
    schema: Mapping[str, Any] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    visible_to: Iterable[str] = (),
    agent: bool = False,
    requires_confirmation: bool = False,
) -> ToolSpec:
    """Make the spec of a handler that is registered at run time. Raises ValidationRefused as `collect_tools` does."""
    offer = _Offer(
        name=name,
        description=description,
        schema=schema,
        timeout=timeout,
        visible_to=_as_names(visible_to),
        agent=agent,
        requires_confirmation=requires_confirmation,
    )
    return _make(kind, handler, offer)


def _marker(kind: Kind, offer: _Offer) -> Callable[[F], F]:
    def mark(function: F) -> F:
        target: object = function
        if not isinstance(target, _MARKABLE):
            raise ValidationRefused(f"@{kind} marks functions and methods, found {function!r}", field=kind)
        setattr(target, _MARKS[kind], offer)  # read at load: only then the whole class, and its overrides, are there
        return function

    return mark


def _collect(plugin: object, kind: Kind) -> tuple[ToolSpec, ...]:
    specs: dict[str, ToolSpec] = {}
    for attribute, offer in _find_offers(plugin, _MARKS[kind]):
        spec = _make(kind, getattr(plugin, attribute), offer)
        if spec.name in specs:
            raise ValidationRefused(f"there are two {kind}s called {spec.name!r}; give one a name=", field="name")
        specs[spec.name] = spec
    return tuple(specs.values())


def _find_offers(plugin: object, mark: str) -> Iterable[tuple[str, _Offer]]:
    """Find marks without running any property of the plugin; an override without a mark is no offer."""
    is_module = isinstance(plugin, types.ModuleType)
    # Base classes first, so that an override replaces what it overrides and keeps its place in the order.
    places = [vars(plugin)] if is_module else [vars(cls) for cls in reversed(type(plugin).__mro__)]
    found: dict[str, Any] = {}
    for place in places:
        found.update(place)
    for attribute, value in found.items():
        if isinstance(value, _MARKABLE):
            offer = getattr(value, mark, None) or getattr(getattr(value, "__func__", None), mark, None)
            if isinstance(offer, _Offer):
                yield attribute, offer


def _make(kind: Kind, handler: Callable[..., Any], offer: _Offer) -> ToolSpec:
    if not callable(handler):
        raise ValidationRefused(f"the handler is {handler!r}; expected a function", field="handler")
    name = _check_name(kind, offer.name or getattr(handler, "__name__", ""))
    # Not of other callables, whose docstring is their class's.
    text, docs = read_docs(inspect.getdoc(handler) if inspect.isroutine(handler) else "")
    table = derive_table(handler, name, docs) if offer.schema is None else None
    schema = _freeze_schema(name, table.schema(is_strict=True) if table is not None else offer.schema)
    # A derived schema fits by its making.
    if table is None:
        _check_fits(name, handler, schema)
    return ToolSpec(
        kind=kind,
        name=name,
        description=_check_description(name, text if offer.description is None else offer.description),
        schema=schema,
        handler=handler,
        is_async=_is_async(name, handler),
        timeout=_check_timeout(name, offer.timeout),
        visible_to=offer.visible_to,
        agent=offer.agent or kind == "tool",
        requires_confirmation=offer.requires_confirmation,
        is_derived=table is not None,
        table=table,
    )


def _check_name(kind: Kind, name: object) -> str:
    if isinstance(name, str) and _NAME.match(name):
        return name
    raise ValidationRefused(
        f"a {kind} is called {name!r}; expected 1 to 64 letters, digits, '_' and '-' (give name=)", field="name"
    )


def _check_description(name: str, text: object) -> str:
    if not isinstance(text, str):
        raise ValidationRefused(
            f"{name!r}: description is of the type {type(text).__name__}; expected a string", field="description"
        )
    if len(text) > MAX_DESCRIPTION:
        raise ValidationRefused(
            f"{name!r}: description has {len(text)} characters; expected {MAX_DESCRIPTION} at most", field="description"
        )
    return text


def _check_timeout(name: str, timeout: Any) -> float:
    # By type: True is an int, and no number of seconds.
    if type(timeout) not in {int, float} or not isfinite(timeout) or timeout <= 0:
        raise ValidationRefused(f"{name!r}: timeout is {timeout!r}; expected seconds, more than 0", field="timeout")
    return float(timeout)


def _freeze_schema(name: str, schema: Any) -> FrozenDict:
    if not isinstance(schema, Mapping) or schema.get("type") != "object":
        raise ValidationRefused(
            f'{name!r}: schema must be a dict that says "type": "object", since arguments have names', field="schema"
        )
    if not isinstance(schema.get("properties", {}), Mapping) or not _are_strings(schema.get("required", ())):
        raise ValidationRefused(
            f"{name!r}: schema must have a dict as properties and a list of names as required", field="schema"
        )
    try:
        return freeze_mapping(schema)
    except EventError as error:
        raise ValidationRefused(f"{name!r}: schema: {error}", field="schema") from None


def _check_fits(name: str, handler: Callable[..., Any], schema: Mapping[str, Any]) -> None:
    """Refuse a schema of the plugin's own that the handler cannot be called by: better now than at the first call."""
    parameters = inspect.signature(handler).parameters.values()
    # `**arguments` takes whatever the schema lets pass.
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return
    by_name = {one.name: one for one in parameters if one.kind in {one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY}}
    given, required = set(schema.get("properties") or ()), set(schema.get("required") or ())
    needed = {one.name for one in parameters if one.default is one.empty and one.kind is not one.VAR_POSITIONAL}
    if unknown := given - by_name.keys():
        problem = f"schema has {_list(unknown)}, which the handler does not take"
    elif missing := needed - required:
        problem = f"schema must require {_list(missing)}, which the handler needs"
    else:
        return
    raise ValidationRefused(f"{name!r}: {problem}; give parameter and property the same name", field="schema")


def _are_strings(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(names)))


def _is_async(name: str, handler: Callable[..., Any]) -> bool:
    target = getattr(handler, "func", handler)
    if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        raise ValidationRefused(f"{name!r}: the handler is a generator; expected a def or async def", field="handler")
    call = getattr(type(target), "__call__", None)  # noqa: B004  # an instance whose class has `async def __call__`
    return inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(call)


def _as_names(names: Iterable[str]) -> tuple[str, ...]:
    # A text is a row of texts, too: its letters would be taken for agents.
    if isinstance(names, str):
        raise ValidationRefused(f"visible_to is {names!r}; expected a list of agents' names", field="visible_to")
    return tuple(names)
