"""Conversations on bad days: a host author's agent with plugins, what was heard of it, and what must hold."""

from __future__ import annotations

import collections
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_ai import Agent, capture_run_messages
from pydantic_ai.exceptions import RunCancelled

from ally_plugins import Ally, Host, ToolCall, hookimpl
from ally_plugins.adapters.pydantic_ai import AllyPlugins
from ally_plugins.contract.process_spec import Daemon, ProcessLimits, Timing
from ally_plugins.contract.values.events import AgentEnd, Event
from ally_plugins.policy.budget import Limits
from tests.kit.daemons import give_cue, notes_in, write_daemon
from tests.kit.hosts import make_record
from tests.kit.waiting import until

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage

GATE_KEEPER = """
serve(
    hello={"hooks": ["ally_gate_tool_call"], "events": ["*"], "tools": [{"name": "daemon_tool"}]},
    on_event=lambda params: note(params),
    gate=lambda params: {"verdict": "allow"},
    call_tool=lambda params: "from the daemon",
)
"""
"""A daemon that hears everything, allows everything and has a tool."""


class Witness:
    """An inline plugin that hears everything and abstains; tests speak through its handle."""

    def __init__(self, ally: Ally) -> None:
        self.ally = ally
        self.heard: list[Event] = []

    @hookimpl
    async def ally_event(self, event: Event) -> None:
        self.heard.append(event)

    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> None:
        """Abstain."""


class Conversation:
    """One conversation as a host author holds it: turns, and the history that is handed on whatever became of them."""

    def __init__(self, agent: Agent[None, Any], session_id: str = "c", *, streamed: bool = False) -> None:
        self.agent = agent
        self.id = session_id
        self.streamed = streamed
        self.history: list[ModelMessage] = []

    async def say(self, prompt: str | None, **more: Any) -> Any:
        """Run a turn and return the answer; what was said before an error stays in the history."""
        if self.streamed:
            more.setdefault("event_stream_handler", _watch)
        with capture_run_messages() as captured:
            try:
                result = await self.agent.run(prompt, message_history=self.history, conversation_id=self.id, **more)
            except BaseException as error:
                self.history = _left_by(error, captured) or self.history
                raise
        self.history = result.all_messages()
        return result.output


def _left_by(error: BaseException, captured: list[ModelMessage]) -> list[ModelMessage]:
    stopped = error if isinstance(error, RunCancelled) else RunCancelled.from_cancellation(error)
    return stopped.all_messages() if stopped is not None else list(captured)


async def _watch(_: Any, events: Any) -> None:
    async for _event in events:
        pass


class Stage:
    """A host that runs, with the witness and whatever else a test has enabled, and what was heard of all sessions."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host = host
        self.folder = folder
        self.events: list[Event] = []
        self.witnesses: list[Witness] = []
        host.stream.subscribe("*", self.events.append)

    @property
    def witness(self) -> Witness:
        """The witness of the host that runs now."""
        return self.witnesses[-1]

    def of(self, kind: type[Event] | str, session_id: str | None = None) -> list[Any]:
        """Return the events of a type, of one session or of all."""
        return [
            event
            for event in self.events
            if (event.type == kind if isinstance(kind, str) else type(event) is kind)
            and session_id in (None, event.session_id)
        ]

    async def until(self, predicate: Callable[[], Any], what: str) -> None:
        """Wait until something is so that tells nobody."""
        await until(predicate, what)

    def notes(self) -> list[Any]:
        """Return what daemons have written down for the test."""
        return notes_in(self.folder)

    def cue(self) -> None:
        """Let the daemon go on that waits for its cue."""
        give_cue(self.folder)


def daemon(folder: Path, body: str, name: str = "keeper", **limits: Any) -> Daemon:
    """Return a daemon of these lines that is not waited for at its end."""
    return write_daemon(folder, body, name, timing=Timing(shutdown_grace=0.5), limits=ProcessLimits(**limits))


@asynccontextmanager
async def staged(
    folder: Path, *, home: Path | None = None, has_person: bool = False, **plugins: Any
) -> AsyncIterator[Stage]:
    """Run a host with the witness and these plugins; at the end, what must hold of all its events is checked."""
    witnesses: list[Witness] = []

    def witness(ally: Ally) -> Witness:
        witnesses.append(Witness(ally))
        return witnesses[-1]

    talkative = make_record("witness", limits=Limits(messages_per_minute=100_000))
    given = {name.replace("_", "-"): plugin for name, plugin in plugins.items()}
    host = Host(
        "test", home=home, discover=False, plugins={"witness": (witness, talkative), **given}, has_person=has_person
    )
    stage = Stage(host, folder)
    stage.witnesses = witnesses
    async with host:
        yield stage
    check_events(stage.events)


PAIRS = {
    "TOOL_CALL_START": ("TOOL_CALL_END", "call_id"),
    "AGENT_START": ("AGENT_END", "instance_id"),
    "PERMISSION_REQUEST": ("PERMISSION_RESPONSE", "request_id"),
    "COMPACTION_START": ("COMPACTION_COMPLETE", "agent_id"),
    "MODEL_REQUEST": ("MODEL_RESPONSE", "agent_id"),
    "SESSION_START": ("SESSION_END", "session_id"),
}
"""What begins, what ends it, and by what they belong together."""


def check_events(events: Sequence[Event]) -> None:
    """Assert that what began has ended, once and in order, and that no number is missing."""
    by_session = collections.defaultdict(list)
    for event in events:
        by_session[event.session_id].append(event)
    for told in by_session.values():
        numbers = sorted(event.seq for event in told)
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert problems_of(told) == [], "\n".join(map(in_short, told))


def in_short(event: Event) -> str:
    """Return an event as a line of a failed test."""
    names = (
        getattr(event, name, None) for name in ("agent_name", "tool_name", "plugin_name", "state", "call_id", "error")
    )
    return " ".join([f"{event.turn_id} {event.seq} {event.type}", *(str(name) for name in names if name)])[:200]


def problems_of(events: Sequence[Event]) -> list[str]:
    """Return what is wrong with the beginnings and ends in one session."""
    found: list[str] = []
    ends = {end: kind for kind, (end, _) in PAIRS.items()}
    running: dict[tuple[str, Any], int] = {}
    for event in events:
        kind = event.type if event.type in PAIRS else ends.get(event.type)
        if kind is None:
            continue
        name = (kind, getattr(event, PAIRS[kind][1]))
        if event.type == kind:
            if name in running:
                found.append(f"{kind} of {name[1]} at {event.seq} before the end of the one at {running[name]}")
            running[name] = event.seq
            continue
        if running.pop(name, None) is None:
            found.append(f"{event.type} of {name[1]} at {event.seq} without a beginning")
        if isinstance(event, AgentEnd) and not event.is_specialized_agent:
            left = [each for each in running if each[0] != "SESSION_START"]
            found += [f"{each} goes on after the agent's end at {event.seq}" for each in left]
    return found + [f"{kind} of {name} has no end" for kind, name in running]


def plugin_texts(texts: Iterable[str]) -> list[str]:
    """Return what plugins said, of the lines of texts that a model was shown, in order."""
    lines = [line for text in texts for line in text.partition(": ")[2].splitlines()]
    return [line for line in lines if line.startswith("[plugin ")]


def agent_with(
    stage: Stage, model: Any, tools: Sequence[Any] = (), *, name: str | None = None, **more: Any
) -> tuple[Agent[None, str], AllyPlugins]:
    """Return a host author's agent, and the adapter that is on it."""
    plugins = AllyPlugins(stage.host, **more)
    return Agent(model, name=name, tools=tools, capabilities=[plugins], retries=1), plugins
