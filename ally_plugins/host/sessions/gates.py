"""The gates and transforms of one session: run by the dispatcher, combined by policy, recorded, and emitted.

A decision is in the journal before it is returned, and emitted as DECISION. Without a record nothing is allowed: a
decision that cannot be written is a deny.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias, TypeVar

import attrs
import orjson
from attrs import field, frozen

from ally_plugins.contract.values.conversation import ModelInput, ToolCall, ToolResult
from ally_plugins.contract.values.errors import GateRefused, JournalError, PluginError, RefusedError, SessionError
from ally_plugins.contract.values.events import Decision, PermissionRequest
from ally_plugins.contract.values.ids import new_id
from ally_plugins.contract.values.shown import find_unshown
from ally_plugins.contract.values.verdicts import Allow, Ask, Deny, Verdict
from ally_plugins.journal.values import DECISION, LeaseLostError, Record
from ally_plugins.policy.decided_values import decided_value
from ally_plugins.policy.model_input import check_model_input, shown_to_plugins
from ally_plugins.policy.project_rules import NO_RULES, SessionRules
from ally_plugins.policy.prompt_sections import check_sections
from ally_plugins.policy.validation import check_text
from ally_plugins.policy.verdicts import GateOutcome, Vote, combine, is_sensitive, verdict_name
from ally_plugins.runtime.lanes.dispatch import Dispatcher, HookCall, Transformed

from .overrides import HOSTS_OWN, PERSON, SessionOverrides

if TYPE_CHECKING:
    from ally_plugins.contract.values.conversation import (
        Context,
        Message,
        PromptSection,
        Stop,
    )
    from ally_plugins.journal.journal import Journal
    from ally_plugins.runtime.lanes.plugin import Plugin

__all__ = [
    "ALLOWED",
    "AnswerHold",
    "Ruling",
    "SessionGates",
    "check_call",
    "check_message",
    "check_result",
    "unblocked",
]

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)

AnswerHold: TypeAlias = Literal["whole", "sentence"]
"""How an answer of the model is held: until it is complete and allowed, or until each of its sentences is."""

_UNASKED: Final = frozenset({"user_message", "answer", "stop"})
"""Topics of gates whose `Ask` is a deny: the person would be asked about words of their own, or shown what is held."""

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
"""Nothing else is refused in a tool's output, which may be coloured and hold tabs and bells."""

HOST_GATE: Final = "the host"
"""In a decision, who has voted that is no plugin; no plugin's name has a space in it."""

MAX_VALUE_BYTES: Final = 16 * 1024 * 1024
"""The largest text that a transform may return, for tool output of any size; messages have their own limit."""


class Decided(Protocol):
    """What is told of a call that was decided."""

    def __call__(self, call: ToolCall, *, is_sensitive: bool) -> None:
        """Take note of it, and of whether what it holds is not to be kept."""


@frozen
class Ruling:
    """The outcome of a gate. `decision_id` leads to the votes (`ally-plugins explain`); None when no plugin takes part.

    `reason` is for the agent and the person. `waived` means that the host need not ask its own permission question.
    """

    verdict: Verdict
    reason: str = ""
    decided_by: tuple[str, ...] = ()
    waived: bool = False
    decision_id: str | None = None
    votes: tuple[Vote, ...] = field(default=(), repr=False)

    @property
    def is_allowed(self) -> bool:
        """Whether it may happen without asking anybody."""
        return isinstance(self.verdict, Allow)

    @property
    def is_denied(self) -> bool:
        """Whether it must not happen."""
        return isinstance(self.verdict, Deny)

    @property
    def needs_person(self) -> bool:
        """Whether a person has to agree first."""
        return isinstance(self.verdict, Ask)


ALLOWED: Final = Ruling(Allow())


class SessionGates:
    """Runs the gates and transforms of one session, and lives as long as it.

    `emit` emits an event in the session, `context_for` makes a plugin's view of it, `on_decided` is told of each call
    that was decided, before that is recorded. Cancelling a gate or transform cancels the hooks that run for it; there
    is no ruling then, and what was asked about must not happen.
    """

    def __init__(
        self,
        session_id: str,
        dispatcher: Dispatcher,
        journal: Journal,
        *,
        emit: Callable[[Decision, tuple[str, ...]], object],
        context_for: Callable[[Plugin], Awaitable[Context]],
        now_ms: Callable[[], int],
        has_person: Callable[[], bool],
        on_decided: Decided,
    ) -> None:
        self._on_decided = on_decided
        self._session_id = session_id
        self._dispatcher = dispatcher
        self._journal = journal
        self._emit = emit
        self._context_for = context_for
        self._now_ms = now_ms
        self._has_person = has_person

    rules: SessionRules = NO_RULES
    """What trusted projects say of the session."""
    overrides: SessionOverrides | None = None
    """What a person decides over the plugins' heads, where the host has a way to be told so."""

    async def gate_tool_call(self, call: ToolCall, origin: tuple[str, ...]) -> Ruling:
        """Ask the plugins whether a tool may run with these arguments, unless its project has it denied."""
        if self.rules.decides_calls and (why := self._why_ruled_out(call)) is not None:
            ruling = await self.deny_by_host(call, why, origin)
            if ruling.is_denied:
                return ruling
        if not self._dispatcher.has_any("ally_gate_tool_call"):
            return ALLOWED
        hook_call = self._hook_call("ally_gate_tool_call", **_about_call(call, origin))
        try:
            return await self._ask_gates(hook_call, call, call.tool_name)
        finally:
            self._on_decided(call, is_sensitive=False)  # also where nobody was asked, or the question was taken back

    async def gate_permission(self, request: PermissionRequest, origin: tuple[str, ...]) -> Ruling:
        """Ask the plugins about a permission question of the host's own, unless its project has the call denied."""
        if self.rules.decides_calls and (why := self._why_ruled_out(request)) is not None:
            return await self._deny_ruled_out(request, why, origin)
        hook_call = self._hook_call(
            "ally_gate_permission", tool=request.tool_name, origin=origin, cause=request.request_id
        )
        return await self._ask_gates(hook_call, request, request.tool_name)

    async def gate_message(self, message: Message, plugin: str, origin: tuple[str, ...]) -> Ruling:
        """Ask the plugins, but for its author, whether a plugin's message may enter the conversation."""
        hook_call = self._hook_call("ally_gate_message", caused_by=plugin, origin=origin, cause=message.id)
        return await self._ask_gates(hook_call, message, f"a {message.role} message of {plugin}")

    async def gate_user_message(self, message: Message) -> Ruling:
        """Ask the plugins whether a message of the person may reach the agent."""
        if not self._dispatcher.has_any("ally_gate_user_message"):
            return ALLOWED
        hook_call = self._hook_call("ally_gate_user_message", caused_by=message.source_plugin, cause=message.id)
        return await self._ask_gates(hook_call, message, "a message of the person")

    async def gate_answer(self, message: Message, origin: tuple[str, ...]) -> Ruling:
        """Ask the plugins whether an answer of the model, or what there is of it, may be shown."""
        if not self._dispatcher.has_any("ally_gate_answer"):
            return ALLOWED
        about = {"caused_by": message.source_plugin, "origin": origin, "cause": message.id}
        return await self._ask_gates(self._hook_call("ally_gate_answer", **about), message, "an answer of the model")

    async def gate_stop(self, stop: Stop, origin: tuple[str, ...]) -> Ruling:
        """Ask the plugins whether the agent may end its turn."""
        return await self._ask_gates(self._hook_call("ally_gate_stop", origin=origin), stop, _END)

    async def allow_stop(self, stop: Stop, why: str, origin: tuple[str, ...]) -> Ruling:
        """Let the agent end its turn without asking; the decision, with the reason, is recorded as any other.

        One that cannot be recorded stands: a turn that goes on would write more.
        """
        ruling = Ruling(Allow(), why, decision_id=new_id("d"))
        await self._record_decision(self._hook_call("ally_gate_stop", origin=origin), _END, ruling, stop)
        return ruling

    async def transform_tool_input(self, call: ToolCall, origin: tuple[str, ...]) -> Transformed[ToolCall]:
        """Run the chain over a call's arguments."""
        about = _about_call(call, origin)
        hook = "ally_transform_tool_input"
        return await self._transform(hook, about, call, lambda value: (value,), check_call)

    async def transform_tool_output(
        self, call: ToolCall, result: ToolResult, origin: tuple[str, ...]
    ) -> Transformed[ToolResult]:
        """Run the chain over what a tool returned."""
        about = _about_call(call, origin)
        hook = "ally_transform_tool_output"
        return await self._transform(hook, about, result, lambda value: (call, value), check_result)

    async def transform_user_message(self, message: Message) -> Transformed[Message]:
        """Run the chain over a message of the person."""
        about = {"cause": message.id}
        hook = "ally_transform_user_message"
        return await self._transform(hook, about, message, lambda value: (value,), check_message)

    async def transform_answer(self, message: Message, origin: tuple[str, ...]) -> Transformed[Message]:
        """Run the chain over an answer of the model."""
        about = {"caused_by": message.source_plugin, "origin": origin, "cause": message.id}
        hook = "ally_transform_answer"
        return await self._transform(hook, about, message, lambda value: (value,), check_answer)

    async def transform_plugin_message(
        self, message: Message, plugin: str, origin: tuple[str, ...]
    ) -> Transformed[Message]:
        """Run the chain over a plugin's message, without its author."""
        about = {"caused_by": plugin, "origin": origin, "cause": message.id}
        hook = "ally_transform_plugin_message"
        return await self._transform(hook, about, message, lambda value: (value,), check_message)

    async def transform_system_prompt(
        self, sections: tuple[PromptSection, ...], origin: tuple[str, ...]
    ) -> Transformed[tuple[PromptSection, ...]]:
        """Run the chain over the sections of the system prompt."""
        about = {"origin": origin}
        hook = "ally_transform_system_prompt"
        return await self._transform(hook, about, sections, lambda value: (value,), check_sections)

    async def transform_model_request(self, request: ModelInput, origin: tuple[str, ...]) -> Transformed[ModelInput]:
        """Run the chain over a request to the model; private messages are not shown to plugins."""
        about = {"origin": origin}
        hook = "ally_transform_model_request"

        def check(old: ModelInput, new: Any, plugin: str) -> tuple[ModelInput, tuple[str, ...]]:
            return check_model_input(old, new, plugin, origin)

        return await self._transform(hook, about, request, lambda value: (shown_to_plugins(value),), check)

    def has_participants(self, hook: str) -> bool:
        """Say whether any plugin takes part in a gate or transform, which costs next to nothing to find out."""
        return self._dispatcher.has_participants(hook)

    def answer_hold(self) -> AnswerHold | None:
        """Say how an answer is to be held, None where nobody's word on it is enforced.

        By sentences only where each gate has that in its grant and no transform takes part, which sees it whole.
        """
        if not (self._dispatcher.has_any("ally_gate_answer") or self._dispatcher.has_any("ally_transform_answer")):
            return None
        gates, transforms = map(self._enforced, ("ally_gate_answer", "ally_transform_answer"))
        if transforms or not all(plugin.grants.gates_sentences for plugin in gates):
            return "whole"
        return "sentence" if gates else None

    def _enforced(self, hook: str) -> list[Plugin]:
        hook_call = self._hook_call(hook)
        # In shadow mode a plugin's answer is recorded only, so that nothing is held for it.
        return [each for each in self._dispatcher.participants(hook_call) if _is_enforced(hook_call, (each,))]

    def _hook_call(self, hook: str, **about: Any) -> HookCall:
        return HookCall(hook=hook, session_id=self._session_id, **about)

    async def _ask_gates(self, hook_call: HookCall, value: Any, subject: str) -> Ruling:
        plugins = self._dispatcher.participants(hook_call)
        if not plugins:
            return ALLOWED
        # A gate in shadow mode decides nothing, and so denies nothing that it cannot be shown.
        if (why := _why_unshown(value)) is not None and _is_enforced(hook_call, plugins):
            return await self._deny_unshown(hook_call, subject, why)
        # For those that have the argument only: they differ by grant, and each copies the conversation.
        contexts = {
            plugin.name: await self._context_for(plugin)
            for plugin in plugins
            if (found := plugin.implementations.get(hook_call.hook)) is not None
            and "context" in found.arguments
            and plugin.why_unavailable(hook_call.hook) is None
        }
        votes = await self._dispatcher.ask(hook_call, plugins, lambda plugin: (value, contexts.get(plugin.name)))
        outcome = _combined(hook_call, votes, has_person=self._has_person())
        ruling = Ruling(outcome.verdict, outcome.reason, outcome.decided_by, outcome.waived, new_id("d"), tuple(votes))
        if isinstance(value, ToolCall | PermissionRequest):
            ruling = self._overridden(hook_call.topic, value, ruling)
        return await self._record_decision(hook_call, subject, ruling, value)

    async def deny_unshown(self, tool: str, call_id: str | None, why: str, origin: tuple[str, ...]) -> Ruling:
        """Deny a call of which no `ToolCall` can be made; the decision is recorded and emitted as any other."""
        hook_call = self._hook_call("ally_gate_tool_call", tool=tool, origin=origin, cause=call_id)
        return await self._deny_unshown(hook_call, tool, why)

    async def deny_by_host(self, call: ToolCall, why: str, origin: tuple[str, ...]) -> Ruling:
        """Deny a call by a gate of the host's own, before plugins are asked; recorded and emitted as any other.

        A person may have allowed it; plugins are to be asked then.
        """
        hook_call = self._hook_call("ally_gate_tool_call", **_about_call(call, origin))
        vote = Vote(plugin=HOST_GATE, verdict=Deny(why))
        ruling = Ruling(Deny(why), why, (HOST_GATE,), decision_id=new_id("d"), votes=(vote,))
        return await self._record_decision(hook_call, call.tool_name, self._overridden(HOSTS_OWN, call, ruling), call)

    def _why_ruled_out(self, call: ToolCall | PermissionRequest) -> str | None:
        common = call.common_name if isinstance(call, ToolCall) else None
        return self.rules.why_denied(call.tool_name, common) or self._dispatcher.why_unguarded(self._session_id)

    async def _deny_ruled_out(self, request: PermissionRequest, why: str, origin: tuple[str, ...]) -> Ruling:
        hook_call = self._hook_call(
            "ally_gate_permission", tool=request.tool_name, origin=origin, cause=request.request_id
        )
        vote = Vote(plugin=HOST_GATE, verdict=Deny(why))
        ruling = Ruling(Deny(why), why, (HOST_GATE,), decision_id=new_id("d"), votes=(vote,))
        return await self._record_decision(hook_call, request.tool_name, ruling, request)

    def _overridden(self, topic: str, call: ToolCall | PermissionRequest, ruling: Ruling) -> Ruling:
        """Return the ruling on a call, or that of the person in its place."""
        if self.overrides is None or ruling.is_allowed:
            return ruling
        why = self.overrides.why_allowed(topic, call.tool_name, call.arguments or {}, ruling.decision_id, ruling.reason)
        if why is None:
            return ruling
        return attrs.evolve(ruling, verdict=Allow(), reason=why, decided_by=(PERSON,), waived=False)

    async def _deny_unshown(self, hook_call: HookCall, subject: str, why: str) -> Ruling:
        text = f"it cannot be shown to gates as it is: {why}"
        return await self._record_decision(hook_call, subject, Ruling(Deny(text), text, decision_id=new_id("d")))

    async def _record_decision(self, hook_call: HookCall, subject: str, ruling: Ruling, value: object = None) -> Ruling:
        """Record a decision, then emit and return it; one that cannot be recorded becomes a deny.

        `value` is what was decided on, None where nobody can be shown it.
        """
        if isinstance(value, ToolCall):  # now, so that the start of the call is in the journal before the decision
            self._on_decided(value, is_sensitive=is_sensitive(ruling.votes))
        try:
            await self._journal.append(self._decision_record(hook_call, subject, ruling, value))
        # Another host has the session: this one may record nothing in it any more, not even a deny.
        except LeaseLostError as error:
            raise SessionError(str(error)) from error
        except JournalError as error:
            text = f"the decision cannot be recorded: {error}"
            ruling = attrs.evolve(ruling, verdict=Deny(text), reason=text, decided_by=(), waived=False)
        self._announce(hook_call, subject, ruling)
        return ruling

    def _decision_record(self, hook_call: HookCall, subject: str, ruling: Ruling, value: object) -> Record:
        # Salted, or a short secret could be found by digesting all that it may be.
        salt = secrets.token_bytes(16) if is_sensitive(ruling.votes) else None
        data = {
            "kind": hook_call.topic,
            "subject": subject,
            "decided_on": None if value is None else decided_value(value, salt=salt),
            "verdict": verdict_name(ruling.verdict),
            "reason": ruling.reason,
            "decided_by": ruling.decided_by,
            "waived": ruling.waived,
            "origin": hook_call.origin,
            "cause": hook_call.cause,
            "votes": [_vote_data(vote) for vote in ruling.votes],
        }
        return Record(DECISION, self._now_ms(), hook_call.caused_by, self._session_id, ruling.decision_id, data)

    def _announce(self, hook_call: HookCall, subject: str, ruling: Ruling) -> None:
        event = Decision(
            decision_id=ruling.decision_id or "",
            kind=hook_call.topic,
            subject=subject,
            verdict=verdict_name(ruling.verdict),
            reason=ruling.reason,
            decided_by=ruling.decided_by,
            # Of other topics the cause is no call.
            call_id=hook_call.cause if hook_call.topic == "tool_call" else None,
        )
        self._emit(event, hook_call.origin)
        if self._dispatcher.listener is not None:
            self._dispatcher.listener.decided(event, self._session_id)

    async def _transform(
        self,
        hook: str,
        about: Mapping[str, Any],
        value: Any,
        arguments: Callable[[Any], tuple[Any, ...]],
        check: Callable[[Any, Any, str], tuple[Any, tuple[str, ...]]],
    ) -> Transformed[Any]:
        if not self._dispatcher.has_any(hook):
            return Transformed(value)
        hook_call = self._hook_call(hook, **about)
        why = _why_unshown(value)
        if why is not None and _is_enforced(hook_call, self._dispatcher.participants(hook_call)):
            done = Transformed(value, blocked_by="", reason=f"it cannot be shown to plugins as it is: {why}")
        else:
            done = await self._dispatcher.transform(hook_call, value, arguments, _refuse_unshown(check))
        if done.changes or done.blocked_by is not None:
            # Not waited for: nothing is allowed by it, as it is by a decision.
            self._journal.append_soon(self._transform_record(hook_call, done))
            for name, plugins in done.conflicts.items():
                _log.warning("%s: %s all changed %r; the last one won", hook_call.hook, ", ".join(plugins), name)
        return done

    def _transform_record(self, hook_call: HookCall, done: Transformed[Any]) -> Record:
        data = {
            "hook": hook_call.hook,
            "cause": hook_call.cause,
            "changes": [attrs.asdict(change) for change in done.changes],
            "conflicts": done.conflicts,
            "blocked_by": done.blocked_by,
            "reason": done.reason,
        }
        return Record("transform", self._now_ms(), hook_call.caused_by, self._session_id, hook_call.cause, data)


_END: Final = "the end of the turn"


def _combined(hook_call: HookCall, votes: Iterable[Vote], *, has_person: bool) -> GateOutcome:
    if hook_call.topic in _UNASKED:
        return combine(
            votes, person_present=False, unasked=f"nobody is asked about {hook_call.topic}; deny or allow it"
        )
    return combine(votes, person_present=has_person)


def _why_unshown(value: Any) -> str | None:
    """Return why a value cannot be shown to plugins as it is, None when it can."""
    if value.__class__ is ToolCall:  # there is none that cannot
        return None
    if value.__class__ is ModelInput:
        value = shown_to_plugins(value)
    return (isinstance(value, ToolResult) and value.unshown) or find_unshown(value, "it")


def _is_enforced(hook_call: HookCall, plugins: Iterable[Plugin]) -> bool:
    """Say whether the answer of any of these plugins counts, rather than being recorded only (shadow mode)."""
    return any(not plugin.is_shadowed(hook_call.hook, hook_call.topic) for plugin in plugins)


def _refuse_unshown(
    check: Callable[[Any, Any, str], tuple[Any, tuple[str, ...]]],
) -> Callable[[Any, Any, str], tuple[Any, tuple[str, ...]]]:
    """Return a check that also refuses what the next plugin in the chain could not be shown. It raises PluginError."""

    def checked(old: Any, new: Any, plugin: str) -> tuple[Any, tuple[str, ...]]:
        value, fields = check(old, new, plugin)
        if fields and (why := _why_unshown(value)) is not None:
            raise PluginError(f"what the transform returned cannot be shown to others: {why}")
        return value, fields

    return checked


def _vote_data(vote: Vote) -> dict[str, Any]:
    return {
        "plugin": vote.plugin,
        "verdict": verdict_name(vote.verdict),
        "reason": getattr(vote.verdict, "reason", ""),
        "cause": vote.cause,
        "shadow": vote.shadow,
        "elapsed_ms": round(vote.elapsed_ms, 3),
        "detail": vote.detail,
    }


def _about_call(call: ToolCall, origin: tuple[str, ...]) -> dict[str, Any]:
    return {"tool": call.tool_name, "common_tool": call.common_name, "origin": origin, "cause": call.call_id}


def check_call(old: ToolCall, new: Any, _plugin: str = "") -> tuple[ToolCall, tuple[str, ...]]:
    """Return a transformed call and which arguments changed; nothing else may differ. Raises PluginError."""
    _check_kind(old, new)
    if new.tool_name != old.tool_name:
        raise PluginError(f"the transform changed the tool from {old.tool_name!r}; only arguments may change")
    arguments = new.arguments
    if not isinstance(arguments, Mapping):
        raise PluginError(f"arguments is {type(arguments).__name__}; expected an object")
    # `_log` stands for no value at all: None may be an argument.
    changed = tuple(k for k in {**old.arguments, **arguments} if old.arguments.get(k, _log) != arguments.get(k, _log))
    return attrs.evolve(old, arguments=arguments), changed


def check_result(old: ToolResult, new: Any, _plugin: str = "") -> tuple[ToolResult, tuple[str, ...]]:
    """Return a transformed result and which fields changed; `success` may not. Raises PluginError."""
    _check_kind(old, new)
    if new.success is not old.success:
        raise PluginError("the transform changed whether the tool succeeded; only output, error and data may change")
    for name, text in (("output", new.output), ("error", new.error)):
        if not (isinstance(text, str) or (text is None and name == "error")):
            raise PluginError(f"{name} is {type(text).__name__}; expected a string")
        if text is not None and len(text) > MAX_VALUE_BYTES:
            raise PluginError(f"{name} has {len(text)} characters; expected {MAX_VALUE_BYTES} at most")
        # Of what was changed only: a tool's own output goes on as it is.
        if text != getattr(old, name) and _SURROGATE.search(text or ""):
            raise PluginError(f"{name} has a lone surrogate, which no UTF-8 can say")
    return new, _changed(old, new, ("output", "error", "data"))


def check_message(old: Message, new: Any, _plugin: str = "") -> tuple[Message, tuple[str, ...]]:
    """Return a transformed message and whether its content changed; nothing else may. Raises PluginError."""
    _check_kind(old, new)
    # A text that was left alone is the host's, whatever it holds.
    if new.content != old.content:
        try:
            check_text(new.content, MAX_VALUE_BYTES)
        except RefusedError as refusal:  # no call was refused: the transform is at fault, and that is counted
            raise PluginError(f"the transform's message is not valid: {refusal}") from None
    return attrs.evolve(old, content=new.content), _changed(old, new, ("content",))


def check_answer(old: Message, new: Any, plugin: str = "") -> tuple[Message, tuple[str, ...]]:
    """Return a transformed answer as `check_message` does; a structured one is still JSON. Raises PluginError."""
    message, fields = check_message(old, new, plugin)
    if fields and old.metadata.get("isStructured"):
        try:
            orjson.loads(message.content)
        except orjson.JSONDecodeError:
            raise PluginError("the transform made something else than JSON of a structured answer") from None
    return message, fields


def _check_kind(old: object, new: object) -> None:
    if type(new) is not type(old):
        message = f"the transform replaced a {type(old).__name__} by {type(new).__name__}; use evolve(value, field=...)"
        raise PluginError(message)


def _changed(old: object, new: object, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if getattr(old, name) != getattr(new, name))


def unblocked(done: Transformed[T]) -> T:
    """Return the value at the end of a chain of transforms. Raises GateRefused when one blocked."""
    if done.blocked_by is not None:
        raise GateRefused(done.reason, plugin=done.blocked_by or None)
    return done.value
