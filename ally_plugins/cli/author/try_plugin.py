"""`try`: a plugin from its folder on a recorded session, once or again whenever its files change."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ally_plugins.cli.shell.exits import REFUSED
from ally_plugins.cli.shell.signals import run
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import counted_noun, echo, inert, is_terminal, paint, preview, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ally_plugins.author.dev_plugin import DevPlugin
    from ally_plugins.author.project import Project
    from ally_plugins.cli.shell.state import State
    from ally_plugins.contract.values.events import Event
    from ally_plugins.host.host import Host
    from ally_plugins.replay.report import ReplayReport

__all__ = ["try_plugin"]

_MAX_LINES: Final = 200  # of one play; more scroll by unread, and the last line has the counts


@command("try")
@click.argument("path", default=".", metavar="[PATH]")
@click.argument("sessions", nargs=-1, metavar="[SESSION]...")
@click.option("--plugin", "name", metavar="NAME", help="The plugin that is meant, where the folder has several.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting; may be repeated.")
@click.option("--speed", type=click.FloatRange(min=0, min_open=True), metavar="N",
              help="Play in real time, N times as fast; without it, as fast as possible.")  # fmt: skip
@click.option("--watch/--once", "watches", default=None,
              help="Play again whenever a file is saved, or once. Default: watch, on a terminal.")  # fmt: skip
def try_plugin(
    state: State,
    path: str,
    sessions: tuple[str, ...],
    name: str | None,
    settings: tuple[str, ...],
    speed: float | None,
    watches: bool | None,  # noqa: FBT001 - click's way
) -> None:
    """Run the plugin in the folder PATH (this one) on recorded sessions, and show what it does.

    Nothing has to be installed or agreed to: it gets what its manifest asks for, in a process of its own and a scratch
    home that is removed afterwards. Without a SESSION it is the sample that `demo` plays; `replay` says what is read.

    When a file is saved, a new process takes the place of the one that runs once it is fit, and the session is played
    again. One that is not fit is shown with its file and line, and the one of before goes on. No event is missed by
    that, and none comes twice; with --speed it happens in the midst of the session.

    \b
    Example:
      ally-plugins try
      ally-plugins try ./loop-warner session.jsonl --set limit=2
      ally-plugins try ./loop-warner --once --json
    """
    from ally_plugins.author.project import find_project

    project = find_project(path, name)
    _check_sessions(sessions)
    trial = _Trial(project, sessions, _read_settings(settings), speed, as_json=state.as_json)
    is_watching = watches if watches is not None else is_terminal("stdout") and not state.as_json
    try:
        problems = run(trial.run(is_watching=is_watching))
    except KeyboardInterrupt:
        if not is_watching:
            raise
        problems = []  # the way in which somebody who watches comes to the end
    if problems:
        raise click.exceptions.Exit(REFUSED)


def _check_sessions(sessions: Sequence[str]) -> None:
    """Raise UsageError for what cannot be replayed, before a plugin is started for it."""
    from ally_plugins.contract.values.errors import RecordingError
    from ally_plugins.replay.recording import open_recording

    try:
        for each in sessions:
            open_recording(each)
    except RecordingError as error:
        raise click.UsageError(str(error)) from error


def _read_settings(given: Sequence[str]) -> dict[str, Any]:
    """Return settings as their manifest has them: a number, a truth value, or a text."""
    read: dict[str, Any] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--set {each!r} is none, expected NAME=VALUE")
        read[name] = _value(value)
    return read


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


class _Trial:
    """One run of the command: a host that lives through every reload, and what was shown of each play."""

    def __init__(
        self,
        project: Project,
        sessions: Sequence[str],
        settings: Mapping[str, Any],
        speed: float | None,
        *,
        as_json: bool,
    ) -> None:
        self._project = project
        self._files = [Path(each) for each in sessions]
        self._settings = settings
        self._speed = speed
        self._as_json = as_json
        self._changed = asyncio.Event()
        self._files_changed: list[str] = []
        self._lines = 0
        self._crashes: list[str] = []
        self.messages: list[dict[str, Any]] = []
        self.denials: list[dict[str, Any]] = []

    async def run(self, *, is_watching: bool) -> list[str]:
        """Play until the end, or until it is cancelled; return what is wrong with the plugin at the end."""
        from ally_plugins.author.dev_plugin import DevPlugin
        from ally_plugins.author.trial import trial_host, trial_record
        from ally_plugins.author.watching import file_changes, project_stamps
        from ally_plugins.cli.shell.plain_logs import plain_logs
        from ally_plugins.host.sockets.leftovers import temporary_folder
        from ally_plugins.journal.journal import Journal
        from ally_plugins.replay.pacing import ReplayClock

        project = self._project
        stamps = project_stamps(project)  # before it is read: what is saved from here on is a change
        record = trial_record(project, self._settings)
        with ExitStack() as stack:
            stack.enter_context(plain_logs(errors_of=project.name))
            folder = stack.enter_context(temporary_folder("try-"))
            journal = Journal.in_memory()
            host = trial_host(project, record, folder, journal, ReplayClock())
            host.services.is_replay = True
            self._say(f"{paint(inert(project.name), bold=True)} from {inert(project.root)}: {_command(record)}")
            try:
                async with host:
                    assert host.home is not None  # noqa: S101 - it was given one
                    dev = DevPlugin(host, project.root, project.name, host.home.logs_dir, self._settings)
                    watching = asyncio.create_task(self._note_changes(file_changes(project, stamps)))
                    try:
                        return await self._run(host, dev, is_watching=is_watching)
                    finally:
                        watching.cancel()
            finally:
                await journal.close()

    async def _run(self, host: Host, dev: DevPlugin, *, is_watching: bool) -> list[str]:
        problems = list(dev.start_problems())
        report = None
        if problems:
            self._tell_problems(problems)
        else:
            report = await self._play(host, dev)
        if is_watching:
            await self._watch(host, dev)
        if self._as_json:
            self._print_json(report, problems)
        return problems + self._crashes

    async def _watch(self, host: Host, dev: DevPlugin) -> None:
        while True:
            self._say(paint("waiting for a file to be saved; Ctrl-C ends it", dim=True))
            await self._changed.wait()
            if await self._reload(dev):
                await self._play(host, dev)

    async def _note_changes(self, changes: Any) -> None:
        async for files in changes:
            self._files_changed = files
            self._changed.set()

    async def _reload(self, dev: DevPlugin) -> bool:
        """Have the files as they are now take the place of what runs; say whether they have."""
        self._changed.clear()
        names = ", ".join(inert(each.removeprefix(f"{self._project.root}/")) for each in self._files_changed)
        self._say(f"\n{paint(names, bold=True)} changed")
        reload = await dev.reload()
        if reload.is_done:
            self._say(paint("the new one runs", fg="green"))
        else:
            self._tell_problems(reload.problems)
        return reload.is_done

    async def _play(self, host: Host, dev: DevPlugin) -> ReplayReport:
        from ally_plugins.replay.player import Player
        from ally_plugins.replay.recording import open_recording
        from ally_plugins.replay.sample import sample_path

        self._lines, self._crashes = 0, []
        before = len(list(host.journal.reader.records(kind="crash")))

        async def between_steps() -> None:
            if self._changed.is_set():
                await self._reload(dev)

        with ExitStack() as stack:
            files = self._files or [stack.enter_context(sample_path())]
            recordings = [open_recording(file) for file in files]
            player = Player(host, recordings, speed=self._speed, on_event=self._show)
            player.before_step = between_steps if self._speed is not None else None
            report = await player.play()
        await host.journal.flush()
        for crash in list(host.journal.reader.records(kind="crash"))[before:]:
            data = crash.data or {}
            self._crashes.append(f"{data.get('hook')} crashed: {data.get('error')}")
        if self._crashes:
            place = dev.place_of_crash()
            for each in dict.fromkeys(self._crashes):
                self._say(paint(inert(f"{place}: {each}" if place else each), fg="red"))
        for line in _summary(report, self._project.name):
            self._say(line)
        return report

    def _show(self, event: Event) -> None:
        from ally_plugins.cli.play.timeline import line_of
        from ally_plugins.contract.values.events import Decision, PluginMessageReceived

        if isinstance(event, PluginMessageReceived):
            self.messages.append({"role": event.message["role"], "content": event.message["content"]})
        elif isinstance(event, Decision) and event.verdict != "allow":
            self.denials.append({"verdict": event.verdict, "subject": event.subject, "reason": event.reason})
        line = line_of(event)
        if line is None:
            return
        self._lines += 1
        if self._lines <= _MAX_LINES:
            self._say(f"  {inert(line[1])}")
        elif self._lines == _MAX_LINES + 1:
            self._say("  ... more follows, of which only the counts are shown")

    def _tell_problems(self, problems: Sequence[str]) -> None:
        for each in problems:
            self._say(paint(inert(each), fg="red"))

    def _say(self, line: str) -> None:
        if not self._as_json:
            echo(line)

    def _print_json(self, report: ReplayReport | None, problems: Sequence[str]) -> None:
        print_json({
            "plugin": self._project.name,
            "problems": list(problems),
            "crashes": self._crashes,
            "messages": self.messages,
            "decisions": self.denials,
            "report": report.to_json() if report is not None else None,
        })  # fmt: skip


def _command(record: Any) -> str:
    return preview(" ".join(record.daemon.command)) if record.daemon is not None else ""


def _summary(report: ReplayReport, name: str) -> Iterator[str]:
    counts = report.plugin(name)
    decisions = report.decisions
    asked = sum(decisions.values())
    gates = f", gates asked {counted_noun(asked, 'time')}: {decisions['deny']} denied" if asked else ""
    refused = f", {counted_noun(sum(counts.refused.values()), 'call')} refused" if counts.refused else ""
    yield (
        f"{report.events.total()} events in {report.elapsed_s:.2f} s: it heard {counts.delivered}, "
        f"sent {counted_noun(counts.messages, 'message')}, emitted {counts.emitted}{gates}{refused}, "
        f"crashed {counted_noun(counts.crashes, 'time')}"
    )
