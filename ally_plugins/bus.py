"""The one path from a plugin to the host: identity, permission, budget, validation, other plugins, journal.

Every public coroutine here is one kind of call; its first lines are the steps, in that order. Refusals are counted and
recorded in one place. What the host then does with an accepted call is behind `HostSide`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, Final, Protocol

from .conversation import ActionRequest, Context, Message, Receipt, plugin_metadata
from .errors import (
    BudgetRefused,
    GateRefused,
    HostError,
    JournalError,
    KeyConflictRefused,
    NotFoundRefused,
    PermissionRefused,
    RefusedError,
    SessionError,
    ToolCallError,
    UnavailableRefused,
    ValidationRefused,
)
from .events import Event, PluginActionRequested, PluginEvent, PluginEventEmitted
from .frozen import freeze_mapping
from .grants import CONTEXT_PARTS, LONGEST_NAME
from .ids import new_id
from .inbox import Waiting
from .journal import DuplicateKeyError, Journal, PendingMessage, Record, StoredMessage
from .policy.permissions import command_for
from .policy.validation import (
    check_deliver_as,
    check_event_data,
    check_event_type,
    check_key,
    check_name,
    check_role,
    check_text,
    extend_chain,
)
from .runtime.plugin import Plugin, describe
from .scope import SCOPE, Scope, current_scope

if TYPE_CHECKING:
    from .contributions import Contribution, Contributions
    from .runtime.clock import Clock
    from .runtime.dispatch import Dispatcher
    from .session import Session
    from .tasks import PluginTask, Tasks

__all__ = ["HostSide", "PluginMessageBus"]

_log: Final = logging.getLogger(__name__)

_MAY_CALL: Final = frozenset({"starting", "running"})

_CONTENT_LIMIT: Final = 2**31
"""The text's own limit is the budget's `message_bytes`; validation only looks at what it says."""


class HostSide(Protocol):
    """What the bus needs of the host that it serves."""

    clock: Clock
    tools: Contributions
    actions: Contributions
    tasks: Tasks
    sessions: dict[str, Session]
    dispatcher: Dispatcher

    @property
    def host_actions(self) -> frozenset[str]:
        """The actions that are the host's own; no plugin's action of the same name is taken for one of them."""

    @property
    def journal(self) -> Journal:
        """The journal, while the host runs."""

    def session_for(self, plugin: str, session_id: str | None) -> Session:
        """Return the session that a call means. Raises a RefusedError when that is not clear."""

    def supports(self, name: str) -> bool:
        """Say whether the host has a capability."""

    async def capability(self, hook: str, **arguments: Any) -> Any:
        """Call the host's implementation of a capability hook."""

    def make_tool(self, kind: str, handler: Callable[..., Any], described: Mapping[str, Any]) -> Any:
        """Return the specification of a tool or action."""


class PluginMessageBus:
    """Takes the calls of all plugins of one host. Only for the loop's thread."""

    def __init__(self, host: HostSide) -> None:
        self._host = host
        self._keyed: dict[tuple[str, str], asyncio.Future[Receipt | None]] = {}

    # --- the calls ---

    async def accept_message(
        self,
        plugin: Plugin,
        role: str,
        content: str,
        *,
        session_id: str | None = None,
        key: str | None = None,
        deliver_as: str = "steer",
        trigger_turn: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> Receipt:
        """Accept a message for the conversation: it is on disk as pending when this returns.

        A message whose `key` the plugin has used gives the earlier receipt. Raises RefusedError.
        """
        try:
            scope = self._identify(plugin)
            check_role(role)
            self._permit(plugin, plugin.grants.may_add_message(role), f"add_message:{role}")
            if trigger_turn:
                self._permit(plugin, plugin.grants.may_trigger_turn(), "add_message:trigger_turn")
            session = self._host.session_for(plugin.name, session_id)
            fingerprint = None
            if key is not None:
                fingerprint = _fingerprint(role, content, deliver_as, session.id)
                if (earlier := await self._earlier(plugin, scope, check_key(key), fingerprint)) is not None:
                    return earlier
            _begin(plugin, plugin.budget.take_message, self._host.clock.steady())
        except RefusedError as refusal:
            self._refused(plugin, "add_message", refusal, session_id)
            raise
        answer = None
        if key is not None and (plugin.name, key) not in self._keyed:
            self._keyed[plugin.name, key] = answer = asyncio.get_running_loop().create_future()
        receipt = None
        try:
            check_deliver_as(deliver_as)
            plugin.budget.check_size("message_bytes", check_text(content, _CONTENT_LIMIT))
            if metadata is not None:
                check_event_data(metadata, field="metadata")
            chain = _chain(plugin, scope, session.id)
            waiting = Waiting(
                Message(
                    role=role,
                    content=content,
                    id=new_id("m"),
                    metadata=plugin_metadata(plugin.name, chain, metadata),
                    timestamp=self._host.clock.time_ms(),
                ),
                plugin.name,
                chain,
                deliver_as,
                trigger_turn,
            )
            decision = await self._consult(session, plugin, waiting) if self._has_others() else None
            pending = _pending(session, waiting, key, fingerprint, _cause(scope), decision)
            receipt = await self._record_message(session, plugin, waiting, pending)
        except RefusedError as refusal:
            self._refused(plugin, "add_message", refusal, session.id)
            raise
        finally:
            plugin.budget.end_call()
            if key is not None and answer is not None:
                del self._keyed[plugin.name, key]
                answer.set_result(receipt)
        return receipt

    async def emit_event(
        self, plugin: Plugin, event_type: str, data: Mapping[str, Any], *, session_id: str | None = None
    ) -> Receipt:
        """Emit an event under the plugin's own name. Raises RefusedError."""
        try:
            scope = self._identify(plugin)
            self._permit(plugin, plugin.grants.may_emit_event(), "emit_event")
            plugin.budget.take_event(self._host.clock.steady())
            full_name = check_event_type(plugin.name, event_type)
            size = len(check_event_data(data, _CONTENT_LIMIT))
            plugin.budget.check_size("event_bytes", size)
            session = self._host.session_for(plugin.name, session_id)
            chain = _chain(plugin, scope, session.id)
            event = PluginEvent(event_type=full_name, data=freeze_mapping(data), parent_id=_cause(scope))
            taken = await self._ask_host("ally_emit_event", session=session, event=event)
            if taken is False:
                raise UnavailableRefused(f"the host did not take the event {full_name!r}", plugin=plugin.name)
            _emit(plugin, session, event, chain)
            announced = PluginEventEmitted(
                plugin_name=plugin.name, event_type=full_name, data=event.data, parent_id=event.id
            )
            _emit(plugin, session, announced, chain)
        except RefusedError as refusal:
            self._refused(plugin, "emit_event", refusal, session_id)
            raise
        plugin.counts.emitted += 1
        return Receipt(event.id, event.seq, "recorded")

    async def get_context(
        self, plugin: Plugin, parts: Sequence[str] | None, *, since: str | None = None, session_id: str | None = None
    ) -> Context:
        """Return what the plugin may see of a session. Raises RefusedError, for a part that is not granted too."""
        try:
            self._identify(plugin)
            wanted = self._parts(plugin, parts)
            plugin.budget.take_context_read(self._host.clock.steady())
            session = self._host.session_for(plugin.name, session_id)
            if since is not None and not isinstance(since, str):
                raise ValidationRefused(f"since is {type(since).__name__}; expected a cursor", field="since")
            context = await self._context(session, wanted, since)
        except RefusedError as refusal:
            self._refused(plugin, "get_context", refusal, session_id)
            raise
        # Folded: a plugin that reads at every event leaves one line a second.
        record = Record("context_read", self._host.clock.time_ms(), plugin.name, session.id, None, {"parts": wanted})
        with suppress(UnavailableRefused):
            self._journal.append_soon(record, fold=wanted)
        return context

    async def register(
        self, plugin: Plugin, kind: str, handler: Callable[..., Any], described: Mapping[str, Any]
    ) -> Receipt:
        """Take on a tool or an action; the same way for decorators and at run time. Raises RefusedError."""
        permission = f"{kind}s"
        host = self._host
        kept = host.tools if kind == "tool" else host.actions
        try:
            self._identify(plugin)
            self._permit(plugin, plugin.grants.may(permission), permission)
            plugin.budget.take_registration(host.clock.steady())
            plugin.budget.check_tools(host.tools.count(plugin.name) + host.actions.count(plugin.name))
            spec = host.make_tool(kind, handler, described)
            plugin.budget.check_size("schema_bytes", len(check_event_data(dict(spec.schema), _CONTENT_LIMIT)))
            kept.add(plugin, spec)
            try:
                data = {"kind": kind, "name": spec.name, "description": spec.description, "schema": spec.schema}
                offset = await self._durably(plugin, "registration", f"{plugin.name}:{spec.name}", data)
            except BaseException:
                kept.remove(plugin.name, spec.name)
                raise
        except RefusedError as refusal:
            self._refused(plugin, f"register_{kind}", refusal, None)
            raise
        return Receipt(f"{plugin.name}:{spec.name}", offset, "recorded")

    async def unregister(self, plugin: Plugin, name: str) -> None:
        """Take a tool or action of the plugin's own back. Raises NotFoundRefused."""
        both = (self._host.tools, self._host.actions)
        try:
            self._identify(plugin)
            check_name(name)
            if not any(kept.has(plugin.name, name) for kept in both):
                raise NotFoundRefused(f"{plugin.name!r} has no tool or action {name!r}", plugin=plugin.name)
            plugin.budget.take_registration(self._host.clock.steady())
            await self._durably(plugin, "unregistration", f"{plugin.name}:{name}", {"name": name})
        except RefusedError as refusal:
            self._refused(plugin, "unregister", refusal, None)
            raise
        for kept in both:
            kept.remove(plugin.name, name)

    async def request_action(
        self,
        plugin: Plugin,
        action: str,
        arguments: Mapping[str, Any],
        *,
        session_id: str | None = None,
        timeout: float = 120.0,
    ) -> Any:
        """Have an action carried out, the host's own or `plugin:action`, and return its result. Raises RefusedError.

        ToolCallError when the action itself fails.
        """
        try:
            scope = self._identify(plugin)
            _check_action(action)
            self._permit(plugin, plugin.grants.may_request_action(action), f"request_action:{action}")
            _begin(plugin, plugin.budget.take_action_request, self._host.clock.steady())
        except RefusedError as refusal:
            self._refused(plugin, "request_action", refusal, session_id)
            raise
        try:
            size = len(check_event_data(arguments, _CONTENT_LIMIT, field="arguments"))
            plugin.budget.check_size("arguments_bytes", size)
            if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < inf:
                raise ValidationRefused(f"timeout is {timeout!r}; expected seconds, more than 0", field="timeout")
            session = self._host.session_for(plugin.name, session_id)
            chain = _chain(plugin, scope, session.id)
            return await self.run_action(
                session, ActionRequest(action, arguments, plugin.name, origin=chain), timeout, plugin=plugin
            )
        except RefusedError as refusal:
            self._refused(plugin, "request_action", refusal, session_id)
            raise
        finally:
            plugin.budget.end_call()

    async def run_action(
        self, session: Session, request: ActionRequest, timeout: float = 120.0, plugin: Plugin | None = None
    ) -> Any:
        """Record, announce and carry out an action; `plugin` is who asks, None for the person, agent or host."""
        owner = self._owner(request.action)
        request_id = new_id("a")
        data = {"action": request.action, "arguments": request.arguments, "requested_by": request.requested_by}
        await self._durably(plugin, "action", request_id, data, session.id)
        announced = PluginActionRequested(
            plugin_name=owner.plugin.name if owner is not None else "host",
            action=request.action,
            arguments=request.arguments,
            requested_by=request.requested_by,
        )
        _emit(plugin, session, announced, request.origin)
        if owner is not None:
            # The handler is waited for: what waits for the caller's hook, must not be waited for by the handler.
            caller = SCOPE.get()
            held = caller.held if caller is not None else frozenset()
            scope = Scope(owner.plugin.name, session.id, request.origin, held, cause=request_id)
            return await owner.run(request.arguments, scope, timeout)
        result = await self._act(session, request, timeout)
        if result is None:
            known = ", ".join(sorted(each.full_name for each in self._host.actions)) or "none"
            text = f"this host has no action {request.action!r}; actions of plugins: {known}"
            raise NotFoundRefused(text, plugin=plugin.name if plugin is not None else None)
        return result

    def _owner(self, action: str) -> Contribution | None:
        """Return the plugin's action that is meant, None for the host's own; a plugin never stands in for the host."""
        actions = self._host.actions
        if action in self._host.host_actions:
            return None
        if ":" in action or any(each.spec.name == action for each in actions):
            return actions.find(action)
        return None

    async def _act(self, session: Session, request: ActionRequest, timeout: float) -> Any:
        """Have the host carry out an action of its own."""
        name, limit = request.action, asyncio.timeout(timeout)
        try:
            async with limit:
                return await self._host.capability("ally_request_action", session=session, request=request)
        except (RefusedError, ToolCallError):
            raise
        except TimeoutError as error:
            if limit.expired():
                raise ToolCallError(f"the action {name!r} did not end within {timeout:g} s", tool=name) from None
            raise ToolCallError(f"the host's action {name!r} failed with {describe(error)}", tool=name) from error
        except Exception as error:
            _log.exception("the host's action %r failed", name)
            raise ToolCallError(f"the host's action {name!r} failed with {describe(error)}", tool=name) from error

    async def start_task(
        self, plugin: Plugin, name: str, work: Coroutine[Any, Any, Any], *, session_id: str | None = None
    ) -> PluginTask:
        """Start a task; the coroutine is closed when it is refused. Raises RefusedError."""
        host = self._host
        task = None
        try:
            scope = self._identify(plugin)
            self._permit(plugin, plugin.grants.may("tasks"), "tasks")
            plugin.budget.check_running_tasks(host.tasks.running(plugin.name))
            plugin.budget.take_task(host.clock.steady())
            check_name(name)
            _check_coroutine(work)
            session = host.session_for(plugin.name, session_id)
            chain = _chain(plugin, scope, session.id)
            task = host.tasks.prepare(plugin, name, session.id, chain)
            await self._durably(plugin, "task", task.id, {"name": name, "cause": _cause(scope)}, session.id)
            self._identify(plugin)  # it may have been stopped meanwhile, and nobody would end the task then
        except BaseException as refusal:
            if task is not None:
                host.tasks.drop(task)
            if asyncio.iscoroutine(work):
                work.close()
            if isinstance(refusal, RefusedError):
                self._refused(plugin, "start_task", refusal, session_id)
            raise
        host.tasks.start(task, work)
        return task

    async def task_progress(self, plugin: Plugin, progress: float | None, message: str | None) -> None:
        """Take the running task's word on how far it is. Raises RefusedError."""
        try:
            scope = self._identify(plugin)
            task = self._host.tasks.find(scope.task_id if scope is not None else None)
            if task is None or task.state != "running":
                raise NotFoundRefused("task_progress was called outside a task; call it from the task's coroutine")
            is_number = isinstance(progress, (int, float)) and not isinstance(progress, bool)
            if progress is not None and not (is_number and 0 <= progress <= 1):
                raise ValidationRefused(f"progress is {progress!r}; expected a number from 0 to 1", field="progress")
            if message is not None:
                check_text(message, 2_000, field="message")
            plugin.budget.take_event(self._host.clock.steady())
        except RefusedError as refusal:
            self._refused(plugin, "task_progress", refusal, None)
            raise
        self._host.tasks.report(task, progress, message)

    def may_log(self, plugin: Plugin) -> bool:
        """Count one log record against the plugin's budget, and say whether it may be written."""
        try:
            plugin.budget.take_log(self._host.clock.steady())
        except RefusedError as refusal:
            self._refused(plugin, "log", refusal, None)
            return False
        return True

    # --- the steps ---

    def _identify(self, plugin: Plugin) -> Scope | None:
        if plugin.state not in _MAY_CALL:
            when = "calls may be made from ally_start on" if plugin.state == "loaded" else "it may make no calls"
            text = f"the plugin {plugin.name!r} is {plugin.state}; {when}"
            raise UnavailableRefused(text, plugin=plugin.name)
        return current_scope(plugin.name)

    def _permit(self, plugin: Plugin, is_granted: bool, permission: str) -> None:  # noqa: FBT001
        if not is_granted:
            command = command_for(plugin.name, permission)
            text = f"{plugin.name!r} is not granted {permission!r}; the operator grants it with `{command}`"
            raise PermissionRefused(text, plugin=plugin.name, permission=permission, command=command)

    def _parts(self, plugin: Plugin, parts: Sequence[str] | None) -> tuple[str, ...]:
        granted = plugin.grants.context_parts
        if parts is None:
            self._permit(plugin, bool(granted), "get_context:messages")
            return tuple(sorted(granted))
        if not isinstance(parts, (list, tuple, set, frozenset)):
            found = type(parts).__name__
            raise ValidationRefused(f"parts is {found}; expected a list such as ['messages', 'todos']", field="parts")
        for part in parts:
            if part not in CONTEXT_PARTS:
                known = ", ".join(CONTEXT_PARTS)
                raise ValidationRefused(f"there is no part {part!r:.60}; expected some of {known}", field="parts")
            self._permit(plugin, part in granted, f"get_context:{part}")
        return tuple(parts)

    async def _earlier(self, plugin: Plugin, scope: Scope | None, key: str, fingerprint: str) -> Receipt | None:
        """Return the receipt of the message that came under this key, be it still on its way; None if it is the first.

        From within a gate nothing on its way is waited for: it could be what waits for the gate.
        """
        may_wait = scope is None or scope.held <= {plugin.name}
        while may_wait and (answer := self._keyed.get((plugin.name, key))) is not None:
            await asyncio.shield(answer)
        try:
            stored = self._journal.find_key(plugin.name, key)
        except JournalError as error:
            raise UnavailableRefused(f"the journal cannot be read: {error}", plugin=plugin.name) from error
        return None if stored is None else _same(plugin, stored, fingerprint)

    def _has_others(self) -> bool:
        """Say whether anybody might transform or gate a message: mostly nobody does, and asking costs a third."""
        has_any = self._host.dispatcher.has_any
        return has_any("ally_gate_message") or has_any("ally_transform_plugin_message")

    async def _consult(self, session: Session, plugin: Plugin, waiting: Waiting) -> str | None:
        """Let the other plugins change the message and decide on it; return the decision's id."""
        done = await session.judge.transform_plugin_message(waiting.message, plugin.name, waiting.origin)
        if done.blocked_by is not None:
            raise GateRefused(done.reason, plugin=plugin.name)
        if done.value is not waiting.message:
            plugin.budget.check_size("message_bytes", check_text(done.value.content, _CONTENT_LIMIT))
            waiting.message = done.value
        ruling = await session.judge.gate_message(waiting.message, plugin.name, waiting.origin)
        if not ruling.is_allowed:
            text = f"the message was not accepted: {ruling.reason}"
            raise GateRefused(text, plugin=plugin.name, decision_id=ruling.decision_id)
        return ruling.decision_id

    async def _record_message(
        self, session: Session, plugin: Plugin, waiting: Waiting, pending: PendingMessage
    ) -> Receipt:
        """Write the message down as pending, and let it wait for its safe point."""
        try:
            offset = await self._journal.accept(pending)
        except DuplicateKeyError as duplicate:
            return _same(plugin, duplicate.stored, pending.fingerprint or "")
        except JournalError as error:
            raise _unavailable(plugin, error) from error
        except asyncio.CancelledError:
            session.look_again()  # it may be on disk all the same
            raise
        plugin.counts.messages += 1
        waiting.offset = offset
        if session.is_closed:  # meanwhile; when it was found again, the one that is open takes the message
            session = self._host.sessions.get(session.id, session)
        session.expect(waiting)
        return Receipt(pending.id, offset, "pending")

    @property
    def _journal(self) -> Journal:
        try:
            return self._host.journal
        except HostError as error:
            raise UnavailableRefused("the host has stopped") from error

    async def _ask_host(self, hook: str, **arguments: Any) -> Any:
        """Call a capability; what the host's implementation raises is no fault of the plugin's."""
        try:
            return await self._host.capability(hook, **arguments)
        except RefusedError:
            raise
        except Exception as error:
            _log.exception("the host's implementation of %s failed", hook)
            raise UnavailableRefused(f"the host failed in {hook}: {describe(error)}") from error

    async def _context(self, session: Session, parts: tuple[str, ...], since: str | None) -> Context:
        try:
            return await session.context(parts, since)
        except RefusedError:
            raise
        except Exception as error:
            _log.exception("the host's implementation of ally_get_context failed")
            raise UnavailableRefused(f"the host failed in ally_get_context: {describe(error)}") from error

    async def _durably(
        self, plugin: Plugin | None, kind: str, ref: str, data: Mapping[str, Any], session_id: str | None = None
    ) -> int:
        name = plugin.name if plugin is not None else None
        try:
            return await self._journal.append(Record(kind, self._host.clock.time_ms(), name, session_id, ref, data))
        except JournalError as error:
            raise _unavailable(plugin, error) from error

    def _refused(self, plugin: Plugin, what: str, refusal: RefusedError, session_id: str | None) -> None:
        """Count a refusal and write it down soon, folded with others like it of the same second."""
        plugin.counts.refused[refusal.reason] += 1
        permission = getattr(refusal, "permission", None)
        data = {"call": what, "reason": refusal.reason, "permission": permission, "text": describe(refusal)}
        if not isinstance(session_id, str) or session_id not in self._host.sessions:
            scope = current_scope(plugin.name)
            session_id = scope.session_id if scope is not None else None
        record = Record("refusal", self._host.clock.time_ms(), plugin.name, session_id, None, data)
        # By the kind of permission only: the names of actions are the plugin's to invent, one a call.
        kind = permission.partition(":")[0] if isinstance(permission, str) and what == "request_action" else permission
        with suppress(UnavailableRefused):
            self._journal.append_soon(record, fold=(what, refusal.reason, kind))


def _pending(
    session: Session,
    waiting: Waiting,
    key: str | None,
    fingerprint: str | None,
    cause: str | None,
    decision: str | None,
) -> PendingMessage:
    """Return what is written of a message that is accepted, with what allowed it."""
    message = waiting.message
    body: dict[str, Any] = {
        "role": message.role,
        "content": message.content,
        "metadata": message.metadata,
        "permission": f"add_message:{message.role}",
    }
    if decision is not None:
        body["decision"] = decision
    return PendingMessage(
        message.id,
        session.id,
        waiting.plugin,
        message.timestamp,
        message.role,
        waiting.deliver_as,
        waiting.trigger_turn,
        body,
        key,
        fingerprint,
        cause,
    )


def _begin(plugin: Plugin, take: Callable[[float], None], now: float) -> None:
    """Count a call as in flight and against its rate, both or neither."""
    plugin.budget.begin_call()
    try:
        take(now)
    except BudgetRefused:
        plugin.budget.end_call()
        raise


def _chain(plugin: Plugin, scope: Scope | None, session_id: str) -> tuple[str, ...]:
    """Return the chain of what the plugin does now. Raises HopLimitRefused.

    A hook, tool or action knows what led to it. What else the plugin runs (tasks, threads of its own) may act on
    anything that it was told lately: the longest chain among that is assumed.
    """
    origin = scope.origin if scope is not None else ()
    lane = plugin.lane
    if lane is not None and (scope is None or scope.task_id is not None or not (scope.cause or lane.is_at(scope))):
        recent = lane.recent_origin(session_id)
        origin = recent if len(recent) > len(origin) else origin
    return extend_chain(origin, plugin.name)


def _emit(plugin: Plugin | None, session: Session, event: Event, chain: tuple[str, ...]) -> None:
    try:
        session.emit_caused(event, chain)
    except SessionError as error:
        raise UnavailableRefused(str(error), plugin=plugin.name if plugin is not None else None) from error


def _check_coroutine(work: object) -> None:
    if not asyncio.iscoroutine(work):
        raise ValidationRefused(f"work is {type(work).__name__}; expected a coroutine", field="work")


def _check_action(action: object) -> None:
    if not isinstance(action, str) or not 0 < len(action) <= 2 * LONGEST_NAME or not action.isprintable():
        found = f"a text of {len(action)} characters" if isinstance(action, str) else type(action).__name__
        text = f"action is {found}; expected a name such as 'compact' or 'plugin:name'"
        raise ValidationRefused(text, field="action")


def _cause(scope: Scope | None) -> str | None:
    return scope.cause_id if scope is not None else None


def _same(plugin: Plugin, stored: StoredMessage, fingerprint: str) -> Receipt:
    if stored.fingerprint != fingerprint:
        text = f"the key {stored.key!r} was used for the message {stored.id!r} with other content; use another key"
        raise KeyConflictRefused(text, plugin=plugin.name)
    return Receipt(stored.id, stored.n, stored.state)


def _fingerprint(role: str, content: object, deliver_as: str, session_id: str) -> str:
    text = "\0".join((role, str(content), str(deliver_as), session_id))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _unavailable(plugin: Plugin | None, error: JournalError) -> UnavailableRefused:
    text = f"nothing can be accepted, since it cannot be recorded: {error}"
    return UnavailableRefused(text, plugin=plugin.name if plugin is not None else None)
