"""How a plugin runs, as text and as data: placement, command, transport, limits, variables, downloads.

Nothing is omitted and nothing is cut: what the operator reads here is what would be run.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.catalog.home.config import DEFAULT_SOURCES

from .text import inert

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.contract.process_spec import Daemon, ProcessLimits
    from ally_plugins.policy.permissions import GrantSet

__all__ = [
    "INLINE",
    "IN_PROCESS",
    "has_sandbox",
    "in_sandbox",
    "outside_sandbox",
    "placed",
    "process_data",
    "process_rows",
    "sandbox_gaps",
    "trust",
    "unheld",
    "way_out",
]

INLINE: Final = (
    "runs inside your agent's process: grants keep it honest, they do not contain it, and it sees every environment"
    " variable of the agent"
)
IN_PROCESS: Final = (
    "runs in a process of its own: a crash, a hang or a flood stays there, and what it asks of the host passes its"
    " grants; it is no sandbox, and may do to your files and network what you may"
)
_IN_SANDBOX: Final = (
    "runs in a sandbox: a crash, a hang or a flood stays there, and it reads no file but the system's libraries, its"
    " own code and its data folder, writes to that alone, has no network and reaches no other process, but for what you"
    " grant it; it sees whether a file is there and how large it is, and may take processor and disk as any program"
)
_SHARED: Final = (
    "runs at a worker of the fleet, in a sandbox there, for all hosts that share it: what it is shown and its settings"
    " leave this machine, and the worker's machine is trusted with them; what it asks of the host passes its grants"
)
_NOT_KEPT: Final = "not kept on this machine: {}"
_NOT_STARTED: Final = "it does not start so: config.toml says sandbox = 'require'"
_BRIDGED: Final = "its source {!r} brings it into your agent, and does so inside your agent's process"
_MEGA: Final = "MiB"


def trust(record: PluginRecord) -> str:
    """Return what a plugin's placement protects from and what not, as a phrase that follows the word 'it'."""
    if record.placement == "inline":
        return INLINE
    if record.placement == "shared":
        return _SHARED
    text = in_sandbox() if record.placement == "sandbox" else IN_PROCESS
    if record.placement == "sandbox" and record.config.sandbox == "require" and sandbox_gaps():
        text = f"{text}; {_NOT_STARTED}"
    # A bridge of a default source is this package's own code; that of another source is a stranger's, in the agent.
    is_strangers = record.bridge is not None and record.found_by not in DEFAULT_SOURCES
    return f"{text}; {_BRIDGED.format(record.found_by)}" if is_strangers else text


def in_sandbox() -> str:
    """Return what a sandbox on this machine protects from and what not, as a phrase that follows the word 'it'."""
    missing = sandbox_gaps()
    if not missing:
        return _IN_SANDBOX
    # Where there is none at all, nothing of what a sandbox keeps may be said.
    return f"{_IN_SANDBOX}; {_NOT_KEPT.format('; '.join(missing))}" if has_sandbox() else f"{IN_PROCESS}; {missing[0]}"


def way_out(record: PluginRecord) -> str:
    """Return a sentence with the command that takes a plugin out of its sandbox; empty for one that is in none."""
    if record.placement != "sandbox":
        return ""
    is_class = record.found is not None and record.found.is_class
    where, command = ("inside the agent's process", "inline") if is_class else ("in a plain process", "process")
    return f"to run it {where} instead: ally-plugins place {inert(record.name)} {command}"


def placed(record: PluginRecord) -> str:
    """Return where a plugin is placed, in a word or two: a sandbox that is none on this machine is called so."""
    return record.placement if record.placement != "sandbox" or has_sandbox() else "sandbox (none here)"


def unheld(record: PluginRecord, grants: GrantSet | None = None) -> tuple[str, ...]:
    """Return what a plugin is granted beside the host, where nothing on this machine holds it to that.

    `grants` are those that it would get, by default those that it has.
    """
    from attrs import evolve

    granted = record if grants is None else evolve(record, granted=grants)
    if record.placement != "sandbox":
        return granted.unheld
    from ally_plugins.runtime.sandbox.support import support, unguarded

    kinds = unguarded(support())
    outside = evolve(granted, config=evolve(record.config, placement="process"))
    return tuple(text for text in outside.unheld if text.partition(":")[0] in kinds)


def has_sandbox() -> bool:
    """Say whether there is a sandbox on this machine at all."""
    from ally_plugins.runtime.sandbox.support import support

    return support().has_filter


def sandbox_gaps() -> tuple[str, ...]:
    """Return what a sandbox does not keep on this machine, in sentences; empty where it keeps all."""
    from ally_plugins.runtime.processes.separation import has_namespaces
    from ally_plugins.runtime.sandbox.support import gaps, support

    return gaps(support(), has_namespaces)


def outside_sandbox(records: Iterable[PluginRecord]) -> list[str]:
    """Return the enabled plugins that run outside of a sandbox and could run in one; none where there is no sandbox."""
    from attrs import evolve

    from ally_plugins.catalog.decide.placement import Interpreter, place

    if not has_sandbox():
        return []
    return [
        record.label
        for record in records
        if record.is_enabled
        and record.placement != "sandbox"
        and record.found is not None
        and not place(record.name, record.found, evolve(record.config, placement="sandbox"), Interpreter()).problem
    ]


def process_rows(record: PluginRecord, grants: GrantSet | None = None) -> list[tuple[str, str]]:
    """Return what would be run for it, each with its heading; all of it inert.

    `grants` are those that it would get, by default those that it has.
    """
    from attrs import evolve

    daemon = record.daemon
    granted = record if grants is None else evolve(record, granted=grants)
    by_project = ", in a process for each project" if granted.runs_by_project else ""
    rows: list[tuple[str, str]] = [("runs", f"{placed(record)}{by_project}")]
    if daemon is not None:
        rows += [
            ("command", _command(daemon.command)),
            ("in", inert(daemon.cwd) or "(a folder of the host's choice)"),
            ("speaks over", _transport(daemon)),
            ("waits", _timing(daemon)),
        ]
    if record.placement != "inline":
        rows.append(("limits", _limits(record.limits)))
        rows.append(("variables", _variables(record, record.granted if grants is None else grants)))
    bridge = record.bridge
    return [*rows, *((inert(heading), inert(text)) for heading, text in (bridge.rows() if bridge is not None else ()))]


def _command(command: tuple[str, ...]) -> str:
    return inert(shlex.join(command))


def _transport(daemon: Daemon) -> str:
    if daemon.transport == "stdio":
        return "stdio"
    back = "calls the host back" if daemon.talks_back else "does not call the host"
    return f"socket {inert(daemon.socket)}, on which it listens; it {back}"


def _limits(limits: ProcessLimits) -> str:
    limited = [
        (limits.memory_mb, f"memory {limits.memory_mb} {_MEGA}"),
        (limits.cpu_seconds, f"processor {limits.cpu_seconds} s"),
        (limits.file_mb, f"a file {limits.file_mb} {_MEGA}"),
        (limits.descriptors, f"open files {limits.descriptors}"),
    ]
    return ", ".join(text for value, text in limited if value is not None) or "none"


def _timing(daemon: Daemon) -> str:
    timing = daemon.timing
    return (
        f"{timing.startup_timeout:g} s for its start, {timing.shutdown_grace:g} s for its end; a ping every "
        f"{timing.ping_interval:g} s, {timing.ping_timeout:g} s to answer, {timing.ping_retries} missed in a row end it"
    )


def _variables(record: PluginRecord, grants: GrantSet) -> str:
    requested = [request.grant for request in record.manifest.requests if request.grant.kind == "env"]
    if not requested:
        return "the usual ones (PATH, HOME, ...), and no other"
    texts = [f"{inert(each.topic)} ({'passed on' if grants.covers(each) else 'not granted'})" for each in requested]
    return f"the usual ones (PATH, HOME, ...), and {', '.join(texts)}"


def process_data(record: PluginRecord) -> dict[str, Any]:
    """Return the same as data; `daemon` is null for what runs inline."""
    from attrs import asdict

    daemon = record.daemon
    return {
        "placement": record.placement,
        "origin": record.origin,
        "found_by": record.found_by,
        "label": record.label,
        "trust": f"it {trust(record)}",
        "not_kept": sandbox_gaps() if record.placement == "sandbox" else (),
        "variables": record.variables,
        "limits": asdict(record.limits) if record.placement != "inline" else None,
        "daemon": None if daemon is None else _daemon_data(daemon),
        "bridge": None if record.bridge is None else dict(record.bridge.data()),
    }


def _daemon_data(daemon: Daemon) -> dict[str, Any]:
    from attrs import asdict

    return {
        "command": daemon.command,
        "cwd": daemon.cwd or None,
        "transport": daemon.transport,
        "socket": daemon.socket or None,
        "talks_back": daemon.talks_back,
        "limits": asdict(daemon.limits),
        "timing": asdict(daemon.timing),
    }
