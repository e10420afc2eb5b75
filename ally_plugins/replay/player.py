"""Replays recordings on a host, each in a session of its own with the host's plugins, and counts what happens.

Reading a file is left to the readers, playing one session to `session_player`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO

from attrs import define, field

from ally_plugins.contract.values.errors import HostError
from ally_plugins.contract.values.events import Decision, Event, PluginEvent, PromptPrefixChanged
from ally_plugins.host.host import Host
from ally_plugins.host.sessions.session import Session

from .pacing import Pace, ReplayClock
from .recorded_conversation import RecordedConversation, message_line, writer_of
from .recording import Recording
from .report import PendingAtEnd, PlayedSession, ReplayReport
from .session_names import new_run, session_name
from .session_player import SessionPlayer
from .steps import BrokenLine, SessionStarted, Skipped

if TYPE_CHECKING:
    from .steps import Step

__all__ = ["Player"]


@define(eq=False)
class Player:
    """One replay. `report` is filled while it runs, and is the outcome afterwards, also when it was interrupted.

    `host` has a `ReplayClock` and is started and stopped by `run`. `speed` is real time's multiple, None as fast as
    possible. Messages of all sessions are written to `out`. `on_progress` is called with the bytes read
    so far, of all recordings; `before_end` is awaited in each session before it ends, `before_step` before each step.
    """

    host: Host
    recordings: Sequence[Recording]
    speed: float | None = None
    out: BinaryIO | None = None
    on_event: Callable[[Event], object] | None = None
    on_progress: Callable[[int], object] | None = None
    before_end: Callable[[Session], Awaitable[object]] | None = None
    before_step: Callable[[], Awaitable[object]] | None = None
    report: ReplayReport = field(init=False, factory=ReplayReport)
    _clock: ReplayClock = field(init=False)
    _run_id: str = field(init=False, factory=new_run)
    _counts: dict[type[Event], int] = field(init=False, factory=dict)
    _read: int = field(init=False, default=0)
    _started: float = field(init=False, default=0.0)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.host.clock, ReplayClock):
            raise HostError("the host of a replay needs Host(..., clock=ReplayClock())")
        self._clock = self.host.clock
        self.host.services.is_replay = True

    async def run(self) -> ReplayReport:
        """Play every recording and return the report.

        Cancelling ends the current session, marking its pending messages, then stops the host. Raises
        RecordingError when a file cannot be read any more, and what `Host.start` and writing to `out` raise.
        """
        # Before the start, whose events count too.
        with self._counting():
            async with self.host:
                await self._play_all()
        return self.report

    async def play(self) -> ReplayReport:
        """Play every recording on a host that runs already, and goes on running; otherwise as `run`."""
        with self._counting():
            await self._play_all()
        return self.report

    @contextmanager
    def _counting(self) -> Generator[None]:
        kept = [self.host.stream.subscribe("*", self._count)]
        if self.on_event is not None:
            kept.append(self.host.stream.subscribe("*", self.on_event))
        try:
            yield
        finally:
            for unsubscribe in kept:
                unsubscribe()

    async def _play_all(self) -> None:
        self._started = time.perf_counter()
        try:
            for recording in self.recordings:
                await self._play(recording)
                self._read += recording.size
        finally:
            # Also when it is interrupted: the report is of what was played.
            self._take_counts()

    # --- one recording

    async def _play(self, recording: Recording) -> None:
        playing: SessionPlayer | None = None
        try:
            for step in chain.from_iterable(recording.chunks()):
                if playing is not None:
                    if self.before_step is not None:
                        await self.before_step()
                    await playing.receive_step(step)
                elif isinstance(step, SessionStarted):
                    playing = self._begin(recording, step)
                else:
                    self._note(recording, step)
        except BaseException:
            # Before `_finish`, which may fail itself.
            self.report.is_interrupted = True
            raise
        finally:
            if playing is not None:
                await self._finish(playing, self.report.sessions[-1])

    def _note(self, recording: Recording, step: Step) -> None:
        """Count what comes before the session begins."""
        if isinstance(step, Skipped):
            self.report.count_skipped(step.record_type)
        elif isinstance(step, BrokenLine):
            self.report.count_broken(step.file or str(recording.path), step.number, step.reason)

    def _begin(self, recording: Recording, step: SessionStarted) -> SessionPlayer:
        recorded_id = step.session_id or recording.path.stem
        name = session_name(recorded_id, self._run_id, len(self.report.sessions) + 1)
        played = PlayedSession(str(recording.path), recording.format.value, recorded_id, name)
        self.report.sessions.append(played)
        # Before the session, whose SESSION_START has the recorded time.
        self._clock.begin(step.at)
        session = self.host.session(played.session_id, focus=step.cwd or None)
        session.conversation = RecordedConversation(
            focus=step.cwd or None, on_message=writer_of(self.out, played.recorded_id)
        )
        return SessionPlayer(
            host=self.host,
            session=session,
            clock=self._clock,
            pace=Pace(self.speed, step.at),
            report=self.report,
            file=str(recording.path),
            position=lambda: self._progress(recording),
            before_end=self.before_end,
        )

    def _progress(self, recording: Recording) -> int:
        position = self._read + recording.position
        if self.on_progress is not None:
            self.on_progress(position)
        return position

    async def _finish(self, playing: SessionPlayer, played: PlayedSession) -> None:
        for waiting in await playing.finish():
            message = waiting.message
            self.report.count_pending(PendingAtEnd(message.id, waiting.plugin, played.session_id, message.content))
            if self.out is not None:
                self.out.write(message_line(message, played.recorded_id, "pending_at_end"))
        self._clock.end()

    # --- counting

    def _count(self, event: Event) -> None:
        # Added up by class, and named at the end: this is called for each event of a recording.
        kind = event.__class__
        counts = self._counts
        if kind in counts:
            counts[kind] += 1
        elif kind is PluginEvent:
            self.report.count_event(event.type)
        else:
            counts[kind] = 1
        if isinstance(event, Decision):
            self.report.decisions[event.verdict] += 1
        elif isinstance(event, PromptPrefixChanged) and not event.refused:
            changed = self.report.plugin(event.plugin_name)
            changed.prompt_changes += 1
            changed.uncached_tokens += event.uncached_tokens or 0

    def _take_counts(self) -> None:
        report = self.report
        report.elapsed_s = time.perf_counter() - self._started
        for kind, count in self._counts.items():
            report.events[kind.TYPE] += count
        self._counts.clear()
        report.lost_records = self.host.journal.lost
        for plugin in self.host.plugins.values():
            counts: Any = report.plugin(plugin.name)
            if plugin.lane is not None:
                counts.delivered, counts.dropped = plugin.lane.delivered, plugin.lane.dropped
            done = plugin.counts
            counts.messages, counts.emitted, counts.crashes = done.messages, done.emitted, done.crashes
            counts.refused.update(done.refused)
            counts.state, counts.reason = plugin.state.value, plugin.reason
