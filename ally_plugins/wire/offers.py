"""What a daemon offers: hooks, by name or with details, and tools or actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from attrs import field, frozen

from ally_plugins.contract.shapes import (
    FLAG,
    NUMBER,
    OBJECT,
    SHOWN,
    TEXT,
    TEXTS,
    Mistakes,
    Shape,
    WrongShape,
    one_of,
    several,
)
from ally_plugins.contract.tables import holds, object_of, object_schema, write_object
from ally_plugins.contract.wording import suggest

if TYPE_CHECKING:
    from ally_plugins.contract.hookspecs import HookInfo
    from ally_plugins.contract.tools.declared import ToolSpec

__all__ = ["HookOffer", "ToolOffer", "offered_hooks", "offered_tools"]


@frozen(kw_only=True)
class ToolOffer:
    """A tool or an action, as a daemon describes it. Its texts are checked when it is registered."""

    name: str = field(metadata=holds(TEXT, "1 to 64 letters, digits, '_' and '-'"))
    description: str | None = field(default=None, metadata=holds(TEXT, "what it does, for the model"))
    schema: Mapping[str, Any] | None = field(
        default=None, metadata=holds(OBJECT, "the JSON schema of its arguments, an object; without it anything goes")
    )
    timeout: float | None = field(
        default=None, metadata=holds(NUMBER, "seconds that a call may take; 120 if not given")
    )
    visible_to: tuple[str, ...] = field(
        default=(), metadata=holds(TEXTS, "the names of the agents that see it; empty is all")
    )
    agent: bool | None = field(
        default=None, metadata=holds(FLAG, "of an action: whether the agent is offered it as a tool too")
    )

    @classmethod
    def of(cls, spec: ToolSpec) -> ToolOffer:
        """Return the offer of a tool or an action of this process."""
        return cls(
            name=spec.name,
            description=spec.description,
            schema=spec.schema,
            timeout=spec.timeout,
            visible_to=spec.visible_to,
            agent=spec.agent if spec.kind == "action" else None,
        )

    @property
    def described(self) -> dict[str, Any]:
        """What it describes, as `contract.tools.declared.make_spec` takes it; without a schema, that of any object."""
        given = {key: item for key, item in write_object(self).items() if key not in ("session_id", "cause")}
        return {"description": "", "schema": {"type": "object"}, **given, "agent": self.agent is True}


@frozen(kw_only=True)
class HookOffer:
    """A hook that a daemon implements, which of its arguments it wants, and where in the order it would stand.

    `arguments` None is all but `context`, which costs a read of the session each time.
    """

    name: str = field(metadata=holds(TEXT, "the hook, such as `ally_tool_call_end`"))
    arguments: tuple[str, ...] | None = field(
        default=None, metadata=holds(TEXTS, "which of the hook's arguments it wants; without it all but `context`")
    )
    placement: Literal["first", "last"] | None = field(
        default=None, metadata=holds(one_of("first", "last"), "to be asked before or after those that do not say")
    )
    optional: bool | None = field(
        default=None, metadata=holds(FLAG, "whether a host that does not know the hook is to pass it over")
    )

    def to_wire(self) -> str | dict[str, Any]:
        """Return it as it is sent: the name alone where there is nothing else to send."""
        is_plain = self.arguments is None and self.placement is None and self.optional is None
        return self.name if is_plain else write_object(self)


_HOOK: Final = object_of(HookOffer, is_strict=True)


def _read_hook(value: Any, path: str, mistakes: Mistakes) -> HookOffer:
    """Read one hook, and give it the arguments that a name alone stands for. Raises WrongShape."""
    offer: HookOffer = HookOffer(name=value) if type(value) is str else _HOOK.read(value, path, mistakes)
    info = _find_hook(offer.name, path if type(value) is str else f"{path}.name", is_optional=offer.optional is True)
    if info is None:
        return offer
    if offer.arguments is None:
        wanted = tuple(name for name in info.arguments if name != "context")
        # Filled in here, so that nobody behind the reader has to know what None stands for.
        return HookOffer(name=offer.name, arguments=wanted, placement=offer.placement, optional=offer.optional)
    for index, name in enumerate(offer.arguments):
        if name not in info.arguments:
            problem = f"is {name[:SHOWN]!r}, which {offer.name} does not give; {suggest(name, info.arguments)}"
            raise WrongShape(f"{path}.arguments[{index}]", problem)
    return offer


def _find_hook(name: str, path: str, *, is_optional: bool) -> HookInfo | None:
    """Return a hook's specification, None for an optional one of newer hosts. Raises WrongShape."""
    from ally_plugins.contract.hookspecs import HOOKS  # it takes pluggy along, which daemons do without

    info = HOOKS.get(name)
    if info is None:
        if is_optional:
            return None
        raise WrongShape(path, f"is {name[:SHOWN]!r}, which is no hook; {suggest(name, _hooks_of_plugins())}")
    if info.kind == "capability":
        raise WrongShape(path, f"is {name!r}, which only a host implements")
    return info


def _hooks_of_plugins() -> list[str]:
    from ally_plugins.contract.hookspecs import HOOKS

    return [info.name for info in HOOKS.values() if info.kind != "capability"]


def offered_hooks() -> Shape:
    """Return the shape of the hooks that a daemon names, each of them read into a HookOffer with its arguments."""
    details = object_schema(HookOffer, is_strict=True)
    hook = Shape((str, dict), "a hook's name or an object", {"anyOf": [{"type": "string"}, details]}, _read_hook)
    return several(hook)


def offered_tools() -> Shape:
    """Return the shape of the tools or actions that a daemon names."""
    return several(object_of(ToolOffer, is_strict=True))
