"""Running hosts, as commands see them: told of a change, asked for their state, and what became of it in words.

How a host is reached is `control.client`'s business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click
from attrs import frozen

from ally_plugins.host.control.client import HostAnswer, call_all, hosts_of

from .exits import DONE, REFUSED
from .text import echo, inert, when

if TYPE_CHECKING:
    from ally_plugins.catalog.home.folder import Home

__all__ = ["Effect", "LivePlugin", "Look", "look", "offers_of", "tell_hosts", "warn_of_silent"]

PATIENCE: Final = 2.0
"""Seconds to wait for the word of all hosts on a change; a host that is well says it within one."""

GLANCE: Final = 0.3
"""Seconds to wait for the state of all hosts, which is nice to have in a list; they say it within milliseconds."""


@frozen
class Effect:
    """What became of a change in the hosts that run."""

    answers: Sequence[HostAnswer]

    def lines(self) -> list[str]:
        """Return it in words: where the change is in effect, and each host where it is not."""
        if not self.answers:
            return ["it takes effect at the next start: no host runs"]
        results = [answer.result for answer in self.answers if answer.result is not None]
        done = sum(bool(result.get("in_effect") and result.get("state")) for result in results)
        troubles = [line for answer in self.answers for line in _trouble(answer)]
        if done:
            return [f"in effect in {done} running host{'s' if done > 1 else ''}", *troubles]
        return troubles or ["no running host has it"]

    def data(self) -> list[dict[str, Any]]:
        """Return it as JSON values, one for each host."""
        return [{"pid": each.host.pid, "answered": not each.is_silent, "error": each.error, **(each.result or {})}
                for each in self.answers]  # fmt: skip

    def exit(self) -> None:
        """End the command; with 1 when a host may still go on as before."""
        is_certain = not any(answer.error for answer in self.answers)
        click.get_current_context().exit(DONE if is_certain else REFUSED)


def _trouble(answer: HostAnswer) -> list[str]:
    host, result = f"host {answer.host.pid}", answer.result
    if answer.is_silent:
        return [f"{host} does not answer, and may go on as before until it does, or until it is ended"]
    if result is None:
        return [f"{host} could not do it: {inert(answer.error)}"]
    state, reason = inert(result.get("state", "")), inert(result.get("reason", ""))
    if result.get("did") == "pending":
        return [f"{host} is at it; there it is {state or 'starting'} now"]
    if not result.get("in_effect"):
        return [f"not in {host}: {reason}"]
    return [f"in {host} it is {state}: {reason}"] if state in _BAD else []


_BAD: Final = frozenset({"failed", "quarantined", "waiting", "backoff"})


def tell_hosts(home: Home, method: str, plugin: str, timeout: float = PATIENCE) -> Effect:
    """Ask every running host for something about a plugin; `timeout` is in seconds. Raises nothing."""
    hosts = hosts_of(home)
    name = plugin.rpartition(":")[2]  # `folder:NAME` says which one of the registry's is meant; a host has one
    return Effect(call_all(hosts, method, {"plugin": name}, timeout) if hosts else [])


@frozen
class LivePlugin:
    """One plugin in one host, as that host says."""

    pid: int
    app: str
    facts: Mapping[str, Any]

    @property
    def state(self) -> str:
        """The state of the plugin there."""
        return str(self.facts.get("state", ""))


@frozen
class Look:
    """What the running hosts say of themselves; `silent` are the processes of those that said nothing in time."""

    hosts: Sequence[Mapping[str, Any]] = ()
    silent: Sequence[int] = ()

    def plugin(self, name: str) -> list[LivePlugin]:
        """Return a plugin as each host has it."""
        return [
            LivePlugin(host.get("pid", 0), host.get("app", ""), facts)
            for host in self.hosts
            for facts in host.get("plugins", ())
            if facts.get("name") == name
        ]

    def words(self, name: str) -> tuple[str, str]:
        """Return a plugin's live state in a few words, and why it is not running where it is not; "" for neither."""
        found = self.plugin(name)
        counts = Counter(inert(each.state) for each in found)
        is_one = len(self.hosts) == 1
        state = ", ".join(each if is_one else f"{each} in {count}" for each, count in counts.items())
        return state, "; ".join(_reasons(found))

    def lines(self, name: str) -> list[str]:
        """Return a plugin's state in each host as a line, and the hosts that did not answer."""
        said = [f"host {each.pid} ({inert(each.app)}): {_told(each)}" for each in self.plugin(name)]
        return [*said, *(f"host {pid} does not answer" for pid in self.silent)]

    def data(self, name: str) -> list[dict[str, Any]]:
        """Return a plugin as each host has it, as JSON values."""
        return [{"pid": each.pid, "app": each.app, **each.facts} for each in self.plugin(name)]


def _told(each: LivePlugin) -> str:
    facts = each.facts
    counts = ", ".join(f"{facts[key]} {key}" for key in _COUNTS if facts.get(key))
    reason = f": {inert(facts['reason'])}" if facts.get("reason") else ""
    return f"{inert(each.state)} since {when(facts.get('since'))}{reason}{f'; {counts}' if counts else ''}"


_COUNTS: Final = ("delivered", "dropped", "crashes", "restarts")


def _reasons(found: Iterable[LivePlugin]) -> list[str]:
    return [f"in host {each.pid}: {inert(each.facts['reason'])}" for each in found if each.facts.get("reason")]


def look(home: Home, timeout: float = GLANCE) -> Look:
    """Ask every running host for its state; `timeout` is in seconds. Raises nothing."""
    hosts = hosts_of(home)
    answers = call_all(hosts, "status", None, timeout) if hosts else []
    said = [answer.result for answer in answers if answer.result is not None]
    return Look(said, [answer.host.pid for answer in answers if answer.is_silent])


def offers_of(home: Home, plugin: str) -> list[dict[str, Any]]:
    """Return what a plugin offers in the running hosts: tools and actions, each once. Raises nothing."""
    hosts = hosts_of(home)
    answers = call_all(hosts, "offers", {"plugin": plugin}, GLANCE) if hosts else []
    found = [offer for each in answers if each.result is not None for offer in each.result.get("offers", ())]
    return list({(offer.get("kind"), offer.get("name")): offer for offer in found}.values())


def warn_of_silent(found: Look) -> None:
    """Name the hosts that did not answer."""
    for pid in found.silent:
        echo(f"host {pid} does not answer", to_stderr=True)
