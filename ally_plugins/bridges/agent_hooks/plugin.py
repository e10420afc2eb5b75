"""A plugin that asks interceptors: each of our hooks emits at the interception point that it stands at.

A transform hook emits, and applies what the interceptors changed; the gate behind it answers with their verdict. A gate
that is given another value than was emitted, since a plugin in between changed it or the transform was not granted,
emits for that value itself: what interceptors have not seen is never allowed in their name.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from agent_hooks._types import InterceptionPoint
from agent_hooks.context import AgentContext, AgentContextBuilder
from agent_hooks.emitter import InterceptionEmitter
from attrs import define, field, frozen

from ally_plugins.contract.markers import hookimpl
from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.conversation import Message, ModelInput, ToolCall, ToolResult, evolve
from ally_plugins.contract.values.errors import GateRefused
from ally_plugins.contract.values.shown import UNSHOWN
from ally_plugins.contract.values.verdicts import Allow, Ask, Deny, Replace, Verdict

if TYPE_CHECKING:
    from agent_hooks._types import InterceptionRecord
    from agent_hooks.interceptor import Interceptor

    from ally_plugins.contract.handle import Ally
    from ally_plugins.contract.values.events import SessionEnd

__all__ = ["AgentHooksPlugin", "interceptor_plugin"]

_KEPT_SESSIONS: Final = 4096
"""Conversations of which it is remembered that they began; the longest unused are forgotten, and begin again."""

_KEPT_RECORDS: Final = 1024
"""Interception records that an emitter made here keeps in memory; a declaration says it for itself."""


@frozen
class _Decided:
    """What the interceptors said of a value: the value as it is after their changes, encoded, and their verdict."""

    value: bytes
    verdict: Verdict


@define(eq=False)
class _Conversation:
    """One session: the contexts of its interceptions, why it may not go on, and what waits for its gate."""

    contexts: AgentContextBuilder
    refusal: Verdict | None = None
    model_refusal: Verdict | None = None
    has_begun: bool = False
    was_blocked: bool = False
    decided: dict[str, _Decided] = field(factory=dict)


class AgentHooksPlugin:
    """Asks the interceptors of one emitter; derive from it, or call `interceptor_plugin`.

    `make_emitter` is called once a plugin, when it is built: what it raises keeps the plugin from starting, and its
    gates deny. `agent_id` names the agent in the contexts, `tools` are those of the agent that interceptors are shown
    at `agent_startup`.
    """

    agent_id = "agent"
    tools: Sequence[str] = ()

    def __init__(self, ally: Ally) -> None:
        self.ally = ally
        self.emitter = self.make_emitter()
        self._conversations: OrderedDict[str, _Conversation] = OrderedDict()

    def make_emitter(self) -> InterceptionEmitter:
        """Return the emitter, with its interceptors. One without any denies everything."""
        return InterceptionEmitter().set_max_records(_KEPT_RECORDS)

    # --- the person's message: agent_startup, input ---

    @hookimpl
    async def ally_transform_user_message(self, message: Message) -> Replace[Message] | None:
        """Emit `agent_startup`, once a conversation, and `input`."""
        changed = await self._take_input(message)
        return None if changed.content == message.content else Replace(changed)

    @hookimpl
    async def ally_gate_user_message(self, message: Message) -> Verdict:
        """Answer with the verdict on what was emitted."""
        return await self._verdict("input", message.content, lambda: self._take_input(message))

    async def _take_input(self, message: Message) -> Message:
        conversation = self._conversation()
        conversation.model_refusal = None
        if not conversation.has_begun:
            conversation.has_begun = True
            record = await self._emit(conversation.contexts.agent_startup(tools_registered=list(self.tools)))
            conversation.refusal = None if record.proceeds else _refusal(record)
        if conversation.refusal is not None:
            conversation.decided["input"] = _Decided(encode(message.content), conversation.refusal)
            return message
        context = conversation.contexts.input(content=message.content, role=message.role)
        record = await self._emit(context)
        return self._decide_text(conversation, "input", record, message, context["input"]["content"])

    # --- the model: pre_model_call, post_model_call, output ---

    @hookimpl
    async def ally_transform_model_request(self, request: ModelInput) -> Replace[ModelInput] | None:
        """Emit `pre_model_call`. Raises GateRefused where the model may not be asked.

        Where the operator lets the chain go on without a transform that fails, the model is asked all the same; its
        answer then, and every call in it, is denied.
        """
        conversation = self._conversation()
        conversation.model_refusal = None
        told = [_as_told(message) for message in request.messages]
        context = conversation.contexts.pre_model_call(model_id=request.model or "", messages=thaw(told))
        record = await self._emit(context)
        if not record.proceeds:
            conversation.was_blocked = True
            conversation.model_refusal = refusal = _refusal(record)
            raise GateRefused(refusal.reason, plugin=self.ally.name)
        changed = context["messages"]
        if changed == told:
            return None
        if [set(each) for each in changed] != [set(each) for each in told]:
            raise GateRefused("an interceptor added or removed messages of the request", plugin=self.ally.name)
        messages = [_as_changed(*each) for each in zip(request.messages, told, changed, strict=True)]
        return Replace(evolve(request, messages=messages))

    @hookimpl
    async def ally_transform_answer(self, message: Message) -> Replace[Message] | None:
        """Emit `post_model_call`, and `output` for an answer without tool calls."""
        changed = await self._take_answer(message)
        return None if changed.content == message.content else Replace(changed)

    @hookimpl
    async def ally_gate_answer(self, message: Message) -> Verdict:
        """Answer with the verdict on what was emitted."""
        return await self._verdict("answer", message.content, lambda: self._take_answer(message))

    async def _take_answer(self, message: Message) -> Message:
        conversation = self._conversation()
        if conversation.model_refusal is not None:
            conversation.decided["answer"] = _Decided(encode(message.content), conversation.model_refusal)
            return message
        if any(set(call.arguments) == {UNSHOWN} for call in message.tool_calls):
            # There is no context of it: the host could not read a call as JSON, or may not show it to anybody.
            sequence = conversation.contexts.post_model_call(model_id="", content=None, tool_calls=[], finish_reason="")
            record = self.emitter.record_host_failure(
                InterceptionPoint.POST_MODEL_CALL, "EventError", sequence=sequence["sequence"],
                session_id=sequence["session"]["id"], timestamp=sequence["timestamp"],
            )  # fmt: skip
            return self._decide_text(conversation, "answer", record, message, message.content)
        calls = [_as_call(call) for call in message.tool_calls]
        context = conversation.contexts.post_model_call(
            model_id="",
            content=message.content or None,
            tool_calls=calls,
            finish_reason="tool_calls" if calls else "stop",
        )
        record = await self._emit(context)
        content = context["response"]["content"]
        changed = self._decide_text(conversation, "answer", record, message, "" if content is None else content)
        if context["response"]["tool_calls"] != calls:
            refusal = Deny("an interceptor changed the answer's tool calls, which it may do at pre_tool_call")
            conversation.decided["answer"] = _Decided(encode(changed.content), refusal)
        if calls or not isinstance(conversation.decided["answer"].verdict, Allow):
            return changed
        context = conversation.contexts.output(content=changed.content)
        record = await self._emit(context)
        return self._decide_text(conversation, "answer", record, changed, context["output"]["content"])

    # --- a tool call: pre_tool_call, post_tool_call ---

    @hookimpl
    async def ally_transform_tool_input(self, call: ToolCall) -> Replace[ToolCall] | None:
        """Emit `pre_tool_call`."""
        changed = await self._take_call(call)
        return None if changed.arguments == call.arguments else Replace(changed)

    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> Verdict:
        """Answer with the verdict on what was emitted."""
        return await self._verdict(_key(call), call.arguments, lambda: self._take_call(call))

    async def _take_call(self, call: ToolCall) -> ToolCall:
        conversation = self._conversation()
        if conversation.model_refusal is not None:
            conversation.decided[_key(call)] = _Decided(encode(call.arguments), conversation.model_refusal)
            return call
        context = conversation.contexts.pre_tool_call(
            call_id=call.call_id or "", name=call.tool_name, args=thaw(call.arguments)
        )
        record = await self._emit(context)
        changed = call
        if record.proceeds:
            changed = evolve(call, arguments=context["tool_call"]["args"])
        verdict = Allow() if record.proceeds else _refusal(record)
        conversation.decided[_key(call)] = _Decided(encode(changed.arguments), verdict)
        return changed

    @hookimpl
    async def ally_transform_tool_output(self, call: ToolCall, result: ToolResult) -> Replace[ToolResult] | None:
        """Emit `post_tool_call`; a denied result is discarded, and the model reads why."""
        text = result.output if result.success else result.error or result.output
        value = text if result.data is None else thaw(result.data)
        context = self._conversation().contexts.post_tool_call(
            call_id=call.call_id or "", name=call.tool_name, args=thaw(call.arguments), value=thaw(value),
            is_error=not result.success,
        )  # fmt: skip
        record = await self._emit(context)
        if not record.proceeds:
            changed: Any = f"blocked: {_refusal(record).reason}"
            return Replace(_with_value(result, changed))
        changed = context["tool_result"]["value"]
        return None if changed == value else Replace(_with_value(result, changed))

    # --- the end: agent_shutdown ---

    @hookimpl
    async def ally_session_end(self, event: SessionEnd) -> None:
        """Emit `agent_shutdown`, whose verdict stops nothing any more."""
        conversation = self._conversations.pop(event.session_id, None)
        if conversation is not None:
            reason = "error" if conversation.was_blocked else "completed"
            await self.emitter.emit_unchecked(conversation.contexts.agent_shutdown(reason=reason))

    # --- shared ---

    def _conversation(self) -> _Conversation:
        session_id = self.ally.session or ""
        found = self._conversations.pop(session_id, None)
        if found is None:
            found = _Conversation(
                AgentContextBuilder(agent_id=self.agent_id, framework="ally_plugins", session_id=session_id)
            )
        self._conversations[session_id] = found
        if len(self._conversations) > _KEPT_SESSIONS:
            self._conversations.popitem(last=False)
        return found

    async def _emit(self, context: AgentContext) -> InterceptionRecord:
        return await self.emitter.emit_unchecked(context)

    def _decide_text(
        self, conversation: _Conversation, key: str, record: InterceptionRecord, message: Message, content: Any
    ) -> Message:
        """Keep the verdict on a message for its gate, and return the message as the interceptors left it."""
        if not record.proceeds:
            verdict: Verdict = _refusal(record)
            changed = message
        elif isinstance(content, str):
            verdict, changed = Allow(), evolve(message, content=content)
        else:
            verdict, changed = Deny(f"an interceptor made {type(content).__name__} of a text"), message
        conversation.decided[key] = _Decided(encode(changed.content), verdict)
        return changed

    async def _verdict(self, key: str, value: Any, take: Callable[[], Any]) -> Verdict:
        """Return the verdict on a value: that of its transform, if it is what that left, else a new one."""
        conversation = self._conversation()
        decided, encoded = conversation.decided.pop(key, None), encode(value)
        if decided is None or decided.value != encoded:
            await take()
            decided = conversation.decided.pop(key)
        verdict = decided.verdict
        if isinstance(verdict, Allow) and decided.value != encoded:
            verdict = Deny("an interceptor would change it, and the plugin may not transform here")
        if not isinstance(verdict, Allow) and key in {"input", "answer"}:
            conversation.was_blocked = True
        return verdict


def interceptor_plugin(
    *interceptors: Interceptor | Callable[[], Interceptor],
    emitter: Callable[[], InterceptionEmitter] | None = None,
    agent_id: str = "agent",
    tools: Iterable[str] = (),
) -> type[AgentHooksPlugin]:
    """Return a plugin class for these interceptors, to name in an entry point or to give to a host.

    A class is called for an instance of it. `emitter` makes the emitter instead: with another composition, a resolver,
    or from a declaration.
    """

    class InterceptorPlugin(AgentHooksPlugin):
        @override
        def make_emitter(self) -> InterceptionEmitter:
            made = emitter() if emitter is not None else super().make_emitter()
            for each in interceptors:
                made.register(each() if isinstance(each, type) else each)  # type: ignore[arg-type]  # it was a class
            return made

    InterceptorPlugin.agent_id, InterceptorPlugin.tools = agent_id, tuple(tools)
    return InterceptorPlugin


def _refusal(record: InterceptionRecord) -> Ask | Deny:
    """Return the refusal of a record; a deny that somebody may lift is a question to the person."""
    verdict = record.verdict
    reason = verdict.reason or verdict.message or "an interceptor denied it"
    if verdict.approval is not None and record.resolved_by is None:
        return Ask(reason)
    return Deny(reason)


def _key(call: ToolCall) -> str:
    return f"call:{call.call_id or call.tool_name}"


def _as_call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.call_id or "", "name": call.tool_name, "args": thaw(call.arguments)}


def _as_told(message: Message) -> dict[str, Any]:
    told: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        told["tool_calls"] = [_as_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        told["tool_call_id"] = message.tool_call_id
    return told


def _as_changed(message: Message, told: dict[str, Any], changed: dict[str, Any]) -> Message:
    """Return a message with its content changed. Raises GateRefused for another change."""
    if {**changed, "content": ""} != {**told, "content": ""} or not isinstance(changed["content"], str):
        raise GateRefused("an interceptor changed more than the text of a message", plugin=None)
    return evolve(message, content=changed["content"])


def _with_value(result: ToolResult, value: Any) -> ToolResult:
    """Return a result with another value; whether it was a success stays."""
    text, data = (value, None) if isinstance(value, str) else (encode(value).decode(), value)
    return evolve(result, output=text, error=None if result.success else text, data=data)
