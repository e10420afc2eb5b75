"""One run of an agent with plugins: what the framework's callbacks tell of it, translated for the agent kit."""

from __future__ import annotations

from operator import is_
from typing import TYPE_CHECKING, Any

from google.adk.events import Event
from google.genai.types import Content, FunctionResponse, Part

from ally_plugins.adapters.kit.answers import AnswerRefused, HeldText
from ally_plugins.adapters.kit.model_requests import changed_instructions, changed_request
from ally_plugins.contract.values.errors import GateRefused

from .contents import content_of, convert, event_of, items_of, mended, shown_of, text_of, unwoven, with_text

if TYPE_CHECKING:
    from ally_plugins.adapters.kit.work import AgentWork
    from ally_plugins.contract.values.conversation import ToolCall

__all__ = ["PluginRun", "ungated_tools"]


class PluginRun:
    """What follows one run; it lives until the run has ended, over the invocations that plugins' messages add to it."""

    def __init__(self, work: AgentWork, session: Any) -> None:
        self.work = work
        self.session = session
        self.decided: dict[str, ToolCall] = {}
        """Calls that may run, with their final arguments, by id."""
        self.context: Any = None
        self._said: str | None = None
        self._texts: dict[str, HeldText] = {}
        """What is held of streams by sentences, by the agents' names: those of a workflow may stream at once."""
        work.stop = self._stop

    # --- the run ---

    def enter(self, context: Any) -> None:
        """Go on with an invocation."""
        self.context, self.session = context, context.session

    @property
    def is_stopped(self) -> bool:
        """Whether it ended, or is to end, before the agent had said all."""
        work = self.work
        return self._is_aborted or work.is_ended or work.refusal is not None or work.interruption_cause is not None

    @property
    def _is_aborted(self) -> bool:
        return self.context is not None and self.context.is_aborted

    def _stop(self) -> None:
        if self.context is not None:
            self.context.abort()

    async def begin(self, message: Content | None) -> Content | None:
        """Begin the turn; return the person's message as transforms left it, None when it stays as it is.

        One that answers calls is no message to plugins.
        """
        self.work.follow(self.session.events, convert)
        parts = (message.parts if message is not None else None) or []
        is_said = message is not None and not any(part.function_response for part in parts)
        text = shown_of(parts) if is_said else None
        sent = await self.work.begin(text)
        return None if sent is None or sent == text else Content(role="user", parts=with_text(parts, sent))

    async def end(self, error: BaseException | None) -> None:
        """End the turn, with the answer or with why there is none."""
        self.work.follow(self.session.events, convert)
        if error is not None and error.__cause__ is not None and isinstance(error, RuntimeError):
            error = error.__cause__  # the framework says in which plugin, which is this one
        cause = "cancelled" if error is None and self._is_aborted else None
        await self.work.close(self._said, error=error, cause=cause)

    async def answer(self, context: Any, tool_name: str, text: str) -> None:
        """Answer a call whose tool was stopped, without which no later request would be valid."""
        response = FunctionResponse(id=context.function_call_id, name=tool_name, response={"error": text})
        content = Content(role="user", parts=[Part(function_response=response)])
        await self._append(Event(author=context.agent_name, content=content, invocation_id=context.invocation_id))

    async def _append(self, event: Event) -> None:
        event.branch = self.context.branch
        await self.context.session_service.append_event(self.session, event)

    # --- the model ---

    async def before_request(self, context: Any, request: Any) -> None:
        """Let plugins' messages enter the session and this request; then transforms. Raises GateRefused."""
        work = self.work
        work.follow(self.session.events, convert)
        for message in await work.safe_point("step"):
            await self._append(event_of(message, context.invocation_id))
            request.contents.append(content_of(message))
        work.follow(self.session.events, convert)
        await work.admit_ungated((*ungated_tools(request), *self._executors(context.agent_name)))
        await self._transform(request)
        work.requested(request.model, len(request.contents), by=context.agent_name)  # a workflow's agents may at once

    def _agent(self, name: str) -> Any:
        return self.context.agent.root_agent.find_agent(name)

    def has_own_callbacks(self, name: str) -> bool:
        """Whether an agent has callbacks that may change the arguments of its calls; said of one that is not found."""
        return bool(getattr(self._agent(name), "canonical_before_tool_callbacks", True))

    def _executors(self, name: str) -> tuple[str, ...]:
        """Return what runs code that the model writes, which is no call of a tool."""
        executor = getattr(self._agent(name), "code_executor", None)
        return (f"code_executor:{type(executor).__name__}",) if executor is not None else ()

    async def _transform(self, request: Any) -> None:
        work, config = self.work, request.config
        prompt = config.system_instruction
        if not isinstance(prompt, (str, type(None))) and work.wants("system_prompt"):
            raise GateRefused("the system instruction cannot be shown to plugins: it is no text", plugin=None)
        config.system_instruction, tail = await changed_instructions(work, prompt)
        if work.wants("model_request"):
            plain = {name: value for name, value in config if isinstance(value, (bool, int, float, str))}
            plain.pop("system_instruction", None)
            items = items_of(request.contents, self.session.events)
            left, settings = await changed_request(work, request.model, items, plain)
            if left is not None:
                request.contents = unwoven(left)
            if settings is not None:
                request.config = config.model_copy(update={**dict.fromkeys(plain), **settings})
        request.contents = [*request.contents, *map(content_of, tail)]

    async def responded(self, context: Any, response: Any) -> Any:
        """Emit what the model answered, once it is whole; return the response as plugins left it, None if it stays."""
        work, usage = self.work, response.usage_metadata
        given: list[Part] = (response.content.parts if response.content is not None else None) or []
        if response.partial:
            return await self._held(context, response, given)
        parts = mended(given)
        work.received(by=context.agent_name)
        text = self._texts.pop(context.agent_name, HeldText(work))
        try:
            after = await self._answered(parts, text)
        except BaseException as error:
            work.model_failed(error, by=context.agent_name)
            raise
        self._said = text_of(after) or None
        told = after if work.refusal is None else [Part(text=work.refusal.shown)]  # thoughts may say what was withheld
        reason = response.finish_reason or response.error_code
        work.model_answered(
            text_of(told),
            thoughts=[part.text or "" for part in told if part.thought],
            by=context.agent_name,
            model=response.model_version,
            input_tokens=usage.prompt_token_count if usage is not None else None,
            output_tokens=usage.candidates_token_count if usage is not None else None,
            cache_read_tokens=usage.cached_content_token_count if usage is not None else None,
            stop_reason=str(getattr(reason, "value", reason)) if reason is not None else None,
        )
        return None if after is given else response.model_copy(update={"content": Content(role="model", parts=after)})

    async def _held(self, context: Any, response: Any, parts: list[Part]) -> Any:
        """Return a piece of a stream with what may be shown of it now, None where it is not held.

        Once a sentence was refused nothing more is shown; the whole, which comes behind it, says so.
        """
        hold = self.work.answer_hold
        if not parts or hold is None:
            return None
        text = self._texts.setdefault(context.agent_name, HeldText(self.work))
        shown = [part for part in parts if part.thought] if hold == "sentence" else []
        if hold == "sentence" and (piece := await text.feed_quietly(text_of(parts))):
            shown.append(Part(text=piece))
        return response.model_copy(update={"content": Content(role="model", parts=shown) if shown else None})

    async def _answered(self, parts: list[Part], shown: HeldText) -> list[Part]:
        """Return an answer as transforms left it; one that gates withhold says so, calls nothing, and ends the turn."""
        text = text_of(parts)
        try:
            after = await self.work.answered(text, shown=shown.shown)
            shown.left(after)
            left = parts if after == text else with_text(parts, after)
            made = [await self._structured(part) for part in left]
        except AnswerRefused as refusal:
            return [Part(text=refusal.kept)]
        return parts if all(map(is_, made, parts)) and len(made) == len(parts) else made

    async def _structured(self, part: Part) -> Part:
        """Return a part as it is, or the answer that the framework's own tool makes of a structured output."""
        call = part.function_call
        if call is None or call.name != "set_model_response":
            return part
        after = await self.work.answered_data(call.args)
        if after is call.args:
            return part
        return part.model_copy(update={"function_call": call.model_copy(update={"args": after})})


def ungated_tools(request: Any) -> tuple[str, ...]:
    """Return the names of the tools that the model's provider runs by itself, so that no gate is asked about a call."""
    found = [
        name
        for tool in request.config.tools or ()
        if hasattr(tool, "model_fields_set")
        for name, value in tool
        if value is not None
    ]
    return tuple(dict.fromkeys(name for name in found if name != "function_declarations"))
