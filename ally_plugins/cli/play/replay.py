"""`replay`: recorded sessions through the enabled plugins."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import click

from ally_plugins.cli.shell.completion import plugin_names
from ally_plugins.cli.shell.exits import INTERRUPTED
from ally_plugins.cli.shell.signals import run
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, print_json

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.cli.shell.state import State
    from ally_plugins.host.host import Host
    from ally_plugins.journal.journal import Journal
    from ally_plugins.replay.recording import Recording
    from ally_plugins.replay.report import ReplayReport

_ALWAYS: Final = frozenset({"SESSION_START", "SESSION_END", "PLUGIN_STATE"})
"""Events that the host emits for any session, so that these alone mean that nothing was played."""

__all__ = ["play", "replay", "replay_home", "replay_host", "show_report"]


@command("replay")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--output", "--out", "-o", "out", metavar="FILE", help="Write the resulting conversation there, as JSON lines."
)
@click.option(
    "--speed",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Play in real time, N times as fast; without it, as fast as possible.",
)
@click.option("--plugin", "plugins", multiple=True, metavar="NAME", shell_complete=plugin_names,
              help="Run only this plugin; may be repeated.")  # fmt: skip
@click.option("--session", "session_id", metavar="ID", help="The session of a journal's export that is meant.")
@click.option(
    "--context-window",
    type=click.IntRange(min=1),
    metavar="TOKENS",
    help="How many tokens the model's window holds, where the recording does not say it: 200000.",
)
@click.option("--scratch", is_flag=True, help="Leave no trace: no record, no log, and data of plugins in a copy.")
def replay(
    state: State,
    files: tuple[str, ...],
    out: str | None,
    speed: float | None,
    plugins: tuple[str, ...],
    session_id: str | None,
    context_window: int | None,
    scratch: bool,  # noqa: FBT001 - click's way
) -> None:
    """Run the enabled plugins on recorded sessions, and show what they did.

    Reads Claude Code transcripts, Codex rollouts, pi sessions, SWE-agent trajectories and exports of the journal. Gates
    are asked and recorded as what would have happened. The outcome does not depend on the speed.

    What is recorded of it is marked as a replay, and a plugin that fails in it is quarantined for the replay only.

    \b
    Example:
      ally-plugins replay session.jsonl --out conversation.jsonl
      ally-plugins replay run.traj --speed 10 --plugin loop-guard --scratch
    """
    recordings = _open_all(files, session_id, context_window)
    with replay_home(state, is_scratch=scratch) as (home, journal), _writing(out, files) as file:
        report = play(replay_host(home, plugins, journal), recordings, speed=speed, out=file)
    # Afterwards, since a recording is read as it is played: which sessions it holds shows at its end.
    if session_id is not None and set(report.events) <= _ALWAYS:
        raise click.UsageError(f"no event of the session {session_id!r} is in {', '.join(files)}")
    show_report(report, as_json=state.as_json)
    if report.is_interrupted:
        click.get_current_context().exit(INTERRUPTED)


def play(host: Host, recordings: Sequence[Recording], *, speed: float | None, out: BinaryIO | None) -> ReplayReport:
    """Play recordings in the terminal and return the report, also of a replay that was interrupted."""
    from ally_plugins.cli.shell.plain_logs import logs_to
    from ally_plugins.replay.player import Player

    from .timeline import LogLines, Timeline

    timeline = Timeline(sum(recording.size for recording in recordings))
    on_event = timeline.show if timeline.is_shown else None
    player = Player(host, recordings, speed=speed, out=out, on_event=on_event, on_progress=timeline.advance)
    with timeline, logs_to(LogLines(timeline)):
        try:
            run(player.run())
        except KeyboardInterrupt:
            # The report counts until here; a long replay that is stopped is not for nothing.
            player.report.is_interrupted = True
    return player.report


def show_report(report: ReplayReport, *, as_json: bool) -> None:
    """Print the report: one JSON object, or a summary for people."""
    from .summary import summary_lines

    if as_json:
        print_json(report.to_json())
        return
    for line in summary_lines(report):
        echo(line)


def _open_all(files: Sequence[str], session_id: str | None, context_window: int | None) -> list[Recording]:
    """Open every file before anything runs, so that a wrong one stops no replay halfway. Raises UsageError."""
    from ally_plugins.contract.values.errors import RecordingError
    from ally_plugins.replay.recording import open_recording

    options: dict[str, Any] = {"session_id": session_id}
    if context_window is not None:
        options["context_window"] = context_window
    try:
        return [open_recording(file, **options) for file in files]
    except RecordingError as error:
        raise click.UsageError(str(error)) from error


@contextmanager
def replay_home(state: State, *, is_scratch: bool) -> Generator[tuple[Home, Journal | None]]:
    """Give the home of a replay, and its journal where it is not the home's."""
    if not is_scratch:
        yield state.home, None
        return
    from ally_plugins.journal.journal import Journal
    from ally_plugins.replay.scratch_home import scratch_home

    with scratch_home(state.home) as home:
        # Not a file in the scratch folder, which a kill would leave on the disk.
        journal = Journal.in_memory()
        try:
            yield home, journal
        finally:
            journal.close_blocking()


def replay_host(home: Home, plugins: Sequence[str], journal: Journal | None) -> Host:
    """Return a host that goes by recorded time, with these plugins or all that are enabled. Raises UsageError."""
    from ally_plugins.host.host import Host
    from ally_plugins.replay.pacing import ReplayClock
    from ally_plugins.replay.replay_registry import ReplayRegistry

    # With a person, as the session had one: otherwise each gate that wants to ask would be counted as a deny.
    host = Host(home.app, home=home, journal=journal, clock=ReplayClock(), has_person=True)
    # One without durable subscriptions: what a plugin missed of real sessions is not delivered in a replay.
    registry = host.registry = ReplayRegistry(home)
    if plugins:
        records = [registry.get(name) for name in plugins]  # an unknown name is an error with the nearest right one
        for name, record in zip(plugins, records, strict=True):
            if not record.is_enabled:
                raise click.UsageError(f"{name!r} would not run, it is {record.state}: {record.reason}")
        host.registry = ReplayRegistry(home, only=[record.name for record in records])
    return host


@contextmanager
def _writing(out: str | None, files: Sequence[str]) -> Generator[BinaryIO | None]:
    """Open `--out` before anything runs. Raises UsageError when it cannot be written, then or at the end."""
    if out is None:
        yield None
        return
    try:
        # Opening it for writing would empty the recording.
        if any(Path(out).exists() and Path(out).samefile(file) for file in files):
            raise click.UsageError(f"--out {out!r} is one of the recordings; name another file")
        with Path(out).open("wb") as file:
            yield file
    except OSError as error:
        raise click.UsageError(f"cannot write {out!r}: {error.strerror or error}") from error
