"""The progress of a replay on the terminal: a bar of the bytes that were read, and a line for each notable event.

It goes to standard error, and only to a terminal; the summary on standard output is in `summary`.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.cli.shell.plain_logs import log_line
from ally_plugins.cli.shell.text import echo, inert, preview
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.events import (
    CompactionComplete,
    ContextThreshold,
    Decision,
    Event,
    PluginEventEmitted,
    PluginMessageReceived,
    PluginState,
    PromptPrefixChanged,
    SessionStart,
)
from ally_plugins.replay.session_names import recorded_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

__all__ = ["LogLines", "Timeline", "line_of"]

_MAX_LINES: Final = 500  # more would scroll for minutes and not be read; the summary has the counts
_UPDATE_S: Final = 0.1  # rich draws ten times a second anyway, and a call for each event would slow the replay
_TEXT: Final = 100

Line = tuple[str, str]
"""A style of rich's, and what happened, inert."""


def line_of(event: Event) -> Line | None:
    """Return the line for an event; None for an event that gets none."""
    describe = _LINES.get(event.__class__)
    return None if describe is None else describe(event)


def _message(event: Any) -> Line:
    text = preview(event.message.get("content", ""), _TEXT)
    return "cyan", f"{event.plugin_name} says as {inert(event.message.get('role'))}: {text}"


def _decision(event: Any) -> Line | None:
    if event.verdict == "allow":
        return None
    subject, reason = inert(event.subject), preview(event.reason, _TEXT)
    if event.verdict == "deny":
        return "red", f"{subject} would be refused by {reason}"
    return "yellow", f"{subject} would wait for the person's word: {reason}"


def _emitted(event: Any) -> Line:
    return "blue", f"{event.plugin_name} emits {inert(event.event_type)}"


def _threshold(event: Any) -> Line:
    return "yellow", f"context usage passes {event.threshold:g} % ({event.context_usage:.0f} %)"


def _compaction(event: Any) -> Line:
    if event.error:
        return "yellow", f"the compaction failed: {preview(event.error_message or '', _TEXT)}"
    before, after = _percent(event.old_context_usage), _percent(event.new_context_usage)
    return "yellow", f"the conversation was compacted from {before} to {after}"


def _percent(usage: float | None) -> str:
    return "?" if usage is None else f"{usage:.0f} %"


def _state(event: Any) -> Line | None:
    if event.state in {"running", "starting", "stopped"}:
        return None
    return "red", f"{event.plugin_name} is {event.state}: {preview(event.reason, 2 * _TEXT)}"


def _prefix(event: Any) -> Line | None:
    if event.changes > 1:  # most do it at each request: the summary counts them
        return None
    return "yellow", f"{event.plugin_name} would change what requests begin with: {inert(event.part)}"


def _session(event: Any) -> Line:
    return "bold", f"session {inert(recorded_name(event.session_id))}"


_LINES: Final[dict[type[Event], Callable[[Any], Line | None]]] = {
    CompactionComplete: _compaction,
    ContextThreshold: _threshold,
    Decision: _decision,
    PluginEventEmitted: _emitted,
    PluginMessageReceived: _message,
    PluginState: _state,
    PromptPrefixChanged: _prefix,
    SessionStart: _session,
}


class Timeline:
    """The bar and the lines, while the context lasts; `total` is in bytes."""

    def __init__(self, total: int) -> None:
        self.is_shown = sys.stderr.isatty()
        self._total = total
        self._lines = 0
        self._updated = 0.0
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self.is_shown:
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

            from ally_plugins.cli.shell.console import make_console

            columns = (TextColumn("replay"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
            # Transient: what stays on the terminal is the lines, and the summary below them.
            self._progress = Progress(*columns, console=make_console(stderr=True), transient=True)
            self._progress.start()
            # Of empty files too; 0 would be a bar without an end.
            self._task = self._progress.add_task("replay", total=max(1, self._total))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, event: Event) -> None:
        """Add the line of an event, if it gets one."""
        if self._progress is not None and (line := line_of(event)) is not None:
            at = time.strftime("%H:%M:%S", time.localtime(event.timestamp / 1000))
            self.write(f"{at}  {line[1]}", line[0])

    def write(self, text: str, style: str = "") -> None:
        """Write one inert line above the bar; what comes after the first few hundred is left to the summary."""
        self._lines += 1
        if self._progress is None or self._lines > _MAX_LINES:
            return
        from rich.text import Text

        if self._lines == _MAX_LINES:
            text, style = "... more follows; the summary counts it", "dim"
        self._progress.console.print(Text(inert(text, keep_lines=True), style), soft_wrap=True)

    def advance(self, position: int) -> None:
        """Move the bar to a position in bytes; redrawn at most every `_UPDATE_S`."""
        if self._progress is None:
            return
        now = time.monotonic()
        if now - self._updated >= _UPDATE_S:
            self._updated = now
            self._progress.update(self._task, completed=position)


class LogLines(logging.Handler):
    """Shows the host's warnings as inert lines, each different one once; ALLY_DEBUG=1 adds tracebacks."""

    def __init__(self, timeline: Timeline) -> None:
        super().__init__(logging.WARNING)
        self._timeline = timeline
        self._shown: set[str] = set()

    @override
    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        text = log_line(record)
        # The bound is on memory as well: texts may differ in a number each time.
        if text in self._shown or len(self._shown) >= _MAX_LINES:
            return
        self._shown.add(text)
        if self._timeline.is_shown:
            self._timeline.write(text, "red" if record.levelno >= logging.ERROR else "yellow")
        else:
            echo(text, to_stderr=True)
