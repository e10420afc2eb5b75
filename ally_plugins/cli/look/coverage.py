"""`coverage`: the calls in coding agents' own files that no gate has seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ally_plugins.cli.shell.exits import REFUSED
from ally_plugins.cli.shell.journal_rows import reading_of
from ally_plugins.cli.shell.recorder import now_ms
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, echo_pages, inert, print_json, table, when
from ally_plugins.cli.shell.times import parse_since

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.cli.shell.state import State

    from .compared_calls import ComparedAgent, KnownCalls, UnseenCall

__all__ = ["coverage"]

_SHOWN: Final = 200
"""Calls of each sort that are listed for people; with --json all that were kept."""


@command("coverage")
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("--since", "age", metavar="TIME", help="Only calls since then: 2h, 3d, or a time (2026-03-01).")
def coverage(state: State, files: tuple[str, ...], age: str | None) -> None:
    """Compare what coding agents have written of their calls with the journal, and name every call that no gate saw.

    Looked at are the files that Claude Code, Codex and pi keep of conversations, or the FILEs that are named; without
    --since from when the first hook of the agent came, or it was connected. A call is `not seen` where the host was
    never told of it: the agent asks no hook there, or its hooks were not in place. It is `not gated` where the host was
    told, and no plugin has a gate for that tool.

    Ends with 1 where a call was not seen, or a file could not be read.

    \b
    Example:
      ally-plugins coverage --since 1d
    """
    from .compared_calls import READABLE, agent_of

    since = None if age is None else parse_since(age, now_ms())
    named: dict[str, list[Path]] = {}
    for file in map(Path, files):
        named.setdefault(agent_of(file), []).append(file)
    found = {
        agent: compared
        for agent in (named or READABLE)
        if (compared := _compared(state.home, agent, named.get(agent), since)) is not None
    }
    _show(found, as_json=state.as_json)
    if any(each.unseen or each.unread for each in found.values()):
        click.get_current_context().exit(REFUSED)


def _compared(home: Home, agent: str, files: Sequence[Path] | None, since: int | None) -> ComparedAgent | None:
    """Compare the files of one agent; None for one that is not connected, and never was."""
    from .compared_calls import KnownCalls, compare, event_files

    with reading_of(home) as reading:
        known = KnownCalls() if reading is None else KnownCalls.read(reading, agent)
    if files is not None:
        return compare(agent, files, known, since)
    if since is None and (since := _begin(home, agent, known)) is None:
        return None
    return compare(agent, event_files(agent, since), known, since)


def _begin(home: Home, agent: str, known: KnownCalls) -> int | None:
    """Return when an agent's hooks began to reach this home, or were to; None where it is not connected."""
    if known.first_at is not None:
        return known.first_at
    from ally_plugins.adapters.coding.client.hook_client import RECORD
    from ally_plugins.adapters.coding.settings.connections import connected_events, connection_of

    # Connected, and no hook has ever come: the very case in which nothing is guarded.
    if not connected_events(connection_of(agent)):
        return None
    try:
        return int((home.path / RECORD).stat().st_mtime * 1000)
    except OSError:
        return 0


def _show(found: Mapping[str, ComparedAgent], *, as_json: bool) -> None:
    if as_json:
        print_json({"agents": {agent: _data(each) for agent, each in found.items()}})
        return
    for agent, each in found.items():
        echo(f"{agent}: {_sum(each)}")
    if not found:
        echo("no coding agent is connected, and none was seen; see ally-plugins connect")
    echo_pages(list(_lines(found)))


def _sum(found: ComparedAgent) -> str:
    since = "" if not found.since else f" since {when(found.since)}"
    seen = found.calls - found.removed - len(found.unseen) - found.more["unseen"]
    parts = [f"{found.calls} calls in {found.files} files{since}: {seen} seen by the host, {found.gated} by a gate"]
    if found.removed:
        parts.append(f"{found.removed} of conversations whose contents were removed from the journal")
    if found.broken_lines:
        parts.append(f"{found.broken_lines} lines cannot be read")
    return "; ".join(parts)


def _lines(found: Mapping[str, ComparedAgent]) -> Iterator[str]:
    rows = [
        (what, each.agent, when(each.at) if each.at else "-", inert(each.tool_name), inert(each.call_id) or "-",
         inert(each.file))
        for agent in found.values()
        for what, calls in (("not seen", agent.unseen), ("not gated", agent.ungated))
        for each in calls[:_SHOWN]
    ]  # fmt: skip
    yield from table(("", "agent", "time", "tool", "call", "file"), rows)
    for agent, each in found.items():
        for what, calls in (("unseen", each.unseen), ("ungated", each.ungated)):
            more = max(0, len(calls) - _SHOWN) + each.more[what]
            if more:
                yield f"{agent}: {more} more that are {'not seen' if what == 'unseen' else 'not gated'}"
        for problem in each.unread:
            yield f"{agent}: cannot be read: {inert(problem)}"


def _data(found: ComparedAgent) -> dict[str, Any]:
    return {
        "since": found.since,
        "files": found.files,
        "calls": found.calls,
        "gated": found.gated,
        "removed": found.removed,
        "broken_lines": found.broken_lines,
        "unread": found.unread,
        "unseen": [_call(each) for each in found.unseen],
        "ungated": [_call(each) for each in found.ungated],
        "more": {"unseen": found.more["unseen"], "ungated": found.more["ungated"]},
    }


def _call(call: UnseenCall) -> dict[str, Any]:
    return {
        "session_id": call.session_id,
        "call_id": call.call_id,
        "tool": call.tool_name,
        "at": call.at,
        "file": call.file,
    }
