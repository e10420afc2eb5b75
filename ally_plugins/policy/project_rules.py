"""What a trusted project narrows in the sessions about it: which plugins take part, with which grants, in what time.

Nothing here can loosen: what a plugin guards with stays, and a shorter deadline holds only where being late denies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from attrs import Factory, field, frozen

from ally_plugins.contract.granted_paths import is_within
from ally_plugins.contract.values.frozen import FrozenDict

from .permissions import GrantSet

__all__ = ["ANY_SESSION", "NARROWED", "NO_RULES", "ProjectRules", "SessionRules"]

NARROWED: Final = frozenset(
    {"add_message", "emit_event", "get_context", "request_action", "tools", "actions", "tasks", "ask", "files"}
)
"""Kinds of grants that a project narrows: each is asked for in a session, or holds for a process of the project."""


@frozen(kw_only=True)
class ProjectRules:
    """What one trusted folder says of the sessions about it or a folder below it."""

    folder: str
    mandatory: tuple[str, ...] = ()
    """Plugins that have to run there: no session opens without them, and no call of the agent's runs."""
    denied_tools: tuple[str, ...] = ()
    """Tools of the agent, by its own name or the common one, that are denied there."""
    left_out: frozenset[str] = frozenset()
    """Plugins that take no part there, where they guard nothing."""
    ceilings: Mapping[str, GrantSet] = FrozenDict()
    """By plugin the most that it may do there, of the kinds that are narrowed."""
    deadlines: Mapping[str, Mapping[str, float]] = FrozenDict()
    """By plugin, seconds for a gate or transform, by hook or kind."""


@frozen
class SessionRules:
    """All that holds in one session: the rules of each trusted folder that is its project, or around it."""

    project: str | None = None
    rules: tuple[ProjectRules, ...] = ()
    mandatory: frozenset[str] = field(
        init=False, default=Factory(lambda self: frozenset(_each(self.rules, "mandatory")), takes_self=True)
    )
    left_out: frozenset[str] = field(
        init=False, default=Factory(lambda self: frozenset(_each(self.rules, "left_out")), takes_self=True)
    )
    decides_calls: bool = field(init=False, default=Factory(lambda self: _may_deny(self.rules), takes_self=True))
    """Whether calls of the agent's may be denied by them; looked at for each."""

    def is_about(self, folder: str) -> bool:
        """Say whether the session is about a folder, or one below it."""
        return self is ANY_SESSION or (self.project is not None and is_within(self.project, folder))

    def has(self, folder: str | None, plugin: str, *, guards: bool) -> bool:
        """Say whether a plugin takes part: one that a project has added only there, and no guard is left out."""
        return (folder is None or self.is_about(folder)) and (guards or plugin not in self.left_out)

    def grants(self, plugin: str, granted: GrantSet) -> GrantSet:
        """Return what a plugin may do of what it was granted."""
        for rules in self.rules:
            ceiling = rules.ceilings.get(plugin)
            if ceiling is not None:
                kept = frozenset(each for each in granted.grants if each.kind not in NARROWED)
                granted = GrantSet(kept | granted.intersection(ceiling).grants)
        return granted

    def narrows(self, plugin: str) -> bool:
        """Say whether any of them says what a plugin may do at most; costs next to nothing where none is there."""
        return any(plugin in rules.ceilings for rules in self.rules)

    def deadline(self, plugin: str, hook: str, kind: str, usual: float) -> float:
        """Return the seconds of a gate or transform: the least of the usual ones and theirs."""
        found = [rules.deadlines.get(plugin, {}) for rules in self.rules]
        return min([usual, *(each[key] for each in found for key in (hook, kind) if key in each)])

    def why_denied(self, tool: str, common: str | None) -> str | None:
        """Return why no call of this tool may run, None where they do not say so."""
        for rules in self.rules:
            if tool in rules.denied_tools or common in rules.denied_tools:
                return f"{rules.folder}/.ally denies the tool {tool!r}; to see what holds here: ally-plugins project"
        return None

    def whose_mandatory(self, plugin: str) -> str:
        """Return the folder that makes a plugin mandatory."""
        return next(rules.folder for rules in self.rules if plugin in rules.mandatory)


def _may_deny(rules: tuple[ProjectRules, ...]) -> bool:
    return any(each.denied_tools or each.mandatory for each in rules)


def _each(rules: Iterable[ProjectRules], name: str) -> Iterable[str]:
    return (value for each in rules for value in getattr(each, name))


NO_RULES: Final = SessionRules()
ANY_SESSION: Final = SessionRules("")
"""In the place of a session's, where it is asked whether there may be one: every plugin takes part."""
