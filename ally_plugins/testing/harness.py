"""One plugin on a real host in memory, with one session: calls that a test makes, and what the plugin did."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import attrs

from ally_plugins.catalog.home.config import PluginConfig
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.conversation import (
    Message,
    ModelInput,
    PromptSection,
    Stop,
    ToolCall,
    ToolResult,
)
from ally_plugins.contract.values.errors import GateRefused, HostError, PluginLoadError
from ally_plugins.contract.values.events import AssistantMessage, Decision, Event, PluginEvent, UserMessage
from ally_plugins.contract.values.frozen import freeze_mapping
from ally_plugins.contract.wording import suggest
from ally_plugins.replay.daemon_waits import wait_for_calls
from ally_plugins.runtime.lanes.clock import RecordedClock

from .faults import Faults, FaultyJournal
from .observed import ObservedHost, Refusal
from .subject import ManifestLike, PluginLike, Subject

if TYPE_CHECKING:
    from ally_plugins.contract.handle import Ally
    from ally_plugins.contract.values.conversation import SafePoint
    from ally_plugins.contract.values.events import PermissionRequest
    from ally_plugins.contract.values.questions import AskPerson
    from ally_plugins.host.sessions.gates import Ruling
    from ally_plugins.host.sessions.session import Session
    from ally_plugins.policy.budget import Limits
    from ally_plugins.runtime.lanes.clock import Clock
    from ally_plugins.runtime.lanes.plugin import Plugin

__all__ = ["OTHER", "HarnessResults", "PluginHarness", "Refusal"]

E = TypeVar("E", bound=Event)
T = TypeVar("T")

OTHER: Final = "other"
"""The name of the second plugin in the host, whose handle a test uses to talk to the first."""

START_MS: Final = 1_767_225_600_000  # 2026-01-01, 00:00 UTC: a time that a reader recognises
_ARGUMENTS: Final = frozenset({
    "name", "manifest", "grants", "settings", "limits", "home", "clock", "has_person", "ask_person", "actions",
    "implementation", "must_start",
})  # fmt: skip
_TURNS: Final = 20  # of the loop, in which a task that waits for nothing outside comes to where it waits
_POLL_S: Final = 0.0005
_MAX_ROUNDS: Final = 100  # of plugins that set each other off; hop limits end that long before


class HarnessResults(ABC):
    """What the plugin of a harness did: its messages, events, refusals and crashes. Shared with `BlockingHarness`."""

    @property
    @abstractmethod
    def _harness(self) -> PluginHarness:
        """The harness whose results these are."""

    @property
    def pending(self) -> tuple[Message, ...]:
        """The plugin's messages that were accepted and wait for a safe point."""
        return tuple(
            waiting.message for waiting in self._harness.session.inbox.all() if waiting.plugin == self._harness.name
        )

    @property
    def messages(self) -> tuple[Message, ...]:
        """The plugin's messages that have entered the conversation."""
        return tuple(
            each for each in self._harness.session.conversation.messages if each.source_plugin == self._harness.name
        )

    @property
    def emitted(self) -> tuple[PluginEvent, ...]:
        """The plugin's own events; `event_type` is `<plugin>:<type>`."""
        return tuple(
            each for each in self.events_of(PluginEvent) if each.event_type.startswith(f"{self._harness.name}:")
        )

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """What gates came to."""
        return self.events_of(Decision)

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """The plugin's calls that were refused, with the errors that it got."""
        return tuple(each for each in self._harness.host.refusals if each.plugin == self._harness.name)

    @property
    def crashes(self) -> tuple[str, ...]:
        """Where and how the plugin crashed, a line each; a refusal that it did not catch is no crash."""
        own = [crash for crash in self._harness.host.crashes if crash.plugin == self._harness.name]
        return tuple(
            ", ".join([f"{crash.hook}: {type(crash.error).__name__}: {crash.error}", *_notes(crash.error)])
            for crash in own
        )

    @property
    def tools(self) -> tuple[str, ...]:
        """The names of the tools that the plugin offers."""
        return tuple(each.spec.name for each in self._harness.host.tools if each.plugin.name == self._harness.name)

    @property
    def actions(self) -> tuple[str, ...]:
        """The names of the actions that the plugin offers."""
        return tuple(each.spec.name for each in self._harness.host.actions if each.plugin.name == self._harness.name)

    def events_of(self, kind: type[E]) -> tuple[E, ...]:
        """Return what was emitted of one type, by whomever, in order."""
        return tuple(event for event in self._harness.events if isinstance(event, kind))


class PluginHarness(HarnessResults):
    """A plugin that runs, from enter to exit. An asynchronous context manager; see `BlockingHarness` for plain tests.

    `plugin` is the class, the name of an installed plugin, or the Path of a plugin's folder, installed or not: that one
    runs in a process of its own, in whatever language it is. Its manifest is found beside its module unless it is
    given (a Manifest, TOML text, a table, a path); its name is the class's in kebab case. `grants` are all that the
    manifest asks for unless given; `[]` is nothing. `settings`, `limits` and `options` (those of `[plugins.NAME]`:
    deadlines, shadow, mandatory, gate_on_error, ...) are what an operator would set. `home` is a directory, for plugins
    that keep files. `ask_person` answers what the plugin asks the person.

    Raises PluginLoadError on entering when the plugin does not start, unless `must_start=False`.
    """

    def __init__(  # noqa: PLR0913 - what an operator and a host author would set, by name
        self,
        plugin: PluginLike,
        *,
        name: str | None = None,
        manifest: ManifestLike | None = None,
        grants: Iterable[str] | None = None,
        settings: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
        home: Path | None = None,
        clock: Clock | None = None,
        has_person: bool = False,
        ask_person: AskPerson | None = None,
        actions: Iterable[str] = (),
        implementation: object | None = None,
        must_start: bool = True,
        **options: Any,
    ) -> None:
        _check_options(options)
        self.subject = Subject.of(plugin, name=name, manifest=manifest)
        self.name: Final = self.subject.name
        # Stands still unless it is moved: budgets and timestamps are the same in each run of a test.
        self.clock: Clock = clock if clock is not None else RecordedClock(START_MS)
        self.events: list[Event] = []
        self._ally: Ally | None = None
        self._other: Ally | None = None
        self._plugin: Plugin | None = None
        self._session: Session | None = None
        self._must_start = must_start
        self._timers = LoopTimers()
        record = self.subject.record(grants=grants, settings=settings, limits=limits, **options)
        self.host: Final = ObservedHost(
            home=home,
            plugins={self.name: (self.subject.daemon or self._build, record), OTHER: self._build_other},
            clock=self.clock,
            has_person=has_person,
            ask_person=ask_person,
            actions=actions,
            implementation=implementation,
        )

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the host and open a session; entering the harness does it.

        Raises PluginLoadError when the plugin does not start, unless `must_start=False`. When
        cancelled, nothing is left running.
        """
        if self.host.home is None:
            self.host.given_journal = FaultyJournal.in_memory()
        # Before the start, whose events count too.
        self.host.stream.subscribe("*", self.events.append)
        await self.host.start()
        self._plugin = plugin = self.host.plugins[self.name]
        if self._must_start and not plugin.is_running:
            await self.stop()
            raise PluginLoadError(f"the plugin {self.name!r} is {plugin.state}: {plugin.reason}", plugin=self.name)
        self._session = self.host.session("s1")
        # So that a test begins with a plugin that knows of the session.
        await self.settle()

    async def stop(self) -> None:
        """Stop the plugin and the host, as `Host.stop`, also when cancelled; what was received can still be read."""
        try:
            await self.host.stop()
        finally:
            self._timers.restore()
            if (journal := self.host.given_journal) is not None:
                self.host.given_journal = None
                await journal.close()

    def _build(self, ally: Ally) -> Any:
        self._ally = ally
        assert self.subject.plugin is not None  # noqa: S101 - the host was given the daemon instead
        return self.subject.plugin(ally)

    def _build_other(self, ally: Ally) -> object:
        self._other = ally
        return object()

    # --- who is there ---

    @property
    def session(self) -> Session:
        """The session that events go to."""
        return _require_running(self._session)

    @property
    def plugin(self) -> Plugin:
        """The plugin as the host sees it: `state`, `reason`, `counts`, `instance`."""
        return _require_running(self._plugin)

    @property
    def ally(self) -> Ally:
        """The plugin's own handle. Raises HostError for a plugin in a process of its own, where its handle is too."""
        if self.subject.daemon is not None:
            raise HostError(f"the plugin {self.name!r} runs in a process of its own, and so its handle is not here")
        return _require_running(self._ally)

    @property
    def other(self) -> Ally:
        """The handle of another plugin in the same host, which may do everything; use it to talk to this one."""
        return _require_running(self._other)

    @property
    def faults(self) -> Faults:
        """What may be made to go wrong around the plugin: calls that hang, a full disk, a flood, a crash, garbage."""
        return Faults(self)

    # --- what a test does ---

    async def emit(self, *events: Event) -> None:
        """Emit events as the host would, and `settle`. Cancelling only ends the waiting: they are emitted."""
        for event in events:
            self.session.emit(event)
        await self.settle()

    async def settle(self) -> None:
        """Wait until every plugin has handled every event, those that followed too, and its tasks go no further.

        A task goes no further when it has ended, or waits: for time, which `advance` moves, or for something outside,
        such as a file or another program, which nobody here can tell of. Cancelling stops the waiting and nothing else.
        """
        session = self.session
        for _ in range(_MAX_ROUNDS):
            before = session.ring.head, self._tasks_running()
            await session.drained()
            # A process may have acknowledged all events while a call that it made in one of them has not returned.
            await wait_for_calls(self.host)
            await self._let_tasks_go_on()
            # Nobody has emitted anything meanwhile, and no task has ended.
            if (session.ring.head, self._tasks_running()) == before:
                return

    def _tasks_running(self) -> int:
        return self.host.tasks.running(self.name)

    async def _let_tasks_go_on(self) -> None:
        """Give the plugin's tasks turns of the loop until they wait for something, and let their calls return."""
        if not self._tasks_running():
            return
        for _ in range(_TURNS):
            await asyncio.sleep(0)
            while self.plugin.budget.in_flight and not self.host.held:  # noqa: ASYNC110 - nobody tells of it
                await asyncio.sleep(_POLL_S)

    async def person_says(self, text: str) -> Message:
        """Send a message as the person: through transforms and gates, into the conversation, and as USER_MESSAGE.

        Raises GateRefused when a transform blocks or a gate denies it. Cancelling while they run adds nothing.
        """
        message = await self.session.transform_user_message(Message(role="user", content=text))
        _refuse_denied(await self.session.gate_user_message(message))
        self.session.conversation.add(message)
        await self.emit(UserMessage(content=message.content))
        return message

    async def model_answers(self, text: str, *, is_structured: bool = False) -> Message:
        """Answer as the model: through transforms and gates, into the conversation, and as ASSISTANT_MESSAGE.

        Raises GateRefused when a transform blocks or a gate denies it. Cancelling while they run adds nothing.
        """
        about = {"isStructured": True} if is_structured else {}
        message = await self.session.transform_answer(Message(role="assistant", content=text, metadata=about))
        _refuse_denied(await self.session.gate_answer(message))
        self.session.conversation.add(message)
        await self.emit(AssistantMessage(content=message.content))
        return message

    async def gate_user_message(self, message: Message | str) -> Ruling:
        """Run the gates of a message of the person, or of its text; cancelling cancels the gates."""
        return await self.session.gate_user_message(_as_message("user", message))

    async def gate_answer(self, message: Message | str) -> Ruling:
        """Run the gates of an answer of the model, or of its text; cancelling cancels the gates."""
        return await self.session.gate_answer(_as_message("assistant", message))

    async def gate_stop(self, stop: Stop | str = "") -> Ruling:
        """Run the gates of the end of a turn, or of one with this answer; a deny is a message at `safe_point`.

        Cancelling cancels the gates, and adds no message.
        """
        return await self.session.gate_stop(Stop(answer=stop) if isinstance(stop, str) else stop)

    async def gate(self, call: ToolCall | str, arguments: Mapping[str, Any] | None = None) -> Ruling:
        """Run the gates of a tool call, or of a tool's name and arguments; cancelling cancels the gates."""
        return await self.session.gate_tool_call(as_call(call, arguments))

    async def gate_permission(self, request: PermissionRequest) -> Ruling:
        """Run the permission gates for a question of the host; cancelling cancels the gates."""
        return await self.session.gate_permission(request)

    async def transform_input(self, call: ToolCall | str, arguments: Mapping[str, Any] | None = None) -> ToolCall:
        """Return the call that the plugin makes of one.

        Cancelling cancels the hook. Raises GateRefused when it blocks.
        """
        return await self.session.transform_tool_input(as_call(call, arguments))

    async def transform_output(self, result: ToolResult | str, call: ToolCall | str = "bash") -> ToolResult:
        """Return the result that the plugin makes of one; a text is the output of a success.

        Cancelling cancels the hook. Raises GateRefused when it blocks.
        """
        whole = ToolResult(success=True, output=result) if isinstance(result, str) else result
        return await self.session.transform_tool_output(as_call(call), whole)

    async def transform_answer(self, message: Message | str) -> Message:
        """Return the answer that the plugin makes of one, or of its text.

        Cancelling cancels the hook. Raises GateRefused when it blocks.
        """
        return await self.session.transform_answer(_as_message("assistant", message))

    async def transform_system_prompt(self, sections: Iterable[PromptSection | str]) -> tuple[PromptSection, ...]:
        """Return the sections that the plugin makes of some; a text is a section that is called by its place.

        Cancelling cancels the hook. Raises GateRefused when it blocks.
        """
        whole = (PromptSection(f"s{i}", each) if isinstance(each, str) else each for i, each in enumerate(sections, 1))
        return await self.session.transform_system_prompt(whole)

    async def transform_model_request(self, request: ModelInput) -> ModelInput:
        """Return what the plugin makes of what the model is about to be asked.

        Cancelling cancels the hook. Raises GateRefused when it blocks.
        """
        return await self.session.transform_model_request(request)

    async def run_tool(
        self,
        call: ToolCall | str,
        arguments: Mapping[str, Any] | None = None,
        result: ToolResult | str = "",
    ) -> ToolResult:
        """Run a whole tool call, from transforms and gates to its end, with a tool that returns `result`.

        Cancelling ends the call as interrupted.
        """
        whole = ToolResult(success=True, output=result) if isinstance(result, str) else result

        async def run(_: ToolCall) -> ToolResult:
            return whole

        final = await self.session.run_tool_call(as_call(call, arguments), run)
        await self.settle()
        return final

    async def safe_point(self, kind: SafePoint = "step") -> tuple[Message, ...]:
        """Let due messages enter the conversation, and return those that did.

        What has entered when this is cancelled is returned by the next call.
        """
        delivered = await self.session.safe_point(kind)
        await self.settle()
        return delivered

    async def call_tool(self, name: str, arguments: Mapping[str, Any] | None = None) -> ToolResult:
        """Call one of the plugin's tools, in this session. Raises what `Host.call_tool` does.

        Cancelling cancels an asynchronous handler; a synchronous one runs on in its thread.
        """
        result = await self.host.call_tool(name, arguments, plugin=self.name, session_id=self.session.id)
        await self.settle()
        return result

    async def request_action(
        self, action: str, arguments: Mapping[str, Any] | None = None, *, by: str = "person"
    ) -> Any:
        """Request one of the plugin's actions, as `by`. Raises what `Session.request_action` does.

        Cancelling cancels the action.
        """
        result = await self.session.request_action(f"{self.name}:{action}", arguments, by=by)
        await self.settle()
        return result

    def advance(self, seconds: float) -> None:
        """Advance the clock, for budgets, timestamps, and what sleeps on the loop: tasks that wait for time go on.

        So do all timers of this loop: also a timeout that the test has set. `settle` then waits for what follows.
        Raises HostError for a clock other than a RecordedClock.
        """
        if not isinstance(self.clock, RecordedClock):
            raise HostError("only a RecordedClock can be moved; leave out clock= to have one")
        self.clock.move_to(self.clock.time_ms() + round(seconds * 1000))
        if self.host.loop is not None:
            self._timers.advance(self.host.loop, seconds)

    @property
    @override
    def _harness(self) -> PluginHarness:
        return self


class LoopTimers:
    """The time of a loop, which runs ahead of the machine's by what it was advanced."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ahead = 0.0

    def advance(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        """Have the loop's timers be due so many seconds earlier. May be called in any thread."""
        self._ahead += seconds
        if self._loop is None:
            try:
                real = loop.time
                # On the instance: the clock of other loops is theirs. A loop that is no Python class takes none.
                loop.time = lambda: real() + self._ahead  # type: ignore[method-assign]
            except AttributeError:
                return
            self._loop = loop
        loop.call_soon_threadsafe(lambda: None)  # it may be waiting for the timer that was next before

    def restore(self) -> None:
        """Give the loop its own time back; its timers that are left count from there."""
        if self._loop is not None:
            del self._loop.time
            self._loop = None


def _notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))


def _check_options(options: Mapping[str, Any]) -> None:
    """Refuse what neither a harness nor `[plugins.NAME]` knows, with the nearest right name. Raises TypeError."""
    known = {field.name for field in attrs.fields(PluginConfig)} | _ARGUMENTS
    for name in options:
        if name not in known:
            raise TypeError(f"PluginHarness got an unexpected argument {name!r}, {suggest(name, sorted(known))}")


def as_call(call: ToolCall | str, arguments: Mapping[str, Any] | None = None) -> ToolCall:
    """Return a tool call for a tool's name and arguments."""
    return call if isinstance(call, ToolCall) else ToolCall(call, freeze_mapping(arguments or {}))


def _as_message(role: str, message: Message | str) -> Message:
    return Message(role=role, content=message) if isinstance(message, str) else message


def _refuse_denied(ruling: Ruling) -> None:
    if ruling.is_denied:
        raise GateRefused(ruling.reason, plugin=next(iter(ruling.decided_by), None), decision_id=ruling.decision_id)


def _require_running(part: T | None) -> T:
    if part is None:
        raise HostError("this harness does not run; use `async with PluginHarness(...) as harness:`")
    return part
