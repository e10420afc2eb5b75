"""Whether a call that needs permission may run: plugins' gates first, then the person, and the events of both.

The question is the host's own (a sensitive tool), a gate's (`Ask`), or both. Who the person is and how they are asked
is the approver's business; without one the answer is deny.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from attrs import define, evolve, field, frozen

from ally_plugins.contract.values.conversation import ToolCall
from ally_plugins.contract.values.events import DiffPreview, PermissionRequest, PermissionResponse
from ally_plugins.host.sessions.open_calls import PermissionOutcome, Previewed
from ally_plugins.runtime.lanes.cross_loop_lock import CrossLoopLock

if TYPE_CHECKING:
    from ally_plugins.contract.values.questions import PluginQuestion  # noqa: TC004 - nobody reads it at run time
    from ally_plugins.host.sessions.gates import Ruling
    from ally_plugins.host.sessions.session import Session

__all__ = [
    "OPTIONS",
    "Approver",
    "PermissionFlow",
    "PermissionQuestion",
    "Sensitive",
    "sensitivity_of",
]

_log: Final = logging.getLogger(__name__)

OPTIONS: Final = ("allow", "deny", "always")
"""What a person may answer; `always` is for this session, this tool, and the plugins that asked."""

NORMAL: Final = "normal"
_PATHS: Final = ("file_path", "path", "filename")
_COMMANDS: Final = ("command", "cmd")


@frozen
class PermissionQuestion:
    """What a person is asked: may this call run? The answer is one of `request.options`.

    `reason` says why it is asked; `asked_by` names the plugins whose gates require it, none when the tool itself
    is sensitive. With a `plugin_question` it is a plugin's own, about no call: `reason` is its text, marked as the
    plugin's, and the answer one of its choices; any other is none. `diff` is what an edit would change, where that is
    known; `no_preview` says why it is not, where a preview was to be had and failed.
    """

    request: PermissionRequest
    call: ToolCall
    reason: str
    asked_by: tuple[str, ...] = ()
    diff: DiffPreview | None = None
    no_preview: str = ""
    plugin_question: PluginQuestion | None = None


Approver: TypeAlias = Callable[[PermissionQuestion], Awaitable[str]]
"""Asks the person and returns one of the question's options; called for one question of a session at a time.

What it raises, and any other answer, counts as deny."""

Sensitive: TypeAlias = Mapping[str, str] | frozenset[str] | set[str] | tuple[str, ...] | list[str]
"""The tools that need permission: their names, or a mapping from name to sensitivity (`normal`, `high`, ...)."""


_ALLOWED: Final = PermissionOutcome(is_allowed=True)


@define(eq=False)
class PermissionFlow:
    """The questions of one session, and what the person has answered for good. It lives as long as the session."""

    _always: set[tuple[str, tuple[str, ...]]] = field(init=False, factory=set)
    _asking: CrossLoopLock = field(init=False, factory=CrossLoopLock)

    async def decide(
        self,
        session: Session,
        call: ToolCall,
        ruling: Ruling,
        *,
        sensitivity: str | None,
        approve: Approver | None,
        preview: Previewed | None = None,
        may_defer: bool = False,
        parent_id: str | None = None,
    ) -> PermissionOutcome:
        """Get permission for a call where a gate or its sensitivity requires it; emit the request and the answer.

        Plugins' permission gates come first: a deny ends it, a granted waiver answers the host's own question. Then
        `approve` asks the person. Without it a call that `may_defer` waits for the run that continues the conversation,
        any other is refused. Cancelling while the person is asked emits a deny, and the call must not run.
        """
        request = permission_request(call, sensitivity or NORMAL, parent_id)
        # Before the gates: each answer below, theirs too, is to follow a request.
        session.emit(request)
        answer = await session.own_loop.run(session.gate_permission(request))
        if answer.is_denied:
            return self._answered(session, request, _refused(answer))
        question = _question(request, call, (ruling, answer), preview)
        # A waiver stands for the host's question alone: one plugin does not answer what another wants to have asked.
        if answer.waived and not question.asked_by:
            return self._answered(session, request, _ALLOWED)
        if may_defer and approve is None:
            return PermissionOutcome(is_allowed=False, reason=question.reason, is_deferred=True)
        decision_id = ruling.decision_id if ruling.needs_person else answer.decision_id if answer.needs_person else None
        return evolve(await self._ask(session, question, approve), decision_id=decision_id)

    async def veto(self, session: Session, call: ToolCall, approve: Approver | None) -> PermissionOutcome:
        """Let permission gates stop an action of the host's own; the person is asked only where a gate returns `Ask`.

        Cancelling while the person is asked emits a deny.
        """
        request = permission_request(call, NORMAL)
        answer = await session.own_loop.run(session.gate_permission(request))
        # No events where the person is not asked: an interface has nothing to show then.
        if not answer.needs_person:
            return _ALLOWED if answer.is_allowed else _refused(answer)
        session.emit(request)
        return await self._ask(session, _question(request, call, (answer,)), approve)

    async def put(self, question: PermissionQuestion, approve: Approver) -> str:
        """Put a plugin's own question in its turn, and return what the approver does. Cancelling withdraws it."""
        async with self._asking:  # a person reads one question at a time
            return await approve(question)

    def respond(
        self, emit: Callable[[PermissionResponse], object], call: ToolCall, *, is_allowed: bool, parent_id: str | None
    ) -> None:
        """Emit the answer to a deferred question that came with a later run."""
        choice = "allow" if is_allowed else "deny"
        response = PermissionResponse(request_id=request_id(call), choice=choice, **_about(call, parent_id))
        emit(response)

    async def _ask(self, session: Session, question: PermissionQuestion, approve: Approver | None) -> PermissionOutcome:
        if approve is None:
            text = f"nobody is there to agree: {question.reason}"
            return self._answered(session, question.request, PermissionOutcome(is_allowed=False, reason=text))
        call = question.call
        # With the plugins: `always` to the tool is no yes to a plugin that has a reason of its own.
        key = (call.tool_name, question.asked_by)
        # What a cancellation leaves standing: the request has been emitted, so its answer must be.
        choice, reason = "deny", "the question was taken back"
        try:
            async with self._asking:  # a person reads one question at a time
                # Looked up with the lock held: the question before may have been answered `always`.
                choice = "always" if key in self._always else await _choice(approve, question)
            reason = f"the person did not agree: {question.reason}"
        finally:
            session.emit(_response(question.request, choice))
        if choice == "always":
            self._always.add(key)
        return _ALLOWED if choice != "deny" else PermissionOutcome(is_allowed=False, reason=reason)

    def _answered(self, session: Session, request: PermissionRequest, outcome: PermissionOutcome) -> PermissionOutcome:
        session.emit(_response(request, "allow" if outcome.is_allowed else "deny"))
        return outcome


def _refused(ruling: Ruling) -> PermissionOutcome:
    return PermissionOutcome(is_allowed=False, reason=ruling.reason, decision_id=ruling.decision_id)


def sensitivity_of(sensitive: Sensitive, tool: str) -> str | None:
    """Return how sensitive a tool is, None when it needs no permission."""
    if isinstance(sensitive, Mapping):
        return sensitive.get(tool)
    return NORMAL if tool in sensitive else None


def request_id(call: ToolCall) -> str:
    """Return the identity of the question about a call: the same when it is answered by a later run."""
    return f"p-{call.call_id or call.tool_name}"


def permission_request(call: ToolCall, sensitivity: str, parent_id: str | None = None) -> PermissionRequest:
    """Return the question about a call, with the path and command that it names."""
    return PermissionRequest(
        request_id=request_id(call),
        tool_name=call.tool_name,
        arguments=call.arguments,
        path=_text(call.arguments, _PATHS),
        command=_text(call.arguments, _COMMANDS),
        sensitivity=sensitivity,
        options=OPTIONS,
        **_about(call, parent_id),
    )


def _about(call: ToolCall, parent_id: str | None) -> dict[str, Any]:
    return {"call_id": call.call_id, "agent_id": call.agent_id, "parent_id": parent_id}


def _response(request: PermissionRequest, choice: str) -> PermissionResponse:
    return PermissionResponse(
        request_id=request.request_id,
        choice=choice,
        call_id=request.call_id,
        agent_id=request.agent_id,
        parent_id=request.parent_id,
    )


def _question(
    request: PermissionRequest,
    call: ToolCall,
    rulings: tuple[Ruling, ...],
    preview: Previewed | None = None,
) -> PermissionQuestion:
    """Return what the person is asked, with the reasons of the gates that want it."""
    asking = [ruling for ruling in rulings if ruling.needs_person]
    asked_by = tuple(dict.fromkeys(name for ruling in asking for name in ruling.decided_by))
    reason = "; ".join(ruling.reason for ruling in asking if ruling.reason) or f"{call.tool_name} needs permission"
    previewed = preview or Previewed()
    return PermissionQuestion(request, call, reason, asked_by, previewed.diff, previewed.problem)


def _text(values: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    return next((value for key in keys if isinstance(value := values.get(key), str)), None)


async def _choice(approve: Approver, question: PermissionQuestion) -> str:
    """Return the person's answer; an error, or anything but an option, is a deny."""
    try:
        choice = await approve(question)
    except Exception:  # noqa: BLE001 - whatever went wrong, nobody has agreed
        _log.exception("asking the person about %r failed; it counts as deny", question.call.tool_name)
        return "deny"
    if choice not in OPTIONS:
        options = ", ".join(map(repr, OPTIONS))
        _log.error("the approver answered %r about %r; expected one of %s: it counts as deny",
                   choice, question.call.tool_name, options)  # fmt: skip
        return "deny"
    return choice
