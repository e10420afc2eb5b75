"""`audit`: the recorded entries, filtered or followed live; and `audit verify`: whether the chain holds."""

from __future__ import annotations

import sys
import time
from collections import deque
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from ally_plugins.cli.shell.command_group import LazyGroup
from ally_plugins.cli.shell.completion import plugin_names, record_kinds
from ally_plugins.cli.shell.exits import REFUSED
from ally_plugins.cli.shell.fleet_records import fleet_options, fleet_records
from ally_plugins.cli.shell.journal_rows import KINDS, PRUNED_TEXT, parties, reading_of, record_data, record_row
from ally_plugins.cli.shell.recorder import now_ms
from ally_plugins.cli.shell.state import command, options, with_state
from ally_plugins.cli.shell.text import columns, echo, echo_pages, inert, is_terminal, paint, print_json, table
from ally_plugins.cli.shell.times import parse_since
from ally_plugins.contract.values.errors import ConfigError, JournalError
from ally_plugins.contract.values.ids import bare_name
from ally_plugins.contract.wording import describe, suggest

from . import ocsf

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
    from pathlib import Path

    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.cli.shell.state import State
    from ally_plugins.fleet.store import FleetStore
    from ally_plugins.journal.audit import AuditReport
    from ally_plugins.journal.chain import Head
    from ally_plugins.journal.reader import JournalReader
    from ally_plugins.journal.values import StoredRecord

__all__ = ["audit", "verify"]

_LIMIT: Final = 200  # some screens; a journal may hold millions
_HEADINGS: Final = ("record", "time", "who", "did", "to whom", "content")
_MANY: Final = 200_000  # records that take a second or more to check
_NOT_HERE: Final = "(its content stays at its home, or was pruned)"
_WAIT_S: Final = 0.2  # how often `--follow` looks for a journal that is not there yet


@click.group("audit", cls=LazyGroup, invoke_without_command=True)
@click.option("--plugin", metavar="NAME", shell_complete=plugin_names,
              help="Only what this plugin did, or what was done to it.")  # fmt: skip
@click.option("--kind", "kinds", multiple=True, metavar="KIND", shell_complete=record_kinds,
              help=f"Only this kind; repeatable. There are: {', '.join(sorted(KINDS))}.")  # fmt: skip
@click.option("--session", metavar="ID", help="Only this session.")
@click.option("--replays/--no-replays", default=None,
              help="Only what replays have recorded, or only what they have not; without it both.")  # fmt: skip
@click.option("--since", metavar="TIME", help="Only what is newer: 10m, 2h, 3d, or a time such as 2026-03-01T10:00.")
@click.option("--limit", "-n", type=click.IntRange(min=0), default=_LIMIT, metavar="N",
              help=f"At most the last N records; 0 for all. Without it {_LIMIT}.")  # fmt: skip
@click.option("--follow", "-f", is_flag=True, help="Then go on with records as they are written, until Ctrl-C.")
@fleet_options
@click.option("--format", "form", type=click.Choice(["text", "ocsf", "otlp"]), default="text", show_default=True,
              help="ocsf: decisions and refusals as findings of that schema, a line of JSON each; otlp: logs for "
                   "OpenTelemetry's collector, requests of JSON.")  # fmt: skip
@options
@with_state
def audit(
    state: State,
    /,
    since: str | None,
    limit: int,
    follow: bool,  # noqa: FBT001 - click's way
    **only: Any,
) -> None:
    """Show what was recorded: messages, decisions, refusals, grants, registrations, crashes; the latest last.

    A row says who did what to whom: the operator, the person, the host, or a plugin by its name. With --json each
    record is one line of JSON. `explain` tells all about one id.

    \b
    Example:
      ally-plugins audit --plugin loop-warner --since 2h
      ally-plugins audit --kind refusal --kind decision --follow
      ally-plugins audit --fleet fleet.db --kind refusal --since 1h
      ally-plugins audit --fleet fleet.db --format ocsf --limit 0 > findings.jsonl
      ally-plugins audit --fleet fleet.db --format otlp --since 1d --limit 0 > logs.jsonl
      ally-plugins audit verify
    """
    context = click.get_current_context()
    if context.invoked_subcommand is not None:
        given = [name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
        if given:
            text = f"what is said before {context.invoked_subcommand!r} would not count for it, which is of this home"
            raise click.UsageError(text)
        return
    plugin, kinds, replays = only["plugin"], only["kinds"], only["replays"]
    form = only["form"] if only["form"] != "text" else "json" if state.as_json else None
    session, kind = only["session"], (_ocsf_kinds(kinds) if form == "ocsf" else kinds) or None
    filters: dict[str, Any] = {"names": plugin and bare_name(plugin), "session_id": session, "kind": kind}
    after = parse_since(since, now_ms()) if since is not None else None
    with fleet_records(only["fleet_place"], only["fleet_home"]) as store:
        if store is not None:
            _check_kinds(kinds, store.has_kind)
            filters["home"] = only["fleet_home"]
            _show_fleet(store, filters, after, limit, replays, follow=follow, form=form)
            return
    _check_kinds(kinds, partial(_is_recorded, state.home))
    # The reader cannot open what is not there; a host makes the file when it starts.
    while follow and not state.home.journal_file.exists():
        time.sleep(_WAIT_S)
    with reading_of(state.home) as reading:
        if reading is None:
            if form is None:
                echo(f"nothing is recorded yet in {inert(state.home.path)}")
            return
        # Before they are read: what comes meanwhile is followed, also where there is none to show.
        last = reading.last_n()
        records = _last(reading, filters, after, limit, replays)
        _show(records, form, is_all=not follow)
        if not follow:
            _say_none(records, filters, after)
        if follow:
            for record in reading.follow(after_n=records[-1].n if records else last, **filters):
                _show(_wanted([record], replays), form)


def _ocsf_kinds(kinds: Sequence[str]) -> Sequence[str]:
    if others := [kind for kind in kinds if kind not in ocsf.KINDS]:
        raise click.UsageError(f"--format ocsf is for {' and '.join(ocsf.KINDS)}, and not for {', '.join(others)}")
    return kinds or ocsf.KINDS


def _show_fleet(
    store: FleetStore,
    filters: dict[str, Any],
    since: int | None,
    limit: int,
    replays: bool | None,  # noqa: FBT001 - as the option is
    *,
    follow: bool,
    form: str | None,
) -> None:
    """Print the last records of all homes, each with its home's name."""
    if follow:
        raise click.UsageError("--fleet and --follow do not go together: `fleet collect` follows")
    asked: dict[str, Any] = {**filters, "kinds": filters["kind"] or (), "since": since}
    del asked["kind"]
    found = store.records(limit=None if replays is not None else limit or None, **asked)
    wanted = ((home, record) for home, record in found if replays in {None, _is_replayed(record)})
    records = deque(wanted, maxlen=limit or None)
    _say_none(records, filters, since)
    if (filters["names"], replays) != (None, None) and (homes := store.without_content(**{**asked, "names": None})):
        text = "sent without their content, which says whom they are about: some records of"
        echo(f"{text} {inert(', '.join(homes))}", to_stderr=True)
    if form is not None:
        _print(records, form)
        return
    rows = [(inert(home), *_painted(record, _NOT_HERE)) for home, record in records]
    if rows and is_terminal("stdout"):
        echo_pages(table(("home", *_HEADINGS), rows))
    else:
        for line in columns(rows):
            echo(line)


def _check_kinds(kinds: Iterable[str], is_recorded: Callable[[str], bool]) -> None:
    """Refuse kinds that this version does not write and that are not recorded: another version may write more.

    What is recorded is looked at only for a kind that is not one of ours: a typing error would show nothing, for ever.
    """
    for kind in kinds:
        if kind not in KINDS and not is_recorded(kind):
            raise ConfigError(f"no kind of record {describe(kind)}, {suggest(kind, KINDS)}", path="--kind")


def _is_recorded(home: Home, kind: str) -> bool:
    with reading_of(home) as reading:
        return reading is not None and kind in reading.kinds()


def _say_none(records: Collection[object], filters: Mapping[str, Any], since: int | None) -> None:
    if not records:
        is_filtered = any(value is not None for value in (*filters.values(), since))
        text = "no record is of this kind, plugin, session and time" if is_filtered else "nothing is recorded yet"
        echo(text, to_stderr=True)


def _wanted(records: Iterable[StoredRecord], replays: bool | None) -> Iterable[StoredRecord]:  # noqa: FBT001
    """Return the records of replays, or those of none; all where `replays` is None."""
    return (each for each in records if replays in {None, _is_replayed(each)})


def _is_replayed(record: StoredRecord) -> bool:
    return "recorded_at" in (record.data or {})


def _last(
    reading: JournalReader,
    filters: dict[str, Any],
    since: int | None,
    limit: int,
    replays: bool | None,  # noqa: FBT001 - as the option is
) -> Sequence[StoredRecord]:
    """Return the last records; without `since` and several kinds, by reading only those."""
    kinds = filters["kind"]
    if limit and since is None and replays is None and (kinds is None or len(kinds) == 1):
        return reading.last_records(limit, **{**filters, "kind": kinds[0] if kinds else None})
    # Read from the front: backwards the reader takes one kind at most, and no time. The deque keeps the end.
    return deque(_wanted(reading.records(since=since, **filters), replays), maxlen=limit or None)


def _show(records: Iterable[StoredRecord], form: str | None, *, is_all: bool = False) -> None:
    """Print records; all that there are to print, on a terminal, as a table with headings."""
    if form is not None:
        _print([("", record) for record in records], form)
        return
    rows = list(map(_painted, records))
    if is_all and is_terminal("stdout"):
        echo_pages(table(_HEADINGS, rows))
        return
    for line in columns(rows):
        echo(line)


def _print(records: Iterable[tuple[str, StoredRecord]], form: str) -> None:
    """Print records for programs, each with its home; that is empty where they are this home's."""
    if form == "otlp":
        from . import otlp

        for request in otlp.requests(records):
            print_json(request)
        return
    for home, record in records:
        about = {"home": home} if home else {}
        print_json(ocsf.finding(home, record) if form == "ocsf" else {**about, **record_data(record)})


def _painted(record: StoredRecord, missing: str = PRUNED_TEXT) -> tuple[str, ...]:
    number, at, kind, _, content = record_row(record, missing)
    who, whom = parties(record)
    return (number, at, who, paint(kind, fg=_COLOURS.get(kind)), whom, content)


_COLOURS: Final = {"refusal": "yellow", "crash": "red", "quarantine": "red", "decision": "cyan", "message": "green"}


@command("verify")
@click.option("--head", "copy", metavar="FILE", help="Compare with this copy of audit.head too; - reads it from stdin.")
def verify(state: State, copy: str | None) -> None:
    """Check the whole chain of the audit; the exit code is 1 when it does not hold.

    It names the first record that was altered, removed, reordered or cut off. Whoever can write both journal.db and
    audit.head can forge both, but not a copy of audit.head that is kept elsewhere: whatever was recorded before it was
    made must be there, as it was.

    \b
    Example:
      ally-plugins audit verify
      ssh backup cat audit.head | ally-plugins audit verify --head -
    """
    home = state.home
    kept = _read_copy(copy) if copy is not None else None
    with _progress_bar(home, is_shown=not state.as_json) as on_progress:
        report = verified(home.journal_file, home.audit_head_file, kept, on_progress)
    if state.as_json:
        print_json(report_data(report))
    elif report is None:
        echo(f"nothing is recorded yet in {inert(home.path)}")
    elif report.problem is None:
        pruned = f", {report.pruned} of them without their content, as recorded" if report.pruned else ""
        seen = f"; it agrees with {inert(copy)} up to record {kept.n}" if kept is not None else ""
        echo(f"the audit holds: {report.records} records{pruned}{seen}")
    else:
        echo(f"{paint('the audit does not hold', fg='red')}: {inert(report.problem.text)}")
        echo("keep journal.db and audit.head as they are, and copy them away: they are the evidence")
    if report is not None and not report.ok:
        raise click.exceptions.Exit(REFUSED)


@contextmanager
def _progress_bar(home: Home, *, is_shown: bool) -> Generator[Callable[[int], object]]:
    """Show how far the check is where it takes seconds and a person looks; yield what is told of it."""
    count = 0
    if is_shown and is_terminal("stderr"):
        with suppress(JournalError), reading_of(home) as reading:  # the check says what is wrong with it
            count = reading.last_n() if reading is not None else 0
    if count < _MANY:
        yield lambda _: None
        return
    # A row of its own below what is on standard output, which may be a file.
    with click.progressbar(length=count, label="records", file=sys.stderr, update_min_steps=_MANY // 10) as bar:
        yield lambda n: bar.update(n - bar.pos)
        bar.update(count - bar.pos)


def _read_copy(name: str) -> Head:
    """Read a copy of audit.head. Raises UsageError for what is none, or cannot be read."""
    from ally_plugins.catalog.home.folder import read_capped
    from ally_plugins.journal.audit_head import MAX_BYTES
    from ally_plugins.journal.chain import Head

    try:
        # Capped either way: what is named may be no head at all, or a device that never ends.
        content = sys.stdin.buffer.read(MAX_BYTES) if name == "-" else read_capped(name, MAX_BYTES)
        if content is None:
            raise click.UsageError(f"there is no file {name!r}; expected a copy of audit.head")
        return Head.from_text(content.decode())
    except OSError as error:
        raise click.UsageError(f"the copy {name!r} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise click.UsageError(f"{name!r} is no copy of audit.head: {error}") from error


def verified(
    journal: Path, head: Path, copy: Head | None = None, on_progress: Callable[[int], object] = lambda _: None
) -> AuditReport | None:
    """Check a journal; None when there never was one. A journal missing while a head of it exists was removed."""
    from ally_plugins.journal.audit import AuditReport, Problem
    from ally_plugins.journal.audit import verify as check

    if journal.exists():
        return check(journal, head, copy=copy, on_progress=on_progress)
    if not head.exists() and copy is None:
        return None
    witness = "audit.head" if copy is None else "the copy of audit.head"
    text = f"the journal {str(journal)!r} is gone, and {witness} says that there was one"
    return AuditReport(0, 0, 0, None, Problem("removed", None, text))


def report_data(report: AuditReport | None) -> dict[str, Any]:
    """Return the result of the check as JSON values."""
    if report is None:
        return {"ok": True, "records": 0, "pruned": 0, "lag": 0, "problem": None}
    problem = report.problem
    found = None if problem is None else {"kind": problem.kind, "record": problem.record, "text": problem.text}
    return {"ok": report.ok, "records": report.records, "pruned": report.pruned, "lag": report.lag, "problem": found}


audit.add_command(verify)
