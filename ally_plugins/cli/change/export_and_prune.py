"""`export`, `prune` and `purge`: a session of the journal as a file, and removing old content, or a session's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from ally_plugins.cli.shell.journal_rows import reading_of
from ally_plugins.cli.shell.questions import require_consent
from ally_plugins.cli.shell.recorder import now_ms
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, inert, print_json, when
from ally_plugins.cli.shell.times import parse_since
from ally_plugins.contract.values.errors import ConfigError, JournalError, NotFoundRefused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.cli.shell.state import State
    from ally_plugins.journal.reader import JournalReader

__all__ = ["export", "prune", "purge"]

_PATIENCE_S = 10.0
"""How long `purge` waits for other programs to let go of the write-ahead log; a reader holds it for milliseconds."""


@command("export")
@click.argument("session")
@click.option(
    "--output",
    "--out",
    "-o",
    "out",
    metavar="FILE",
    help="Write to this file, readable by you only, instead of standard output.",
)
def export(state: State, session: str, out: str | None) -> None:
    """Write the events and messages of SESSION as JSON lines, which `replay` reads again.

    What was pruned is left out. With --out and --json, one object says what was written.

    \b
    Example:
      ally-plugins export s-5f0c9a1b2d-1 --out session.jsonl
    """
    with reading_of(state.home) as reading:
        lines = _lines(reading, session)
        if out is None:
            # As bytes: text would get the platform's line ends and encoding.
            with click.open_file("-", "wb") as stream:
                stream.writelines(lines)
            return
        count = _write(out, lines)
    if state.as_json:
        print_json({"session": session, "lines": count, "out": out})
    else:
        echo(f"{count} lines written to {inert(out)}")


def _lines(reading: JournalReader | None, session: str) -> Iterator[bytes]:
    from ally_plugins.journal.export import export as lines_of

    return lines_of(_with_session(reading, session), session)


def _with_session(reading: JournalReader | None, session: str) -> JournalReader:
    """Return the journal, which has a session of this name. Raises NotFoundRefused where it has none."""
    session_ids = [] if reading is None else [summary.id for summary in reading.sessions()]
    if reading is None or session not in session_ids:
        latest = f"the latest are {', '.join(session_ids[-5:])}" if session_ids else "it has none"
        raise NotFoundRefused(f"the journal has no session {session!r}; {latest}")
    return reading


def _write(out: str, lines: Iterator[bytes]) -> int:
    """Write beside the file and put it in its place, so that a half-written one is never there."""
    from pathlib import Path

    target = Path(out)
    partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    count = 0
    try:
        # O_EXCL, and 0600 from the beginning: conversations are private, and a link in its place is not followed.
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            for line in lines:
                file.write(line)
                count += 1
        partial.replace(target)
    except OSError as error:
        raise ConfigError(f"{out!r} cannot be written: {error.strerror or error}", file=out) from error
    finally:
        # After the replacement there is none; after an error or Ctrl-C there is.
        partial.unlink(missing_ok=True)
    return count


@command("prune")
@click.option("--older-than", "age", required=True, metavar="AGE", help="How old: 30d, 12w, or a time (2026-03-01).")
@click.option("--yes", is_flag=True, help="Do not ask first.")
def prune(state: State, age: str, yes: bool) -> None:  # noqa: FBT001 - click's way
    """Remove the content of records that are older than AGE; that it was removed is recorded.

    Texts, arguments and events go; who did what when stays, and the audit chain stays whole. Pending messages stay.
    It cannot be undone.

    \b
    Example:
      ally-plugins prune --older-than 90d
    """
    now = now_ms()
    before = parse_since(age, now)
    if before > now:
        raise ConfigError(f"--older-than {age!r} is in the future, expected an age such as 90d")
    if not state.home.journal_file.exists():
        count = 0
    else:
        question = f"Remove for ever the content of what is older than {when(before)}?"
        require_consent(state, question, is_agreed=yes, refused="nothing is removed", way_out="add --yes")
        count = _prune(state.home, before)
    if state.as_json:
        print_json({"pruned": count, "before": before})
    else:
        echo(f"the content of {count} records is removed; the audit chain is whole")


def _prune(home: Home, before: int) -> int:
    from ally_plugins.journal.journal import Journal

    journal = Journal.open(home.journal_file, head=home.audit_head_file)
    try:
        return journal.prune_blocking(before)
    finally:
        journal.close_blocking()


@command("purge")
@click.argument("session")
@click.option("--yes", is_flag=True, help="Do not ask first.")
def purge(state: State, session: str, yes: bool) -> None:  # noqa: FBT001 - click's way
    """Remove the content of SESSION for ever: its prompts, arguments, outputs, decisions and messages.

    That it was removed is recorded, when each thing happened stays, and the audit chain stays whole. What plugins keep
    in folders of their own, and what an agent keeps itself, is not touched. A session that is still open goes on being
    recorded: purge it again when it has ended.

    \b
    Example:
      ally-plugins purge claude-ac4f92b0a315
    """
    with reading_of(state.home) as reading:
        lease = _with_session(reading, session).lease(session)
        is_open = lease is not None and not lease.is_free()
    question = f"Remove for ever what was recorded of the session {inert(session)}?"
    require_consent(state, question, is_agreed=yes, refused="nothing is removed", way_out="add --yes")
    count = _purge(state.home, session)
    if state.as_json:
        print_json({"session": session, "purged": count, "open": is_open})
    else:
        more = "; it is open, and what it goes on to record stays: purge it again when it has ended" if is_open else ""
        echo(f"the content of {count} records is removed; the audit chain is whole{more}")


def _purge(home: Home, session: str) -> int:
    """Remove the content of a session, from the write-ahead log too. Raises JournalError."""
    from time import monotonic, sleep

    from ally_plugins.journal.journal import Journal

    journal = Journal.open(home.journal_file, head=home.audit_head_file)
    try:
        count = journal.purge_blocking(session)
        until = monotonic() + _PATIENCE_S
        while not journal.fold_log_blocking():
            if monotonic() > until:
                raise JournalError(
                    f"the content of {count} records is removed, but another program goes on reading the journal, and "
                    "the log beside it still has what was removed; end that program, and run this once more"
                )
            sleep(0.05)
        return count
    finally:
        journal.close_blocking()
