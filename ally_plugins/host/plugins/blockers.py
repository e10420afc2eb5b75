"""Which plugin holds up the loop of the host: whose code is on its stack, found by our own frames below that.

The thread that looks is `runtime.lanes.loop_watch`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from attrs import define

from ally_plugins.contract.values.inert import inert
from ally_plugins.host.bus.contributions import Contribution
from ally_plugins.host.bus.tasks import Tasks
from ally_plugins.runtime.lanes.lane import Lane
from ally_plugins.runtime.lanes.loop_watch import Blocker, LoopWatch
from ally_plugins.runtime.lanes.marks import BLOCKING, HOOK, WORKING
from ally_plugins.runtime.lanes.plugin import Plugin
from ally_plugins.runtime.lanes.runner import Runner

if TYPE_CHECKING:
    from types import CodeType, FrameType

__all__ = ["BlockerWatch", "find_blocker"]

_log: Final = logging.getLogger(__name__)


@define(eq=False)
class BlockerWatch:
    """Says which plugin holds up the loop, from `start` to `close`.

    `plugins` and `packages`, which names the plugin of each top-level package, are called in any thread. `on_freed` is
    called on the loop once it turns again, with the seconds.
    """

    plugins: Callable[[], Sequence[Plugin]]
    packages: Callable[[], Mapping[str, str]]
    on_freed: Callable[[Blocker, float], None]
    _watch: LoopWatch | None = None

    def start(self) -> None:
        """Watch the running loop, if it is not watched yet: the code of a plugin is about to run on it."""
        if self._watch is None:
            self._watch = LoopWatch(
                is_wanted=self._is_any_at_work,
                find=lambda frame: find_blocker(frame, self.packages()),
                on_blocked=self._blocked,
                on_free=self._freed,
            )

    def close(self) -> None:
        """Watch no more."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

    def _is_any_at_work(self) -> bool:
        return any(plugin.slot.marks[HOOK] or plugin.slot.marks[WORKING] for plugin in self.plugins())

    def _blocked(self, blocker: Blocker) -> None:
        """Say it while it lasts: what holds the loop up may never end."""
        self._mark(blocker, 1)
        _log.error(
            "the plugin %r holds up the whole host: for a second %s has not let the event loop turn (%s); what blocks"
            " belongs into a `def` hook, which runs in a thread, or into a process: ally-plugins place %s process",
            blocker.plugin, blocker.what, inert(blocker.where), blocker.plugin,
        )  # fmt: skip

    def _freed(self, blocker: Blocker, seconds: float) -> None:
        self._mark(blocker, 0)
        self.on_freed(blocker, seconds)

    def _mark(self, blocker: Blocker, mark: int) -> None:
        for plugin in self.plugins():
            if plugin.name == blocker.plugin:
                plugin.slot.marks[BLOCKING] = mark


def _of_runner(names: Mapping[str, Any]) -> tuple[str, str]:
    runner: Runner = names["self"]
    return runner.plugin, runner.current_hook


def _of_lane(names: Mapping[str, Any]) -> tuple[str, str]:
    lane: Lane = names["self"]
    return lane.plugin, lane.current_hook


def _of_handler(names: Mapping[str, Any]) -> tuple[str, str]:
    handler: Contribution = names["self"]
    return handler.plugin.name, f"the {handler.spec.kind} {handler.spec.name!r}"


def _of_task(names: Mapping[str, Any]) -> tuple[str, str]:
    task = names["task"]
    return task.plugin.name, f"the task {task.name!r}"


_CALLERS: Final[Mapping[CodeType, Callable[[Mapping[str, Any]], tuple[str, str]]]] = {
    Runner.observe.__code__: _of_runner,
    Runner.serve.__code__: _of_runner,
    Runner._take_first_step.__code__: _of_runner,  # noqa: SLF001
    Lane._deliver_fast.__code__: _of_lane,  # noqa: SLF001 - as above; it has no frame of the runner's below it
    Contribution._call.__code__: _of_handler,  # noqa: SLF001
    Tasks._run.__code__: _of_task,  # noqa: SLF001
}
"""What of ours calls plugins' code on the loop, and how it names whose code that is."""


def find_blocker(frame: FrameType, packages: Mapping[str, str]) -> Blocker | None:
    """Return whose code a stack of the loop's thread is in, given its innermost frame; None for nobody's.

    `packages` gives the plugin of a top-level package.
    """
    below: FrameType | None = frame
    stack: list[FrameType] = []
    while below is not None:
        # With nothing above it, our own frame is what runs, and not the plugin's code.
        if (caller := _CALLERS.get(below.f_code)) is not None and stack:
            plugin, what = caller(below.f_locals)
            return Blocker(plugin, what, _place(stack))
        stack.append(below)
        below = below.f_back
    for each in stack:  # a task that its code has made by itself
        name = packages.get(str(each.f_globals.get("__name__", "")).partition(".")[0])
        if name is not None:
            return Blocker(name, "code of its own", f"{each.f_code.co_filename}, line {each.f_lineno}")
    return None


def _place(stack: list[FrameType]) -> str:
    """Return the innermost place in the file of what was called; `stack` begins with its innermost frame."""
    file = stack[-1].f_code.co_filename
    at = next(frame for frame in stack if frame.f_code.co_filename == file)
    return f"{file}, line {at.f_lineno}"
