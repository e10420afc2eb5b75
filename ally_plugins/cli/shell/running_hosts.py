"""Running hosts, as commands see them: notified of a change, queried for their state, and the result as text.

How a host is reached is left to `host.control.client`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import click
from attrs import frozen

from ally_plugins.contract.values.ids import bare_name

from .exits import DONE, REFUSED
from .text import echo, inert, when

if TYPE_CHECKING:
    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.host.control.client import HostAnswer  # noqa: TC004 - nobody reads these annotations at run time

__all__ = [
    "RESTART_TIMEOUT",
    "Effect",
    "HostsStatus",
    "LivePlugin",
    "hosts_status",
    "notify_hosts",
    "offers_of",
    "project_lines",
    "warn_of_silent_hosts",
]

ANSWER_TIMEOUT: Final = 2.0
"""Seconds to wait for the answers of all hosts to a change; a healthy host answers within one."""

RESTART_TIMEOUT: Final = 60.0
"""Seconds: the deadlines of `ally_stop` (5) and `ally_start` (30), and a program that starts slowly."""

STATUS_TIMEOUT: Final = 0.3
"""Seconds to wait for the state of all hosts, which a list can do without; they answer within milliseconds."""


@frozen
class Effect:
    """The effect of a change in the running hosts, as they answered."""

    answers: Sequence[HostAnswer]

    def lines(self) -> list[str]:
        """Return it as lines: in how many hosts the change is in effect, and each host where it is not."""
        if not self.answers:
            return ["it takes effect at the next start: no host runs"]
        results = [answer.result for answer in self.answers if answer.result is not None]
        # Without a state the host does not have the plugin: nothing is wrong there, and nothing took effect.
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
        """Exit the command; with 1 when a host may still go on as before. Does not return."""
        # A silent host counts, since its error says so: a grant that was revoked may still be used there.
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
    lines = [f"in {host} it is {state}: {reason}"] if state in _BAD else []
    if parts := result.get("not_taken_up"):
        way_out = f"ally-plugins restart {inert(result.get('plugin', ''))}"
        if result.get("needs_new_host"):
            way_out = "the agent has to start anew, whose code it is part of"
        what = " and ".join(map(inert, parts))
        lines.append(f"in {host} it goes on with the {what} that it was started with: {way_out}")
    return lines


_BAD: Final = frozenset({"failed", "quarantined", "waiting", "backoff"})


def notify_hosts(home: Home, method: str, plugin: str, timeout: float = ANSWER_TIMEOUT) -> Effect:
    """Call a control method with a plugin on every running host and wait for the answers; `timeout` is in seconds.

    Raises nothing: a host that fails or does not answer is in the Effect.
    """
    # Hosts have the chosen plugin of a name only, and do not know the form folder:NAME.
    return Effect(_ask(home, method, {"plugin": bare_name(plugin)}, timeout))


@frozen
class LivePlugin:
    """One plugin in one host, as that host reports it."""

    pid: int
    app: str
    facts: Mapping[str, Any]

    @property
    def state(self) -> str:
        """The state of the plugin there."""
        return str(self.facts.get("state", ""))


@frozen
class HostsStatus:
    """What the running hosts report; `silent` are the process ids of those that did not answer in time."""

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

    def summary(self, name: str) -> tuple[str, str]:
        """Return a plugin's live state, counted over the hosts, and why it is not running; "" where there is none."""
        found = self.plugin(name)
        counts = Counter(inert(each.state) for each in found)
        is_one = len(self.hosts) == 1
        state = ", ".join(each if is_one else f"{each} in {count}" for each, count in counts.items())
        return state, "; ".join(_reasons(found))

    def lines(self, name: str) -> list[str]:
        """Return a plugin's state in each host as a line, and the hosts that did not answer."""
        lines = []
        for each in self.plugin(name):
            lines.append(f"host {each.pid} ({inert(each.app)}): {_live_text(each)}")
            lines += [f"  {line}" for line in project_lines(each.facts)]
        return [*lines, *(f"host {pid} does not answer" for pid in self.silent)]

    def data(self, name: str) -> list[dict[str, Any]]:
        """Return a plugin as each host has it, as JSON values."""
        return [{"pid": each.pid, "app": each.app, **each.facts} for each in self.plugin(name)]


def _live_text(each: LivePlugin) -> str:
    facts = each.facts
    counts = ", ".join(f"{facts[key]} {key}" for key in _COUNTS if facts.get(key))
    reason = f": {inert(facts['reason'])}" if facts.get("reason") else ""
    return f"{inert(each.state)} since {when(facts.get('since'))}{reason}{f'; {counts}' if counts else ''}"


def project_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return, for a plugin that has a process for each project, a line on each; nothing for others."""
    return [_project_text(each) for each in facts.get("projects", ())]


def _project_text(each: Mapping[str, Any]) -> str:
    where = f"in {inert(each['project'])}" if each.get("project") else "for sessions without a project"
    process = f", process {each['pid']}" if each.get("pid") else ""
    sessions = each.get("sessions", 0)
    reason = f": {inert(each['reason'])}" if each.get("reason") else ""
    of = f", {sessions} session{'' if sessions == 1 else 's'}"
    return f"{where}: {inert(each.get('state', ''))}{process}{of}{reason}"


_COUNTS: Final = ("delivered", "dropped", "crashes", "restarts")


def _reasons(found: Iterable[LivePlugin]) -> list[str]:
    return [f"in host {each.pid}: {inert(each.facts['reason'])}" for each in found if each.facts.get("reason")]


def _ask(home: Home, method: str, params: Mapping[str, Any] | None, timeout: float) -> Sequence[HostAnswer]:
    """Return the answers of all hosts that run on a home. Raises nothing."""
    # What talks to hosts takes 25 ms to import, and mostly none runs: each has an entry of this name in `run`.
    with suppress(OSError):
        if not any(name.startswith("host-") for name in os.listdir(home.run_dir)):  # noqa: PTH208 - no paths are made
            return []
    from ally_plugins.host.control.client import call_all, hosts_of

    hosts = hosts_of(home)
    return call_all(hosts, method, params, timeout) if hosts else []


def hosts_status(home: Home, timeout: float = STATUS_TIMEOUT) -> HostsStatus:
    """Return the state of every running host that answers within `timeout` seconds. Raises nothing."""
    answers = _ask(home, "status", None, timeout)
    found = [answer.result for answer in answers if answer.result is not None]
    return HostsStatus(found, [answer.host.pid for answer in answers if answer.is_silent])


def offers_of(home: Home, plugin: str) -> list[dict[str, Any]]:
    """Return what a plugin offers in the running hosts: tools and actions, each once. Raises nothing."""
    answers = _ask(home, "offers", {"plugin": plugin}, STATUS_TIMEOUT)
    found = [offer for each in answers if each.result is not None for offer in each.result.get("offers", ())]
    # By kind too: a tool and an action may have one name.
    return list({(offer.get("kind"), offer.get("name")): offer for offer in found}.values())


def warn_of_silent_hosts(found: HostsStatus) -> None:
    """Print on stderr which hosts did not answer."""
    for pid in found.silent:
        echo(f"host {pid} does not answer", to_stderr=True)
