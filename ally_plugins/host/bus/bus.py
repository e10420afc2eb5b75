"""The one path from a plugin to the host: identity, permission, budget, validation, other plugins, journal.

`call` is the entry for all: it checks the identity, and counts and records a refusal. Each kind of call has a method
whose first lines are the other steps, in that order; that of messages is in `messages`, what they share in `steps`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from math import inf
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ally_plugins.contract.calls import (
    AddMessage,
    AskQuestion,
    EmitEvent,
    GetContext,
    PluginCall,
    Register,
    RegisterAction,
    RegisterTool,
    ReportProgress,
    RequestAction,
    StartTask,
    Unregister,
)
from ally_plugins.contract.grants import CONTEXT_PARTS, LONGEST_NAME
from ally_plugins.contract.values.conversation import ActionRequest, Context, Receipt
from ally_plugins.contract.values.errors import (
    NotFoundRefused,
    RefusedError,
    UnavailableRefused,
    ValidationRefused,
)
from ally_plugins.contract.values.events import PluginEvent, PluginEventEmitted
from ally_plugins.contract.values.frozen import freeze_mapping
from ally_plugins.policy.validation import check_event_data, check_event_type, check_name, check_text
from ally_plugins.runtime.lanes.plugin import Plugin

from .actions import announce
from .messages import MessageCalls
from .steps import CONTENT_LIMIT, begin_call, cause_of, chain_of

if TYPE_CHECKING:
    from ally_plugins.contract.values.scope import Scope

    from .tasks import PluginTask

__all__ = ["PluginMessageBus"]

_log: Final = logging.getLogger(__name__)

R = TypeVar("R")


class PluginMessageBus(MessageCalls):
    """Carries out the calls of all plugins of one host. Only for the loop's thread."""

    async def call(self, plugin: Plugin, call: PluginCall[R]) -> R:
        """Carry out a plugin's call and return its result.

        Raises RefusedError, which is counted and recorded; ToolCallError when an action that was requested fails.
        Cancelling withdraws the call unless its record is on the way to the disk: a message may be accepted all the
        same.
        """
        try:
            result: R = await _HANDLERS[type(call)](self, plugin, self._identify(plugin), call)
        except BaseException as error:
            if isinstance(error, RefusedError):
                self.refuse(plugin, call.METHOD, error, call.session_id)
            if isinstance(call, StartTask) and asyncio.iscoroutine(call.work):
                call.work.close()  # it does not begin, and Python would warn of a coroutine that nobody awaited
            raise
        return result

    async def offer(self, plugin: Plugin, call: Register) -> None:
        """Register what a plugin offers from its start on; what is refused is skipped, and logged.

        Cancelling withdraws it, as `call` says.
        """
        name = call.spec.name if call.spec is not None else call.options.get("name")
        try:
            await self.call(plugin, call)
        except RefusedError as refusal:
            _log.info("the %s %r of %r is not offered: %s", call.KIND, name, plugin.name, plugin.describe(refusal))

    async def _emit_event(self, plugin: Plugin, scope: Scope | None, call: EmitEvent) -> Receipt:
        self._permit(plugin, self._grants(plugin, call.session_id).may_emit_event(), "emit_event")
        # Before the validation: a flood of invalid events is bounded too.
        plugin.budget.take_event(self._services.clock.steady())
        full_name = check_event_type(plugin.name, call.type)
        plugin.budget.check_size("event_bytes", len(check_event_data(call.data, CONTENT_LIMIT)))
        session = self._services.session_for(plugin.name, call.session_id)
        chain = chain_of(plugin, scope, session.id)
        # For everybody: listeners, other plugins and the journal get it.
        data = freeze_mapping(plugin.secrets.masked_value(call.data))
        event = PluginEvent(event_type=full_name, data=data, parent_id=cause_of(scope))
        answer = self._services.capability("ally_emit_event", session=session, event=event)
        taken = await self._implemented("ally_emit_event", answer)
        if taken is False:
            raise UnavailableRefused(f"the host did not take the event {full_name!r}", plugin=plugin.name)
        announce(plugin.name, session, event, chain)
        announced = PluginEventEmitted(
            plugin_name=plugin.name, event_type=full_name, data=event.data, parent_id=event.id
        )
        announce(plugin.name, session, announced, chain)
        plugin.counts.emitted += 1
        return Receipt(event.id, event.seq, "recorded")

    async def _get_context(self, plugin: Plugin, _: Scope | None, call: GetContext) -> Context:
        # Before the rate: a read that is not granted uses up nothing of it.
        wanted = self._parts(plugin, call.parts, self._grants(plugin, call.session_id).context_parts)
        plugin.budget.take_context_read(self._services.clock.steady())
        session = self._services.session_for(plugin.name, call.session_id)
        since = call.since
        if since is not None and not isinstance(since, str):
            raise ValidationRefused(f"since is {type(since).__name__}; expected a cursor", field="since")
        context = await self._implemented("ally_get_context", session.context(wanted, since))
        # Folded: a plugin that reads at every event leaves one line a second.
        self._services.records.write_soon("context_read", plugin.name, session.id, None, {"parts": wanted}, fold=wanted)
        return context

    async def _register(self, plugin: Plugin, _: Scope | None, call: Register) -> Receipt:
        """Register a tool or an action, of a decorator or at run time."""
        host, permission = self._services, f"{call.KIND}s"
        kept = host.tools if call.KIND == "tool" else host.actions
        self._permit(plugin, plugin.grants.may(permission), permission)
        plugin.budget.take_registration(host.clock.steady())
        plugin.budget.check_tools(host.tools.count(plugin.name) + host.actions.count(plugin.name))
        spec = call.make_spec()
        plugin.budget.check_size("schema_bytes", len(check_event_data(dict(spec.schema), CONTENT_LIMIT)))
        kept.add(plugin, spec)  # before the record: of two calls with one name, the second is refused at once
        try:
            data = {"kind": call.KIND, "name": spec.name, "description": spec.description, "schema": spec.schema}
            offset = await host.records.write("registration", plugin.name, None, f"{plugin.name}:{spec.name}", data)
        except BaseException:
            kept.remove(plugin.name, spec.name)
            raise
        return Receipt(f"{plugin.name}:{spec.name}", offset, "recorded")

    async def _unregister(self, plugin: Plugin, _: Scope | None, call: Unregister) -> None:
        # No grant is needed to take back one's own; the rate is limited all the same, since each leaves a record.
        name, both = call.name, (self._services.tools, self._services.actions)
        check_name(name)
        if not any(kept.has(plugin.name, name) for kept in both):
            raise NotFoundRefused(f"{plugin.name!r} has no tool or action {name!r}", plugin=plugin.name)
        plugin.budget.take_registration(self._services.clock.steady())
        await self._services.records.write("unregistration", plugin.name, None, f"{plugin.name}:{name}", {"name": name})
        for kept in both:
            kept.remove(plugin.name, name)

    async def _request_action(self, plugin: Plugin, scope: Scope | None, call: RequestAction) -> Any:
        action, timeout = call.action, call.timeout
        _check_action(action)
        may_request = self._grants(plugin, call.session_id).may_request_action(action)
        self._permit(plugin, may_request, f"request_action:{action}")
        # In flight until it returns: an action may take minutes, and its caller start as many as it likes.
        begin_call(plugin, plugin.budget.take_action_request, self._services.clock.steady())
        try:
            size = len(check_event_data(call.arguments, CONTENT_LIMIT, field="arguments"))
            plugin.budget.check_size("arguments_bytes", size)
            # NaN passes neither comparison; True is an int to Python.
            if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < inf:
                raise ValidationRefused(f"timeout is {timeout!r}; expected seconds, more than 0", field="timeout")
            session = self._services.session_for(plugin.name, call.session_id)
            chain = chain_of(plugin, scope, session.id)
            request = ActionRequest(action, call.arguments, plugin.name, origin=chain)
            return await self._services.action_runner.run(session, request, timeout, plugin)
        finally:
            plugin.budget.end_call()

    async def _ask(self, plugin: Plugin, scope: Scope | None, call: AskQuestion) -> str:
        self._permit(plugin, self._grants(plugin, call.session_id).may("ask"), "ask")
        begin_call(plugin, plugin.budget.take_question, self._services.clock.steady())
        try:
            session = self._services.session_for(plugin.name, call.session_id)
            chain = chain_of(plugin, scope, session.id)
            return await self._services.questions.ask(plugin, session, call, chain, cause_of(scope))
        finally:
            plugin.budget.end_call()

    async def _start_task(self, plugin: Plugin, scope: Scope | None, call: StartTask) -> PluginTask:
        host, name = self._services, call.name
        self._permit(plugin, self._grants(plugin, call.session_id).may("tasks"), "tasks")
        plugin.budget.check_running_tasks(host.tasks.running(plugin.name))
        plugin.budget.take_task(host.clock.steady())
        check_name(name)
        work = _coroutine(call.work)
        session = host.session_for(plugin.name, call.session_id)
        chain = chain_of(plugin, scope, session.id)
        # Nothing was awaited since the limit was looked at, and it counts from here on: calls made at one time
        # cannot pass the limit together.
        task = host.tasks.prepare(plugin, name, session.id, chain)
        try:
            data = {"name": name, "origin": chain, "cause": cause_of(scope)}
            await host.records.write("task", plugin.name, session.id, task.id, data)
            self._identify(plugin)  # it may have been stopped meanwhile, and nobody would end the task then
        except BaseException:
            host.tasks.drop(task)
            raise
        host.tasks.start(task, work)
        return task

    async def _task_progress(self, plugin: Plugin, _: Scope | None, call: ReportProgress) -> None:
        progress, message = call.progress, call.message
        task = self._services.tasks.find(call.task_id)
        # By the instance, not its name: a plugin that was started anew has no say in tasks of the one before.
        if task is None or task.plugin is not plugin or task.state != "running":
            raise NotFoundRefused(f"{plugin.name!r} runs no task {call.task_id!r:.80}", plugin=plugin.name)
        is_number = isinstance(progress, (int, float)) and not isinstance(progress, bool)
        if progress is not None and not (is_number and 0 <= progress <= 1):
            raise ValidationRefused(f"progress is {progress!r}; expected a number from 0 to 1", field="progress")
        if message is not None:
            check_text(message, 2_000, field="message")
        plugin.budget.take_event(self._services.clock.steady())
        self._services.tasks.report(task, progress, None if message is None else plugin.masked(message))

    def may_log(self, plugin: Plugin) -> bool:
        """Count one log record against the plugin's budget, and say whether it may be written."""
        try:
            plugin.budget.take_log(self._services.clock.steady())
        except RefusedError as refusal:
            self.refuse(plugin, "log", refusal)
            return False
        return True

    def _parts(self, plugin: Plugin, parts: Collection[str] | None, granted: frozenset[str]) -> tuple[str, ...]:
        if parts is None:
            self._permit(plugin, bool(granted), "get_context:messages")
            return tuple(sorted(granted))
        if not isinstance(parts, (list, tuple, set, frozenset)):
            found = type(parts).__name__
            raise ValidationRefused(f"parts is {found}; expected a list such as ['messages', 'todos']", field="parts")
        for part in parts:
            if part not in CONTEXT_PARTS:
                names = ", ".join(CONTEXT_PARTS)
                raise ValidationRefused(f"there is no part {part!r:.60}; expected some of {names}", field="parts")
            self._permit(plugin, part in granted, f"get_context:{part}")
        return tuple(parts)


def _coroutine(work: object) -> Coroutine[Any, Any, Any]:
    # Not any awaitable: only a coroutine can be closed, so that it never begins, when the call is refused.
    if not asyncio.iscoroutine(work):
        raise ValidationRefused(f"work is {type(work).__name__}; expected a coroutine", field="work")
    return work


def _check_action(action: object) -> None:
    if not isinstance(action, str) or not 0 < len(action) <= 2 * LONGEST_NAME or not action.isprintable():
        found = f"a text of {len(action)} characters" if isinstance(action, str) else type(action).__name__
        text = f"action is {found}; expected a name such as 'compact' or 'plugin:name'"
        raise ValidationRefused(text, field="action")


_Handler = Callable[[PluginMessageBus, Plugin, "Scope | None", Any], Coroutine[Any, Any, Any]]

_HANDLERS: Final[dict[type[PluginCall[Any]], _Handler]] = {
    AddMessage: PluginMessageBus._add_message,  # noqa: SLF001 - the class's own table
    EmitEvent: PluginMessageBus._emit_event,  # noqa: SLF001
    GetContext: PluginMessageBus._get_context,  # noqa: SLF001
    RegisterTool: PluginMessageBus._register,  # noqa: SLF001
    RegisterAction: PluginMessageBus._register,  # noqa: SLF001
    Unregister: PluginMessageBus._unregister,  # noqa: SLF001
    RequestAction: PluginMessageBus._request_action,  # noqa: SLF001
    AskQuestion: PluginMessageBus._ask,  # noqa: SLF001
    StartTask: PluginMessageBus._start_task,  # noqa: SLF001
    ReportProgress: PluginMessageBus._task_progress,  # noqa: SLF001
}
