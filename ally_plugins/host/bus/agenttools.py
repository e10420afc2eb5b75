"""Plugins' tools: running one for the host, and the list of what an agent may call.

That list has the tools of plugins, and those actions that their plugins offer to agents; it is one for every adapter.
How a framework shows it to its model is the adapter's business.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from attrs import define

from ally_plugins.contract.tools.agent_tool import MAIN_AGENT, AgentTool
from ally_plugins.contract.values.conversation import ActionRequest
from ally_plugins.contract.values.errors import NotFoundRefused, ToolCallError
from ally_plugins.contract.values.frozen import EMPTY, freeze, freeze_mapping
from ally_plugins.contract.values.ids import new_id
from ally_plugins.contract.values.inert import for_model
from ally_plugins.contract.values.scope import SCOPE, Scope
from ally_plugins.host.sessions.session import Session

from .actions import ActionRunner
from .contributions import Contribution, Contributions, as_tool_result

if TYPE_CHECKING:
    from ally_plugins.contract.values.conversation import ToolResult

__all__ = ["ToolRunner", "find_offered", "offered_to_agent"]

_WORDS: Final = frozenset({"title", "description", "$comment"})
"""Keywords of a schema whose texts are words for the model."""

_COMPARED: Final = frozenset({"default", "const", "enum", "examples"})
"""Keywords whose values stand for arguments: spelt otherwise, they would name what the schema then refuses."""

_NAMES: Final = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
"""Under which keywords of a schema the keys are names, and no keywords."""

LONGEST_NAME: Final = 64
"""Characters of a function's name that model providers accept."""


@define(eq=False)
class ToolRunner:
    """Runs plugins' tools for the host and for agents, and lists what agents may call."""

    tools: Contributions
    actions: Contributions
    may: Callable[[str, str, str | None], bool]
    """Whether what a plugin offers (`tools` or `actions`) may be used in a session, by their names."""
    is_active: Callable[[str, str | None], bool]
    """Whether a plugin is active in a session, by their names: the person may turn some on and off."""
    sessions: Mapping[str, Session]
    action_runner: ActionRunner

    async def run(
        self, tool: Contribution, arguments: Mapping[str, Any] | None, session_id: str | None, timeout: float | None
    ) -> ToolResult:
        """Run a tool and return its result; `timeout` is in seconds, at most the tool's own.

        Raises ArgumentsError before anything runs, ToolCallError when it fails. Cancelling cancels an asynchronous
        handler; a synchronous one runs on in its thread.
        """
        name, owner = tool.spec.name, tool.plugin.name
        if not self.may(owner, "tools", session_id):
            text = f"{name!r} cannot run: session {session_id!r} was opened without {owner!r}, or its tools"
            raise ToolCallError(text, tool=name, plugin=owner)
        if not self.is_active(owner, session_id):
            text = f"{name!r} cannot run: {owner!r} is not active in this session; the person says +{owner} for it"
            raise ToolCallError(text, tool=name, plugin=owner)
        caller = SCOPE.get()  # set when a plugin's hook led here: the tool must not wait for what waits for that hook
        held = caller.held if caller is not None else frozenset()
        session = self.sessions.get(session_id or "")
        origin = session.origin if session is not None else ()
        scope = Scope(owner, session_id, origin, held, cause=new_id("c"))
        return as_tool_result(await tool.run(freeze(dict(arguments or EMPTY)), scope, timeout))

    def offered(self, session_id: str, agent: str, taken: Collection[str]) -> tuple[AgentTool, ...]:
        """Return what an agent of a session may call; see `Session.agent_tools`."""
        return offered_to_agent(
            self.tools,
            self.actions,
            agent=agent,
            taken=taken,
            is_active=lambda plugin, kind: self.may(plugin, kind, session_id) and self.is_active(plugin, session_id),
        )

    async def call_offered(
        self, session: Session, tool: AgentTool, arguments: Mapping[str, Any], timeout: float | None
    ) -> ToolResult:
        """Call what an agent of a session is offered; see `Session.call_agent_tool`.

        Cancelling cancels it, as in `run`.
        """
        if tool.kind == "tool":
            return await self.run(find_offered(self.tools, tool), arguments, session.id, timeout)
        # The runner does not look whether agents are offered it still; that may have been revoked since.
        find_offered(self.actions, tool)
        request = ActionRequest(tool.full_name, freeze_mapping(arguments), "agent", origin=session.origin)
        return as_tool_result(await self.action_runner.run(session, request, timeout or tool.timeout))


def offered_to_agent(
    tools: Iterable[Contribution],
    actions: Iterable[Contribution],
    *,
    agent: str = MAIN_AGENT,
    taken: Collection[str] = (),
    is_active: Callable[[str, str], bool] = lambda _, __: True,
) -> tuple[AgentTool, ...]:
    """Return what an agent may call, by plugin and name; `taken` are names that the host's own tools have.

    A name that two of them have, or the host, becomes `plugin__name` for each: which plugin was started first makes no
    difference. An action that has the name of a tool of the same plugin is left out.
    """
    found: dict[tuple[str, str], Contribution] = {}
    for each in (*actions, *tools):  # the tool last: it stays
        if each.is_for_agents and is_active(each.plugin.name, f"{each.spec.kind}s") and _is_visible(each, agent):
            found[each.plugin.name, each.spec.name] = each
    if not found:
        return ()
    # By name: tools stand at a prompt's beginning, and another order would cost the provider's cache of it.
    ordered = [found[key] for key in sorted(found)]
    shared = {name for name, count in Counter(each.spec.name for each in ordered).items() if count > 1}
    used = {*taken, *(each.spec.name for each in ordered)}
    return tuple(_named(ordered, shared.union(taken), used))


def find_offered(kept: Iterable[Contribution], tool: AgentTool) -> Contribution:
    """Return what a tool on the list stands for now. Raises NotFoundRefused when it is offered no more."""
    for each in kept:
        if (each.plugin.name, each.spec.name) == (tool.plugin, tool.own_name) and each.is_for_agents:
            return each
    text = f"{tool.plugin!r} does not offer {tool.own_name!r} to the agent any more"
    raise NotFoundRefused(text, plugin=tool.plugin)


def _is_visible(each: Contribution, agent: str) -> bool:
    return not each.spec.visible_to or agent in each.spec.visible_to


def _named(found: Iterable[Contribution], shared: Collection[str], used: set[str]) -> Iterator[AgentTool]:
    for each in found:
        spec, plugin = each.spec, each.plugin.name
        name = _free_name(plugin, spec.name, used) if spec.name in shared else spec.name
        used.add(name)
        yield AgentTool(
            name=name,
            plugin=plugin,
            kind=spec.kind,
            own_name=spec.name,
            description=for_model(spec.description),
            schema=freeze_mapping(_schema_for_model(spec.schema)),
            timeout=spec.timeout,
            visible_to=spec.visible_to,
            requires_confirmation=spec.requires_confirmation,
        )


def _schema_for_model(part: Any, *, is_names: bool = False) -> Any:
    """Return a schema whose words are as inert as a description; what arguments are compared with stays as it is."""
    if isinstance(part, Mapping):
        return {
            key: item if key in _COMPARED and not is_names else _under(key, item, is_names=is_names)
            for key, item in part.items()
        }
    return [_schema_for_model(item) for item in part] if isinstance(part, (list, tuple)) else part


def _under(key: str, item: Any, *, is_names: bool) -> Any:
    if isinstance(item, str):
        return for_model(item) if key in _WORDS and not is_names else item
    return _schema_for_model(item, is_names=key in _NAMES and not is_names)


def _free_name(plugin: str, name: str, used: Collection[str]) -> str:
    """Return `plugin__name` as model providers accept it; a mark at its end tells apart what would be the same."""
    # No colon: providers take letters, digits, `_` and `-` in the name of a function.
    whole = f"{plugin}__{name}"
    if len(whole) <= LONGEST_NAME and whole not in used:
        return whole
    # Of the names, not a count: the same after every restart, whichever plugin comes first.
    mark = hashlib.blake2b(f"{plugin}:{name}".encode(), digest_size=4).hexdigest()
    return f"{whole[: LONGEST_NAME - len(mark) - 1]}_{mark}"
