"""How a running host is, for the probes of a service: what refuses everything now, and what is about to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs
from attrs import frozen

from ally_plugins.contract.hookspecs import HOOKS
from ally_plugins.policy.restart import CRASH_LIMIT
from ally_plugins.runtime.lanes.plugin import RunState
from ally_plugins.runtime.lanes.ring import CAPACITY

if TYPE_CHECKING:
    from ally_plugins.journal.journal import Journal
    from ally_plugins.runtime.lanes.plugin import Plugin

    from .bus.services import HostServices

__all__ = ["Health", "PluginHealth", "health_of"]

Status = Literal["ok", "degraded", "failing"]

_OUT_OF_ORDER: Final = frozenset({RunState.BACKOFF, RunState.FAILED, RunState.QUARANTINED, RunState.WAITING})


@frozen(kw_only=True)
class PluginHealth:
    """How one plugin is. `refuses` are the topics of its gates and transforms that refuse everything now.

    `crashes` are those of the last minute; with the fifth it is put into quarantine. `behind` is how many events it has
    yet to receive of one session, the most of all, `dropped` how many it lost since the host's start.
    """

    name: str
    state: str
    reason: str = ""
    is_mandatory: bool = False
    refuses: tuple[str, ...] = ()
    crashes: int = 0
    behind: int = 0
    dropped: int = 0


@frozen(kw_only=True)
class Health:
    """How a host is, with its problems in words, the worst first.

    `failing`: something is refused that nobody decided about: the host does not run, the journal takes no records,
    or an enforced gate or a blocking transform cannot be asked. `degraded`: it works, and soon may not: a plugin is out
    of order, has crashed within the last minute, or falls behind. `sessions` is how many are open.
    """

    status: Status
    problems: tuple[str, ...] = ()
    plugins: tuple[PluginHealth, ...] = ()
    sessions: int = 0

    @property
    def is_ok(self) -> bool:
        """Whether nothing is refused for want of a decision; true while it is merely degraded."""
        return self.status != "failing"

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return attrs.asdict(self)


def health_of(services: HostServices, plugins: Iterable[Plugin]) -> Health:
    """Return how a host is at this moment; reads what the host knows, and waits for nothing."""
    # What the operator has disabled refuses nothing and is missed by nobody.
    plugins = [plugin for plugin in plugins if not plugin.is_disabled]
    if services.loop is None or services.records.journal is None:
        return Health(status="failing", problems=("the host does not run",))
    if services.is_elsewhere:
        return Health(status="failing", problems=("the host runs in the process of which this one is a fork",))
    states = tuple(_plugin_health(services, plugin) for plugin in plugins)
    failing = [*_journal_problems(services.journal), *(text for each in states for text in _refusals(each))]
    degraded = [text for each in states for text in _warnings(each)]
    status: Status = "failing" if failing else "degraded" if degraded else "ok"
    return Health(status=status, problems=(*failing, *degraded), plugins=states, sessions=len(services.sessions))


def _journal_problems(journal: Journal) -> Iterator[str]:
    if journal.reason is not None:
        yield f"the journal takes no records, so that whatever needs one is refused: {journal.reason}"


def _plugin_health(services: HostServices, plugin: Plugin) -> PluginHealth:
    lane = plugin.lane
    behind = (
        session.ring.head - position
        for session in services.sessions.values()
        if lane is not None and (position := lane.position(session.id)) is not None
    )
    return PluginHealth(
        name=plugin.name,
        state=plugin.state.value,
        reason=plugin.reason,
        is_mandatory=plugin.options.mandatory,
        refuses=tuple(_refused_topics(services, plugin)),
        crashes=plugin.crashes.recent(plugin.now()),
        behind=max(behind, default=0),
        dropped=lane.dropped if lane is not None else 0,
    )


def _refused_topics(services: HostServices, plugin: Plugin) -> Iterator[str]:
    for hook in services.dispatcher.unavailable(plugin.name):
        info = HOOKS[hook]
        on_error = plugin.options.gate_on_error if info.kind == "gate" else plugin.options.transform_on_error
        topic = info.topic or ""
        if on_error in {"deny", "block"} and not plugin.is_shadowed(hook, topic):
            yield topic


def _refusals(plugin: PluginHealth) -> Iterator[str]:
    if plugin.refuses:
        yield f"{plugin.name} is {plugin.state}, so that {', '.join(plugin.refuses)} is refused: {plugin.reason}"
    elif plugin.is_mandatory and plugin.state != RunState.RUNNING:
        yield f"the mandatory plugin {plugin.name} is {plugin.state}: {plugin.reason}"


def _warnings(plugin: PluginHealth) -> Iterator[str]:
    if plugin.state in _OUT_OF_ORDER and not plugin.refuses and not plugin.is_mandatory:
        yield f"{plugin.name} is {plugin.state}: {plugin.reason}"
    if plugin.crashes and plugin.state == RunState.RUNNING:
        yield f"{plugin.name} has crashed {plugin.crashes} times within a minute; with {CRASH_LIMIT} it is out"
    if plugin.behind >= CAPACITY // 4:  # as many as are let go at once when the session keeps no more
        yield f"{plugin.name} is {plugin.behind} events behind in one session; beyond {CAPACITY} it loses the oldest"
