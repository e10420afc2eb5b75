"""`why`: the last decision about a coding agent's call, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from ally_plugins.cli.look.explain import why as why_of
from ally_plugins.cli.shell.journal_rows import reading_of, record_data
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, inert, preview, print_json, when
from ally_plugins.contract.values.errors import NotFoundRefused

from .connect import AGENTS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ally_plugins.cli.shell.state import State
    from ally_plugins.journal.values import StoredRecord

__all__ = ["why"]

_LOOKED_AT: Final = 1000
"""Decisions, from the last back, among which those of one agent are looked for."""

_LONGEST: Final = 300
"""Characters that are shown of what was decided on; `explain` shows more."""


@command("why")
@click.argument("agent", type=click.Choice(AGENTS), required=False)
def why(state: State, agent: str | None) -> None:
    """Say in words what was last decided about a call of AGENT, and on what; without AGENT, of any of them.

    \b
    Example:
      ally-plugins why claude
    """
    from ally_plugins.journal import explanation

    agents = (agent,) if agent is not None else AGENTS
    with reading_of(state.home) as reading:
        records = reading.last_records(_LOOKED_AT, kind="decision") if reading is not None else []
        record = next((each for each in reversed(records) if _agent_of(each) in agents), None)
        found = explanation.explain(reading, record.ref or "") if reading is not None and record is not None else None
    if record is None or found is None:
        raise NotFoundRefused(f"nothing was decided about a call of {agent or 'a coding agent'} lately")
    sentence = why_of(found)
    if state.as_json:
        print_json({"agent": _agent_of(record), "why": sentence, "decision": record_data(record)})
        return
    echo(f"{when(record.at)}, {_agent_of(record)}: {sentence}")
    if on := _subject(record.data or {}):
        echo(f"  it was about: {on}")
    echo(f"  all of it: ally-plugins explain {inert(record.ref or '')}")


def _agent_of(record: StoredRecord) -> str:
    """Return the agent whose conversation a record is of: a session's id begins with it."""
    return (record.session_id or "").partition("-")[0]


def _subject(data: Mapping[str, Any]) -> str:
    kept = data.get("decided_on")
    value = kept.get("value") if isinstance(kept, dict) else None
    if not isinstance(value, dict):
        return ""
    arguments = value.get("arguments")
    command_line = arguments.get("command") if isinstance(arguments, dict) else None
    if isinstance(command_line, str):
        return inert(preview(command_line, _LONGEST))
    return inert(preview(str(arguments if arguments is not None else value), _LONGEST))
