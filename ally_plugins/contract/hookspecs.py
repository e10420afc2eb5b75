"""The hook specifications: what a plugin may implement (`PluginHooks`) and what a host implements (`HostHooks`).

pluggy validates implementations against these; our executor runs them, since pluggy is synchronous. An implementation
is `def` or `async def` and names any subset of a hook's arguments. What each kind of hook may return, and what happens
when it fails, stands in its docstring here; `HOOKS` is the same as data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from attrs import frozen

from .markers import hookspec
from .values.event_types import EVENT_NAMES, hook_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from .values import events
    from .values.conversation import (
        ActionRequest,
        Context,
        Message,
        ModelInput,
        PromptSection,
        Stop,
        ToolCall,
        ToolResult,
    )
    from .values.verdicts import Allow, Ask, Deny, Replace

    Verdict = Allow | Ask | Deny | None

__all__ = ["HOOKS", "HOOKS_OF_TOPICS", "HookInfo", "HookKind", "HostHooks", "PluginHooks"]

HookKind = Literal["observe", "gate", "transform", "lifecycle", "capability"]


class PluginHooks:
    """What a plugin may implement."""

    # Lifecycle: the plugin's own start and stop.

    @hookspec
    def ally_start(self) -> None:
        """The plugin may begin: from here on it may make outbound calls. A failure is a failed start."""

    @hookspec
    def ally_stop(self) -> None:
        """The host is about to let the plugin go; 5 s to clean up."""

    # Observe: an event happened; the result is ignored. One at a time, in order of `seq`.

    @hookspec
    def ally_event(self, event: events.Event) -> None:
        """Any event that the plugin is subscribed to, after the hook of its own type."""

    @hookspec
    def ally_tool_call_start(self, event: events.ToolCallStart) -> None:
        """A tool is about to run; for a group of calls, `group_execution` is true and `tools` lists them."""

    @hookspec
    def ally_tool_call_end(self, event: events.ToolCallEnd) -> None:
        """A tool has returned, or failed with `error`. `duration_ms` is in milliseconds."""

    @hookspec
    def ally_agent_start(self, event: events.AgentStart) -> None:
        """The agent, or a sub-agent that it delegated `task_prompt` to, begins to work."""

    @hookspec
    def ally_agent_end(self, event: events.AgentEnd) -> None:
        """An agent has finished, or was interrupted. `duration` is in seconds, `context_usage` in percent."""

    @hookspec
    def ally_permission_request(self, event: events.PermissionRequest) -> None:
        """The host asks whether a tool may run; also what `ally_gate_permission` decides on."""

    @hookspec
    def ally_permission_response(self, event: events.PermissionResponse) -> None:
        """A permission request was answered with `choice`, one of its options."""

    @hookspec
    def ally_compaction_start(self, event: events.CompactionStart) -> None:
        """The host begins to shorten the conversation."""

    @hookspec
    def ally_compaction_complete(self, event: events.CompactionComplete) -> None:
        """The conversation was shortened, or with `is_error` could not be. Usage and threshold are in percent."""

    @hookspec
    def ally_context_usage_update(self, event: events.ContextUsageUpdate) -> None:
        """How much of the model's context window is used, 0 to 100 percent; with `parent_call_id`, a sub-agent's."""

    @hookspec
    def ally_todo_update(self, event: events.TodoUpdate) -> None:
        """The agent's list of todos is now this: `{id, task, status, activeForm?}` each."""

    @hookspec
    def ally_thought_complete(self, event: events.ThoughtComplete) -> None:
        """The model has finished a thought."""

    @hookspec
    def ally_diff_preview(self, event: events.DiffPreview) -> None:
        """What an edit would change, before it is applied."""

    @hookspec
    def ally_plugin_message_received(self, event: events.PluginMessageReceived) -> None:
        """A plugin's message has entered the conversation."""

    @hookspec
    def ally_plugin_event_emitted(self, event: events.PluginEventEmitted) -> None:
        """A plugin has emitted an event of its own; `event_type` is its full name, `<plugin>:<type>`."""

    @hookspec
    def ally_plugin_action_requested(self, event: events.PluginActionRequested) -> None:
        """A plugin, the person or the agent asks for an action."""

    @hookspec
    def ally_session_start(self, event: events.SessionStart) -> None:
        """A session begins, or is found again (`resumed`). `focus` is its working directory."""

    @hookspec
    def ally_session_end(self, event: events.SessionEnd) -> None:
        """A session has ended; `reason` says why."""

    @hookspec
    def ally_user_message(self, event: events.UserMessage) -> None:
        """The person has sent a message."""

    @hookspec
    def ally_assistant_message(self, event: events.AssistantMessage) -> None:
        """The model has answered the person."""

    @hookspec
    def ally_model_request(self, event: events.ModelRequest) -> None:
        """The host asks the model to go on."""

    @hookspec
    def ally_model_response(self, event: events.ModelResponse) -> None:
        """The model has answered. Counts are tokens, `duration_ms` milliseconds."""

    @hookspec
    def ally_context_threshold(self, event: events.ContextThreshold) -> None:
        """Context usage has passed `threshold` (50, 75 or 90 percent); once, and again after it fell below."""

    @hookspec
    def ally_prompt_prefix_changed(self, event: events.PromptPrefixChanged) -> None:
        """A plugin has changed what requests to the model begin with, which a provider's cache holds no more."""

    @hookspec
    def ally_plugin_state(self, event: events.PluginState) -> None:
        """A plugin is now in `state`; `reason` says why, and where possible the command that changes it."""

    @hookspec
    def ally_task_progress(self, event: events.TaskProgress) -> None:
        """A plugin's task is in `state` (running, done, failed, cancelled); `progress` is from 0 to 1."""

    @hookspec
    def ally_decision(self, event: events.Decision) -> None:
        """A gate was decided: `verdict` is allow, ask or deny. `subject` names what it was about."""

    @hookspec
    def ally_events_dropped(self, event: events.EventsDropped) -> None:
        """A plugin fell behind and lost `count` events; `ranges` holds `[first, last]` sequence numbers, both lost."""

    # Gate: called before something happens, in all plugins concurrently, each under its own deadline; fails closed.

    @hookspec
    def ally_gate_tool_call(self, call: ToolCall, context: Context) -> Verdict:
        """May this tool run? `call` carries the final arguments, after the transforms."""

    @hookspec
    def ally_gate_message(self, message: Message, context: Context) -> Verdict:
        """May another plugin's message enter the conversation?"""

    @hookspec
    def ally_gate_permission(self, request: events.PermissionRequest, context: Context) -> Verdict:
        """What is the answer to the host's own permission question? A waiver needs the grant `gate:waive`."""

    @hookspec
    def ally_gate_user_message(self, message: Message, context: Context) -> Verdict:
        """May the person's message, as transforms left it, reach the agent? The person reads why not."""

    @hookspec
    def ally_gate_answer(self, message: Message, context: Context) -> Verdict:
        """May what the model answered, as transforms left it, be shown and kept? A deny ends the turn.

        The model is not asked again. `message.metadata` has `isPartial` where it is the text so far of a stream, which
        takes the grant `gate:answer:sentence`; `isStructured` where the content is the JSON of a structured answer.
        """

    @hookspec
    def ally_gate_stop(self, stop: Stop, context: Context) -> Verdict:
        """May the agent end its turn? A deny sends it on, with the reason as a message of this plugin.

        At most three times in a row without a tool call between; then the turn ends.
        """

    # Transform: a chain in hook order; each sees what the one before made of the value.

    @hookspec
    def ally_transform_tool_input(self, call: ToolCall) -> Replace[Any] | None:
        """Change the arguments of a tool call, before it is checked, gated, shown and run: `Replace(ToolCall)`."""

    @hookspec
    def ally_transform_tool_output(self, call: ToolCall, result: ToolResult) -> Replace[Any] | None:
        """Change what a tool returned, before anybody sees it: `Replace(ToolResult)`."""

    @hookspec
    def ally_transform_user_message(self, message: Message) -> Replace[Any] | None:
        """Change the person's message, before the model sees it: `Replace(Message)`."""

    @hookspec
    def ally_transform_answer(self, message: Message) -> Replace[Any] | None:
        """Change what the model answered, before it is gated, shown and kept: `Replace(Message)`.

        An answer is held until then. The content of a structured answer is its JSON, and stays JSON.
        """

    @hookspec
    def ally_transform_plugin_message(self, message: Message) -> Replace[Any] | None:
        """Change another plugin's message, before it is recorded: `Replace(Message)`."""

    @hookspec
    def ally_transform_system_prompt(self, sections: tuple[PromptSection, ...]) -> Replace[Any] | None:
        """Change, drop or add sections of the system prompt before a model request: `Replace((*sections, ...))`."""

    @hookspec
    def ally_transform_model_request(self, request: ModelInput) -> Replace[Any] | None:
        """Change texts, drop or add messages, change settings of a request to the model: `Replace(ModelInput)`."""


class HostHooks:
    """What a host implements: the outbound capabilities, called by the bus once a call has passed every step before.

    The first result that is not None wins; an implementation may be `async def`. A host author registers an object with
    `Host(implementation=...)`; without one, the in-memory conversation of each session answers.
    """

    @hookspec(firstresult=True)
    def ally_add_message(self, session: Any, message: Message) -> bool | Awaitable[bool] | None:
        """Take a plugin's message into the conversation, at a safe point; fold one whose id is there already."""

    @hookspec(firstresult=True)
    def ally_emit_event(self, session: Any, event: events.PluginEvent) -> bool | Awaitable[bool] | None:
        """Pass on an event that a plugin has emitted."""

    @hookspec(firstresult=True)
    def ally_get_context(
        self, session: Any, parts: Sequence[str], since: str | None
    ) -> Context | Awaitable[Context] | None:
        """Return the parts of the session's context that were asked for; the bus takes out what is private."""

    @hookspec(firstresult=True)
    def ally_request_action(self, session: Any, request: ActionRequest) -> Any:
        """Carry out an action of the host's own (`compact`, `interrupt`, ...); None means that it has none such."""


@frozen
class HookInfo:
    """One hook: its kind, its arguments, and for observers the event type."""

    name: str
    kind: HookKind
    arguments: tuple[str, ...]
    event_type: str | None = None
    topic: str | None = None
    """For gates and transforms, the name that manifests and grants use: `tool_call`, `user_message`, ..."""


def _infos() -> dict[str, HookInfo]:
    infos = [HookInfo("ally_start", "lifecycle", ()), HookInfo("ally_stop", "lifecycle", ())]
    infos += [HookInfo("ally_event", "observe", ("event",), "*")]
    infos += [HookInfo(hook_name(event_type), "observe", ("event",), event_type) for event_type in EVENT_NAMES]
    infos += [
        HookInfo("ally_gate_tool_call", "gate", ("call", "context"), topic="tool_call"),
        HookInfo("ally_gate_message", "gate", ("message", "context"), topic="message"),
        HookInfo("ally_gate_permission", "gate", ("request", "context"), topic="permission"),
        HookInfo("ally_gate_user_message", "gate", ("message", "context"), topic="user_message"),
        HookInfo("ally_gate_answer", "gate", ("message", "context"), topic="answer"),
        HookInfo("ally_gate_stop", "gate", ("stop", "context"), topic="stop"),
        HookInfo("ally_transform_tool_input", "transform", ("call",), topic="tool_input"),
        HookInfo("ally_transform_tool_output", "transform", ("call", "result"), topic="tool_output"),
        HookInfo("ally_transform_user_message", "transform", ("message",), topic="user_message"),
        HookInfo("ally_transform_answer", "transform", ("message",), topic="answer"),
        HookInfo("ally_transform_plugin_message", "transform", ("message",), topic="plugin_message"),
        HookInfo("ally_transform_system_prompt", "transform", ("sections",), topic="system_prompt"),
        HookInfo("ally_transform_model_request", "transform", ("request",), topic="model_request"),
        HookInfo("ally_add_message", "capability", ("session", "message")),
        HookInfo("ally_emit_event", "capability", ("session", "event")),
        HookInfo("ally_get_context", "capability", ("session", "parts", "since")),
        HookInfo("ally_request_action", "capability", ("session", "request")),
    ]
    return {info.name: info for info in infos}


HOOKS: Final = _infos()
"""Every hook by its name."""


def _by_topic() -> dict[str, tuple[str, ...]]:
    topics = dict.fromkeys(info.topic for info in HOOKS.values() if info.topic is not None)
    return {topic: tuple(name for name, info in HOOKS.items() if info.topic == topic) for topic in topics}


HOOKS_OF_TOPICS: Final = _by_topic()
"""The gates and transforms of each topic: a value may be both transformed and gated."""
