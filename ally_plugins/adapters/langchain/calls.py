"""One tool call of a graph: whether it may run, what it runs with, and what came of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from attrs import define, evolve, field
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.tools import ToolException
from langgraph.errors import GraphBubbleUp, GraphInterrupt, ParentCommand
from langgraph.types import Command, interrupt

from ally_plugins.adapters.kit.plugin_tools import call_offered, text_for_model
from ally_plugins.adapters.kit.run import Interrupted
from ally_plugins.adapters.kit.tool_calls import CallDeferred, UnshownCall
from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values.conversation import ToolCall, ToolResult
from ally_plugins.contract.values.errors import EventError, GateRefused, HostError, error_text
from ally_plugins.contract.values.shown import shown_text
from ally_plugins.host.sessions.open_calls import Postponed, call_key, is_same_call, not_run

from .messages import mended, text_of
from .runs import messages_in

if TYPE_CHECKING:
    from langchain.agents.middleware import ToolCallRequest  # noqa: TC004 - nobody reads these annotations at run time

    from ally_plugins.host.sessions.open_calls import Runner

    from .runs import PluginRun  # noqa: TC004

__all__ = ["Asked", "GraphCall", "Handler"]

Result: TypeAlias = "ToolMessage | Command[Any] | list[Any]"
Handler: TypeAlias = "Callable[[ToolCallRequest], Awaitable[Result]]"

Asked: TypeAlias = "dict[str, list[tuple[ToolCall, ToolCall, str]]]"
"""The questions that interrupts of the framework have asked, by the call's id, in order: the call as it was made, as it
was asked about, and the reason."""

_CHOICES: Final = {"allow": True, "always": True, "approve": True, "deny": False, "reject": False}


@define(eq=False)
class GraphCall:
    """One call, from the framework's request to its result."""

    run: PluginRun
    request: ToolCallRequest
    asked: Asked
    _before: ToolResult | None = field(init=False, default=None)
    """What the tool came to; None while it has not run."""
    _value: Any = field(init=False, default=None)
    _failure: Exception | None = field(init=False, default=None)

    @property
    def _name(self) -> str:
        return self.request.tool_call["name"]

    async def carry_out(self, handler: Handler, *, unseen: str | None = None) -> Result:
        """Run the call if gates and the person allow it; `unseen` says why it cannot. A refusal is its result.

        Raises GraphInterrupt when the question, or the tool's own, waits for another run, and what the tool raises.
        """
        try:
            with self.run.stoppable():
                after = await self._carry_out(lambda call: self._result(call, handler), unseen)
        except Postponed as postponed:
            raise postponed.__cause__ or postponed from None
        except Interrupted as stopped:  # the graph ends behind this step, with a result for each call
            return self._message(f"interrupted: {stopped}")
        except HostError as error:
            return self._message(f"not run: {error}")
        self.asked.pop(self.request.tool_call["id"] or "", None)
        return self._restored(after)

    # --- the person ---

    async def _carry_out(self, run: Runner, unseen: str | None) -> ToolResult:
        """Carry out the call, with questions to the person as interrupts of the framework.

        A node that runs again asks the same questions in the same order: that is how the framework finds the answers.
        An answer counts for the call that it was given for.
        """
        work, call_id = self.run.work, self.request.tool_call["id"]
        given = work.given_call(self._name, self.request.tool_call["args"], call_id)
        if unseen is not None:
            given = UnshownCall(self._name, call_id, unseen)
        if isinstance(given, UnshownCall):
            return await work.run_tool_call(given, run)
        tool = self.run.offered.get(self._name) if self.request.tool is None else None
        sensitivity = "normal" if tool is not None and tool.requires_confirmation else None
        questions, number, is_approved = self.asked.setdefault(call_id or "", []), 0, False
        while True:
            for made, call, reason in questions[number:]:
                number += 1
                answer = self._answer(call, reason)
                if not is_same_call(made, given):
                    continue
                is_approved, arguments, why = _read(answer, call)
                if not is_approved:
                    return self._not_agreed(call, why or f"the person did not agree: {reason}")
                if arguments is not None:
                    return await self._as_edited(call, arguments, run, sensitivity)
            waiting = work.live.deferred.get(call_key(given))
            if waiting is not None and waiting.outcome is not None and waiting.outcome.is_allowed:
                is_approved = False  # the answer was taken before the tool asked something of its own
            try:
                return await work.run_tool_call(
                    given, run, sensitivity=sensitivity, is_approved=is_approved, is_resumed=number > 0
                )
            except CallDeferred as deferred:
                questions.append((given, deferred.call, deferred.reason))

    def _not_agreed(self, call: ToolCall, why: str) -> ToolResult:
        self.run.work.refused_elsewhere(call, why)
        return not_run(why)

    async def _as_edited(
        self, call: ToolCall, arguments: Mapping[str, Any], run: Runner, sensitivity: str | None
    ) -> ToolResult:
        """Carry out a call with the arguments that the person has given it: gates are asked about those."""
        work = self.run.work
        try:
            edited = evolve(call, arguments=arguments)
        except EventError as error:
            return self._not_agreed(call, str(error))
        outcome = await work.authorize(edited, sensitivity=sensitivity, is_approved=True, is_resumed=True)
        if not outcome.is_allowed:
            return not_run(outcome.reason)
        return await work.carry_out(edited, run)

    def _answer(self, call: ToolCall, reason: str) -> Any:
        """Return the person's answer, as the framework has it. Raises GraphInterrupt where there is none yet."""
        question = {
            "action_requests": [{"name": call.tool_name, "args": thaw(call.arguments), "description": reason}],
            "review_configs": [{"action_name": call.tool_name, "allowed_decisions": ["approve", "edit", "reject"]}],
            "call_id": call.call_id,
        }
        if self._is_alone():
            answer = interrupt(question)
            return answer.get(call.call_id, answer) if isinstance(answer, dict) else answer
        # The framework finds an answer by the order of the questions in a node, which is nobody's here.
        answers = self.run.answers
        while call.call_id not in answers:
            found = interrupt(question)
            answers.update(found if isinstance(found, dict) else {})
        return answers.pop(call.call_id)

    def _is_alone(self) -> bool:
        """Return whether no other call runs in this node: `create_agent` gives each a node of its own."""
        metadata: Any = self.request.runtime.config.get("metadata", {})
        if metadata.get("langgraph_path", ("",))[0] == "__pregel_push":
            return True
        last = next((each for each in reversed(messages_in(self.request.state)) if isinstance(each, AIMessage)), None)
        return last is not None and len(last.tool_calls) == 1

    # --- the tool ---

    async def _result(self, call: ToolCall, handler: Handler) -> ToolResult:
        """Run the tool with what plugins were shown, and return what the model is to read of it."""
        request, tool = self.request, self.run.offered.get(self._name)
        if request.tool is None and tool is not None:
            self._before = await call_offered(self.run.work, tool, call.arguments)
            self._value = self._message(text_for_model(self._before), is_error=not self._before.success)
            return self._before
        try:
            made = await handler(request.override(tool_call={**request.tool_call, "args": thaw(call.arguments)}))
            self._value = _mended(made)
            self._before = _summary(self._value)
        except GraphInterrupt as interrupted:
            raise Postponed from interrupted
        except GateRefused as refusal:  # of a sub-agent's turn: its agent reads why
            self._before = ToolResult(success=False, error=str(refusal))
            self._value = self._message(str(refusal))
        except Exception as error:  # noqa: BLE001 - raised again, once its end is emitted
            self._failure = error
            is_handover = isinstance(error, ParentCommand)  # the graph above goes on
            text = "" if is_handover else shown_text(error_text(error))
            self._before = ToolResult(success=is_handover, error=text or None)
        return self._before

    def _restored(self, after: ToolResult) -> Result:
        """Return the tool's value, or raise what it raised, as transforms left it."""
        before, error = self._before, self._failure
        is_same = before is not None and (after.output, after.error) == (before.output, before.error)
        if error is not None:
            self.run.work.failed(error, after.error or "")
            if is_same or isinstance(error, GraphBubbleUp):
                raise error
            raise ToolException(text_for_model(after)) from None
        if is_same:
            return self._value  # type: ignore[no-any-return]
        message = self._message(text_for_model(after), is_error=not after.success)
        return message if before is None else _replaced(self._value, message)

    def _message(self, text: str, *, is_error: bool = True) -> ToolMessage:
        status = "error" if is_error else "success"
        return ToolMessage(text, name=self._name, tool_call_id=self.request.tool_call["id"], status=status)


def _messages(value: Any) -> list[BaseMessage]:
    """Return the messages that a tool's value adds to the conversation."""
    if isinstance(value, Command):
        return messages_in(value.update)
    if isinstance(value, list):
        return [message for each in value for message in _messages(each)]
    return [value] if isinstance(value, BaseMessage) else []


def _mended(value: Any) -> Any:
    """Return a tool's value whose messages can be sent."""
    if isinstance(value, BaseMessage):
        return mended(value)
    if isinstance(value, list):
        return list(map(_mended, value))
    if isinstance(value, Command) and isinstance(value.update, Mapping) and (messages := messages_in(value.update)):
        return replace(value, update={**value.update, "messages": list(map(mended, messages))})
    return value


def _summary(value: Any) -> ToolResult:
    """Return a tool's value as the model will read it."""
    messages = _messages(value)
    text = "\n".join(map(text_of, messages))
    if any(isinstance(each, ToolMessage) and each.status == "error" for each in messages):
        return ToolResult(success=False, error=text)
    return ToolResult(success=True, output=text)


def _replaced(value: Any, message: ToolMessage) -> Result:
    """Return a tool's value with a message in place of all of its own; what a command does beside stays."""
    if isinstance(value, Command) and isinstance(value.update, Mapping) and _messages(value):
        return replace(value, update={**value.update, "messages": [message]})
    return message


def _read(answer: Any, call: ToolCall) -> tuple[bool, Mapping[str, Any] | None, str]:
    """Return whether the person agrees, the arguments as they changed them, and why they do not. Only a yes is one."""
    decisions = answer.get("decisions") if isinstance(answer, dict) else None
    decision = decisions[0] if isinstance(decisions, list) and len(decisions) == 1 else answer
    kind = decision.get("type") if isinstance(decision, dict) else decision
    if kind == "edit" and isinstance(decision, dict):
        edited = decision.get("edited_action")
        if isinstance(edited, dict) and edited.get("name") == call.tool_name and isinstance(edited.get("args"), dict):
            return True, edited["args"], ""
    if isinstance(kind, str) and kind in _CHOICES:
        message = decision.get("message") if isinstance(decision, dict) else None
        return _CHOICES[kind], None, message if isinstance(message, str) else ""
    return False, None, f"the answer {answer!r} is none; expected one of {', '.join(_CHOICES)}"
