"""The tool calls of a run, in the halves that the framework has callbacks for; plugins' tools."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from google.adk.tools.base_tool import BaseTool
from google.adk.tools.set_model_response_tool import SetModelResponseTool
from google.genai.types import FunctionDeclaration

from ally_plugins.adapters.kit.mending import mended_value
from ally_plugins.adapters.kit.plugin_tools import call_offered, checking, digest_of, text_for_model
from ally_plugins.adapters.kit.tool_calls import CallDeferred
from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.conversation import ToolCall, ToolResult
from ally_plugins.contract.values.errors import ArgumentsError, EventError, HostError
from ally_plugins.host.sessions.open_calls import result_of_error

from .contents import result_of, value_of

if TYPE_CHECKING:
    from ally_plugins.adapters.kit.work import AgentWork
    from ally_plugins.contract.tools.agent_tool import AgentTool

    from .run import PluginRun

__all__ = ["PluginTool", "after_call", "before_call", "failed_call"]

_WAITS: Final = "This tool call requires confirmation, please approve or reject."
"""What the framework itself answers a call with that waits for the person."""


async def before_call(run: PluginRun, tool: Any, args: dict[str, Any], context: Any) -> dict[str, Any] | None:
    """Return None for a call that may run, whose arguments are as transforms left them, else what the model reads.

    Where the agent has callbacks of its own, which come behind those of plugins, it is decided when the tool is run.
    """
    if isinstance(tool, SetModelResponseTool):  # it is the answer
        return None
    _guard(tool)
    if run.has_own_callbacks(context.agent_name):
        _KNOWN[context] = run
        return None
    return await _decide(run, tool, args, context)


async def _decide(run: PluginRun, tool: Any, args: dict[str, Any], context: Any) -> dict[str, Any] | None:
    work, call_id, confirmation = run.work, context.function_call_id, context.tool_confirmation
    given = work.given_call(tool.name, args, call_id)

    def answered(call: ToolCall) -> bool | None:
        shown = _shown_digest(run, call_id) if confirmation is not None else None
        if shown is None:  # nobody was asked, or by the tool itself
            return None
        if confirmation.confirmed and shown != digest_of(call):
            text = "the arguments are others than those that the person was shown"
            raise ArgumentsError(text, tool=call.tool_name)
        return bool(confirmation.confirmed)

    try:
        begun = await work.begin_call(
            given,
            check=checking(given, lambda: _schema(tool), tool.description),
            sensitivity=tool.sensitivity if isinstance(tool, PluginTool) else None,
            answered=answered,
            runs_here=True,
        )
    except CallDeferred as deferred:
        payload = {"ally_plugins": digest_of(deferred.call), "arguments": thaw(deferred.call.arguments)}
        context.request_confirmation(hint=deferred.reason, payload=payload)
        context.actions.skip_summarization = True
        return {"error": _WAITS}
    except HostError as error:
        return {"error": f"not run: {error}"}
    if isinstance(begun, ToolResult):
        return {"error": begun.error or "not run"}
    run.decided[call_id] = begun
    args.clear()
    args.update(thaw(begun.arguments))
    _KNOWN[context] = encode(begun.arguments)
    return None


async def after_call(run: PluginRun, tool: Any, context: Any, result: Any) -> dict[str, Any] | None:
    """Return a result as transforms leave it, None where it stays as it is."""
    call = run.decided.pop(context.function_call_id, None)
    if call is None:  # it was refused, or waits; or it is the answer
        return None
    actions = context.actions
    waits = (*actions.requested_tool_confirmations, *actions.requested_auth_configs)
    if context.function_call_id in waits:  # it has not run: it comes again when the person has answered
        run.work.postpone(call)
        return None
    own = tool.results.pop(context.function_call_id, None) if isinstance(tool, PluginTool) else None
    left = mended_value(result)
    before = own or result_of(left)
    after = await run.work.end_call(context.function_call_id, before)
    if after is not before:
        return value_of(before, after)
    return None if left is result else left if isinstance(left, dict) else {"result": left}


async def failed_call(run: PluginRun, context: Any, error: BaseException) -> dict[str, Any] | None:
    """End a call with its error, and return it for the model, so that the conversation can go on."""
    call = run.decided.pop(context.function_call_id, None)
    if call is None:
        return None
    if not isinstance(error, Exception):
        run.work.interrupt_call(call, error)
        await run.answer(context, call.tool_name, "interrupted")
        return None
    failure = result_of_error(error)
    return value_of(failure, await run.work.end_call(context.function_call_id, failure))


def _schema(tool: Any) -> dict[str, Any]:
    declared = tool._get_declaration()  # noqa: SLF001 - there is no other word for a tool's schema
    schema: Any = declared.parameters_json_schema if declared is not None else None
    if schema is None and declared is not None and declared.parameters is not None:
        schema = declared.parameters.json_schema.model_dump(mode="json", by_alias=True, exclude_none=True)
    return schema or {}


def _shown_digest(run: PluginRun, call_id: str) -> str | None:
    """Return the digest of the arguments that the person was last asked about, None where it was not by us."""
    for event in reversed(run.session.events):
        asked = event.actions.requested_tool_confirmations.get(call_id)
        if asked is not None:
            return asked.payload.get("ally_plugins") if isinstance(asked.payload, dict) else None
    return None


_KNOWN: Final[MutableMapping[Any, bytes | PluginRun]] = WeakKeyDictionary()
"""What plugins know of a call, by its context, which its tool is given too: the arguments that they were shown, or the
run whose plugins are to be asked when the tool is run."""


def _guard(tool: Any) -> None:
    """Let a tool look, when it is run, whether its call is decided, with these arguments.

    Callbacks of the agent's own come behind those of a plugin, and may change them; nothing else stands so far inside.
    """
    run_tool = tool.run_async
    if getattr(run_tool, "is_guarded", False):
        return

    async def guarded(*, args: dict[str, Any], tool_context: Any) -> Any:
        known = _KNOWN.get(tool_context)
        if known is not None and not isinstance(known, bytes):
            refusal = await _decide(known, tool, args, tool_context)
        elif known is not None and known != _encoded(args):
            text = "another plugin changed the arguments after AllyPlugins; give that one to the app first"
            refusal = {"error": f"not run: {text}"}
        else:
            refusal = None
        return refusal or await run_tool(args=args, tool_context=tool_context)

    guarded.is_guarded = True  # type: ignore[attr-defined]  # so that a tool is guarded once
    object.__setattr__(tool, "run_async", guarded)  # some tools are models of pydantic's, which refuse it


def _encoded(arguments: Any) -> bytes | None:
    try:
        return encode(arguments)
    except (EventError, TypeError, ValueError):  # it is nothing that plugins could have been shown
        return None


class PluginTool(BaseTool):
    """A tool of a plugin's, offered to the model in one request."""

    def __init__(self, work: AgentWork, offered: AgentTool) -> None:
        super().__init__(name=offered.name, description=offered.description)
        self.sensitivity = "normal" if offered.requires_confirmation else None
        self.results: dict[str, ToolResult] = {}
        """What calls came to, with their data, by id."""
        self._offered = offered
        self._work = work

    @override
    def _get_declaration(self) -> FunctionDeclaration:
        schema = thaw(self._offered.schema)
        return FunctionDeclaration(name=self.name, description=self.description, parameters_json_schema=schema)

    @override
    async def run_async(self, *, args: dict[str, Any], tool_context: Any) -> dict[str, Any]:
        """Call it; a failure is a result too. Cancelling cancels it."""
        result = self.results[tool_context.function_call_id] = await call_offered(self._work, self._offered, args)
        return {"result" if result.success else "error": text_for_model(result)}
