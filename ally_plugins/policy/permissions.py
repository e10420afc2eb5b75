"""What a set of grants allows: the predicates that the bus, the lanes and the gates ask on every call.

The grammar of one grant is in `grants`; who grants what is decided by the operator and kept by `catalog`.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from attrs import field, frozen

from ally_plugins.contract.grants import ADD_MESSAGE, ANY, CONTEXT_PARTS, GATES, ROLES, SENTENCE, TRANSFORMS, Grant

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Grant", "GrantSet", "command_for"]

_EVERY_TOOL: Final = ""


def command_for(plugin: str, grant: Grant | str) -> str:
    """Return the command by which the operator grants this."""
    return f"ally-plugins grant {plugin} {grant if isinstance(grant, str) else grant.text}"


@frozen
class GrantSet:
    """What one plugin may do. Empty by default: nothing is allowed that is not granted.

    The tables below are derived once, so that asking costs one look-up.
    """

    grants: frozenset[Grant] = frozenset()
    roles: frozenset[str] = field(init=False, eq=False, repr=False)
    context_parts: frozenset[str] = field(init=False, eq=False, repr=False)
    _topics: dict[tuple[str, str], frozenset[str]] = field(init=False, eq=False, repr=False)
    _event_plugins: frozenset[str] = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        topics: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        for grant in self.grants:
            topics[grant.kind, grant.topic].add(grant.target)
        set_ = object.__setattr__  # the way that attrs has for derived fields of a frozen class
        set_(self, "_topics", {key: frozenset(targets) for key, targets in topics.items()})
        set_(self, "roles", frozenset(role for role in ROLES if ("add_message", role) in topics))
        set_(self, "context_parts", frozenset(topic for kind, topic in topics if kind == "get_context"))
        of_plugins = (topic for kind, topic in topics if kind == "events" and topic.endswith(":*"))
        set_(self, "_event_plugins", frozenset(topic[:-2] for topic in of_plugins))

    @classmethod
    def of(cls, grants: Iterable[Grant | str]) -> GrantSet:
        """Build a set from grants or their texts. Raises ConfigError for the first text that is not one."""
        return cls(frozenset(Grant.parse(grant) if isinstance(grant, str) else grant for grant in grants))

    @classmethod
    def everything(cls) -> GrantSet:
        """Return all there is, for a host author who vouches for a plugin of their own."""
        topics = {"add_message": ADD_MESSAGE, "get_context": CONTEXT_PARTS, "gate": (*GATES, "waive")}
        topics |= {"transform": TRANSFORMS, "request_action": (ANY,), "events": (ANY,)}
        flags = [Grant(kind) for kind in ("emit_event", "tools", "actions", "tasks", "ask")]
        flags.append(Grant("gate", "answer", SENTENCE))  # which it has beside the stricter one, and that holds
        return cls(frozenset([*flags, *(Grant(kind, topic) for kind, all_ in topics.items() for topic in all_)]))

    @property
    def is_everything(self) -> bool:
        """Whether this is all there is: a host author's trust, which names no gate or transform in particular."""
        return GrantSet.everything().grants <= self.grants

    def __bool__(self) -> bool:
        return bool(self.grants)

    def texts(self) -> tuple[str, ...]:
        """Return the grants as everybody writes them, sorted."""
        return tuple(sorted(grant.text for grant in self.grants))

    def covers(self, grant: Grant | str) -> bool:
        """Return whether a grant, or one that covers it, is in the set. Raises ConfigError for a text that is none."""
        wanted = Grant.parse(grant) if isinstance(grant, str) else grant
        return wanted in self.grants or any(own.covers(wanted) for own in self.grants)

    def intersection(self, other: GrantSet) -> GrantSet:
        """Return what both sets allow: of two grants that overlap, the narrower one."""
        # Both ways: of `gate:tool_call` and `gate:tool_call:bash` either set may have the narrower.
        mine = (own for own in self.grants if other.covers(own))
        theirs = (each for each in other.grants if self.covers(each))
        return GrantSet(frozenset([*mine, *theirs]))

    def difference(self, other: GrantSet) -> tuple[Grant, ...]:
        """Return, sorted by text, those grants of this set that the other one does not cover."""
        missing = (grant for grant in self.grants if not other.covers(grant))
        return tuple(sorted(missing, key=lambda grant: grant.text))

    def may(self, kind: str) -> bool:
        """Return whether a permission without narrower forms is granted: emit_event, tools, actions, tasks or ask."""
        return (kind, "") in self._topics

    def may_add_message(self, role: str) -> bool:
        """Return whether the plugin may add messages of this role."""
        return role in self.roles

    def may_trigger_turn(self) -> bool:
        """Return whether its messages may wake an idle agent."""
        return ("add_message", "trigger_turn") in self._topics

    def may_emit_event(self) -> bool:
        """Return whether it may emit events under its own name."""
        return ("emit_event", "") in self._topics

    def may_request_action(self, name: str) -> bool:
        """Return whether it may ask the host, or another plugin, to carry out this action."""
        return ("request_action", name) in self._topics or ("request_action", ANY) in self._topics

    def may_waive(self) -> bool:
        """Return whether its `Allow` may stand in for the host's own question to the person."""
        return ("gate", "waive") in self._topics

    def gates(self, topic: str, tool: str | None = None) -> bool:
        """Return whether it gates this topic; without `tool`, whether it does so for any tool at all."""
        return self._has("gate", topic, tool)

    @property
    def gates_sentences(self) -> bool:
        """Whether its gate of answers is asked at the end of each sentence, while what it allowed is shown."""
        return self._topics.get(("gate", "answer")) == frozenset({SENTENCE})

    def transforms(self, topic: str, tool: str | None = None) -> bool:
        """Return whether it transforms this topic; without `tool`, whether it does so for any tool at all."""
        return self._has("transform", topic, tool)

    def _has(self, kind: str, topic: str, tool: str | None) -> bool:
        targets = self._topics.get((kind, topic))
        return targets is not None and (tool is None or _EVERY_TOOL in targets or tool in targets)

    def receives(self, event_type: str) -> bool:
        """Return whether it may see events of this type (`TYPE` or `plugin:type`)."""
        topics = self._topics
        if ("events", event_type) in topics or ("events", ANY) in topics:
            return True
        return bool(self._event_plugins) and event_type.partition(":")[0] in self._event_plugins
