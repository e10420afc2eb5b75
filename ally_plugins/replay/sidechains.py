"""Which sub-agent a record of a Claude Code transcript belongs to.

A sub-agent's id is the id of the call that started it, where that can be found: its start is recorded before its own
name (`agentId`), and start and records must have one id. Records name their agent, or only the record before them
(`parentUuid`), or come wrapped in progress records that name the call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

from .content import text_of
from .turns import MAX_AGENTS

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["AGENT_TOOLS", "BoundedMap", "Sidechains"]

# The tool that starts a sub-agent; newer versions of Claude Code call it Agent.
AGENT_TOOLS: Final = frozenset({"Task", "Agent"})
# Bounds what is remembered of records; interleaved sub-agents refer back by a few dozen records.
_REMEMBERED: Final = 16_384


@define
class BoundedMap:
    """A dictionary that forgets: it holds the latest keys, at least half of the bound.

    Two generations; taking the oldest key out of one dictionary again and again searches ever further for it.
    """

    young: dict[str, str] = field(factory=dict)
    old: dict[str, str] = field(factory=dict)

    def __contains__(self, key: str) -> bool:
        return key in self.young or key in self.old

    def get(self, key: str) -> str | None:
        """Return what is remembered under `key`."""
        return self.young.get(key) or self.old.get(key)

    def remember(self, key: str, value: str) -> None:
        """Keep `value`; the oldest keys may be dropped."""
        if len(self.young) >= _REMEMBERED // 2:
            self.old, self.young = self.young, {}
        self.young[key] = value


@define
class Sidechains:
    """The sub-agents of one transcript. Lives as long as one reading."""

    unclaimed: dict[str, str] = field(factory=dict)  # call id to prompt
    working: set[str] = field(factory=set)  # calls that have not returned
    agents: BoundedMap = field(factory=BoundedMap)  # the transcript's agentId to ours
    records: BoundedMap = field(factory=BoundedMap)  # record uuid to ours, where there is no agentId
    nameless: int = 0

    def task_called(self, call_id: str, prompt: str) -> None:
        """Note a call that starts a sub-agent."""
        if len(self.unclaimed) < MAX_AGENTS:
            self.unclaimed[call_id] = prompt
            self.working.add(call_id)

    def task_returned(self, call_id: str, name: str = "", *, is_launch: bool = False) -> None:
        """Note that a call returned: records that come later belong to another, unless it was only a launch.

        `name` is what the transcript calls the agent, where the result says that.
        """
        self.working.discard(call_id)
        is_claimed = self.unclaimed.pop(call_id, None) is None
        if is_launch and name and not is_claimed:
            self.agents.remember(name, call_id)

    def has_no_result(self, agent_id: str) -> bool:
        """Return whether no result is to come that ends an agent."""
        return agent_id not in self.working

    def find(
        self, record: dict[str, Any], call_id: str = "", texts: Iterable[str] = (), *, is_apart: bool = False
    ) -> tuple[str, bool]:
        """Return the agent of a record, and whether no start of it has been recorded.

        `call_id` is the call that the record names, `texts` its content: an agent's first record repeats its prompt.
        `is_apart`: it is of a file of its own, which may be that of an agent which no call started.
        """
        recorded = self._find_recorded(record)
        agent_id, is_new = (recorded, False) if recorded else self._claim(record, call_id, texts, is_apart=is_apart)
        if name := text_of(record, "agentId"):
            self.agents.remember(name, agent_id)
        elif uuid := text_of(record, "uuid"):
            self.records.remember(uuid, agent_id)
        return agent_id, is_new

    def _find_recorded(self, record: dict[str, Any]) -> str | None:
        if name := text_of(record, "agentId"):
            return self.agents.get(name)
        return self.records.get(text_of(record, "parentUuid"))

    def _claim(self, record: dict[str, Any], call_id: str, texts: Iterable[str], *, is_apart: bool) -> tuple[str, bool]:
        claimed = call_id if call_id in self.unclaimed else self._match_prompt(set(texts), is_apart=is_apart)
        if claimed:
            del self.unclaimed[claimed]
            return claimed, False
        self.nameless += 1
        return text_of(record, "agentId") or f"sidechain-{self.nameless}", True

    def _match_prompt(self, texts: set[str], *, is_apart: bool) -> str:
        """Return the call whose prompt is among `texts`, else the oldest unclaimed one, else the empty string."""
        same = (call_id for call_id, prompt in self.unclaimed.items() if prompt in texts)
        return next(same, "" if is_apart else next(iter(self.unclaimed), ""))
