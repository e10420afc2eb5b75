"""One conversation: its events, its gates and transforms, and the safe points at which plugins' messages enter.

`emit` may be called from any thread and never waits; everything else belongs to the host's loop, and a coroutine that
is awaited on another one raises HostError at once. So does every call in a fork of the host's process. What the session
shares with others (plugins, journal, clock) comes from the host.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import attrs

from ally_plugins.contract.hookspecs import HOOKS_OF_TOPICS
from ally_plugins.contract.tools.agent_tool import MAIN_AGENT, AgentTool
from ally_plugins.contract.tools.declared import DEFAULT_TIMEOUT
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.conversation import (
    CONTEXT_PARTS,
    ActionRequest,
    Context,
    Message,
    ModelInput,
    PromptSection,
    SafePoint,
    Stop,
    ToolCall,
    ToolResult,
)
from ally_plugins.contract.values.errors import JournalError, SessionError
from ally_plugins.contract.values.events import (
    CompactionComplete,
    ContextThreshold,
    ContextUsageUpdate,
    Event,
    ModelResponse,
    PermissionRequest,
    SessionEnd,
    TodoUpdate,
    ToolCallEnd,
    ToolCallStart,
    UserMessage,
    stamp,
    unstamped,
)
from ally_plugins.contract.values.frozen import EMPTY, freeze_mapping
from ally_plugins.contract.wording import suggest
from ally_plugins.journal.contents import is_not_kept
from ally_plugins.journal.values import Record
from ally_plugins.policy.model_input import with_ids
from ally_plugins.policy.project_rules import NO_RULES, SessionRules
from ally_plugins.policy.prompt_sections import refuse_doubles
from ally_plugins.policy.thresholds import SessionThresholds
from ally_plugins.runtime.lanes.dispatch import HookCall
from ally_plugins.runtime.lanes.ring import Ring

from .deliveries import Deliveries
from .gates import ALLOWED, AnswerHold, Ruling, SessionGates, unblocked
from .inbox import SAFE_POINTS, Inbox, Waiting
from .memory import Conversation, without_private
from .open_calls import Check, OpenCall, OpenCalls, OutputTransform, Preview, Runner, call_key
from .prompt_prefixes import PROMPT_PREFIX, PromptPrefixes
from .recording import Recording
from .stops import Stops
from .stream import HostStream
from .toolcalls import Asker, begin_tool_call
from .ungated import UngatedTools

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from ally_plugins.contract.serves import Serves
    from ally_plugins.contract.values.questions import AskPerson
    from ally_plugins.host.own_loop import OwnLoop
    from ally_plugins.journal.journal import Journal
    from ally_plugins.journal.leases import Lease
    from ally_plugins.runtime.lanes.clock import Clock
    from ally_plugins.runtime.lanes.dispatch import Dispatcher
    from ally_plugins.runtime.lanes.plugin import Plugin
    from ally_plugins.runtime.lanes.protocol import AnyLane

    from .stream import ActivityStream

__all__ = ["Session"]

_log: Final = logging.getLogger(__name__)

_RULED: Final = frozenset({"tool_call", "permission"})
_NOTHING: Final[frozenset[str]] = frozenset()

T = TypeVar("T")


class SessionServices(Protocol):
    """What a session needs of its host; `HostServices`, which stands above it, is that."""

    clock: Clock
    dispatcher: Dispatcher
    stream: HostStream
    has_person: bool
    ask_person: AskPerson | None
    serves: Serves

    @property
    def journal(self) -> Journal:
        """The journal, while the host runs."""
        ...

    @property
    def own_loop(self) -> OwnLoop:
        """The loop that the host runs on, while it does."""
        ...

    def wake(self, session: Session, kind: type[Event]) -> None:
        """Carry what the session has emitted to lanes and journal; from any thread. `kind` is the last one's class."""

    def lanes(self) -> Sequence[AnyLane]:
        """Return the lanes that are open."""
        ...

    def own_thresholds(self) -> Iterable[tuple[str, tuple[float, ...]]]:
        """Return the plugins that have asked for thresholds of their own, with these."""
        ...

    async def capability(self, hook: str, **arguments: Any) -> Any:
        """Call the host's implementation of a capability hook."""

    async def run_action(self, session: Session, request: ActionRequest, timeout: float) -> Any:
        """Carry out an action."""

    def agent_tools(self, session_id: str, agent: str, taken: Collection[str]) -> tuple[AgentTool, ...]:
        """Return what an agent of a session may call."""
        ...

    async def call_agent_tool(
        self, session: Session, tool: AgentTool, arguments: Mapping[str, Any], timeout: float | None
    ) -> ToolResult:
        """Call what an agent may call."""
        ...

    async def settle(self, session_id: str) -> None:
        """Wait for the plugins' processes that start for a session."""

    def release_session(self, session: Session) -> None:
        """Forget a session that has been drained and is closed."""

    def receive_person_message(self, session_id: str, text: str, seq: int) -> None:
        """Apply what a message of the person, event `seq`, says of active plugins."""

    @property
    def handing_over(self) -> Callable[[str], AbstractAsyncContextManager[None]]:
        """What lets go of a session in its block, when durable events of it that plugins have begun with are done."""
        ...

    def find_session(self, session_id: str) -> Session | None:
        """Return the open session with this id, if there is one."""


_NOTED_FIRST: Final = frozenset({UserMessage, SessionEnd, ToolCallStart})
"""Events that change the session before they are emitted; the end of a call does so only where one is undecided,
or gates have sent the agent on."""
_NOTED_LAST: Final = frozenset({ContextUsageUpdate, ModelResponse, CompactionComplete})
"""Events that further events, or the session's counts, follow from."""


class Session:
    """A conversation of a host; made by `Host.session`, it lives until `close`.

    `conversation` is the default, in-memory one; a host that keeps its own leaves it alone.
    """

    def __init__(
        self,
        session_id: str,
        host: SessionServices,
        lease: Lease,
        *,
        first_seq: int = 0,
        project: str | None = None,
        plugins: frozenset[str] | None = None,
        rules: SessionRules = NO_RULES,
    ) -> None:
        self.id: Final = session_id
        self.project: Final = project
        """The real path of the folder that it is about, None for a session without one."""
        self.plugins: Final = plugins
        """The names of the plugins that take part in it, None for all."""
        self.rules: Final = rules
        """What trusted projects narrow in it."""
        self._ruled: Final = _RULED if rules.decides_calls else _NOTHING
        """The topics of what a trusted project may deny in it, whichever plugins there are."""
        self.lease: Final = lease
        self.conversation = Conversation()
        self.inbox = Inbox()
        self.turn_id: str | None = None
        self.is_closed = False
        self.triggered = asyncio.Event()
        self.ring = Ring()
        # Numbers go on where the journal ends: with the session's id they name events for good.
        self.ring.head = self.ring.base = first_seq
        self.recording: Final = Recording(session_id, self.ring, lambda: host.journal, self._positions)
        self.gates = SessionGates(
            session_id,
            host.dispatcher,
            host.journal,
            emit=self._announce,
            context_for=self._context_for,
            now_ms=host.clock.time_ms,
            # Looked up each time: an adapter's run may have an approver that its host does not have.
            has_person=lambda: self.has_person,
            on_decided=self.recording.decide,
        )
        self.gates.rules = rules
        self.ungated = UngatedTools(session_id, host.dispatcher, lambda: host.journal, host.clock.time_ms, rules)
        self.prefixes = PromptPrefixes(
            session_id,
            limit_of=self._prompt_changes_of,
            emit=self._announce,
            record=self._record_prefix,
            is_replay=lambda: host.journal.is_replay,
        )
        self.has_person = host.has_person
        self.host_asks: Final = host.ask_person
        """What the host was given to put plugins' questions to the person."""
        self.ask_person = self.host_asks
        """What puts them now; None where nobody can be asked."""
        self.serves = host.serves
        """What plugins are served in this session."""
        self._host = host
        # Kept: these are properties of the host, and `_check` looks at them in every call.
        self._journal = host.journal
        self._is_filed = host.journal.head_path is not None
        self._dispatcher = host.dispatcher
        self._own_loop = host.own_loop
        self._process = host.own_loop.process
        self._lock = self.ring.lock
        self._now_ms = host.clock.time_ms
        self._stream = host.stream
        self.is_wake_pending = False
        """Whether the fan-out is about to carry what was emitted; it sets this, and `unheard`."""
        self.unheard: set[type[Event]] = set()
        """Classes of events that it need not be woken for, until it has next looked here."""
        self._has_ended = False
        self._deliveries = Deliveries(
            session_id,
            self.inbox,
            lambda: host.journal,
            add=self._add_to_conversation,
            emit=self._emit,
            now_ms=host.clock.time_ms,
        )
        self._stops = Stops(
            session_id, self.gates, lambda: host.journal, enqueue=self.enqueue, now_ms=host.clock.time_ms
        )
        self._origin: tuple[str, ...] = ()
        self._turn_origin: tuple[str, ...] = ()
        self._thresholds = SessionThresholds()
        self._open_calls = OpenCalls()
        # Two safe points at one time would hand the same pending messages out twice.
        self._safe_point = asyncio.Lock()

    @override
    def __repr__(self) -> str:
        return f"<Session {self.id!r}>"

    @property
    def own_loop(self) -> OwnLoop:
        """The loop that the session belongs to; its `run` carries a call there from another one."""
        return self._own_loop

    @property
    def origin(self) -> tuple[str, ...]:
        """The chain of plugins that led to what the agent does now; empty when it follows the person alone."""
        return self._origin

    # --- events ---

    def emit(self, event: Event) -> None:
        """Stamp an event with its number in the session, and deliver it to listeners, plugins and the journal.

        Never blocks and never raises because of a plugin; may be called from any thread. The event's `origin` is the
        chain of plugins that led to what the agent does now. Raises SessionError once the session is closed, EventError
        for what is no event, HostError in a fork of the host's process.
        """
        self._emit(event, None)

    @property
    def is_heard(self) -> bool:
        """Whether anybody gets what is emitted: a plugin, a listener, a journal that is a file.

        Else an adapter need not make events from which nothing follows. Costs next to nothing; look each time.
        """
        return self._is_filed or self._dispatcher.plugins != {} or self._stream.has_listeners

    def note_usage(self, usage: float) -> None:
        """Take note of how full the context window is, in percent, where nobody is told."""
        self._check_known("note_usage")
        self.conversation.token_usage = usage
        with self._lock:
            self._thresholds.update(usage)

    def emit_caused(self, event: Event, origin: tuple[str, ...]) -> None:
        """Emit an event that a chain of plugins has caused, whatever else goes on."""
        self._emit(event, origin)

    def _announce(self, event: Event, origin: tuple[str, ...]) -> None:
        """Emit a decision, which is in the journal already; not in a session that was closed meanwhile."""
        if not self.is_closed:
            self._emit(event, origin)

    def _prompt_changes_of(self, plugin: str, topic: str) -> int | None:
        hook = HookCall(hook=f"ally_transform_{topic}", session_id=self.id)
        for found in self._host.dispatcher.participants(hook):
            if found.name == plugin and found.is_running and not found.is_shadowed(hook.hook, topic):
                return found.options.limits.prompt_changes
        return None

    def _record_prefix(self, plugin: str, data: dict[str, Any]) -> None:
        self._host.journal.append_soon(Record(PROMPT_PREFIX, self._now_ms(), plugin, self.id, None, data))

    def scoped(self, parent_id: str) -> ActivityStream:
        """Return a stream whose events come into this session with `parent_id`, where they have none."""
        self._check_known("scoped")
        return HostStream(self.emit).create_scoped(parent_id)

    def _emit(self, event: Event, origin: tuple[str, ...] | None) -> None:
        # One cheap look for each event; which of the two it is, the checks find out.
        if self.is_closed or not self._process.is_here:
            self._process.check("emit", self)
            self._check_open()
        kind = event.__class__
        if kind in _NOTED_FIRST or (kind is ToolCallEnd and (self.recording.undecided.begun or self._stops.in_row)):
            self._note(event)
        ring = self.ring
        # Number, stamp and place in one step: lanes read the ring by numbers, and any thread may emit.
        with self._lock:
            if getattr(event, "seq", True):  # emitted before, or no event at all
                event = unstamped(event)
            ring.head = seq = ring.head + 1
            stamp(event, seq, self._now_ms(), self.id, self._origin if origin is None else origin, self.turn_id)
            ring.items.append(event)
            if len(ring.items) > ring.capacity:
                self.recording.keep(ring.trim())
            unfollowed = None
            try:
                # In the order of the numbers, whichever thread is the faster one then.
                self.conversation.follow(event)
            except Exception as error:  # noqa: BLE001 - whatever it is, the event goes its way
                unfollowed = error
        # Outside the lock, which is not reentrant: listeners may emit, and handlers of a log too.
        if unfollowed is not None:
            _log.error("session %r: its state does not follow %s", self.id, event.type, exc_info=unfollowed)
        if kind is UserMessage:
            self._host.receive_person_message(self.id, event.content, seq)  # type: ignore[attr-defined]
        self._stream.notify_listeners(event)
        # Without the lock: the fan-out clears the mark before it reads, so the worst is to wake it for nothing.
        if not self.is_wake_pending and (kind not in self.unheard or self.is_crowded):
            self._host.wake(self, kind)
        if kind in _NOTED_LAST:
            self._note_last(event)

    def _note_last(self, event: Event) -> None:
        """Note what follows from an event once it is emitted."""
        if isinstance(event, ContextUsageUpdate):
            self._check_thresholds(event)
        elif isinstance(event, ModelResponse):
            self.prefixes.responded(event)
        elif isinstance(event, CompactionComplete):
            self._forget_thresholds(event)

    def _note(self, event: Event) -> None:
        """Note what an event says of the session before it is emitted."""
        if isinstance(event, ToolCallStart):
            if self.rules.decides_calls or self.gates.has_participants("ally_gate_tool_call"):
                self.recording.begin(event)
        elif isinstance(event, ToolCallEnd):
            self.recording.end(event)
            with self._lock:
                self._stops.step()
        elif isinstance(event, UserMessage):
            # Before it is stamped: what the person says follows from no plugin.
            self._origin = self._turn_origin = ()
        elif isinstance(event, SessionEnd):
            # Their ends come before SESSION_END, which is the last event.
            self._open_calls.close("the session has ended")
            self.prefixes.flush()
            self._has_ended = True

    def _check(self, call: str) -> None:
        """Refuse a call from elsewhere, or for a session that another host has. Raises HostError, SessionError."""
        if not self._own_loop.is_here:
            self._own_loop.check(call, self)
        if self.is_closed:
            # Its lease is let go: there is nothing to ask the disk about.
            self.lease.check_known()
        else:
            self._journal.check_lease(self.lease)

    def _check_known(self, call: str) -> None:
        """As `_check`, for what may be called by any thread: asks nobody."""
        self._process.check(call, self)
        self.lease.check_known()

    def _check_open(self) -> None:
        self.lease.check_known()
        if self.is_closed:
            message = f"session {self.id!r} is closed; open one with host.session()"
            raise SessionError(message)

    def _check_thresholds(self, event: ContextUsageUpdate) -> None:
        if event.parent_call_id is not None:  # a sub-agent's window
            return
        usage = event.context_usage
        with self._lock:
            passed = self._thresholds.update(usage, self._host.own_thresholds())
        # Outside the lock, which `_emit` takes.
        for level, name in passed:
            self._emit(ContextThreshold(threshold=level, context_usage=usage, plugin_name=name), None)

    def _forget_thresholds(self, event: CompactionComplete) -> None:
        with self._lock:
            self._thresholds.compacted(event.new_context_usage)

    def clear_pending_wake(self) -> None:
        """Let the next event wake the fan-out again: it is about to carry those emitted so far."""
        self.is_wake_pending = False
        self.unheard.clear()

    @property
    def is_crowded(self) -> bool:
        """Whether so many events wait that lanes have to look before the oldest are let go."""
        return len(self.ring.items) > self.ring.capacity // 2

    def is_sensitive(self, call_id: str) -> bool:
        """Say whether a gate has said of a call that what it holds is not to be kept; from any thread."""
        self._check_known("is_sensitive")
        return call_id in self.recording.undecided.sensitive

    def _positions(self) -> Iterator[int]:
        """Yield how far each lane has read that reads this session."""
        for lane in self._host.lanes():
            if (position := lane.position(self.id)) is not None:
                yield position

    async def drained(self) -> None:
        """Wait until every plugin has handled what was emitted so far, or has been given up on.

        Cancelling stops the waiting and nothing else.
        """
        self._check("drained")
        waiting = [
            lane.submit("drained", None, session_id=self.id)
            for lane in self._host.lanes()
            if lane.position(self.id) is not None
        ]
        if waiting:
            await asyncio.wait(waiting)
            for future in waiting:
                future.exception()
        self.recording.trim()
        self.ring.forget_runs()

    # --- gates and transforms ---

    async def gate_tool_call(self, call: ToolCall) -> Ruling:
        """Ask the plugins whether a tool may run, with its final arguments.

        Each gate answers within its deadline, or counts as deny. `ask` without a person present is deny. Cancelling
        takes the question back.
        """
        self._check("gate_tool_call")
        return await self.gates.gate_tool_call(call, self._origin)

    async def admit_ungated(self, agent: str, tools: Iterable[str]) -> None:
        """Take note of tools that the model's provider runs for an agent, so that no gate sees a call.

        Call it before each request that has any. Raises GateRefused where a mandatory plugin gates them, unless the
        operator accepts it (`ungated_tools`): the model must not be asked. It never waits, so nothing is to be
        cancelled.
        """
        self._check("admit_ungated")
        self.ungated.admit(agent, tools)

    async def gate_permission(self, request: PermissionRequest) -> Ruling:
        """Ask the plugins about the host's own permission question; a waiver stands in for the person's answer.

        Cancelling takes the question back.
        """
        self._check("gate_permission")
        return await self.gates.gate_permission(request, self._origin)

    async def gate_user_message(self, message: Message) -> Ruling:
        """Ask the plugins whether a message of the person, as `transform_user_message` left it, may reach the agent.

        The person reads the reason of a deny; so is an `ask`. Cancelling takes the question back; the message must not
        be sent to the model then.
        """
        self._check("gate_user_message")
        return await self.gates.gate_user_message(message)

    async def gate_answer(self, message: Message) -> Ruling:
        """Ask the plugins whether an answer of the model, as `transform_answer` left it, may be shown and kept.

        `isPartial` in its metadata says that it is the text so far of a stream that is held by sentences,
        `isStructured` that the content is the JSON of a structured answer. A denied one is neither shown nor kept, and
        the model is not asked again; so is an `ask`. Cancelling takes the question back; the answer must not be shown
        then.
        """
        self._check("gate_answer")
        return await self.gates.gate_answer(message, self._origin)

    async def gate_stop(self, stop: Stop) -> Ruling:
        """Ask the plugins whether the agent may end its turn, after `safe_point("turn_end")` brought nothing.

        A deny, or an `ask`, sends it on: the reasons enter as messages of their plugins at the next
        `safe_point("step")`, and the model is asked again. At most three times in a row without a tool call between;
        then the turn ends, and the ruling's `reason` says so. Cancelling takes the question back.
        """
        self._check("gate_stop")
        # Nobody to ask, and so no decision to record: the limit on sending it on is not looked at.
        if not self.gates.has_participants("ally_gate_stop"):
            return ALLOWED
        return await self._stops.ask(stop, self._origin)

    @property
    def answer_hold(self) -> AnswerHold | None:
        """How an answer of the model is to be held: `whole` until it is allowed, by `sentence`, or not at all (None).

        Costs next to nothing; look each time, since plugins come and go.
        """
        self._check_known("answer_hold")
        return self.gates.answer_hold()

    async def transform_tool_input(self, call: ToolCall) -> ToolCall:
        """Return the call with the arguments that the plugins made of it. Raises GateRefused when one blocks.

        Cancelling cancels the hook that runs, as in all transforms.
        """
        self._check("transform_tool_input")
        return unblocked(await self.gates.transform_tool_input(call, self._origin))

    async def transform_tool_output(self, call: ToolCall, result: ToolResult) -> ToolResult:
        """Return the result that the plugins made of a tool's. Raises GateRefused when one blocks.

        Cancelling cancels the hook that runs; the result must not be shown then.
        """
        self._check("transform_tool_output")
        return unblocked(await self.gates.transform_tool_output(call, result, self._origin))

    async def transform_user_message(self, message: Message) -> Message:
        """Return what the plugins made of the person's message. Raises GateRefused when one blocks.

        Cancelling cancels the hook that runs; the message must not be sent to the model then.
        """
        self._check("transform_user_message")
        return unblocked(await self.gates.transform_user_message(message))

    async def transform_answer(self, message: Message) -> Message:
        """Return what the plugins made of an answer of the model. Raises GateRefused when one blocks.

        Only the content may change; that of a structured answer stays JSON. Cancelling cancels the hook that runs; the
        answer must not be shown then.
        """
        self._check("transform_answer")
        return unblocked(await self.gates.transform_answer(message, self._origin))

    async def transform_system_prompt(
        self, sections: Iterable[PromptSection], *, moves_volatile: bool = False
    ) -> tuple[PromptSection, ...]:
        """Return what the plugins made of the system prompt. Raises GateRefused when one blocks.

        Sections that are volatile come last: send them behind all messages where that can be done, as a message that
        the history does not keep, and say so with `moves_volatile`. Plugins that change the rest from request to
        request are reported, PROMPT_PREFIX_CHANGED.

        Ask `wants("system_prompt")` first, so that sections are made only where a plugin wants them. Raises ValueError
        for a name that two sections have. Cancelling cancels the hook that runs.
        """
        self._check("transform_system_prompt")
        given = tuple(sections)
        if not self.gates.has_participants("ally_transform_system_prompt"):
            return given
        refuse_doubles(given)
        done = await self.gates.transform_system_prompt(given, self._origin)
        unblocked(done)  # before it is compared: what is not sent is no request
        return self.prefixes.sections(given, done, moves_volatile=moves_volatile)

    async def transform_model_request(self, request: ModelInput) -> ModelInput:
        """Return what the plugins made of a request to the model. Raises GateRefused when one blocks.

        Ask `wants("model_request")` first, so that the value is made only where a plugin wants it. Plugins are not
        shown private messages, which stay behind the message that they followed. Messages without an id are given one.
        What plugins add as volatile comes last; changes of what was sent before are reported, PROMPT_PREFIX_CHANGED.
        Raises ValueError for an id that two messages have. Cancelling cancels the hook that runs.
        """
        self._check("transform_model_request")
        if not self.gates.has_participants("ally_transform_model_request"):
            return request
        given = with_ids(request)
        done = await self.gates.transform_model_request(given, self._origin)
        unblocked(done)  # as above
        return self.prefixes.messages(given, done)

    def wants(self, topic: str) -> bool:
        """Say whether any plugin takes part in a topic of gates or transforms, such as `model_request`.

        Topics are those of grants: tool_call, message, permission, stop; tool_input, tool_output, plugin_message,
        system_prompt, model_request; user_message and answer, of which it says whether either a gate or a transform
        takes part. Costs next to nothing; call it each time, since plugins come and go. Raises ValueError for another
        topic.
        """
        hooks = self._hooks_of(topic, "wants")
        return topic in self._ruled or (bool(hooks) and any(map(self._dispatcher.has_participants, hooks)))

    def passes(self, topic: str) -> bool:
        """Say whether what is of a topic goes on as it is, since no plugin implements a hook of that, from any thread.

        Then nothing is to be asked on the host's loop. Raises as `wants` does.
        """
        hooks = self._hooks_of(topic, "passes")
        return topic not in self._ruled and (not hooks or not any(map(self._dispatcher.has_any, hooks)))

    def _hooks_of(self, topic: str, call: str) -> Sequence[str]:
        # One look for each call; which of the two it is, the checks find out.
        if self.lease.lost is not None or not self._process.is_here:
            self._check_known(call)
        if topic not in HOOKS_OF_TOPICS:
            raise ValueError(f"topic is {topic!r}; {suggest(topic, HOOKS_OF_TOPICS)}")
        return HOOKS_OF_TOPICS[topic] if self._dispatcher.plugins else ()

    async def run_tool_call(
        self,
        call: ToolCall,
        run: Runner,
        *,
        ask: Asker | None = None,
        check: Check | None = None,
        preview: Preview | None = None,
    ) -> ToolResult:
        """Carry out one tool call in the order that the contract names, and return what the model is to see.

        Input transforms; `check` of the arguments; TOOL_CALL_START; `preview`, emitted as DIFF_PREVIEW; gates on the
        final value; `ask` the person where a gate wants it (without `ask` that is a deny); `run`; output transforms;
        TOOL_CALL_END. A refusal is a result with `success` false and the reason, so that the model can go on; it ends
        the call with `denied`, but for a failed `check`, of which no event tells. `preview` may be a coroutine
        function; one that fails is left out. Errors of `run` become such a result too; cancelling cancels `run` and
        emits the end with an error.
        """
        self._check("run_tool_call")
        # The chain as it is now: what happens while gates are asked did not lead to this call.
        opened, origin = OpenCall(self.emit, call), self._origin
        refusal = await begin_tool_call(self.gates, opened, origin, ask=ask, check=check, preview=preview)
        return refusal if refusal is not None else await opened.carry_out(run, self._output_transform(origin))

    async def begin_call(
        self,
        call: ToolCall,
        *,
        ask: Asker | None = None,
        check: Check | None = None,
        preview: Preview | None = None,
    ) -> ToolCall | ToolResult:
        """Begin a tool call that somebody else runs: return the call that may run, or the refusal for the model.

        As `run_tool_call`, up to where the tool runs. Run the call that is returned and nothing else, then `end_call`;
        one whose result never comes is ended at the turn's end, with that reason. Cancelling ends the call as
        interrupted, and it must not run. Raises HostError for a call whose id, or tool's name without one, is open.
        """
        self._check("begin_call")
        opened, refusal = OpenCall(self.emit, call), None
        # Before the first wait: a second call of this id is refused while this one is being decided.
        self._open_calls.add(opened)
        try:
            refusal = await begin_tool_call(self.gates, opened, self._origin, ask=ask, check=check, preview=preview)
        except BaseException:
            self._open_calls.remove(opened)
            raise
        if refusal is None:
            return opened.let_run()
        self._open_calls.remove(opened)
        self._open_calls.refuse(call_key(call), refusal)
        return refusal

    async def end_call(self, call_id: str, result: ToolResult) -> ToolResult:
        """End a call that `begin_call` has let run, with what the tool came to; return what the model is to see.

        `call_id` is the call's, or its tool's name where it has none. Output transforms, then TOOL_CALL_END with the
        time since the call began to run. For a call that was refused this is the refusal, whatever the result.
        Cancelling ends the call as interrupted, and the result must not be shown. Raises HostError for a call that is
        not open: no gate was asked, or it has ended.
        """
        self._check("end_call")
        found = self._open_calls.take_running(call_id)
        return (
            found if isinstance(found, ToolResult) else await found.finish(result, self._output_transform(self._origin))
        )

    def _output_transform(self, origin: tuple[str, ...]) -> OutputTransform:
        async def transform(call: ToolCall, result: ToolResult) -> ToolResult:
            return unblocked(await self.gates.transform_tool_output(call, result, origin))

        return transform

    async def refuse_call(
        self,
        tool_name: str,
        why: str,
        *,
        call_id: str | None = None,
        agent_id: str | None = None,
        parent_id: str | None = None,
    ) -> ToolResult:
        """Deny a call that cannot be shown to gates, and return the result for the model.

        For arguments of which no `ToolCall` can be made; `why` is that error's text. The deny is recorded, then the
        call begins with empty arguments and `unshown`, and ends as denied. Cancelling may leave the deny recorded and
        the call not begun. Raises SessionError for a closed session.
        """
        self._check("refuse_call")
        self._check_open()
        ruling = await self.gates.deny_unshown(tool_name, call_id, why, self._origin)
        opened = OpenCall(self.emit, ToolCall(tool_name, call_id=call_id, agent_id=agent_id), parent_id)
        return opened.deny_unshown(ruling.reason, ruling.decision_id)

    # --- what plugins put into the conversation ---

    async def safe_point(self, kind: SafePoint = "step", *, hold: bool = False) -> tuple[Message, ...]:
        """Let due messages of plugins enter the conversation, and return those that did.

        Call it where the conversation may change: after all results of an assistant's tool calls ("step"), at the end
        of a turn ("turn_end"), and with the person's next message or when a plugin wakes the agent ("turn_start"). A
        message whose delivery is recorded too late for a crash is delivered again under the same id; conversations fold
        by id. A message that the host's implementation does not take waits for the next safe point. A "turn_start"
        waits for processes of plugins that start for the session, as long as for a gate. While a delivery cannot be
        recorded the agent goes on; recording it is tried again at the next safe point. What has entered when the call
        is cancelled is returned by the next one.

        With `hold`, for an agent that may fail to take what it is handed, nothing enters yet: `confirm` lets it, after
        `take_back` it is due again, and until one of them it is handed out once.

        Raises SessionError for a closed session, ValueError for another
        `kind`.
        """
        self._check("safe_point")
        self._check_open()
        if kind not in SAFE_POINTS:
            raise ValueError(f"safe_point is {kind!r}; expected one of {', '.join(map(repr, SAFE_POINTS))}")
        if kind == "step" and not (self.inbox or self._deliveries.are_open or self._safe_point.locked()):
            self._origin = self._turn_origin  # as below, where nothing waits: this is every step of most runs
            self.triggered.clear()
            return ()
        if kind == "turn_start":
            # Their tools are to be there when the agent asks what it has, and what they say to its first message.
            await self._host.settle(self.id)
        if kind != "step":
            # Before the next turn has its id: these calls end in the one that they began in.
            self._open_calls.close("the turn has ended")
        async with self._safe_point:
            if kind == "turn_start":
                # Named by the first event that it may have, so that no turn after a resume has the name of another.
                self.turn_id = f"{self.id}:t{self.ring.head + 1}"
                self.triggered.clear()
                self._stops.begin_turn()
            if hold:
                held = self._deliveries.hold(kind)
                self._follow_chain(kind, held)
                return tuple(waiting.message for waiting in held)
            await self._deliveries.enter(kind)
            # Before the wait for the disk: what is emitted meanwhile follows from what has entered.
            self._follow_chain(kind, self._deliveries.entered)
            await self._deliveries.record()
            # Else it stays set: a message that wakes the agent waits for a later safe point.
            if not self.inbox.wants_turn:
                self.triggered.clear()
            return self._deliveries.take_entered()

    async def confirm(self, messages: Iterable[Message]) -> None:
        """Let messages enter the conversation that `safe_point(hold=True)` has handed out and the agent has taken.

        Others are left alone. Cancelling leaves some of them to be confirmed again. Raises SessionError for a closed
        session: they are still pending then, and due when it is opened again.
        """
        self._check("confirm")
        self._check_open()
        async with self._safe_point:
            await self._deliveries.confirm([message.id for message in messages])
            if not self.inbox.wants_turn:
                self.triggered.clear()

    def take_back(self, messages: Iterable[Message]) -> None:
        """Have messages due again that `safe_point(hold=True)` has handed out and the agent has not taken.

        Raises HostError on another loop or in another process.
        """
        self._check("take_back")
        self._deliveries.take_back([message.id for message in messages])

    async def wait_for_trigger(self) -> None:
        """Wait until a plugin wakes the agent; then call `safe_point("turn_start")` and run a turn.

        Cancelling stops the waiting; a trigger stays set until a safe point.
        """
        self._check("wait_for_trigger")
        await self.triggered.wait()
        self._check("wait_for_trigger")  # it is woken when it is taken over

    def enqueue(self, waiting: Waiting) -> None:
        """Queue an accepted message for its safe point, in the session of this id that is open now."""
        session = self if not self.is_closed else self._host.find_session(self.id)
        if session is None:
            return  # it is pending on disk, and loaded when the session is opened again
        is_new = session._deliveries.enqueue(waiting)  # noqa: SLF001 - another of this class
        if is_new and waiting.trigger_turn:
            session.triggered.set()

    async def _add_to_conversation(self, message: Message) -> bool:
        """Have the host add a message to its conversation; say whether it did."""
        return bool(await self._host.capability("ally_add_message", session=self, message=message))

    def reload_pending(self) -> None:
        """Queue what the journal holds as pending, once it has written what it was given.

        Returns before that is done.
        """
        self._deliveries.reload_pending(self._enqueue_stored)

    def has_plugin(self, plugin: str) -> bool:
        """Say whether a plugin takes part in it."""
        if self.plugins is not None and plugin not in self.plugins:
            return False
        found = self._dispatcher.plugins.get(plugin)
        return found is None or self.rules.has(found.project, plugin, guards=found.guards)

    def load_pending(self) -> None:
        """Queue what the journal holds as pending for this session. Raises JournalError."""
        self._deliveries.load_pending(self._enqueue_stored)

    def _enqueue_stored(self, waiting: Waiting) -> None:
        # Of another one it waits on disk for a time when that takes part.
        if self.has_plugin(waiting.plugin) and self._may_add(waiting):
            self.enqueue(waiting)

    def _may_add(self, waiting: Waiting) -> bool:
        found = self._dispatcher.plugins.get(waiting.plugin)
        if found is None or not self.rules.narrows(waiting.plugin):
            return True
        return waiting.role in self.rules.grants(waiting.plugin, found.grants).roles

    def restore_todos(self) -> None:
        """Give the conversation the todos that the agent last had, from the journal.

        Raises JournalError, SessionError when the session was taken over, HostError in a fork of the process.
        """
        self._check_known("restore_todos")
        for stored in self._host.journal.reader.newest_events(self.id, TodoUpdate.TYPE):
            event = stored.value()
            data = event.get("event_data")
            if event.get("agent_id") is None and isinstance(data, dict) and not _has_gaps(data.get("todos")):
                self.conversation.follow(TodoUpdate(todos=tuple(data.get("todos") or ())))
                return

    def _follow_chain(self, kind: str, delivered: Sequence[Waiting]) -> None:
        """Give what follows from delivered messages their chain: for a step, or a whole turn that they began."""
        chain = max((waiting.origin for waiting in delivered), key=len, default=())
        if kind != "step" and delivered:
            self._turn_origin = chain
        elif kind == "turn_end":
            self._turn_origin = ()
        self._origin = max(chain, self._turn_origin, key=len)

    # --- context and actions ---

    async def context(self, parts: Sequence[str], since: str | None = None) -> Context:
        """Return parts of the session's context, without private messages; the host's implementation answers.

        Cancelling cancels the implementation, where that is a coroutine.
        """
        self._check("context")
        found = await self._host.capability("ally_get_context", session=self, parts=parts, since=since)
        return without_private(_only(found, parts))

    async def request_action(
        self,
        action: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        by: str = "person",
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Any:
        """Carry out an action for the person, the agent or the host (`by`); the plugin's, or the host's own.

        `timeout` is in seconds; a plugin's action has its own besides. Raises NotFoundRefused, ArgumentsError,
        ToolCallError, and UnavailableRefused when it cannot be recorded. Cancelling cancels the action, whose end is
        recorded as such.
        """
        self._check("request_action")
        # What the person asks for follows from no plugin, whatever the agent is at.
        origin = () if by == "person" else self._origin
        request = ActionRequest(action, freeze_mapping(arguments or EMPTY), by, origin=origin)
        return await self._host.run_action(self, request, timeout)

    def agent_tools(self, agent: str = MAIN_AGENT, *, taken: Collection[str] = ()) -> tuple[AgentTool, ...]:
        """Return what an agent may call now: tools, and the actions that their plugins offer to it.

        Ask before each model request, since plugins come and go. `agent` is the name that `visible_to` may have;
        `taken` are the names of the host's own tools, which no plugin's gets. The order depends on the names only.
        """
        self._check_known("agent_tools")
        offered = self._host.agent_tools(self.id, agent, taken)
        self.prefixes.tools(agent, offered)
        return offered

    async def call_agent_tool(
        self, tool: AgentTool, arguments: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> ToolResult:
        """Call one of `agent_tools` for the agent; `timeout` is in seconds, at most the tool's own.

        Gates are asked by `run_tool_call`, not here. An action is announced and recorded as requested by the agent.
        Raises ArgumentsError before anything runs, ToolCallError when it fails, NotFoundRefused when it is gone.
        Cancelling cancels an asynchronous handler; a synchronous one runs on in its thread.
        """
        self._check("call_agent_tool")
        return await self._host.call_agent_tool(self, tool, arguments or EMPTY, timeout)

    async def close(self) -> None:
        """Wait until the plugins have handled what was emitted, then close; `Host.session` opens it again by its id.

        Emits SESSION_END, unless the host did. What was emitted is on disk when it returns, and another host may open
        the session. Cancelling while plugins still handle events leaves the session open: call it again. Later it is
        closed all the same, and let go within some 50 ms.
        """
        self._check("close")
        if self.is_closed:
            return
        # The last event, which plugins get before the session is drained.
        self.end("closed")
        await self.drained()
        await self._deliveries.record()
        if self.is_closed:  # by another call, meanwhile
            return
        self.is_closed = True
        self._host.release_session(self)
        journal = self._host.journal
        try:
            async with self._host.handing_over(self.id):
                await journal.release(self.lease)
        except JournalError as error:
            _log.warning("session %r is kept from other hosts until this one has ended: %s", self.id, error)
        except BaseException:
            journal.release_soon(self.lease)
            raise

    def fence(self) -> None:
        """Close at once, since another host has taken the session: what it has is no longer this one's to write."""
        if not self.is_closed:
            self.is_closed = True
            # Whoever waits for a trigger is woken, and finds the session gone.
            self.triggered.set()
            self._host.release_session(self)

    def end(self, reason: str) -> None:
        """Emit SESSION_END if nobody has yet; the session stays open."""
        self._check_known("end")
        if not self._has_ended and not self.is_closed:
            # Without a chain: the end follows from the host, whatever the agent was at.
            self._emit(SessionEnd(reason=reason), ())

    async def _context_for(self, plugin: Plugin) -> Context:
        return await self.context(tuple(sorted(plugin.grants.context_parts)))


def _has_gaps(todos: Any) -> bool:
    """Say whether texts of todos were not kept."""
    return any(is_not_kept(todo.get("task")) for todo in todos or () if isinstance(todo, Mapping))


def _only(context: Context, parts: Sequence[str]) -> Context:
    """Return the context with nothing but the requested parts: the host's implementation may return more."""
    surplus = [part for part in CONTEXT_PARTS if part not in parts and getattr(context, part) is not None]
    emptied: dict[str, Any] = dict.fromkeys(surplus)
    return attrs.evolve(context, **emptied) if emptied else context
