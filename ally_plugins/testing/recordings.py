"""A plugin on a recorded session: the events of a live agent, and what the plugin did."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import field, frozen

from ally_plugins.contract.values.conversation import Message
from ally_plugins.contract.values.events import Decision, Event, PluginEvent, PluginMessageReceived
from ally_plugins.replay.pacing import ReplayClock
from ally_plugins.replay.player import Player
from ally_plugins.replay.recording import open_recording
from ally_plugins.replay.report import ReplayReport
from ally_plugins.replay.sample import sample_path

from .harness import PluginHarness

if TYPE_CHECKING:
    from .subject import PluginLike

__all__ = ["Replayed", "replay_recording"]

E = TypeVar("E", bound=Event)


@frozen
class Replayed:
    """What came of one replay. `report` has the counts that `ally-plugins replay --json` prints."""

    plugin: str
    report: ReplayReport
    events: tuple[Event, ...] = field(repr=False)
    crashes: tuple[str, ...]

    @property
    def messages(self) -> tuple[Message, ...]:
        """The plugin's messages that entered the conversation."""
        return tuple(
            Message(role=data["role"], content=data["content"], id=data["id"], metadata=data["metadata"])
            for data in (each.message for each in self._of(PluginMessageReceived) if each.plugin_name == self.plugin)
        )

    @property
    def emitted(self) -> tuple[PluginEvent, ...]:
        """The plugin's own events."""
        return tuple(each for each in self._of(PluginEvent) if each.event_type.startswith(f"{self.plugin}:"))

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """What gates came to; the recording has happened all the same."""
        return self._of(Decision)

    def _of(self, kind: type[E]) -> tuple[E, ...]:
        return tuple(event for event in self.events if isinstance(event, kind))


def replay_recording(plugin: PluginLike, *paths: Path | str, **options: Any) -> Replayed:
    """Play recorded sessions to a plugin, as fast as possible, and return what came of it.

    Without `paths` it is the sample session that `ally-plugins demo` plays. `options` are those of `PluginHarness`. The
    outcome is the same every time. Call it outside of a loop. Raises RecordingError for a file that cannot be read.
    """
    harness = PluginHarness(plugin, clock=ReplayClock(), **options)
    with ExitStack() as open_files:
        files = [Path(path) for path in paths] or [open_files.enter_context(sample_path())]
        recordings = [open_recording(file) for file in files]
        # The harness is not entered: the player starts its host, and makes the sessions.
        report = asyncio.run(Player(harness.host, recordings, on_event=harness.events.append).run())
    return Replayed(harness.name, report, tuple(harness.events), harness.crashes)
