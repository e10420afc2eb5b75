"""One conversation of a coding agent: each hook in, what plugins made of it out, on the session that stands for it."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from attrs import define, evolve, field, frozen

from ally_plugins.adapters.coding.dialect import Dialect
from ally_plugins.adapters.coding.event_records import ContextUse, ThoughtRecorded
from ally_plugins.adapters.coding.payloads import HookKind
from ally_plugins.adapters.coding.replies import Answer, Reply, UnsayableError
from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.conversation import Message, Stop, ToolCall, ToolResult
from ally_plugins.contract.values.errors import AllyError, GateRefused, HostError
from ally_plugins.contract.values.events import (
    AgentEnd,
    AgentStart,
    AssistantMessage,
    CompactionComplete,
    CompactionStart,
    ContextUsageUpdate,
    PermissionRequest,
    ThoughtComplete,
    UserMessage,
)
from ally_plugins.contract.values.ids import new_id
from ally_plugins.host.sessions.open_calls import OpenCall, OpenCalls, call_key, is_same_call
from ally_plugins.host.sessions.session import Session
from ally_plugins.host.sessions.toolcalls import begin_tool_call

from .agent_process import AgentProcess
from .event_files import EventFile, read_end
from .own_gate import OwnGate
from .plugin_calls import PluginToolCalls

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ally_plugins.adapters.coding.payloads import AgentHook, EndedCall
    from ally_plugins.contract.tools.agent_tool import AgentTool
    from ally_plugins.contract.values.conversation import SafePoint
    from ally_plugins.host.sessions.gates import Ruling

__all__ = ["Conversation"]

_log: Final = logging.getLogger(__name__)

WORD_SECONDS: Final = 2.0
"""How long an agent waits for what plugins say about a call, so that it stands beside that call's result."""

SENT_ON: Final = 3
"""How often in a row, without a tool call between, messages of plugins may send the agent on; as for gates."""

EVENT_FILE_END: Final = 256 * 1024
"""Bytes of an event file's end in which a call that has just ended is looked for; Codex cuts outputs at some 40 KB."""

LOOK_SECONDS: Final = 0.25
"""How long a hook waits for the disk that an agent's own file is on; reading what is new takes a millisecond."""

MAX_THOUGHTS: Final = 32
"""Thoughts that are told of at one look, the last ones: more come of a file that somebody fills."""

_KEPT_ENDS: Final = 1024
"""Calls of which it is remembered that their output has passed the plugins, until the hook after all calls."""


@frozen
class _LateEnd:
    """A call whose output has passed the plugins, and of which it is not known yet whether it failed."""

    opened: OpenCall
    result: ToolResult
    event_file: str
    duration_ms: float | None


@frozen
class _Said:
    """Messages that a reply holds, of the session that they are to enter."""

    session: Session
    messages: tuple[Message, ...]

    async def confirm(self) -> None:
        """Let them enter; what cannot is pending, and due again when the session is opened again."""
        try:
            await self.session.confirm(self.messages)
        except AllyError as error:
            _log.info("what plugins said in %r is not confirmed: %s", self.session.id, error)

    def take_back(self) -> None:
        """Have them due again."""
        try:
            self.session.take_back(self.messages)
        except AllyError as error:
            _log.info("what plugins said in %r is not taken back: %s", self.session.id, error)


@define(eq=False)
class Conversation:
    """A conversation of an agent, from its first hook to its end or until it has been silent for long.

    Belongs to the host's loop. The calls of each of its agents are kept apart: a sub-agent in the background goes on
    when the turn of the main one ends.
    """

    dialect: Dialect
    session: Session
    own_gate: OwnGate
    last_hook: float
    """When it was last heard of, by the loop's clock."""
    names_allow: bool
    """Whether the machine's policy lets a person allow a call that was denied."""
    plugin_tools: PluginToolCalls
    process: AgentProcess | None = field(init=False, default=None)
    """The agent that runs it, as far as the system tells."""
    _calls: dict[str | None, OpenCalls]
    _ended: OrderedDict[tuple[str | None, str | None], None] = field(init=False, factory=OrderedDict)
    _ends_turn: dict[str | None, str] = field(init=False, factory=dict)
    """Why an agent's turn has to end at the hook after all calls: plugins changed what it shows unchanged."""
    _unnamed: list[OpenCall] = field(init=False, factory=list)
    """Open calls, in their order, of an agent that gives them no ids."""
    _late: list[_LateEnd] = field(init=False, factory=list)
    _event_file: EventFile | None = field(init=False, default=None)
    _reading: asyncio.Future[list[dict[str, Any]]] | None = field(init=False, default=None)
    _thoughts: OrderedDict[ThoughtRecorded, None] = field(init=False, factory=OrderedDict)
    _is_at_work: bool = field(init=False, default=False)
    _sent_on: int = field(init=False, default=0)
    _sent_text: str = field(init=False, default="")

    @classmethod
    def of(
        cls,
        dialect: Dialect,
        session: Session,
        own_gate: OwnGate,
        now: float,
        names_allow: bool,  # noqa: FBT001 - a field
        tools: Callable[[], Mapping[str, AgentTool]],
    ) -> Conversation:
        """Return one on a session; `tools` returns what plugins offer now, by the name that the agent calls each."""
        calls: dict[str | None, OpenCalls] = {}

        def forbids(call: ToolCall) -> str | None:
            return own_gate.why_denied(call, None)

        plugin_tools = PluginToolCalls(dialect, session, tools, calls, forbids)
        return cls(dialect, session, own_gate, now, names_allow, plugin_tools, calls)

    def is_run_by(self, process: AgentProcess | None) -> bool:
        """Say whether an agent runs it; where the system tells nothing, it may."""
        return process is None or self.process == process

    def is_giving(self, task: str) -> bool:
        """Say whether a call runs that gives a sub-agent this task."""
        running = (opened.call for calls in self._calls.values() for opened in calls.running())
        return any(call.common_name == "agent" and call.common_arguments.get("prompt") == task for call in running)

    @property
    def is_busy(self) -> bool:
        """Whether a call may run that has not ended."""
        return any(not calls.is_empty for calls in self._calls.values())

    async def reply(self, hook: AgentHook) -> Reply:
        """Return what the agent is told. Raises what the host raises, and the hook is to be closed then.

        Cancelling takes back what plugins are asked; the hook is to be closed then as well.
        """
        # Of parallel calls the first may be told of before the file has it; at any other hook it does.
        has_news = hook.kind is not HookKind.AFTER_TOOL and await self._end_late()
        if hook.kind is not HookKind.AFTER_TOOL and hook.transcript is not None:
            await self._follow(hook.transcript)
        match hook.kind:
            case HookKind.BEFORE_TOOL if hook.tool is not None:
                return await self._before_tool(hook, hook.tool, has_news=has_news)
            case HookKind.AFTER_TOOL if hook.tool is not None:
                answer = await self._after_tool(hook, hook.tool)
            case HookKind.AFTER_CALLS:
                answer = await self._after_calls(hook)
            case HookKind.PROMPT:
                answer = await self._prompt(hook)
            case HookKind.PERMISSION if hook.tool is not None:
                answer = await self._permission(hook, hook.tool)
            case HookKind.STOP:
                answer = await self._stop(hook)
            case _:
                answer = await self._observe(hook)
        return self._written(self.dialect.answer, hook, answer)

    def _written(self, write: Callable[[AgentHook, Answer], Reply], hook: AgentHook, answer: Answer) -> Reply:
        """Return an answer in the agent's form, with the messages in it that the agent may fail to take."""
        if not answer.said:
            return write(hook, answer)
        said = _Said(self.session, answer.said)
        try:
            reply = write(hook, answer)
        except BaseException:
            said.take_back()
            raise
        if encode(_text_of(answer.said)).decode()[1:-1] in reply.stdout:
            return evolve(reply, said=said)
        said.take_back()  # beside this answer the agent takes none
        return reply

    # --- calls ---

    def _calls_of(self, agent_id: str | None) -> OpenCalls:
        return self._calls.setdefault(agent_id, OpenCalls())

    async def _before_tool(self, hook: AgentHook, tool: EndedCall, *, has_news: bool) -> Reply:
        session, given = self.session, self._named(hook, tool.call)
        if tool.unshown is not None:
            refused = await session.refuse_call(
                given.tool_name, tool.unshown, call_id=given.call_id, agent_id=given.agent_id
            )
            return self.dialect.answer(hook, Answer(refusal=_reason(refused)))
        questions: list[str] = []

        async def ask(_: ToolCall, ruling: Ruling) -> bool:
            # The agent puts the question: the call ends as one that never came back where the person says no.
            questions.append(ruling.reason)
            return True

        calls, opened = self._calls_of(hook.agent_id), OpenCall(session.emit, given)
        calls.add(opened)
        try:
            refused_or_none = await begin_tool_call(
                session.gates,
                opened,
                session.origin,
                ask=ask,
                forbids=lambda call: self.own_gate.why_denied(call, hook.cwd),
            )
        except BaseException:
            calls.remove(opened)
            raise
        if refused_or_none is None:
            changed = opened.call.arguments if opened.call.arguments != given.arguments else None
            question = questions[0] if questions else self.plugin_tools.confirmation(opened.call)
            # Alone: beside another answer it was not seen to reach the model.
            is_plain = has_news and changed is None and question is None
            said = await self._words("step") if is_plain and hook.event in self.dialect.takes_context else ()
            answer = Answer(arguments=changed, question=question, context=_text_of(said), said=said)
            try:
                reply = self._written(self.dialect.say, hook, answer)
            except UnsayableError as error:
                refused_or_none = opened.deny(str(error))
            else:
                opened.let_run()
                self._sent_on = 0
                if tool.call.call_id is None:
                    self._unnamed.append(opened)
                return reply
        calls.remove(opened)
        calls.refuse(call_key(given), refused_or_none)
        self._note_ended(given)
        decision_id = opened.outcome.decision_id if opened.outcome is not None else None
        return self.dialect.answer(hook, Answer(refusal=_reason(refused_or_none) + self._way_out(decision_id)))

    def _way_out(self, decision_id: str | None) -> str:
        """Return what the person may do about a denied call, as the end of its reason."""
        overrides = self.session.gates.overrides
        if not self.names_allow or overrides is None or not overrides.overrides.is_known(decision_id):
            return ""
        return f"; to let this call run once, the person runs outside of the agent: ally-plugins allow {decision_id}"

    def _named(self, hook: AgentHook, call: ToolCall) -> ToolCall:
        """Return a call under an id of ours where its agent gives it none, and a plugin's tool under its own name."""
        call = self.plugin_tools.with_own_name(call)
        return call if call.call_id is not None else evolve(call, call_id=new_id("c"), agent_id=hook.agent_id)

    def _find_unnamed(self, call: ToolCall) -> ToolCall:
        """Return the oldest open call of this tool with these arguments, given or changed; else the call as it is."""
        for opened in self._unnamed:
            same = is_same_call(call, opened.given) or is_same_call(call, opened.call)
            if same and opened.call.agent_id == call.agent_id and not opened.is_ended:
                self._unnamed.remove(opened)
                return opened.call
        return call

    async def _after_tool(self, hook: AgentHook, tool: EndedCall) -> Answer:
        result = tool.result
        given = self._find_unnamed(tool.call) if tool.call.call_id is None else tool.call
        assert result is not None  # noqa: S101 - the dialect reads it for this kind
        try:
            found = self._calls_of(hook.agent_id).take_running(call_key(given))
        except HostError:
            return self._withheld(hook, "ally-plugins withholds the output: no gate has seen this call")
        if isinstance(found, ToolResult):
            return self._withheld(hook, f"the call ran though it was refused: {_reason(found)}")
        after = await self._finish(found, result, hook.event_file)
        self._note_ended(given)
        said = await self._words("step") if hook.event in self.dialect.takes_context else ()
        context = _text_of(said)
        if after == result:
            return Answer(context=context, said=said)
        if result.success and not after.success:
            return evolve(self._withheld(hook, after.error or "the output is withheld"), context=context, said=said)
        self._end_turn_if_shown(hook, "plugins have changed the output of a call that failed, which is shown as it was")
        return Answer(result=after, context=context, said=said)

    async def _finish(self, opened: OpenCall, result: ToolResult, event_file: str | None) -> ToolResult:
        """Return what plugins made of a result, and end the call; later, where it is not known yet how it ended."""
        if self.dialect.find_exit_code is None or event_file is None or not result.success:
            return await opened.finish(result, self.session.transform_tool_output)
        duration_ms = opened.duration_ms()
        try:
            after = await self.session.transform_tool_output(opened.call, result)
        except BaseException as error:
            if not isinstance(error, GateRefused):
                opened.interrupt(error, duration_ms)
                raise
            after = ToolResult(success=False, error=f"the output is withheld: {error}")
            opened.end(after, duration_ms=duration_ms)
            return after
        self._late.append(_LateEnd(opened, after, event_file, duration_ms))
        return after

    async def _end_late(self) -> bool:
        """End the calls of which the event file now says how they ended; return whether there were any."""
        late, self._late = self._late, []
        for each in late:
            lines = await asyncio.to_thread(read_end, each.event_file, EVENT_FILE_END)
            find, call_id = self.dialect.find_exit_code, each.opened.call.call_id
            code = find(lines, call_id) if find is not None and call_id is not None else None
            failed = f"it ended with code {code}" if code else None
            result = evolve(each.result, success=False, error=failed) if failed is not None else each.result
            each.opened.end(result, duration_ms=each.duration_ms)
        return bool(late)

    def _withheld(self, hook: AgentHook, why: str) -> Answer:
        self._end_turn_if_shown(hook, why)
        return Answer(refusal=why)

    def _end_turn_if_shown(self, hook: AgentHook, why: str) -> None:
        """Have the turn end after all calls where the agent shows an output whatever it is answered."""
        if hook.event in self.dialect.shown_events:
            self._ends_turn[hook.agent_id] = why

    def _note_ended(self, call: ToolCall) -> None:
        self._ended[call.agent_id, call.call_id] = None
        if len(self._ended) > _KEPT_ENDS:
            self._ended.popitem(last=False)

    async def _after_calls(self, hook: AgentHook) -> Answer:
        """End the turn where an output would reach the model that plugins have changed, or would have."""
        why = self._ends_turn.pop(hook.agent_id, None)
        for tool in hook.tools:
            call, result = tool.call, tool.result
            if self._ended.pop((call.agent_id, call.call_id), self) is None or result is None:
                continue
            # Its own hook never came, or could not be answered: the agent refused the call, or shows what it came to.
            opened = self._calls_of(call.agent_id).find(call)
            if opened is None:
                opened = OpenCall(self.session.emit, call, is_started=True)
                opened.is_ended = True  # it has no start, and gets no end
            self._calls_of(call.agent_id).remove(opened)
            after = await opened.finish(result, self.session.transform_tool_output)
            if after != result:
                why = why or f"the output of {call.tool_name}, which no hook told of, is withheld"
        return Answer(refusal=why)

    async def _follow(self, transcript: str) -> None:
        """Emit what the agent's own file says that no hook does: thoughts, and how full the context is."""
        read = self.dialect.read_record
        if read is None or (self._reading is not None and not self._reading.done()):
            return  # the last look waits for its disk still
        if self._event_file is None or self._event_file.path != transcript:
            self._event_file = EventFile(transcript)
        self._reading = asyncio.ensure_future(asyncio.to_thread(self._event_file.read_new))
        # Observers are told later, rather than that a call waits for them.
        done, _ = await asyncio.wait({self._reading}, timeout=LOOK_SECONDS)
        facts = [fact for record in self._reading.result() for fact in read(record)] if done else []
        used = [fact for fact in facts if isinstance(fact, ContextUse)]
        if used:
            usage = min(100.0, round(100 * used[-1].tokens / used[-1].window, 2))
            self.session.emit(ContextUsageUpdate(context_usage=usage))
        try:
            async with asyncio.timeout(WORD_SECONDS):
                thoughts = [fact for fact in facts if isinstance(fact, ThoughtRecorded) and self._is_new(fact)]
                for thought in thoughts[-MAX_THOUGHTS:]:
                    self.session.emit(ThoughtComplete(thinking=await self._kept_answer(thought.text)))
        except TimeoutError:
            _log.warning("session %r: a plugin is slow; some thoughts are told to nobody", self.session.id)

    def _is_new(self, thought: ThoughtRecorded) -> bool:
        """Say whether a thought was not told of before; remember those of messages that may come again."""
        if not thought.message_id:
            return True
        is_known = thought in self._thoughts
        self._thoughts[thought] = None
        if len(self._thoughts) > MAX_THOUGHTS:
            self._thoughts.popitem(last=False)
        return not is_known

    # --- turns ---

    async def _prompt(self, hook: AgentHook) -> Answer:
        if not hook.is_person or hook.agent_id is not None:
            return await self._other_prompt(hook)
        if self._sent_text and hook.text.strip() == self._sent_text.strip():
            return Answer()  # what sent the agent on at its stop comes back as a prompt
        message = Message(role="user", content=hook.text, id=new_id("m"))
        # Where the agent holds no prompt, nothing that plugins say of it would count.
        is_held = self.dialect.is_guard(hook.event)
        if is_held:
            gated = await self._gate_prompt(message)
            if isinstance(gated, Answer):
                return gated
            message = gated
        else:
            message = await self._kept(message)
        self._end_turn("another prompt came")
        self.session.emit(UserMessage(content=message.content, message_id=message.id))
        self._begin_turn(hook, message.content)
        changed = message.content if is_held and message.content != hook.text else None
        said = await self._words("turn_start") if hook.event in self.dialect.takes_context else ()
        return Answer(prompt=changed, context=_text_of(said), said=said)

    async def _gate_prompt(self, given: Message) -> Message | Answer:
        """Return the message that may reach the agent, or the answer that blocks it."""
        try:
            message = await self.session.transform_user_message(given)
        except GateRefused as error:
            return Answer(refusal=str(error))
        if message.content != given.content and not self.dialect.takes_prompts:
            return Answer(prompt=message.content)  # which blocks it; the person sends the changed one
        ruling = await self.session.gate_user_message(message)
        return Answer(refusal=ruling.reason) if ruling.is_denied else message

    async def _kept(self, given: Message) -> Message:
        """Return a message that the agent has as it is, in the form that may be recorded: as transforms leave it.

        One that a transform blocks is not recorded, but that it was there.
        """
        transform = self.session.transform_user_message if given.role == "user" else self.session.transform_answer
        try:
            return await transform(given)
        except GateRefused as error:
            return evolve(given, content=f"[withheld: {error}]")

    async def _kept_answer(self, text: str) -> str:
        """Return what the agent has said in the form that may be recorded."""
        return (await self._kept(Message(role="assistant", content=text, id=new_id("m")))).content if text else ""

    async def _other_prompt(self, hook: AgentHook) -> Answer:
        if hook.agent_id is not None:
            return Answer()
        self._end_turn("a task in the background has ended")
        self._begin_turn(hook, None)
        said = await self._words("turn_start")
        return Answer(context=_text_of(said), said=said)

    def _begin_turn(self, hook: AgentHook, message: str | None) -> None:
        self._is_at_work, self._sent_on, self._sent_text = True, 0, ""
        self.session.emit(AgentStart(agent_name=self.dialect.name, message=message, model=hook.model))

    def _end_turn(self, interruption: str | None = None, content: str | None = None) -> None:
        """Emit the end of the turn, if there is one, after the ends of its calls."""
        self._calls_of(None).close("the turn has ended")
        self._unnamed = [opened for opened in self._unnamed if not opened.is_ended]
        if self._is_at_work:
            self._is_at_work = False
            cut = True if interruption is not None else None
            about: dict[str, Any] = {"interrupted": cut, "interruption_cause": interruption}
            self.session.emit(AgentEnd(agent_name=self.dialect.name, content=content, **about))

    async def _stop(self, hook: AgentHook) -> Answer:
        if hook.agent_id is not None:
            return Answer()
        # Once it has worked on, the same words are the person's.
        self._sent_text = ""
        session, text = self.session, await self._kept_answer(hook.text)
        if text:
            session.emit(AssistantMessage(content=text))
        if self._sent_on < SENT_ON and HookKind.STOP in self.dialect.writers:
            said = await self._words("turn_end")
            if not said and (await session.gate_stop(Stop(answer=text))).is_denied:
                said = await self._words("step")
            if said:
                self._sent_on += 1
                self._sent_text = _text_of(said)
                return Answer(refusal=self._sent_text, said=said)
        self._end_turn(content=text or None)
        return Answer()

    async def _words(self, kind: SafePoint) -> tuple[Message, ...]:
        """Return what plugins say here, after those that were told of the last event had time to; it is held."""
        try:
            async with asyncio.timeout(WORD_SECONDS):
                await self.session.drained()
        except TimeoutError:
            _log.info("session %r: a plugin is still at work; what it says comes later", self.session.id)
        return await self.session.safe_point(kind, hold=True)

    # --- the rest ---

    async def _permission(self, hook: AgentHook, tool: EndedCall) -> Answer:
        if tool.unshown is not None:
            return Answer(refusal=f"it cannot be shown to gates as it is: {tool.unshown}")
        try:
            call = await self._call_in_question(hook, tool.call)
        except GateRefused as error:
            return Answer(refusal=str(error))
        request = PermissionRequest(
            request_id=new_id("q"),
            tool_name=call.tool_name,
            arguments=call.arguments,
            path=_text(call.common_arguments.get("path")),
            command=_text(call.common_arguments.get("command")),
            common_name=call.common_name,
            agent_id=call.agent_id,
        )
        self.session.emit(request)
        ruling = await self.session.gate_permission(request)
        # Of an `Ask` nothing is said: the agent asks anyway.
        refusal = ruling.reason + self._way_out(ruling.decision_id) if ruling.is_denied else None
        return Answer(refusal=refusal, waives=ruling.waived)

    async def _call_in_question(self, hook: AgentHook, call: ToolCall) -> ToolCall:
        """Return the call that the agent asks the person about as transforms left it; of one not seen, do as before.

        Raises GateRefused where a transform blocks.
        """
        for opened in self._calls_of(hook.agent_id).running():
            if is_same_call(call, opened.given) or is_same_call(call, opened.call):
                return opened.call
        return await self.session.transform_tool_input(call)

    async def _observe(self, hook: AgentHook) -> Answer:
        name = hook.agent_name or "sub-agent"
        about: dict[str, Any] = {"agent_id": hook.agent_id, "is_specialized_agent": True, "instance_id": hook.agent_id}
        match hook.kind:
            case HookKind.AGENT_START:
                self.session.emit(AgentStart(agent_name=name, model=hook.model, **about))
            case HookKind.AGENT_STOP:
                self._calls_of(hook.agent_id).close("the sub-agent has ended")
                self._calls.pop(hook.agent_id, None)
                text = await self._kept_answer(hook.text)
                self.session.emit(AgentEnd(agent_name=name, content=text or None, **about))
            case HookKind.COMPACTION_START:
                self.session.emit(CompactionStart())
            case HookKind.COMPACTION_END:
                self.session.emit(CompactionComplete())
            case _:
                pass
        return Answer()

    async def close(self, why: str) -> None:
        """End the turn and the session. Cancelling leaves the session open."""
        await self._end_late()
        for calls in self._calls.values():
            calls.close(why)
        self._end_turn(why)
        self.session.end(why)
        await self.session.close()


def _reason(refused: ToolResult) -> str:
    return (refused.error or "").removeprefix("not run: ")


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _text_of(messages: Sequence[Message]) -> str:
    return "\n".join(message.text_for_model for message in messages)
