"""`list`: every plugin on a line of its own, with its state and the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from ally_plugins.cli.shell.processes import placed, sandbox_gaps, trust, unheld
from ally_plugins.cli.shell.projects import project_state
from ally_plugins.cli.shell.requests import unheld_line
from ally_plugins.cli.shell.running_hosts import HostsStatus, hosts_status, project_lines, warn_of_silent_hosts
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, inert, paint, print_json, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.cli.shell.state import State

__all__ = ["list_", "paint_state"]

_FEW: Final = 3  # rows of new plugins that nobody minds
_COLOURS: Final = {
    **dict.fromkeys(("enabled", "running"), "green"),
    **dict.fromkeys(("disabled", "left out", "stopped", "-"), "bright_black"),
    **dict.fromkeys(("broken", "not installed", "quarantined", "failed to start", "failed"), "red"),
}
"""All other states are yellow: they wait for the operator, or for another try."""


@command("list")
@click.option("--all", "-a", "is_all", is_flag=True, help="A row for each plugin that is new, too.")
def list_(state: State, is_all: bool) -> None:  # noqa: FBT001 - click's way
    """Show every plugin that is installed or enabled: its state, and the reason with the command that changes it.

    Where hosts run, the second state is the one that it is in there now. More than three that are new, and do nothing
    until you agree, stand in one line below the table.

    \b
    Example:
      ally-plugins list
    """
    registry = state.registry
    records = registry.load()
    live = hosts_status(state.home)
    if state.as_json:
        plugins = [_data(record) | {"live": live.data(_live_name(record))} for record in records]
        print_json({"plugins": plugins, "problems": registry.problems, "silent_hosts": live.silent})
        return
    warn_of_silent_hosts(live)
    headings = ("plugin", "state", *(("now",) if live.hosts else ()), "placement", "from", "about")
    new = [] if is_all else [record for record in records if _is_new(record)]
    folded = new if len(new) > _FEW else []
    rows = [_row(record, live) for record in records if record not in folded]
    nothing = [] if folded else ["no plugin is installed; to get one: ally-plugins install NAME"]
    for line in table(headings, rows) or nothing:
        echo(line)
    if folded:
        names = inert(", ".join(record.label for record in folded))
        echo(f"{len(folded)} are new, and do nothing until you agree: {names}; to look at them: ally-plugins review")
    for line in [line for record in records for line in (*_projects(record, live), *_remarks(record))]:
        echo(line)
    for line in project_state(state.home, ".").lines():
        echo(f"project: {line}")
    for problem in registry.problems:
        echo(f"problem: {inert(problem)}")
    for line in _trust(records):
        echo(paint(line, dim=True))


def _is_new(record: PluginRecord) -> bool:
    """Return whether a plugin waits for a first consent. One that is wanted is missed, and stands by itself."""
    return record.state == "waiting for consent" and not record.config.enabled


def _projects(record: PluginRecord, live: HostsStatus) -> list[str]:
    lines = [line for each in live.plugin(_live_name(record)) for line in project_lines(each.facts)]
    return [f"{inert(record.label)} {line}" for line in lines]


def _remarks(record: PluginRecord) -> list[str]:
    lines = [f"warning: {inert(record.label)}: {inert(warning)}" for warning in record.warnings]
    note = unheld_line(record, record.granted) if record.is_enabled else ""
    return [*lines, f"note: {inert(record.label)}: {note}"] if note else lines


def _trust(records: Sequence[PluginRecord]) -> list[str]:
    """Return a line for each placement in use, and each way in it: what it protects from and what not."""
    return sorted({f"{placed(record)}: such a plugin {trust(record)}" for record in records if record.is_enabled})


def _row(record: PluginRecord, live: HostsStatus) -> tuple[str, ...]:
    state, why = live.summary(_live_name(record))
    now = (paint_state(state or "-"),) if live.hosts else ()
    return (inert(record.label), paint_state(_state(record)), *now, placed(record), inert(record.source),
            why or _reason(record))  # fmt: skip


def _live_name(record: PluginRecord) -> str:
    """Return a plugin's name in hosts; empty for one that is set aside, which no host loads."""
    return "" if record.is_set_aside else record.name


def paint_state(state: str) -> str:
    """Return a plugin's state in its colour."""
    return paint(state, fg=_COLOURS.get(state, "yellow"))


def _state(record: PluginRecord) -> str:
    return "failed to start" if record.failure else record.state


def _reason(record: PluginRecord) -> str:
    of_project = f"in {inert(record.project)} only; " if record.project is not None else ""
    shadowed = "shadow mode; " if record.is_enabled and record.config.shadow else ""
    return of_project + shadowed + inert(record.reason or record.manifest.description)


def _data(record: PluginRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "state": record.state,
        "reason": record.reason,
        "failure": record.failure,
        "description": record.manifest.description,
        "distribution": record.distribution,
        "version": record.version,
        "entry_point": record.entry_point,
        "label": record.label,
        "project": record.project,
        "source": record.source,
        "found_by": record.found_by,
        "placement": record.placement,
        "command": record.daemon.command if record.daemon is not None else None,
        "grants": record.granted.texts() if record.is_enabled else [],
        "not_kept": sandbox_gaps() if record.placement == "sandbox" else (),
        "unheld": unheld(record) if record.is_enabled else (),
        "pending": [request.grant.text for request in record.pending],
        "shadow": record.config.shadow,
        "mandatory": record.config.mandatory,
        "changed_code": record.has_changed_code,
        "warnings": record.warnings,
    }
