"""What a person at a terminal decides over the plugins' heads: one denied call, once, or an agent's gates for a time.

Kept in memory alone, so that no file can be written in the person's place: both end with the host. Who may decide is
the control socket's to say, and what is decided is recorded there first.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import define, field, frozen

from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.errors import NotFoundRefused

__all__ = ["ALLOWED_SECONDS", "HOSTS_OWN", "LONGEST_PAUSE", "PERSON", "DeniedCall", "Overrides", "SessionOverrides"]

ALLOWED_SECONDS: Final = 600.0
"""How long a call that was allowed may be made; the agent has to be told, and to try again."""

LONGEST_PAUSE: Final = 8 * 3600.0
"""Seconds; a working day. Who wants no gate for longer disables it, which stays to be seen."""

PERSON: Final = "the person"
"""In a decision, who has decided that is no plugin; no plugin's name has a space in it."""

_ASKED_NEXT: Final = 5.0
"""Seconds from a call's being let run to the agent's own question about it."""

_KEPT: Final = 1024
"""Denied calls that can still be allowed; an agent that was denied tries a few."""

HOSTS_OWN: Final = "host"
"""The question of the host's own gate, which comes before that of plugins'."""

_TOPICS: Final = frozenset({HOSTS_OWN, "tool_call", "permission"})
"""Of one call it may be asked so often: by the host itself, by plugins, and before the agent asks its own question."""


@frozen
class DeniedCall:
    """One call that was denied: exactly that is what can be allowed."""

    decision_id: str
    agent: str
    session_id: str
    tool_name: str
    digest: str
    """Of tool, arguments and the session's project."""


@define(eq=False)
class Overrides:
    """Those of one host. `steady` gives seconds of a clock that only goes on."""

    steady: Callable[[], float]
    _denied: OrderedDict[str, DeniedCall] = field(init=False, factory=OrderedDict)
    _allowed: dict[str, tuple[float, str, set[str]]] = field(init=False, factory=dict)
    """By digest: until when, the denial, and the questions that it answers still."""
    _paused: dict[str, float] = field(init=False, factory=dict)

    def deny(self, call: DeniedCall) -> None:
        """Keep a denied call, so that it can be allowed."""
        self._denied[call.decision_id] = call
        if len(self._denied) > _KEPT:
            self._denied.popitem(last=False)

    def is_known(self, decision_id: str | None) -> bool:
        """Say whether a denied call can be allowed."""
        return decision_id in self._denied

    def find(self, decision_id: str) -> DeniedCall:
        """Return a denied call. Raises NotFoundRefused."""
        found = self._denied.get(decision_id)
        if found is None:
            raise NotFoundRefused(
                f"there is no denied call {decision_id!r:.80} in this host; have the agent try it again"
            )
        return found

    def allow(self, call: DeniedCall) -> None:
        """Let a call run that was denied: once, within `ALLOWED_SECONDS`."""
        self._denied.pop(call.decision_id, None)
        self._allowed[call.digest] = (self.steady() + ALLOWED_SECONDS, call.decision_id, set(_TOPICS))

    def take(self, digest: str, topic: str) -> str | None:
        """Return the denial of a call that may run now, which uses it up; None for one that was not allowed."""
        now = self.steady()
        self._allowed = {key: each for key, each in self._allowed.items() if each[0] > now}
        found = self._allowed.get(digest)
        if found is None or topic not in found[2]:
            return None
        found[2].discard(topic)
        # Before it runs, what is asked about it first is answered too; after that nothing is left of it.
        if topic == "tool_call":
            self._allowed[digest] = (min(found[0], now + _ASKED_NEXT), *found[1:])
        return found[1]

    def pause(self, agent: str, seconds: float) -> None:
        """Have the gates of an agent's calls decide nothing for so long; with 0 they decide again."""
        self._paused[agent] = self.steady() + min(seconds, LONGEST_PAUSE)

    def is_paused(self, agent: str) -> bool:
        """Say whether an agent's gates decide nothing now."""
        return self.steady() < self._paused.get(agent, 0.0)

    def of(self, agent: str, session_id: str, project: str | None) -> SessionOverrides:
        """Return those of one conversation."""
        return SessionOverrides(self, agent, session_id, project)


@frozen
class SessionOverrides:
    """What a person has decided, for the gates of one conversation of an agent."""

    overrides: Overrides
    agent: str
    session_id: str
    project: str | None

    def why_allowed(
        self, topic: str, tool_name: str, arguments: Mapping[str, Any], decision_id: str | None, reason: str
    ) -> str | None:
        """Return why a call runs that was denied for a reason; None where it does not, and is kept to be allowed.

        A pause leaves the host's own gate as it is: it keeps the agent from what ends no pause.
        """
        if topic not in _TOPICS:
            return None
        said = encode({"tool": tool_name, "arguments": arguments, "project": self.project})
        digest = hashlib.sha256(said).hexdigest()
        if (denial := self.overrides.take(digest, topic)) is not None:
            return f"allowed once by the person, who was asked about {denial}"
        if topic != HOSTS_OWN and self.overrides.is_paused(self.agent):
            return f"the person has paused the gates of {self.agent}; denied else: {reason}"
        if decision_id is not None:
            self.overrides.deny(DeniedCall(decision_id, self.agent, self.session_id, tool_name, digest))
        return None
