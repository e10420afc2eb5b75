"""The order of plugins: a pure function of what is installed, the same on every machine and in every run.

`before` and `after` of the manifests are hard edges and always win. What they leave open falls by mandatory, then
`tryfirst` / `trylast`, then name. The order in which plugins were found never matters.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Literal, TypeAlias

from attrs import field, frozen

from ally_plugins.contract.values.errors import OrderError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Orderable", "Placement", "find_missing", "order", "order_for_hook"]

Placement: TypeAlias = Literal["first", "last"] | None
"""What an implementation asks for: `tryfirst`, `trylast`, or nothing."""

_Edges: TypeAlias = dict[str, set[str]]
_Rank: TypeAlias = tuple[bool, int, str]


def _as_names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(names)


@frozen
class Orderable:
    """What the order depends on: a plugin's name, its edges, and whether the operator made it mandatory."""

    name: str
    before: tuple[str, ...] = field(default=(), converter=_as_names)
    after: tuple[str, ...] = field(default=(), converter=_as_names)
    mandatory: bool = False


def order(plugins: Iterable[Orderable]) -> tuple[str, ...]:
    """Return the names in order: mandatory plugins first, then by name, as far as the edges allow.

    Edges to plugins that are not there are ignored (`find_missing` names them). Raises OrderError, which names the
    members of the shortest cycle in order, and ValueError when two plugins have one name.
    """
    by_name = _index(plugins)
    return _sort(_find_edges(by_name), {name: _rank(plugin, None) for name, plugin in by_name.items()})


def order_for_hook(
    plugins: Iterable[Orderable], placement: Mapping[str, Placement], *, mandatory_last: bool = False
) -> tuple[str, ...]:
    """Return the names in `placement`, which are the plugins that implement one hook, in the order of their calls.

    `plugins` are all that are installed: edges hold through plugins that do not implement the hook. `mandatory_last` is
    for transforms, where the mandatory plugin has the last word. Raises as `order` does, and KeyError for a name in
    `placement` that is not among the plugins.
    """
    by_name = _index(plugins)
    edges = _find_edges(by_name)
    _sort(edges, {name: _rank(plugin, None) for name, plugin in by_name.items()})  # a cycle anywhere is an error
    within = {name: _find_next(edges, name, placement) for name in placement}
    return _sort(within, {name: _rank(by_name[name], p, mandatory_last) for name, p in placement.items()})


def find_missing(plugins: Iterable[Orderable]) -> tuple[str, ...]:
    """Return a line for each edge to a plugin that is not installed; such an edge has no effect."""
    by_name = _index(plugins)
    return tuple(
        f"{name!r} is to come {word} {other!r}, which is not installed"
        for name, plugin in sorted(by_name.items())
        for word, others in (("before", plugin.before), ("after", plugin.after))
        for other in sorted(set(others) - by_name.keys())
    )


def _index(plugins: Iterable[Orderable]) -> dict[str, Orderable]:
    by_name: dict[str, Orderable] = {}
    for plugin in plugins:
        if plugin.name in by_name:
            raise ValueError(f"two plugins are called {plugin.name!r}; expected each name once")
        by_name[plugin.name] = plugin
    return by_name


def _find_edges(by_name: Mapping[str, Orderable]) -> _Edges:
    """Return for each plugin those that come after it."""
    edges: _Edges = {name: by_name.keys() & set(plugin.before) for name, plugin in by_name.items()}
    for name, plugin in by_name.items():
        for earlier in by_name.keys() & set(plugin.after):
            edges[earlier].add(name)
    return edges


def _find_next(edges: _Edges, start: str, members: Mapping[str, object]) -> set[str]:
    """Return the members that come after `start` through plugins that are no members."""
    found: set[str] = set()
    seen = {start}
    waiting = [start]
    while waiting:
        for name in edges[waiting.pop()] - seen:
            seen.add(name)
            (found.add if name in members else waiting.append)(name)
    return found


def _rank(plugin: Orderable, placement: Placement, mandatory_last: bool = False) -> _Rank:  # noqa: FBT001, FBT002
    is_late = plugin.mandatory if mandatory_last else not plugin.mandatory
    return (is_late, {"first": 0, None: 1, "last": 2}[placement], plugin.name)


def _sort(edges: _Edges, ranks: Mapping[str, _Rank]) -> tuple[str, ...]:
    """Sort topologically; of all that could be next, the lowest rank is (Kahn's algorithm with a heap)."""
    # Not graphlib: of those that may come next it gives any, and the order must be one.
    blockers = dict.fromkeys(edges, 0)
    for later in edges.values():
        for name in later:
            blockers[name] += 1
    ready = [ranks[name] for name, count in blockers.items() if not count]
    heapq.heapify(ready)
    result: list[str] = []
    while ready:
        name = heapq.heappop(ready)[-1]
        result.append(name)
        for later_name in edges[name]:
            blockers[later_name] -= 1
            if not blockers[later_name]:
                heapq.heappush(ready, ranks[later_name])
    if len(result) < len(edges):
        raise _report_cycle(_find_shortest_cycle(edges, sorted(edges.keys() - set(result))))
    return tuple(result)


def _find_shortest_cycle(edges: _Edges, candidates: list[str]) -> tuple[str, ...]:
    # In sorted order and keeping only what is strictly shorter, it begins with its smallest member.
    cycles = [cycle for name in candidates if (cycle := _find_way_back(edges, name))]
    return min(cycles, key=len)


def _find_way_back(edges: _Edges, start: str) -> tuple[str, ...]:
    """Return the shortest way from `start` to itself, breadth first, or nothing."""
    seen: set[str] = set()
    level: list[tuple[str, ...]] = [(start,)]
    while level:
        if found := next((path for path in level if start in edges[path[-1]]), None):
            return found
        longer: list[tuple[str, ...]] = []
        for path in level:
            new = sorted(edges[path[-1]] - seen)
            seen.update(new)
            longer += [(*path, name) for name in new]
        level = longer
    return ()


def _report_cycle(cycle: tuple[str, ...]) -> OrderError:
    way = " before ".join(map(repr, (*cycle, cycle[0])))
    text = f"before and after of the manifests form a cycle: {way}; disable one (`ally-plugins disable {cycle[-1]}`)"
    return OrderError(text, cycle=cycle)
