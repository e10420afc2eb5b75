"""`Ally`: what a plugin is built with, and all that it can ask of its host.

The handle carries the plugin's identity; no call takes a name. It only passes calls on: the six steps are the bus's,
or, in a process of its own, the daemon connection's, behind the same `Outbound`.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .blocking import blocking
from .values.compat import override
from .values.errors import NotFoundRefused, RefusedError
from .values.frozen import EMPTY, FrozenDict
from .values.inert import inert
from .values.masking import Secrets
from .values.scope import current_scope

if TYPE_CHECKING:
    from pathlib import Path  # imported where it is used, since a daemon starts with this module

    from . import calls
    from .calls import PluginCall, Task
    from .values.conversation import Context, Receipt

else:

    class _Calls:
        """The module `calls`, imported at a plugin's first call: a daemon starts with this one, and may make none."""

        def __getattr__(self, name: str) -> Any:
            from . import calls as module

            value = self.__dict__[name] = getattr(module, name)
            return value

    calls = _Calls()

__all__ = ["Ally", "BlockingAlly", "Outbound"]

R = TypeVar("R")


class PluginLog(logging.LoggerAdapter[logging.Logger]):
    """A plugin's logger, `ally_plugins.plugin.NAME`; records beyond the plugin's budget are dropped and counted.

    The values of its secret settings are masked, and what would act on a terminal is escaped, in tracebacks too.
    """

    def __init__(self, logger: logging.Logger, may_log: Callable[[], bool], secrets: Secrets) -> None:
        super().__init__(logger, {})
        self._may_log = may_log
        self._secrets = secrets

    @override
    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log a record, if its level is on and the budget allows it."""
        # The level first: what is not written must not use up the budget.
        if self.isEnabledFor(level) and self._may_log():
            if (text := self._changed(msg, args, kwargs)) is not None:
                msg, args = text, ()
            # One level more, so that the record names the plugin's own line and not this one.
            self.logger.log(level, msg, *args, **{**kwargs, "stacklevel": kwargs.get("stacklevel", 1) + 1})

    def _changed(self, msg: object, args: tuple[object, ...], kwargs: dict[str, Any]) -> str | None:
        """Return the record's text where it may not be written as it is; such a traceback moves from `kwargs` to it."""
        try:
            # Masked as a whole: a secret may come together only where the arguments meet the format.
            text = logging.LogRecord("", 0, "", 0, msg, args, None).getMessage()
        except (KeyError, TypeError, ValueError):  # a format that does not fit: `logging` would print all of it
            text = None
        shown = self._harmless(f"{msg!r} {args!r}" if text is None else text)
        trace = _traceback_of(kwargs["exc_info"]) if kwargs.get("exc_info") else ""
        if (shown_trace := self._harmless(trace)) != trace:
            # Else `logging` would write the traceback once more, as it was.
            del kwargs["exc_info"]
            return f"{shown}\n{shown_trace.rstrip()}"
        return shown if shown != text else None

    def _harmless(self, text: str) -> str:
        return inert(self._secrets.masked(text), keep_lines=True)


def _traceback_of(given: object) -> str:
    """Return the traceback that `exc_info` stands for, as `logging` understands it."""
    import sys  # what a daemon does not need at its start
    from traceback import format_exception

    error = given[1] if isinstance(given, tuple) else given if isinstance(given, BaseException) else sys.exc_info()[1]
    return "".join(format_exception(error)) if isinstance(error, BaseException) else ""


class Outbound(Protocol):
    """The way from a handle to the host: the bus in process, a connection out of process."""

    def may_log(self) -> bool:
        """Say whether the plugin may write one more log record now; may be asked from any thread."""
        ...

    def supports(self, name: str, /) -> bool:
        """As `Ally.supports`."""
        ...

    def call(self, call: PluginCall[R], /) -> Coroutine[Any, Any, R]:
        """Have a call carried out; what is returned must be awaited, on any loop. Raises RefusedError then."""
        ...

    def run_blocking(self, call: Coroutine[Any, Any, R], timeout: float | None) -> R:
        """Run a call on the host's loop from another thread, and wait for it; `timeout` is in seconds."""
        ...


class Settings(FrozenDict):
    """The values of a plugin's settings by name. A name that is none is a KeyError with the nearest that is one."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """Return these values as they are: secrets among them stay such."""
        # Past `FrozenDict.__new__`, which makes a plain text of a Secret, whose `repr` would then show it.
        made: Settings = dict.__new__(cls)
        dict.update(made, values)
        return made

    def __missing__(self, name: object) -> Any:
        """Raise KeyError, as for any mapping."""
        from .wording import describe, suggest  # only when something is wrong already

        raise KeyError(f"there is no setting {describe(name)}, {suggest(str(name), tuple(self))}")


class Ally:
    """A plugin's handle to its host, with which it was built; calls may be made from `ally_start` to `ally_stop`.

    Every coroutine may raise a `RefusedError`, whose subclass says why: PermissionRefused (not granted; it names the
    command that grants it), BudgetRefused (too often, too large; `retry_after` in seconds), ValidationRefused (`field`
    is not acceptable), UnavailableRefused (the host or the plugin is stopping, or nothing can be recorded), and
    HopLimitRefused (plugins have set each other off eight times). Outside of a hook ValidationRefused also says that
    several sessions are open and `session_id` is missing, and NotFoundRefused that the session is not open. What each
    call may raise beyond these stands with it. A refusal that a hook does not catch ends the hook, and is no crash.

    Calls may be made on any event loop; they run on the host's.
    """

    def __init__(
        self,
        name: str,
        outbound: Outbound,
        *,
        settings: Mapping[str, Any] = EMPTY,
        data_dir: str | Path | None = None,
    ) -> None:
        self.name = name
        self.settings: Mapping[str, Any] = Settings.of(settings)
        secrets = Secrets.of_settings(settings)
        self.log = PluginLog(logging.getLogger(f"ally_plugins.plugin.{name}"), outbound.may_log, secrets)
        self.blocking = BlockingAlly(self)
        self._outbound = outbound
        self._data_dir = data_dir

    @override
    def __repr__(self) -> str:
        return f"<Ally of {self.name!r}>"

    @property
    def data_dir(self) -> Path:
        """A directory of the plugin's own; it is made when it is first asked for."""
        if self._data_dir is None:
            message = f"the host of {self.name!r} keeps no state directory; give Host a home"
            raise RuntimeError(message)
        from pathlib import Path

        folder = Path(self._data_dir)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    @property
    def session(self) -> str | None:
        """The id of the session that the running hook, tool, action or task belongs to; None outside of one."""
        scope = current_scope(self.name)
        return scope.session_id if scope is not None else None

    def supports(self, name: str) -> bool:
        """Say whether this host emits an event type, asks a gate or runs a transform (`gate:answer`, as it is granted).

        Also for a capability such as `trigger_turn`, and for an action. In a hook it is about the session of that; in a
        process of its own the answer is the host's when the process started.
        """
        return self._outbound.supports(name)

    async def add_message(
        self,
        role: str,
        content: str,
        *,
        session_id: str | None = None,
        key: str | None = None,
        deliver_as: str = "steer",
        trigger_turn: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> Receipt:
        """Add a message to the conversation; it is on disk when this returns, and enters at the next safe point.

        `role` is user, assistant or system, a grant each (`add_message:user`). `deliver_as` is `steer` (the next step),
        `follow_up` (the end of the turn) or `next_turn` (with the person's next message). `trigger_turn` wakes an idle
        agent and is a grant of its own. The same `key` in the same session gives the same receipt again.
        A hook may add to the session of its event though that is closed by now: the message waits on disk until the
        session is opened again.

        Raises GateRefused when another plugin's gate or transform refuses it (`decision_id` is for `explain`),
        ReentryRefused when one that would be asked waits for the hook that calls, and KeyConflictRefused when the key
        was used in this session with other content. A cancelled call may have been accepted all the same, if it was on
        its way to the disk: give a `key` and call again to find out.
        """
        return await self._outbound.call(
            calls.AddMessage(
                role=role,
                content=content,
                session_id=session_id,
                key=key,
                deliver_as=deliver_as,
                trigger_turn=trigger_turn,
                metadata=metadata,
            )
        )

    async def emit_event(
        self, event_type: str, data: Mapping[str, Any] | None = None, *, session_id: str | None = None
    ) -> Receipt:
        """Emit an event under the plugin's own name; others subscribe to it as `<plugin>:<type>`.

        It is on its way to the plugins when this returns, and in the journal soon after. Raises ValidationRefused for a
        built-in type, and for data that JSON cannot say or that is nested deeper than 32. Cancelling before it returns
        leaves open whether it was emitted.
        """
        return await self._outbound.call(calls.EmitEvent(type=event_type, data=data or EMPTY, session_id=session_id))

    async def get_context(
        self, parts: Sequence[str] | None = None, *, since: str | None = None, session_id: str | None = None
    ) -> Context:
        """Return a frozen picture of the session: the parts asked for, or without `parts` all that are granted.

        With the `cursor` of an earlier picture as `since`, `messages` has only what came after it. Raises
        PermissionRefused for a part that is not granted. Cancelling has no effect but that nothing is returned.
        """
        return await self._outbound.call(calls.GetContext(parts=parts, since=since, session_id=session_id))

    async def register_tool(self, /, handler: Callable[..., Any], **described: Any) -> Receipt:
        """Offer a tool from now on; the arguments are those of `@tool` (name, description, schema, timeout, ...).

        It may be called before this returns, and until `unregister` or the plugin's end. Raises ValidationRefused for a
        name that the plugin has in use, and for a schema that does not fit the handler. A tool whose registration is
        cancelled is not offered.
        """
        return await self._outbound.call(calls.RegisterTool(handler=handler, options=described))

    async def register_action(self, /, handler: Callable[..., Any], **described: Any) -> Receipt:
        """Offer an action from now on; the arguments are those of `@action`.

        Raises and, when it is cancelled, leaves behind what `register_tool` does.
        """
        return await self._outbound.call(calls.RegisterAction(handler=handler, options=described))

    async def unregister(self, name: str) -> None:
        """Take a tool or an action of this plugin's back; calls that run go on to their end.

        Raises NotFoundRefused when the plugin has none of this name. Cancelling leaves it offered, unless that was on
        disk already.
        """
        await self._outbound.call(calls.Unregister(name=name))

    async def request_action(
        self,
        action: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        session_id: str | None = None,
        timeout: float = 120.0,
    ) -> Any:
        """Ask for an action of the host's (`compact`) or of another plugin's (`plugin:action`); return its result.

        `timeout` is in seconds. Raises NotFoundRefused when there is no such action, ReentryRefused when it would wait
        for the hook that asks, ArgumentsError before anything runs, and ToolCallError when the action fails or is too
        slow. Cancelling cancels the action.
        """
        call = calls.RequestAction(action=action, arguments=arguments or EMPTY, session_id=session_id, timeout=timeout)
        return await self._outbound.call(call)

    async def ask(
        self,
        question: str,
        choices: Sequence[str] = ("yes", "no"),
        *,
        session_id: str | None = None,
        timeout: float = 300.0,
    ) -> str:
        """Ask the person, who sees that the question is this plugin's, and return which of `choices` they chose.

        `choices` are 1 to 9 short texts; `timeout` is in seconds. Ask from a tool, an action or a task: a hook's own
        deadline ends the question, and `blocking` waits 60 s unless its `wait` says otherwise. Raises
        UnavailableRefused where nobody can be asked, at once, and where nobody answered in time or chose none of them.
        Cancelling withdraws the question.
        """
        call = calls.AskQuestion(question=question, choices=choices, session_id=session_id, timeout=timeout)
        return await self._outbound.call(call)

    async def start_task(self, name: str, work: Coroutine[Any, Any, Any], *, session_id: str | None = None) -> Task:
        """Run a coroutine in the background, outside the plugin's lane, and return its task.

        It goes on across turns until it ends, is cancelled, or the plugin stops. When the call is refused or cancelled
        the coroutine is closed and never runs. Raises PermissionRefused without the grant, and BudgetRefused above the
        limit of tasks that run at one time.
        """
        return await self._outbound.call(calls.StartTask(name=name, work=work, session_id=session_id))

    async def task_progress(self, progress: float | None = None, message: str | None = None) -> None:
        """Report how far the running task is: `progress` from 0 to 1, and `message`, a few words.

        Call it from the task's coroutine; raises NotFoundRefused anywhere else. Cancelling leaves open whether it was
        reported.
        """
        scope = current_scope(self.name)
        if scope is None or scope.task_id is None:
            raise NotFoundRefused("task_progress was called outside a task; call it from the task's coroutine")
        await self._outbound.call(calls.ReportProgress(task_id=scope.task_id, progress=progress, message=message))


class BlockingAlly:
    """The same calls as plain functions, for `def` hooks and handlers, which run in the plugin's own thread.

    On the loop's own thread they raise RuntimeError, since they would block what they wait for. `wait` is the longest
    time in seconds that a call may take; after it TimeoutError is raised and the call is cancelled.
    """

    def __init__(self, ally: Ally) -> None:
        self._behind = ally
        self.wait: float | None = 60.0

    def _run(self, call: Coroutine[Any, Any, R], /) -> R:
        return self._behind._outbound.run_blocking(call, self.wait)  # noqa: SLF001 - the handle's other half

    add_message = blocking(Ally.add_message)
    emit_event = blocking(Ally.emit_event)
    get_context = blocking(Ally.get_context)
    register_tool = blocking(Ally.register_tool)
    register_action = blocking(Ally.register_action)
    unregister = blocking(Ally.unregister)
    request_action = blocking(Ally.request_action)
    ask = blocking(Ally.ask)
    task_progress = blocking(Ally.task_progress)

    def start_task(self, name: str, work: Coroutine[Any, Any, Any], *, session_id: str | None = None) -> Task:
        """As `Ally.start_task`; the coroutine runs on the loop, so it must not block."""
        try:
            return self._run(self._behind.start_task(name, work, session_id=session_id))
        # A coroutine that nobody awaits would warn at the plugin, for a call that it was told of already.
        except (RuntimeError, RefusedError):
            if inspect.iscoroutine(work):
                work.close()  # the call may not have come as far as the host
            raise
