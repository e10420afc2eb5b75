"""One run of one agent in a session: its turn, its safe points, and the events of what it does.

An adapter makes one with `AgentKit.work` or `AgentKit.open`, calls `begin`, then what happens in the order in which it
does, then `end` or `close`.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from attrs import define, field

from ally_plugins.contract.tools.agent_tool import MAIN_AGENT
from ally_plugins.contract.tools.todo_tools import TASK_TOOLS, todo_data, todos_of, todos_of_call, todos_with_task
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.conversation import Message, Stop, ToolResult
from ally_plugins.contract.values.errors import (
    ArgumentsError,
    GateRefused,
    HostError,
    RefusedError,
    ToolCallError,
    error_text,
)
from ally_plugins.contract.values.events import (
    AgentEnd,
    AgentStart,
    AssistantMessage,
    ContextUsageUpdate,
    ModelRequest,
    ModelResponse,
    ThoughtComplete,
    TodoUpdate,
    UserMessage,
)
from ally_plugins.host.person.questions import RunQuestions

from .answers import AnswerRun
from .compaction import shorten
from .run import Interrupted

if TYPE_CHECKING:
    from ally_plugins.contract.tools.agent_tool import AgentTool
    from ally_plugins.contract.values.conversation import SafePoint, TodoItem, ToolCall
    from ally_plugins.host.sessions.mirror import Convert
    from ally_plugins.host.sessions.open_calls import OpenCall

    from .compaction import Compact

__all__ = ["AgentWork"]


@define(eq=False)
class AgentWork(AnswerRun):
    """What one run of an agent does, in the order in which it does it. It lives from `begin` to `end`.

    `is_scoped` says that a block of code ends it, and nobody else has to.
    """

    is_scoped: bool = False
    release: Callable[[], Awaitable[None]] | None = None
    """What lets go of the host, which runs for this run."""
    _questions: RunQuestions | None = field(init=False, default=None)
    # A listener of AGENT_START may end the run in the middle of it.
    _ending: threading.RLock = field(init=False, factory=threading.RLock)
    _taken: dict[str, Message] = field(init=False, factory=dict)
    _entered: dict[str, Message] = field(init=False, factory=dict)
    _has_begun: bool = field(init=False, default=False)
    _has_followed: bool = field(init=False, default=False)
    _requested_at: dict[str, float] = field(init=False, factory=dict)
    _took: dict[str, float] = field(init=False, factory=dict)
    _began: float = field(init=False, factory=perf_counter)
    _failure: tuple[BaseException | None, str] = field(init=False, default=(None, ""))

    # --- begin and end ---

    async def begin(self, prompt: str | None) -> str | None:
        """Start the turn with the person's message or a sub-agent's task; return it as transforms left it.

        Plugins' messages that enter with it are returned by the first `safe_point`. Raises GateRefused when a transform
        blocks or a gate denies the person's message, HostError for a run that was ended meanwhile. After that, and when
        it is cancelled, nothing has begun.
        """
        session = self.live.session
        if self.approve is not None or self.can_defer:
            session.has_person = True
        if self.approve is not None and self.parent is None:
            self._questions = RunQuestions(session, self.live.permission, self.approve)
            self._questions.open()
        if self.parent is not None:
            if self.call_id is not None and not self.is_heard:  # else its TOOL_CALL_START has said so
                session.conversation.note_caller(self.call_id, self.parent.about.get("agent_id"))
            self._emit_start(None, prompt)
            return prompt
        # Before the safe point, so that older messages of plugins come first.
        self._restore_undelivered()
        await self._safe_point("turn_start")
        if prompt is not None:
            for deferred in self.live.deferred.values():
                deferred.outcome = None  # the person speaks of something else now
            message = Message(role="user", content=prompt, id=self.live.mirror.next_id)
            message = await session.own_loop.run(session.transform_user_message(message))
            ruling = await session.own_loop.run(session.gate_user_message(message))
            if ruling.is_denied:
                plugin = next(iter(ruling.decided_by), None)
                raise GateRefused(ruling.reason, plugin=plugin, decision_id=ruling.decision_id)
            prompt = message.content
            self.emit(UserMessage(content=prompt, message_id=message.id))
        self._emit_start(prompt, None)
        return prompt

    def _restore_undelivered(self) -> None:
        """Let messages of a run that failed enter again, where the history that goes on does not hold them."""
        live = self.live
        lost = {key: each for key, each in live.doubtful.items() if key not in live.mirror.plugin_ids}
        live.doubtful = {}
        live.undelivered = {**lost, **live.undelivered}

    def _emit_start(self, message: str | None, task_prompt: str | None) -> None:
        with self._ending:
            if self.is_ended:
                # While gates were awaited: its end is over, so AGENT_START would have no AGENT_END.
                raise HostError(f"the run {self.id!r} was ended before it had begun")
            self._has_begun = True
            self.emit(
                AgentStart(
                    agent_name=self.name,
                    instance_id=self.id,
                    model=self.model,
                    is_specialized_agent=self.parent is not None,
                    message=message,
                    task_prompt=task_prompt,
                    call_id=self.call_id,
                    **self.about,
                )
            )

    def end(
        self,
        content: str | None = None,
        *,
        error: BaseException | None = None,
        cause: str | None = None,
        interrupted: bool = True,
    ) -> None:
        """Emit AGENT_END, with the agent's answer or why it stopped: an error, or a cause in words. For any thread.

        A second call does nothing, and nothing is emitted for a run that was stopped before it had begun. Its calls
        that have not ended are ended. With `interrupted=False` a cause is no interruption.
        """
        with self._ending:
            if self.is_ended:
                return
            self.is_ended = True
        if self._questions is not None:
            # Before AGENT_END: no question of a plugin outlives the turn in which a person is there.
            self._questions.close()
        self.live.at_work.pop(self, None)
        if not self._has_begun:
            return
        # Before AGENT_END: plugins may count on the ends of calls within their run.
        self.end_open_calls()
        if self.parent is not None:
            self.live.todos.pop(self.id, None)
        # What the history never held goes first: it entered before what waits.
        self.live.undelivered = {**self._taken, **self.live.undelivered}
        if error is not None:
            # Whether the next run goes on with this history is not known here: a framework may drop a failed run's.
            self.live.doubtful.update(self._entered)
        cause = self.interruption_cause or cause
        if cause is None and error is not None:
            failure, text = self._failure
            # A tool's own error has the text that transforms left: the exception's may hold what they have redacted.
            cause = text if error is failure else str(error) if error is self.refusal else error_text(error)
        self.emit(
            AgentEnd(
                agent_name=self.name,
                content=content,
                interrupted=cause is not None and interrupted,
                interruption_cause=cause,
                is_specialized_agent=self.parent is not None,
                instance_id=self.id,
                result=content if self.parent is not None else None,
                duration=round(perf_counter() - self._began, 6),
                tool_use_count=self.tool_count,
                context_usage=self.context_usage,
                call_id=self.call_id,
                **self.about,
            )
        )

    async def close(
        self,
        content: str | None = None,
        *,
        error: BaseException | None = None,
        cause: str | None = None,
        interrupted: bool = True,
    ) -> None:
        """End a run as `end` does, and its sub-agents before it, and let the host go, which stops after its last run.

        From any task, context and loop; a second call does nothing. A cancellation while the host stops is raised once
        it has stopped.
        """
        # The newest first: one may work for another.
        for child in reversed(list(self.live.at_work)):
            if isinstance(child, AgentWork) and child.parent is self and not child.is_scoped:
                await child.close(cause="the run that it works for has ended")
        self.end(content, error=error, cause=cause, interrupted=interrupted)
        with self._ending:
            # Taken under the lock: of two that close at once, one lets go.
            release, self.release = self.release, None
        if release is not None:
            await release()

    # --- what happens ---

    def requested(self, model: str | None, count: int, *, by: str = "") -> None:
        """Emit MODEL_REQUEST: the model is about to be sent this many messages.

        `by` tells requests apart that are made at once in one run; give the same to what ends this one.
        """
        if self.is_heard:
            self.emit(ModelRequest(model=model, message_count=count, **self.about))
        # After the event: what its listeners take is not the model's time.
        self._requested_at[by] = perf_counter()

    def received(self, *, by: str = "") -> None:
        """Stop the clock of a request that has its answer: what plugins do about that is not the model's time."""
        if by in self._requested_at:
            self._took[by] = perf_counter() - self._requested_at[by]

    def model_answered(
        self, text: str, /, *, thoughts: Iterable[str] = (), window: int | None = None, by: str = "", **response: Any
    ) -> None:
        """Emit what the model has answered: MODEL_RESPONSE, its thoughts, its text for the person, the usage.

        `response` are the fields of MODEL_RESPONSE, as far as they are known; the time since `requested` is added.
        `window` is the model's in tokens; the host author's word comes first.
        """
        self._respond(by, **response)
        for thought in filter(None, thoughts if self.is_heard else ()):
            self.emit(ThoughtComplete(thinking=thought, **self.about))
        if text:
            self.said(text)
        tokens = (response.get("input_tokens") or 0) + (response.get("output_tokens") or 0)
        self._note_usage(tokens, self.kit.context_window or window)

    def model_failed(self, error: BaseException, *, by: str = "") -> None:
        """Emit the end of a request that brought no answer; nothing for one whose start was not emitted."""
        was_stopped = isinstance(error, (GeneratorExit, Interrupted))
        self._respond(by, stop_reason="interrupted" if was_stopped else type(error).__name__)

    def _respond(self, by: str, **fields: Any) -> None:
        began, took = self._requested_at.pop(by, None), self._took.pop(by, None)
        if began is not None and self.is_heard:
            took = round(1000 * (perf_counter() - began if took is None else took), 3)
            self.emit(ModelResponse(duration_ms=took, **fields, **self.about))

    def said(self, content: str) -> None:
        """Emit ASSISTANT_MESSAGE: text of the model for the person, or of a sub-agent for the agent that called it."""
        if self.is_heard:
            message_id = self.live.mirror.next_id if self.parent is None else None
            self.emit(AssistantMessage(content=content, message_id=message_id, **self.about))

    def planned(self, todos: Sequence[Mapping[str, str]], call_id: str | None) -> None:
        """Emit TODO_UPDATE with the todos, `{id, task, status, activeForm?}` each, unless they are as before."""
        listed = tuple(dict(todo) for todo in todos)
        if self.live.todos.get(self.about.get("agent_id")) != listed:
            self.live.todos[self.about.get("agent_id")] = listed
            self.emit(TodoUpdate(todos=listed, call_id=call_id, **self.about))

    def _note_usage(self, tokens: int, window: int | None) -> None:
        """Emit CONTEXT_USAGE_UPDATE, from which CONTEXT_THRESHOLD follows; nothing where a count is unknown."""
        if not tokens or not window or window <= 0:
            return
        # At most 100: providers count otherwise than the window is given, and may end above it.
        usage = round(min(100.0 * tokens / window, 100.0), 2)
        self.context_usage = usage
        if not self.is_heard:
            if self.parent is None:
                self.live.session.note_usage(usage)
        elif self.parent is None:
            self.emit(ContextUsageUpdate(context_usage=usage))
        else:
            self.emit(ContextUsageUpdate(context_usage=usage, parent_call_id=self.call_id or self.id, **self.about))

    # --- safe points ---

    def follow(self, history: Sequence[Any], convert: Convert) -> None:
        """Copy what is new in the framework's history into the session's conversation; a sub-agent's is left out."""
        if self.parent is None:
            mirror = self.live.mirror
            mirror.follow(history, convert, is_first=not self._has_followed)
            self._has_followed = True
            # Found in the history: delivered for good.
            if self._taken:
                self._taken = {key: each for key, each in self._taken.items() if key not in mirror.plugin_ids}

    async def safe_point(self, kind: SafePoint) -> tuple[Message, ...]:
        """Let plugins' messages enter ("step", "turn_end") and return those that the history does not hold yet.

        One that `follow` does not find in the history afterwards (the run was cancelled in between) is returned again
        in the next run. What has entered when this is cancelled is returned by the next call. A sub-agent has no safe
        points: messages are for the conversation.
        """
        if self.parent is not None or self.live.session.is_closed:
            return ()
        await self._safe_point(kind)
        # No `await` from here on: what is taken is returned, or kept in `_taken`.
        taken, self.live.undelivered = self.live.undelivered, {}
        if not taken:
            return ()
        self._taken.update(taken)
        self._entered.update(taken)
        return tuple(taken.values())

    async def sent_on(self, answer: str | None, reason: str = "") -> tuple[Message, ...]:
        """Ask gates whether the agent may end its turn; return the messages that send it on, none if it may.

        Call it where a run would end, after `safe_point("turn_end")` brought nothing; `answer` and `reason` are those
        of `Stop`. A sub-agent is not asked about. Cancelling takes the question back.
        """
        session = self.live.session
        if self.parent is not None or session.is_closed or not session.wants("stop"):
            return ()
        ruling = await session.own_loop.run(session.gate_stop(Stop(reason=reason, answer=answer or "")))
        return await self.safe_point("step") if ruling.is_denied else ()

    async def _safe_point(self, kind: SafePoint) -> None:
        live = self.live
        for message in await live.session.own_loop.run(live.session.safe_point(kind)):
            if message.id not in live.mirror.plugin_ids:  # delivered again after a crash: the history has it
                live.undelivered[message.id] = message

    async def compacted(
        self,
        messages: list[Any],
        convert: Convert,
        *,
        compact: Compact | None = None,
    ) -> list[Any] | None:
        """Shorten the framework's messages if that is due, and return them; None when they stay. See `shorten`.

        `convert` says what each of them holds. `compact` is what shortens them here, where that of the kit's options is
        not to be called as it is. Call it at a step, before its safe point, so that what plugins add in answer comes
        behind what was shortened.
        """
        compact = compact or self.kit.compact
        if compact is None or self.parent is not None or self.live.session.is_closed:
            return None
        request = self.live.compactions.due(self.current_usage, self.kit.compact_at)
        return await shorten(self, request, messages, compact, convert) if request is not None else None

    # --- tools ---

    @override
    def _note_end(self, ended: OpenCall) -> None:
        """Emit TODO_UPDATE, when a tool has run that is known to keep the todos."""
        call, result = ended.call, ended.result
        if result is not None and result.success and (todos := self._todos_after(call, result)) is not None:
            self.planned([todo_data(todo) for todo in todos], call.call_id)

    def _todos_after(self, call: ToolCall, result: ToolResult) -> tuple[TodoItem, ...] | None:
        if call.tool_name not in TASK_TOOLS:
            return todos_of_call(call.tool_name, call.arguments)
        kept = self.live.todos.get(self.about.get("agent_id"))
        before = todos_of(kept) if kept is not None else None
        if before is None:  # a session that was found again
            before = self.live.session.conversation.todos if self.parent is None else ()
        return todos_with_task(before, call.tool_name, call.arguments, result.output, result.data)

    def offered(self, taken: Collection[str] = ()) -> tuple[AgentTool, ...]:
        """Return the tools of plugins for this agent now; `taken` are its own tools' names. Call it at each step."""
        session = self.live.session
        if session.is_closed:
            return ()
        return session.agent_tools(MAIN_AGENT if self.parent is None else self.name, taken=taken)

    async def call_plugin_tool(self, tool: AgentTool, arguments: Mapping[str, Any]) -> ToolResult:
        """Call one of the tools that were `offered`, in the runner of its call; a failure is a result too.

        Raises ArgumentsError for arguments that do not fit its schema; nothing has run then. Cancelling cancels it.
        """
        session = self.live.session
        try:
            return await session.own_loop.run(session.call_agent_tool(tool, arguments))
        except ArgumentsError:
            raise
        except (ToolCallError, RefusedError) as error:
            return ToolResult(success=False, error=str(error))

    def failed(self, error: BaseException, text: str) -> None:
        """Keep a tool's error with its text as transforms left it, for AGENT_END should the run end with it."""
        self._failure = (error, text)
