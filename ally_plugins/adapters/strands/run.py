"""One run of an agent with plugins: what the framework's hooks tell of it, translated into what the agent kit does."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from strands.types.events import ModelStopReason, TypedEvent

from ally_plugins.adapters.kit.answers import AnswerRefused, HeldText
from ally_plugins.adapters.kit.mending import mended_value, new_call_id
from ally_plugins.adapters.kit.model_requests import changed_blocks, changed_request
from ally_plugins.adapters.kit.prompts import is_unheard
from ally_plugins.adapters.kit.run import Interrupted
from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values.errors import HostError

from .messages import behind, convert, pieces, said_last, shown_of, text_of, unwoven, with_text

if TYPE_CHECKING:
    from strands.agent import AgentResult
    from strands.hooks import AfterInvocationEvent, AfterToolsEvent, BeforeInvocationEvent
    from strands.middleware import InvokeModelContext, MiddlewareNext

    from ally_plugins.adapters.kit.run import AgentRun
    from ally_plugins.adapters.kit.work import AgentWork
    from ally_plugins.contract.tools.agent_tool import AgentTool

__all__ = ["PluginRun", "model_name", "passing", "spec_of", "ungated_tools"]

_WITHHELD = "guardrail_intervened"
"""The framework's stop reason for an answer that a guard has taken: it asks the model no more."""

_COMPLETE = ("end_turn", "stop_sequence")
_UNSEEN = ("user_message", "system_prompt", "model_request")


def _is_among(entry: Any, entries: Iterable[Any]) -> bool:
    return any(entry is each for each in entries)


def model_name(model: Any) -> str | None:
    """Return what a model is called, None where its configuration does not say."""
    found = _config_of(model).get("model_id")
    return found if isinstance(found, str) else None


def _config_of(model: Any) -> dict[str, Any]:
    read = getattr(model, "get_config", None)  # the framework asks for it, and goes on without
    config = read() if callable(read) else None
    return config if isinstance(config, dict) else {}


def ungated_tools(model: Any) -> tuple[str, ...]:
    """Return the names of the tools that the model's provider runs by itself, so that no gate is asked about a call."""
    config, found = _config_of(model), list[Any]()
    for where in (config, config.get("params"), config.get("additional_request_fields")):
        for key in ("tools", "anthropic_tools", "gemini_tools"):
            found += (where or {}).get(key) or ()
    return tuple(dict.fromkeys(name for tool in found for name in _names(tool)))


def _names(tool: Any) -> list[str]:
    """Return what a tool of a provider's is called; none for a function, which the framework runs."""
    if isinstance(tool, dict):
        is_function = tool.get("type") == "function" or "toolSpec" in tool
        return [] if is_function else [str(tool.get("name") or tool.get("type") or next(iter(tool), "?"))]
    dump = getattr(tool, "model_dump", None)  # one of Gemini's is an object with a field for each kind
    return list(dump(exclude_none=True)) if dump is not None else [type(tool).__name__]


def spec_of(offered: AgentTool) -> Any:
    """Return what the model is shown of a plugin's tool."""
    schema = {"json": thaw(offered.schema)}
    return {"name": offered.name, "description": offered.description, "inputSchema": schema}


async def passing(run: AgentRun, events: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    """Pass events on. Raises Interrupted when the run is interrupted while one is waited for."""
    async with aclosing(events):
        while True:
            # Not around the `yield`: what reads the events is the framework, which ends by itself.
            with run.stoppable():
                event = await anext(events, None)
            if event is None:
                return
            yield event


async def _shown(
    text: HeldText, events: AsyncGenerator[Any, None], held: list[TypedEvent]
) -> AsyncGenerator[TypedEvent, None]:
    """Yield what may be shown of a response as it comes, and its end; what is held whole is left in `held`.

    Raises AnswerRefused where the response is to go no further.
    """
    hold = text.work.answer_hold
    async with aclosing(passing(text.work, events)) as passed:
        async for event in passed:
            if hold is None or isinstance(event, ModelStopReason) or (hold == "sentence" and "reasoning" in event):
                yield event
            elif hold == "whole" or not {"event", "data"} & event.keys():  # the framework gives each text in both
                held.append(event)
            elif piece := await text.feed(event.get("data") or ""):
                yield TypedEvent({"data": piece})


class PluginRun:
    """What follows one run; it lives until the run has ended."""

    def __init__(self, work: AgentWork, agent: Any) -> None:
        self.work = work
        self.agent = agent
        self.offered: dict[str, AgentTool] = {}
        """Plugins' tools that the model was offered, by name."""
        self.goes_on = False
        """Whether the run has not ended although the framework says so: plugins have added messages."""
        work.stop = agent.cancel  # between its steps; what it waits for meanwhile is `stoppable`

    # --- the run ---

    async def begin(self, event: BeforeInvocationEvent) -> None:
        """Begin the turn: the person's message as transforms leave it, and plugins' messages with it."""
        work, messages = self.work, event.messages
        if messages is None and any(map(work.live.session.wants, _UNSEEN)):
            why = "plugins see nothing of what structured_output() asks; give the agent structured_output_model"
            raise HostError(why)
        history, given = self.agent.messages, [*(messages or ())]
        prompts = self._said(history, given)
        kept = [entry for entry in history if not _is_among(entry, prompts)]
        work.follow(kept, convert)
        blocks = [block for entry in prompts for block in entry["content"]]
        text = shown_of(blocks) if prompts else None
        sent = await work.begin(text)
        if sent is not None and sent != text:
            history[:] = kept
            given = [entry for entry in given if not _is_among(entry, prompts)]
            given.append({**prompts[-1], "content": with_text(blocks, sent)})
        if messages is None:
            return
        event.messages = behind(given, await work.safe_point("step"))

    def _said(self, history: list[Any], given: list[Any]) -> list[Any]:
        """Return what the person says now: in what the run is given, and at the end of the history that it goes on."""
        begun = len(list(takewhile(lambda entry: entry["role"] == "assistant", reversed(given))))
        # Without an answer that is begun for the model: it answers nothing.
        said = said_last([*history, *given[: len(given) - begun]])
        return [entry for entry in said if _is_among(entry, given) or is_unheard(self.work, convert(entry))]

    async def goes_further(self, event: AfterInvocationEvent) -> bool:
        """At the end of a turn, let plugins' messages take the run further; say whether there were any."""
        self.work.follow(self.agent.messages, convert)
        work, result = self.work, event.result
        if result is None or result.stop_reason not in _COMPLETE or event.resume is not None:
            return False
        answer = text_of(result.message["content"])
        messages = await work.safe_point("turn_end") or await work.sent_on(answer, result.stop_reason)
        if messages:
            self.goes_on = True
            event.resume = behind((), messages)
        return self.goes_on

    async def end(self, result: AgentResult | None, error: BaseException | None) -> None:
        """End the turn, with the answer or with why there is none."""
        why = "cancelled" if result is not None and result.stop_reason == "cancelled" else None
        is_whole = result is not None and result.stop_reason not in {"interrupt", "cancelled"}
        content = text_of(result.message["content"]) if result is not None and is_whole else None
        await self.work.close(content, error=error, cause=why)

    # --- steps ---

    async def after_tools(self, event: AfterToolsEvent) -> None:
        """Let plugins' messages enter behind all results of the step, unless it is over or waits for the person."""
        message: Any = event.message
        calls = sum("toolUse" in block for block in self.agent.messages[-1]["content"])
        if event.end_turn or calls != len(message["content"]):
            return
        self.work.follow(self.agent.messages, convert)
        message.update(behind([message], await self.work.safe_point("step"))[0])

    async def before_request(self) -> None:
        """Shorten the history, if that is due; what plugins add in answer enters behind it."""
        history = self.agent.messages
        self.work.follow(history, convert)
        shorter = await self.work.compacted(history, convert)
        if shorter is None:
            return
        history[:] = shorter
        self.work.follow(history, convert)
        history[:] = behind(history, await self.work.safe_point("step"))

    # --- the model ---

    async def request(
        self, context: InvokeModelContext, next_fn: MiddlewareNext[InvokeModelContext, TypedEvent]
    ) -> AsyncGenerator[TypedEvent, None]:
        """Ask the model what transforms leave of the request, with plugins' tools; emit what it answers."""
        work, taken = self.work, {spec["name"] for spec in context.tool_specs}
        tools = work.offered(taken=taken)
        self.offered.update((tool.name, tool) for tool in tools)
        context = await self._transformed(context.replace(tool_specs=[*context.tool_specs, *map(spec_of, tools)]))
        await work.admit_ungated(ungated_tools(context.model))
        work.requested(model_name(context.model), len(context.messages))
        answer: ModelStopReason | None = None
        text, held = HeldText(work), list[TypedEvent]()
        try:
            async for event in _shown(text, next_fn(context), held):
                if isinstance(event, ModelStopReason):
                    answer = _mended(event)
                else:
                    yield event
            work.received()
            if answer is not None and answer.stop_reason != "cancelled":
                before, answer = answer, await self._answered(answer, text.shown)
                if text.text or answer is not before:
                    left = TypedEvent({"data": text.left(text_of(answer.message["content"]))})
                    held = [left, *(held if answer is before else ())]
        except AnswerRefused as refusal:
            held = [TypedEvent({"data": refusal.kept.removeprefix(refusal.shown)})]
            answer = _stopped(_WITHHELD, refusal.kept, answer)
        except Interrupted:  # as the framework says it, where it notices between two chunks
            answer, held = _stopped("cancelled", "Cancelled by user"), []
        except BaseException as error:
            work.model_failed(error)
            raise
        for event in held:
            yield event
        if answer is not None:
            self._responded(context.model, answer, work.refusal)
            yield answer

    async def _answered(self, answer: ModelStopReason, shown: str) -> ModelStopReason:
        """Return an answer as transforms left it. Raises AnswerRefused."""
        blocks: Any = answer.message["content"]
        text = text_of(blocks)
        after = await self.work.answered(text, shown=shown)
        left = blocks if after == text else with_text(blocks, after)
        return _with_blocks(answer, [await self._structured(block) if "toolUse" in block else block for block in left])

    async def _structured(self, block: Any) -> Any:
        """Return a call as it is, or the answer that one of the framework's own tools makes of a structured output."""
        use = block["toolUse"]
        tool = self.agent.tool_registry.dynamic_tools.get(use["name"])
        if tool is None or tool.tool_type != "structured_output":
            return block
        after = await self.work.answered_data(use["input"])
        return block if after is use["input"] else {"toolUse": {**use, "input": after}}

    def _responded(self, model: Any, answer: ModelStopReason, refusal: AnswerRefused | None) -> None:
        usage, window = answer.usage, getattr(model, "context_window_limit", None)
        # The text of one that was stopped is no model's, but for what was shown.
        blocks = answer.message["content"] if answer.stop_reason not in {"cancelled", _WITHHELD} else []
        self.work.model_answered(
            refusal.shown if refusal is not None else text_of(blocks),
            thoughts=[each.get("reasoningContent", {}).get("reasoningText", {}).get("text", "") for each in blocks],
            window=window if isinstance(window, int) else None,
            model=model_name(model),
            input_tokens=usage.get("inputTokens") or None,  # 0 where it was cancelled
            output_tokens=usage.get("outputTokens") or None,
            cache_read_tokens=usage.get("cacheReadInputTokens"),
            cache_creation_tokens=usage.get("cacheWriteInputTokens"),
            stop_reason=answer.stop_reason,
        )

    async def _transformed(self, context: InvokeModelContext) -> InvokeModelContext:
        """Return the request as transforms leave it. Raises GateRefused when one blocks."""
        given: Any = context.system_prompt
        blocks = [{"text": given}] if isinstance(given, str) else list(given or ())
        prompt: Any
        prompt, tail = await changed_blocks(self.work, blocks)
        if prompt is not blocks:
            context = context.replace(system_prompt=prompt)
        if self.work.wants("model_request"):
            made, _ = await changed_request(self.work, model_name(context.model), pieces(context.messages), None)
            if made is not None:
                context = context.replace(messages=unwoven(made))
        return context.replace(messages=behind(context.messages, tail)) if tail else context


def _mended(answer: ModelStopReason) -> ModelStopReason:
    """Return an answer that can be sent back: its text is UTF-8, and each of its calls has an id of its own."""
    taken = set[str]()
    return _with_blocks(answer, [_with_call_id(block, taken) for block in mended_value(answer.message["content"])])


def _with_blocks(answer: ModelStopReason, blocks: list[Any]) -> ModelStopReason:
    if blocks == answer.message["content"]:
        return answer
    return ModelStopReason(answer.stop_reason, {**answer.message, "content": blocks}, answer.usage, answer.metrics)


def _with_call_id(block: Any, taken: set[str]) -> Any:
    use = block.get("toolUse")
    return block if use is None else {**block, "toolUse": {**use, "toolUseId": new_call_id(use["toolUseId"], taken)}}


def _stopped(why: Any, text: str, answer: ModelStopReason | None = None) -> ModelStopReason:
    """Return the end of a response that goes no further: the model calls nothing, and its turn ends."""
    usage: Any = {"inputTokens": 0, "outputTokens": 0, "totalTokens": 0} if answer is None else answer.usage
    metrics: Any = {"latencyMs": 0} if answer is None else answer.metrics
    return ModelStopReason(why, {"role": "assistant", "content": [{"text": text}]}, usage, metrics)
