"""`hosts`: which hosts run on this home, and the states of their plugins."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from ally_plugins.cli.shell.running_hosts import ANSWER_TIMEOUT, hosts_status, project_lines
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, inert, print_json, table, when

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ally_plugins.cli.shell.state import State

__all__ = ["hosts"]


@command("hosts")
def hosts(state: State) -> None:
    """Show the hosts that run on this home: process, app, since when, open sessions, plugins by state.

    Of a plugin that has a process for each project there is a line for each. A host that does not answer is named, and
    is left alone; what dead hosts have left is removed.

    \b
    Example:
      ally-plugins hosts
    """
    # Longer than for `list`, where hosts are an addition: here a busy host should not pass for a silent one.
    found = hosts_status(state.home, ANSWER_TIMEOUT)
    if state.as_json:
        print_json({"hosts": found.hosts, "silent": found.silent})
        return
    rows = [*map(_row, found.hosts), *((str(pid), "-", "-", "-", "it does not answer") for pid in found.silent)]
    for line in table(("process", "app", "started", "sessions", "plugins"), rows) or ["no host runs"]:
        echo(line)
    for host in found.hosts:
        for plugin in host.get("plugins", ()):
            for line in project_lines(plugin):
                echo(f"{inert(plugin.get('name', ''))} in host {host.get('pid')} {line}")


def _row(host: Mapping[str, Any]) -> tuple[str, ...]:
    counts = Counter(inert(plugin.get("state", "")) for plugin in host.get("plugins", ()))
    plugins = ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
    started, sessions = when(host.get("started")), str(host.get("sessions", "-"))
    return (str(host.get("pid")), inert(host.get("app", "")), started, inert(sessions),
            "it is starting" if host.get("is_starting") else plugins)  # fmt: skip
