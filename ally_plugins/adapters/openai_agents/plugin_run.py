"""One run of an agent with plugins: what the framework's hooks and filter tell, translated into what the kit does."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary

from agents import (
    FunctionTool,
    InputItem,
    ModelSettings,
    OpenAIConversationsSession,
    RunConfig,
    RunHooks,
    RunState,
    Tool,
    UserError,
)
from agents.exceptions import AgentsException
from agents.run_config import CallModelData, ModelInputData
from attrs import define, field
from openai.types.responses import ResponseOutputMessage, ResponseOutputText

from ally_plugins.adapters.kit.answers import AnswerRefused, HeldText
from ally_plugins.adapters.kit.model_requests import changed_instructions, changed_request
from ally_plugins.adapters.kit.run import Interrupted
from ally_plugins.adapters.kit.under_way import UnderWay
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import HostError
from ally_plugins.contract.values.shown import shown_text

from .calls import RUN, Calls, Guard, GuardedAgents, original
from .insertions import Insertions
from .items import (
    Group,
    Item,
    convert,
    grouped,
    item_for,
    items_of,
    items_with,
    joined,
    request_view,
    said_last,
    sent,
    text_of,
    with_text,
)
from .tools import ungated

if TYPE_CHECKING:
    from agents import Agent, AgentHookContext, ModelResponse, RunContextWrapper, Session
    from agents.run import AgentRunner

    from ally_plugins.adapters.kit.live_sessions import LiveSession  # noqa: TC004 - nobody reads it at run time
    from ally_plugins.adapters.kit.work import AgentWork

__all__ = ["Once", "PluginRun", "RunInterrupted", "Shared"]


class RunInterrupted(AgentsException):
    """Raised by a run that was stopped; its text is the cause. The session holds the steps that were finished."""


@define(eq=False)
class Hold:
    """One streamed response that is held; it lives as long as that."""

    text: HeldText | None
    """Its text where it is held by sentences."""
    is_read: asyncio.Event = field(init=False, factory=asyncio.Event)
    """Set once the events up to its end were read: the framework acts on a response while they wait in its queue."""
    how: asyncio.Future[str] = field(init=False, factory=lambda: asyncio.get_running_loop().create_future())
    """How it may be shown: `as it is`, `changed`, `withheld`, once plugins have seen it whole."""
    rest: str = field(init=False, default="")
    """What is left to show of its text then."""

    async def settle(self, work: AgentWork, before: str, *, is_structured: bool) -> str:
        """Return its text as plugins leave it, and say how it may be shown. Raises AnswerRefused."""
        try:
            if self.text is not None:
                await self.is_read.wait()
            after = await work.answered(
                before, is_structured=is_structured, shown=self.text.shown if self.text is not None else ""
            )
            self.rest = self.text.left(after) if self.text is not None else ""
        except BaseException:
            self._let_show("withheld")
            raise
        self._let_show("as it is" if after == before else "changed")
        return after

    def _let_show(self, how: str) -> None:
        if not self.how.done():
            self.how.set_result(how)


Once: TypeAlias = "Callable[[Agent[Any], Any, dict[str, Any]], Awaitable[Any]]"
"""Lets the framework run an agent with an input and options, until it has a result."""


@define(eq=False)
class Shared:
    """What the runs of one adapter's object share; it lives as long as that.

    `followed` is the history of each conversation as its last run left it; `insertions` are plugins' messages of runs
    that wait for a person.
    """

    defer: bool | None
    followed: WeakKeyDictionary[LiveSession, list[Group]] = field(init=False, factory=WeakKeyDictionary)
    insertions: WeakKeyDictionary[LiveSession, Insertions] = field(init=False, factory=WeakKeyDictionary)


class PluginRun(RunHooks[Any]):
    """What follows one run; it lives until the run, and each call that it made, has ended.

    `options` are the framework's, `runner` runs agents that are run within this run.
    """

    def __init__(self, runner: AgentRunner, shared: Shared, work: AgentWork, options: dict[str, Any]) -> None:
        self.work = work
        self._shared = shared
        self._parent = RUN.get()
        self._under_way = UnderWay(self._end)
        self.calls = Calls(work, runner, self._under_way, may_defer=shared.defer is None)
        self._outcome: Callable[[], Awaitable[None]] = work.close
        self._agents = GuardedAgents()
        self._session: Session | None = options.get("session")
        self._is_served = any(
            map(options.get, ("conversation_id", "previous_response_id", "auto_previous_response_id"))
        )
        """Whether the provider keeps the conversation: then a request has only what is new."""
        self._hooks: RunHooks[Any] = options.get("hooks") or RunHooks()
        self._config, self._is_own_provider = _config_of(options.get("run_config"))
        self._settings = self._config.model_settings
        self._filter = self._config.call_model_input_filter
        self._config.call_model_input_filter = self.filter
        self._options = {**options, "hooks": self, "run_config": self._config}
        self._insertions = shared.insertions.pop(work.live, Insertions())
        self._groups: list[Group] = shared.followed.get(work.live, [])
        self._items: list[Item] = []
        self.holds: list[Hold | None] = []
        """How the stream of each response may be shown, in order; None for one that is not held."""
        self.is_streamed = False
        """Whether somebody reads the events of the framework's run."""

    # --- the run ---

    async def drive(self, agent: Agent[Any], given: Any, once: Once) -> Any:
        """Follow the run from its turn's start to its end, which comes behind that of each call that it made."""
        token = RUN.set(self.calls)
        try:
            async with self._under_way:
                try:
                    return await self._turn(agent, given, once)
                except BaseException as error:
                    self.work.model_failed(error)
                    if isinstance(error, AnswerRefused):
                        await self._withhold(error)
                    self._outcome = partial(self.work.close, error=error)
                    if isinstance(error, Interrupted):
                        raise RunInterrupted(str(error)) from None
                    raise
        finally:
            RUN.reset(token)

    async def _end(self) -> None:
        if self._parent is None:
            self._shared.followed[self.work.live] = self._groups
        self._agents.release()
        await self._outcome()
        if self._is_own_provider:
            await self._config.model_provider.aclose()

    async def _turn(self, agent: Agent[Any], given: Any, once: Once) -> Any:
        given = await self._begin(given)
        self._agents.add(getattr(given, "_current_agent", None) or agent)
        options, before = self._options, None
        while True:
            result = _joined(before, await once(agent, given, options))
            if result.interruptions:
                state = await self.calls.resolve(result)
                if state is None:
                    break
                given = state
                continue
            messages = await self.work.safe_point("turn_end") or await self.work.sent_on(_text(result.final_output))
            if not messages:
                break
            self._complete(result)
            new = [item_for(message) for message in messages]
            agent, before, self._insertions = result.last_agent, (result, new), Insertions()
            is_kept = self._session is not None or self._is_served
            given = new if is_kept else [*result.to_input_list(), *new]
            options = {**options, "context": result.context_wrapper}
        self._ended(result)
        return result

    async def _withhold(self, refusal: AnswerRefused) -> None:
        """Keep a line in the place of the answer that was withheld."""
        kept: Item = {"role": "assistant", "content": refusal.kept}
        self._follow([*self._items, kept])
        if self._session is not None and not self._is_served:
            await self._session.add_items(_stored(self._session, [kept]))

    def _ended(self, result: Any) -> None:
        if not result.interruptions:
            self._complete(result)
            self._outcome = partial(self.work.close, _text(result.final_output))
            return
        self._outcome = self.work.close
        self._shared.insertions[self.work.live] = self._insertions
        if self._parent is not None and self.work.call_id is not None:
            self._parent.waiting.add(self.work.call_id)

    async def _begin(self, given: Any) -> Any:
        """Begin the turn, and return what it is given as transforms left it."""
        if isinstance(given, RunState):
            await self.work.begin(None)
            self.calls.resume(given)
            return given
        items = items_of(given)
        prompts = said_last(items)
        first = next((n for n, item in enumerate(items) if any(item is each for each in prompts)), len(items))
        kept = await self._session.get_items() if self._session is not None else []
        self._follow([*items_of(kept), *items[:first]])
        prompt = joined(prompts)
        text = shown_text(text_of(prompt)) if prompt is not None else None
        said = await self.work.begin(text)
        if prompt is None or said is None or said == text:
            return given
        others = [item for item in items[first:] if not any(item is each for each in prompts)]
        return [*items[:first], *others, with_text(prompt, said)]

    def _follow(self, items: Sequence[Item]) -> None:
        """Copy what is new in the history; of one that the provider keeps there is only that."""
        if self._parent is None:
            groups = grouped(items) if self._is_served else grouped(items, self._groups)
            self._groups = [*self._groups, *groups] if self._is_served else groups
            self.work.follow(self._groups, convert)

    def _complete(self, result: Any) -> None:
        """Put plugins' messages among the items of a result, so that `to_input_list` has them."""
        known = [None if item.type == "tool_approval_item" else item.to_input_item() for item in result.new_items]
        for place, item in reversed(self._insertions.added):
            at = next((n for n in range(len(known), 0, -1) if known[n - 1] == place.last), 0)
            result.new_items.insert(at, _input_item(result.last_agent, item))

    # --- the model ---

    async def filter(self, data: CallModelData[Any]) -> ModelInputData:
        """Let plugins' messages enter, and transforms change the request: all results of the step are in."""
        await self.work.admit_ungated(ungated(data.agent))
        raw: list[Any] = data.model_data.input
        work, items = self.work, self._insertions.among(raw)
        if not self._is_served or items:
            self._follow(items)
        items = await self._compacted(raw, items)
        new = [item_for(message) for message in await work.safe_point("step")]
        if new:
            items += new
            await self._keep(raw, items, new)
        self._items = [] if self._is_served else items
        asked = ModelInputData(input=list(items), instructions=data.model_data.instructions)  # type: ignore[arg-type]
        if self._filter is not None:
            made = self._filter(dataclasses.replace(data, model_data=asked))
            asked = await made if inspect.isawaitable(made) else made
            if not isinstance(asked, ModelInputData):
                raise UserError("call_model_input_filter must return a ModelInputData instance")
        asked = await self._transformed(asked, data.agent)
        self.holds.append(self._hold(data.agent))
        work.requested(self._model_name(data.agent), len(asked.input))
        return ModelInputData(input=sent(asked.input), instructions=asked.instructions)  # type: ignore[arg-type]

    def _hold(self, agent: Agent[Any]) -> Hold | None:
        hold = self.work.answer_hold
        by_sentences = hold == "sentence" and self.is_streamed and not _is_structured(agent)
        return None if hold is None else Hold(HeldText(self.work) if by_sentences else None)

    def all_read(self) -> None:
        """Wait no more for events of the framework's run to be read."""
        self.is_streamed = False
        for hold in filter(None, self.holds):
            hold.is_read.set()

    async def _keep(self, raw: list[Any], items: list[Item], new: list[Item]) -> None:
        """Keep new messages where the framework keeps the conversation."""
        if self._is_served:
            self._follow(new)
            return
        self._insertions.add(raw, new)
        self._follow(items)
        if self._session is not None:  # it holds all that came before: the framework has saved each step
            await self._session.add_items(_stored(self._session, new))

    async def _compacted(self, raw: list[Any], items: list[Item]) -> list[Item]:
        session = self._session
        if session is None or self._is_served:
            return items
        shorter = await self.work.compacted(items, lambda item: convert((item,)))
        if shorter is None:
            return items
        self._insertions.replace(raw, list(shorter))
        await session.clear_session()
        await session.add_items(_stored(session, shorter))
        return list(shorter)

    async def _transformed(self, asked: ModelInputData, agent: Agent[Any]) -> ModelInputData:
        work, items = self.work, list[Any](asked.input)
        instructions, tail = await changed_instructions(work, asked.instructions)
        self._config.model_settings = self._settings
        if work.wants("model_request"):
            view, given = request_view(items_of(items)), agent.model_settings.resolve(self._settings)
            plain = {name: value for name, value in vars(given).items() if value is not None}
            left, settings = await changed_request(work, self._model_name(agent), view, plain)
            if left is not None:
                items = items_with(left)
            if settings is not None:
                self._config.model_settings = (self._settings or ModelSettings()).resolve(_settings(settings))
        items += [{"role": "user", "content": message.text_for_model} for message in tail]
        return ModelInputData(input=items, instructions=instructions)

    async def _settle(self, response: ModelResponse, agent: Agent[Any]) -> None:
        """Let plugins decide about the answer, before it is kept, shown or acted on. Raises AnswerRefused."""
        parts = [part for each in response.output if isinstance(each, ResponseOutputMessage) for part in each.content]
        # Why a model refuses are its words too: an error has them, and streams and sessions.
        before = "".join(part.text if isinstance(part, ResponseOutputText) else part.refusal for part in parts)
        hold = (self.holds[-1] if self.holds else None) or Hold(None)
        after = await hold.settle(self.work, before, is_structured=_is_structured(agent))
        for part, text in zip(parts, (after, *("" for _ in parts)), strict=False):
            if after != before:  # the framework's items are made of these
                setattr(part, "text" if isinstance(part, ResponseOutputText) else "refusal", text)

    def _responded(self, response: ModelResponse, agent: Agent[Any], shown: Sequence[Item]) -> None:
        thoughts = [each.get("summary") or each.get("content") for each in shown if each.get("type") == "reasoning"]
        usage: Any = response.usage
        self.work.model_answered(
            "".join(text_of(item) for item in shown if item.get("role") == "assistant"),
            thoughts=[text_of({"content": thought}) for thought in thoughts],
            model=self._model_name(agent),
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=getattr(usage.input_tokens_details, "cached_tokens", None) or None,
        )

    def _model_name(self, agent: Agent[Any]) -> str | None:
        model = self._config.model or agent.model
        return model if model is None or isinstance(model, str) else getattr(model, "model", type(model).__name__)

    # --- the framework's hooks, which are the host author's too ---

    @override
    async def on_llm_start(self, context: Any, agent: Agent[Any], system_prompt: str | None, input_items: Any) -> None:
        """Call the host author's."""
        await self._hooks.on_llm_start(context, agent, system_prompt, input_items)

    @override
    async def on_llm_end(self, context: RunContextWrapper[Any], agent: Agent[Any], response: ModelResponse) -> None:
        """Emit what the model answered, and how full its window is."""
        self.work.received()
        _mend(response)
        try:
            await self._settle(response, agent)
        except AnswerRefused as refusal:  # the model has answered, and is paid for
            self._responded(response, agent, [{"role": "assistant", "content": refusal.shown}])
            raise
        items = items_of(response.to_input_items())
        self._follow([*self._items, *items])
        self.calls.made.update(item["call_id"] for item in items if item.get("call_id"))
        self._responded(response, agent, items)
        await self.calls.decide_unread(context, items)
        await self._hooks.on_llm_end(context, agent, response)

    @override
    async def on_agent_start(self, context: AgentHookContext[Any], agent: Agent[Any]) -> None:
        """Guard the tools of an agent that the run has reached, before they are offered."""
        self._agents.add(agent)
        await self._hooks.on_agent_start(context, agent)

    @override
    async def on_agent_end(self, context: AgentHookContext[Any], agent: Agent[Any], output: Any) -> None:
        """Call the host author's."""
        await self._hooks.on_agent_end(context, agent, output)

    @override
    async def on_handoff(self, context: RunContextWrapper[Any], from_agent: Agent[Any], to_agent: Agent[Any]) -> None:
        """Guard the tools of the agent that goes on."""
        self._agents.add(to_agent)
        await self._hooks.on_handoff(context, from_agent, to_agent)

    @override
    async def on_tool_start(self, context: RunContextWrapper[Any], agent: Agent[Any], tool: Tool) -> None:
        """Stop the run rather than let a function run that no gate has seen. Raises HostError."""
        if isinstance(tool, FunctionTool) and not isinstance(tool.on_invoke_tool, Guard):
            raise HostError(f"{tool.name!r} of {agent.name!r} does not run: the framework offered it past plugins")
        await self._hooks.on_tool_start(context, agent, original(tool))

    @override
    async def on_tool_end(self, context: RunContextWrapper[Any], agent: Agent[Any], tool: Tool, result: Any) -> None:
        """Call the host author's."""
        await self._hooks.on_tool_end(context, agent, original(tool), result)


def _config_of(given: RunConfig | dict[str, Any] | None) -> tuple[RunConfig, bool]:
    """Return a configuration of this run's own, and whether its model provider is nobody else's."""
    theirs = getattr(getattr(given, "call_model_input_filter", None), "__self__", None)
    if isinstance(given, RunConfig):
        made = dataclasses.replace(given)
        if isinstance(theirs, PluginRun):  # a tool's agent is run with that of the agent which calls it
            made.call_model_input_filter, made.model_settings = theirs._filter, theirs._settings  # noqa: SLF001
        return made, False
    return RunConfig(**(given or {})), "model_provider" not in (given or {})


def _mend(response: ModelResponse) -> None:
    """Change a response so that its text can be sent back; calls that cannot be the framework has refused before."""
    for item in response.output:  # the framework's items are made of these
        parts: list[Any] = [*(getattr(item, "content", None) or ()), *(getattr(item, "summary", None) or ())]
        for part in parts:
            if isinstance(text := getattr(part, "text", None), str):
                part.text = shown_text(text)


def _joined(before: tuple[Any, list[Item]] | None, result: Any) -> Any:
    """Return a result with what came before it in the same turn."""
    if before is not None:
        earlier, items = before
        added = [_input_item(earlier.last_agent, item) for item in items]
        result.input = earlier.input
        result.new_items = [*earlier.new_items, *added, *result.new_items]
        result.raw_responses = [*earlier.raw_responses, *result.raw_responses]
    return result


def _input_item(agent: Agent[Any], item: Any) -> InputItem:
    return InputItem(agent=agent, raw_item=item)


def _settings(given: dict[str, Any]) -> ModelSettings:
    """Return settings by name; those that the framework does not know are sent as they are."""
    known = {field.name for field in dataclasses.fields(ModelSettings)}
    kept: dict[str, Any] = {name: value for name, value in given.items() if name in known}
    if more := {name: value for name, value in given.items() if name not in known}:
        kept["extra_args"] = {**(kept.get("extra_args") or {}), **more}
    return ModelSettings(**kept)


def _is_structured(agent: Agent[Any]) -> bool:
    return agent.output_type is not None and agent.output_type is not str


def _stored(session: Session, items: Sequence[Item]) -> list[Any]:
    return sent(items) if isinstance(session, OpenAIConversationsSession) else list(items)


def _text(output: Any) -> str | None:
    return output if output is None or isinstance(output, str) else str(output)
