"""`demo`: the sample session through the contrib plugins, in a home that is gone afterwards."""

from __future__ import annotations

import asyncio
import re
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from .exits import INTERRUPTED
from .state import command
from .text import columns, echo, inert, paint, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ally_plugins.events import Event
    from ally_plugins.home import Home
    from ally_plugins.replay.report import PluginCounts, ReplayReport
    from ally_plugins.session import Session

    from .state import State

__all__ = ["Demo", "demo", "screen"]

_DISTRIBUTION: Final = "ally-plugins-contrib"
_ACTION: Final = "conversation-monitor:report"
_WIDTH: Final = 100
_ACROSS: Final = 3
_SHOWN: Final = 3  # of each kind: the demo is one screen of 40 lines
_REDACTED: Final = re.compile(r"[^\s\"']{0,40}\[redacted:[a-z0-9-]+\]")
_NEXT: Final = (
    ("ally-plugins list", "what is installed, and what waits for your consent"),
    ("ally-plugins enable loop-guard", "see what it asks for, and agree"),
    ("ally-plugins replay SESSION.jsonl", "the same with a session of your own"),
)


@command("demo")
def demo(state: State) -> None:
    """See it work without any set-up: a recorded session, played through three real plugins.

    Runs in a temporary folder that is removed afterwards, with everything granted that the plugins ask for. Your own
    home and its consents are neither read nor changed.

    \b
    Example:
      ally-plugins demo
      ally-plugins demo --json
    """
    from .logs import plain_logs

    with plain_logs(), TemporaryDirectory(prefix="ally-demo-") as folder:
        shown = Demo(state.app, folder)
        try:
            asyncio.run(shown.run())
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None
    if state.as_json:
        print_json(shown.to_json())
        return
    for line in screen(shown):
        echo(line)


class Demo:
    """One run of the demo: what it is to show is collected while the session is played."""

    def __init__(self, app: str, folder: str) -> None:
        from pathlib import Path

        from ally_plugins.home import Home
        from ally_plugins.replay.report import ReplayReport

        self.home: Final = Home(app, Path(folder))
        self.plugins: Final = _enable_all(self.home)
        self.report: ReplayReport = ReplayReport()
        self.messages: list[dict[str, str]] = []
        self.refusals: list[dict[str, Any]] = []
        self.redacted: list[dict[str, str]] = []
        self.answer: Any = None

    async def run(self) -> None:
        """Play the sample session. Raises what a replay raises."""
        from ally_plugins.host import Host
        from ally_plugins.registry import Registry
        from ally_plugins.replay.pacing import ReplayClock
        from ally_plugins.replay.player import Player
        from ally_plugins.replay.reading import open_recording
        from ally_plugins.replay.sample import sample_path

        host = Host(self.home.app, home=self.home, clock=ReplayClock(), has_person=True)
        host.registry = Registry(self.home, only=self.plugins)  # whatever ALLY_PLUGINS says
        with sample_path() as path:
            player = Player(host, [open_recording(path)], on_event=self._see, before_end=self._ask)
            self.report = player.report
            await player.run()

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values: the report of the replay, and what the screen shows."""
        return {
            **self.report.to_json(),
            "messages": self.messages,
            "refusals": self.refusals,
            "redacted": self.redacted,
            "action": {"name": _ACTION, "result": self.answer},
            "next": [command for command, _ in _NEXT],
        }

    async def _ask(self, session: Session) -> None:
        """Ask for the statistics, as a person at the host's own keyboard would."""
        self.answer = await session.request_action(_ACTION)

    def _see(self, event: Event) -> None:
        from ally_plugins.events import Decision, PluginMessageReceived, ToolCallEnd, ToolCallStart

        if isinstance(event, PluginMessageReceived):
            message = event.message
            said = {"plugin": event.plugin_name, "role": str(message["role"]), "content": str(message["content"])}
            self.messages.append(said)
        elif isinstance(event, Decision) and event.verdict == "deny":
            by = list(event.decided_by)
            self.refusals.append({"plugins": by, "subject": event.subject, "reason": event.reason})
        elif isinstance(event, ToolCallStart):
            self._look(event.type, event.tool_name, str(event.arguments))
        elif isinstance(event, ToolCallEnd):
            self._look(event.type, event.tool_name, event.output or "")

    def _look(self, event_type: str, tool: str, text: str) -> None:
        """Note what secret-guard left of a credential, on its way to every other plugin and the journal."""
        self.redacted += [
            {"event": event_type, "tool": tool, "text": found.group()} for found in _REDACTED.finditer(text)
        ]


def _enable_all(home: Home) -> tuple[str, ...]:
    """Agree to all that the contrib plugins ask for, in this home. Raises OperatorError when they are not installed."""
    from ally_plugins.errors import OperatorError
    from ally_plugins.registry import Registry

    every = Registry(home, only=()).load()
    names = tuple(record.name for record in every if record.distribution == _DISTRIBUTION)
    if not names:
        text = f"the demo needs the plugins of {_DISTRIBUTION}, which is not installed; pip install {_DISTRIBUTION}"
        raise OperatorError(text)
    registry = Registry(home, only=names)
    for name in names:
        registry.enable(registry.plan(name), by="demo")
    return names


def screen(shown: Demo) -> list[str]:
    """Return the one screen: at most 40 lines of 100 columns."""
    lines = [_title("A recorded session of a coding agent, played through three plugins"), ""]
    lines += [_title("Events going in"), *_event_table(shown.report), ""]
    lines += [_title("Plugins listening"), *_plugins(shown.report), ""]
    lines += [_title("Messages coming back"), *_first(_messages(shown), "none"), ""]
    lines += [_title("Changed on the way, before anybody else saw it"), *_first(_redacted(shown), "nothing"), ""]
    lines += [_title("Refused by a gate"), *_first(_refusals(shown), "nothing"), ""]
    lines += [_title(f"The person asks for an action: {_ACTION}"), *_answer(shown.answer), ""]
    lines += [_title("Try next"), *(f"  {line}" for line in columns(_NEXT))]
    return lines


def _title(text: str) -> str:
    return paint(text, bold=True)


def _event_table(report: ReplayReport) -> Iterator[str]:
    from ally_plugins.events import CODE_ALLY_TYPES, PLUGIN_TYPES

    names = (*CODE_ALLY_TYPES, *PLUGIN_TYPES)
    cells = [f"{name:<24} {report.events[name]:>4}" for name in names]
    for start in range(0, len(cells), _ACROSS):
        yield "  " + "   ".join(cells[start : start + _ACROSS])
    others = sum(count for name, count in report.events.items() if name not in names)
    yield f"  and {others} of other types: messages, model requests, thresholds, decisions, ..."


def _plugins(report: ReplayReport) -> Iterator[str]:
    rows = [(inert(name), _did(counts)) for name, counts in sorted(report.plugins.items())]
    return (f"  {line}" for line in columns(rows))


def _did(counts: PluginCounts) -> str:
    if not counts.delivered:
        return "hears no events: it is asked about calls, results and messages"
    messages, events = _some(counts.messages, "message"), _some(counts.emitted, "event")
    return f"heard {_some(counts.delivered, 'event')}, sent {messages}, emitted {events}"


def _some(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _messages(shown: Demo) -> list[str]:
    return [f"{inert(one['plugin'])} as {inert(one['role'])}: {inert(one['content'])}" for one in shown.messages]


def _refusals(shown: Demo) -> list[str]:
    return [f"{inert(one['subject'])} would be refused by {inert(one['reason'])}" for one in shown.refusals]


def _redacted(shown: Demo) -> list[str]:
    return [f"secret-guard in {one['event']} of {inert(one['tool'])}: {inert(one['text'])}" for one in shown.redacted]


def _first(texts: Sequence[str], nothing: str) -> Iterator[str]:
    for text in texts[:_SHOWN] or [nothing]:
        yield from _wrapped(text)
    if len(texts) > _SHOWN:
        yield f"  ... and {len(texts) - _SHOWN} more"


def _wrapped(text: str) -> Iterator[str]:
    """Yield a text in two lines at most."""
    import textwrap

    lines = textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="    ", max_lines=2, placeholder=" ...")
    yield from lines


def _answer(answer: Any) -> Iterator[str]:
    told = answer.get("message") if hasattr(answer, "get") else answer
    return _wrapped(inert(told))
