"""Tools of an agent that its model's provider runs (web search, a code interpreter, remote MCP): no gate sees a call.

They are listed once a session, in the log and the journal, and a mandatory gate on tool calls refuses an agent that has
them, unless the operator accepts that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from attrs import define, field

from ally_plugins.contract.values.errors import GateRefused
from ally_plugins.contract.values.inert import inert
from ally_plugins.journal.values import Record
from ally_plugins.policy.project_rules import NO_RULES, SessionRules
from ally_plugins.policy.serving import ungated_refusal
from ally_plugins.runtime.lanes.dispatch import HookCall

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ally_plugins.journal.journal import Journal  # noqa: TC004 - nobody reads these annotations at run time
    from ally_plugins.runtime.lanes.dispatch import Dispatcher  # noqa: TC004
    from ally_plugins.runtime.lanes.plugin import Plugin

__all__ = ["UNGATED_TOOLS", "UngatedTools"]

_log: Final = logging.getLogger(__name__)

_GATE: Final = "ally_gate_tool_call"

UNGATED_TOOLS: Final = "ungated_tools"
"""The kind of the records."""


@define(eq=False)
class UngatedTools:
    """The tools of one session that no gate sees. Lives as long as the session; belongs to the host's loop."""

    session_id: str
    dispatcher: Dispatcher
    journal: Callable[[], Journal]
    now_ms: Callable[[], int]
    rules: SessionRules = NO_RULES
    """What trusted projects say of the session."""
    _noted: set[tuple[str, str, str | None]] = field(init=False, factory=set)
    """Agent, tool, and the plugin that refused it."""

    @property
    def may_refuse(self) -> bool:
        """Whether any plugin would refuse some tool that no gate sees; costs next to nothing where none gates calls."""
        if self.rules.decides_calls:
            return True
        return self.dispatcher.has_any(_GATE) and any(
            plugin.options.mandatory for plugin in self.dispatcher.plugins.values()
        )

    def admit(self, agent: str, tools: Iterable[str]) -> None:
        """Take note of an agent's tools that its provider runs; call it before each request that has any.

        Raises GateRefused where a mandatory plugin gates one of them and the operator has not accepted that it runs
        past the gate. The model must not be asked then.
        """
        names = tuple(sorted(set(tools)))
        for name in names:
            # No gate will see the call, so that the model must not have the tool.
            if (why := self.rules.why_denied(name, None)) is not None:
                raise GateRefused(f"{why}; take it out of what {agent} is given")
        refusing = {name: self._refusing(name) for name in names}
        # Before it is refused, so that the record names who refuses.
        self._note(agent, refusing)
        for plugin in refusing.values():
            if plugin is not None:
                mine = tuple(name for name, by in refusing.items() if by is plugin)
                raise GateRefused(ungated_refusal(plugin.name, agent, mine), plugin=plugin.name)

    def _refusing(self, tool: str) -> Plugin | None:
        call = HookCall(hook=_GATE, session_id=self.session_id, tool=tool)
        for plugin in self.dispatcher.participants(call):
            accepted = plugin.options.ungated_tools
            is_accepted = accepted if isinstance(accepted, bool) else tool in accepted
            is_mandatory = plugin.options.mandatory or plugin.name in self.rules.mandatory
            if is_mandatory and not is_accepted and not plugin.is_shadowed(_GATE, "tool_call"):
                return plugin
        return None

    def _note(self, agent: str, refusing: dict[str, Plugin | None]) -> None:
        by = {tool: plugin.name if plugin is not None else None for tool, plugin in refusing.items()}
        new = [tool for tool in by if (agent, tool, by[tool]) not in self._noted]
        if not new:
            return
        self._noted.update((agent, tool, by[tool]) for tool in new)
        text = "session %r: no gate sees what the provider runs for %s: %s"
        _log.warning(text, self.session_id, inert(agent), inert(", ".join(new)))
        refused = {tool: by[tool] for tool in new if by[tool] is not None}
        data = {"agent": agent, "tools": new, "refused_by": refused}
        plugin = next(iter(refused.values()), None)
        self.journal().append_soon(Record(UNGATED_TOOLS, self.now_ms(), plugin, self.session_id, None, data))
