"""`demo`: the sample session through the contrib plugins, in a temporary home that is removed afterwards.

They run where plugins are placed that are enabled for the first time: each in a process of its own, in a sandbox.
`process_kill` kills one of these at the end.
"""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.cli.shell.exits import INTERRUPTED
from ally_plugins.cli.shell.signals import run
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import columns, counted_noun, echo, inert, paint, print_json

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.cli.shell.state import State
    from ally_plugins.contract.values.events import Event
    from ally_plugins.host.host import Host
    from ally_plugins.host.sessions.session import Session
    from ally_plugins.replay.report import PluginCounts, ReplayReport

    from .process_kill import KillReport

__all__ = ["Demo", "demo", "screen"]

_DISTRIBUTION: Final = "ally-plugins-contrib"
_PLAYED: Final = ("conversation-monitor", "loop-guard", "secret-guard")
"""The plugins that act on a recording; others watch files, or need a live model."""
_ACTION: Final = "conversation-monitor:report"
_KILLED: Final = "secret-guard"
_WIDTH: Final = 100
_ACROSS: Final = 3
_SHOWN: Final = 3  # of each kind: the demo is one screen of 40 lines
_REDACTED: Final = re.compile(r"[^\s\"']{0,40}\[redacted:[a-z0-9-]+\]")
"""With what stands right before it, such as the name of the variable: that tells what was redacted."""
_NEXT: Final = (
    ("ally-plugins list", "what is installed, and what waits for your consent"),
    ("ally-plugins enable loop-guard", "see what it asks for, and agree"),
    ("ally-plugins replay SESSION.jsonl", "the same with a session of your own"),
)


@command("demo")
def demo(state: State) -> None:
    """See it work without any set-up: a recorded session, played through three real plugins.

    Each of the three runs in a process of its own, in a sandbox where the machine has one. The process of one is killed
    in the end: watch it come back.

    Runs in a temporary folder that is removed afterwards, with everything granted that the plugins ask for. Your own
    home and its consents are neither read nor changed.

    \b
    Example:
      ally-plugins demo
      ally-plugins demo --json
    """
    from ally_plugins.cli.shell.plain_logs import plain_logs
    from ally_plugins.host.sockets.leftovers import temporary_folder

    with plain_logs(), temporary_folder("demo-") as folder:
        shown = Demo(state.app, folder)
        try:
            run(shown.run())
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None
    if state.as_json:
        print_json(shown.to_json())
        return
    for line in screen(shown):
        echo(line)


class Demo:
    """One run of the demo: collects what the screen shows while the session is played."""

    def __init__(self, app: str, folder: Path) -> None:
        from ally_plugins.catalog.home.folder import Home
        from ally_plugins.replay.report import ReplayReport

        self.home: Final = Home(app, folder)
        self.plugins: Final = _enable_all(self.home)
        self.report: ReplayReport = ReplayReport()
        self.messages: list[dict[str, str]] = []
        self.refusals: list[dict[str, Any]] = []
        self.redacted: list[dict[str, str]] = []
        self.answer: Any = None
        self.killed: KillReport | None = None
        self._is_killing = False

    async def run(self) -> None:
        """Play the sample session. Raises as `Player.run`. Cancelling stops the replay and the host."""
        from ally_plugins.host.host import Host
        from ally_plugins.replay.pacing import ReplayClock
        from ally_plugins.replay.player import Player
        from ally_plugins.replay.recording import open_recording
        from ally_plugins.replay.replay_registry import ReplayRegistry
        from ally_plugins.replay.sample import sample_path

        # With a person: otherwise each gate that wants to ask one would deny, and the recorded session had one.
        host = Host(self.home.app, home=self.home, clock=ReplayClock(), has_person=True)
        host.registry = ReplayRegistry(self.home, only=self.plugins)  # also where ALLY_PLUGINS names others
        with sample_path() as path:
            player = Player(host, [open_recording(path)], on_event=self._collect, before_end=partial(self._end, host))
            self.report = player.report
            with _quiet_about_kills():
                await player.run()

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values: the report of the replay, and what the screen shows."""
        return {
            **self.report.to_json(),
            "messages": self.messages,
            "refusals": self.refusals,
            "redacted": self.redacted,
            "action": {"name": _ACTION, "result": self.answer},
            "killed": self.killed.to_json() if self.killed is not None else None,
            "next": [command for command, _ in _NEXT],
        }

    async def _end(self, host: Host, session: Session) -> None:
        """Request the statistics, as a person at the host's own keyboard would, and kill a process."""
        from .process_kill import kill_and_watch

        self.answer = await session.request_action(_ACTION)
        # From here on the gate's process is gone, and denials say so: the list of refusals is about the session.
        self._is_killing = True
        self.killed = await kill_and_watch(host, session, _KILLED)

    def _collect(self, event: Event) -> None:
        from ally_plugins.contract.values.events import Decision, PluginMessageReceived, ToolCallEnd, ToolCallStart

        if isinstance(event, PluginMessageReceived):
            message = event.message
            row = {"plugin": event.plugin_name, "role": str(message["role"]), "content": str(message["content"])}
            self.messages.append(row)
        elif isinstance(event, Decision) and event.verdict == "deny" and not self._is_killing:
            by = list(event.decided_by)
            self.refusals.append({"plugins": by, "subject": event.subject, "reason": event.reason})
        elif isinstance(event, ToolCallStart):
            self._note_redactions(event.type, event.tool_name, str(event.arguments))
        elif isinstance(event, ToolCallEnd):
            self._note_redactions(event.type, event.tool_name, event.output or "")

    def _note_redactions(self, event_type: str, tool: str, text: str) -> None:
        """Collect the credentials that secret-guard redacted before any other plugin or the journal saw them."""
        self.redacted += [
            {"event": event_type, "tool": tool, "text": found.group()} for found in _REDACTED.finditer(text)
        ]


def _enable_all(home: Home) -> tuple[str, ...]:
    """Agree to all requests of the demo's plugins, in this home. Raises OperatorError when they are not installed."""
    from ally_plugins.catalog.registry import Registry
    from ally_plugins.contract.values.errors import OperatorError

    # With `only`, here and below: ALLY_PLUGINS is about the person's own home.
    every = Registry(home, only=()).load()
    names = tuple(r.name for r in every if r.distribution == _DISTRIBUTION and r.name in _PLAYED)
    if not names:
        text = f"the demo needs the plugins of {_DISTRIBUTION}, which is not installed; pip install {_DISTRIBUTION}"
        raise OperatorError(text)
    registry = Registry(home, only=names)
    for name in names:
        registry.enable(registry.plan(name), by="demo")
    return names


@contextmanager
def _quiet_about_kills() -> Generator[None]:
    """Keep the warning of the killed process off stderr: the screen shows it."""
    logger = logging.getLogger("ally_plugins.host.plugins.audit")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def screen(shown: Demo) -> list[str]:
    """Return the one screen: at most 40 lines of 100 columns."""
    from ally_plugins.cli.shell.processes import has_sandbox

    where = "a sandbox" if has_sandbox() else "one of its own"
    lines = [_title("A recorded session of a coding agent, played through three plugins")]
    lines += [_title(f"Events going in, and {_others(shown.report)} of other types"), *_event_table(shown.report), ""]
    lines += [_title("Plugins listening"), *_plugins(shown.report), ""]
    lines += [_title("Messages coming back"), *_first(_messages(shown), "none"), ""]
    lines += [_title("Changed on the way, before anybody else saw it"), *_first(_redacted(shown), "nothing"), ""]
    lines += [_title("Refused by a gate"), *_first(_refusals(shown), "nothing"), ""]
    lines += [_title(f"The person asks for an action: {_ACTION}"), *_answer(shown.answer), ""]
    lines += [_title(f"A process is killed (SIGKILL): {_KILLED} runs in {where}"), *_kill(shown.killed), ""]
    lines += [_title("Try next"), *(f"  {line}" for line in columns(_NEXT))]
    return lines


def _title(text: str) -> str:
    return paint(text, bold=True)


def _event_table(report: ReplayReport) -> Iterator[str]:
    from ally_plugins.contract.values.events import CODE_ALLY_TYPES, PLUGIN_TYPES

    names = (*CODE_ALLY_TYPES, *PLUGIN_TYPES)
    cells = [f"{name:<24} {report.events[name]:>4}" for name in names]
    for start in range(0, len(cells), _ACROSS):
        yield "  " + "   ".join(cells[start : start + _ACROSS])


def _others(report: ReplayReport) -> int:
    from ally_plugins.contract.values.events import CODE_ALLY_TYPES, PLUGIN_TYPES

    return sum(count for name, count in report.events.items() if name not in {*CODE_ALLY_TYPES, *PLUGIN_TYPES})


def _plugins(report: ReplayReport) -> Iterator[str]:
    rows = [(inert(name), _activity(counts)) for name, counts in sorted(report.plugins.items())]
    return (f"  {line}" for line in columns(rows))


def _activity(counts: PluginCounts) -> str:
    if not counts.delivered:
        return "hears no events: it is asked about calls, results and messages"
    messages, events = counted_noun(counts.messages, "message"), counted_noun(counts.emitted, "event")
    return f"heard {counted_noun(counts.delivered, 'event')}, sent {messages}, emitted {events}"


def _messages(shown: Demo) -> list[str]:
    return [f"{inert(one['plugin'])} as {inert(one['role'])}: {inert(one['content'])}" for one in shown.messages]


def _refusals(shown: Demo) -> list[str]:
    return [f"{inert(one['subject'])} would be refused by {inert(one['reason'])}" for one in shown.refusals]


def _redacted(shown: Demo) -> list[str]:
    return [f"secret-guard in {one['event']} of {inert(one['tool'])}: {inert(one['text'])}" for one in shown.redacted]


def _kill(killed: KillReport | None) -> Iterator[str]:
    if killed is None or killed.noticed_after is None:
        yield f"  it does not run: {inert(killed.reason) if killed is not None else 'the session had no end'}"
        return
    rows = [(_after(killed.noticed_after), f"the host has noticed: {inert(killed.reason)}")]
    rows += [("meanwhile", f"its gate denies: {inert(killed.answer_meanwhile.partition(' (')[0])}")]
    rows += [(_after(killed.running_after), f"it runs again, and its gate answers: {inert(killed.answer_afterwards)}")]
    for line in columns(rows):
        yield from _wrapped(line, lines=1)


def _after(seconds: float | None) -> str:
    return "never" if seconds is None else f"after {seconds * 1000:.0f} ms"


def _first(texts: Sequence[str], nothing: str) -> Iterator[str]:
    for text in texts[:_SHOWN] or [nothing]:
        yield from _wrapped(text)
    if len(texts) > _SHOWN:
        yield f"  ... and {len(texts) - _SHOWN} more"


def _wrapped(text: str, lines: int = 2) -> Iterator[str]:
    """Yield a text in two lines at most."""
    import textwrap

    yield from textwrap.wrap(
        text, _WIDTH, initial_indent="  ", subsequent_indent="    ", max_lines=lines, placeholder=" ..."
    )


def _answer(answer: Any) -> Iterator[str]:
    text = answer.get("message") if hasattr(answer, "get") else answer
    return _wrapped(inert(text))
