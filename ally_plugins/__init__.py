"""A plugin framework for LLM-agent hosts: everything public, loaded when it is first used.

`import ally_plugins` is cheap on purpose (PEP 562): a plugin that needs three names pays for three.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .agentkit import (
        AgentKit as AgentKit,
    )
    from .agentkit import (
        AgentWork as AgentWork,
    )
    from .agentkit import (
        LiveSession as LiveSession,
    )
    from .agentkit.permission import (
        Approver as Approver,
    )
    from .agentkit.permission import (
        PermissionQuestion as PermissionQuestion,
    )
    from .agentkit.previews import (
        file_preview as file_preview,
    )
    from .agenttools import (
        MAIN_AGENT as MAIN_AGENT,
    )
    from .agenttools import (
        AgentTool as AgentTool,
    )
    from .blocking import (
        BlockingHost as BlockingHost,
    )
    from .bus import (
        PluginMessageBus as PluginMessageBus,
    )
    from .conversation import (
        ActionRequest as ActionRequest,
    )
    from .conversation import (
        AgentState as AgentState,
    )
    from .conversation import (
        Context as Context,
    )
    from .conversation import (
        Message as Message,
    )
    from .conversation import (
        ModelInput as ModelInput,
    )
    from .conversation import (
        PromptSection as PromptSection,
    )
    from .conversation import (
        Receipt as Receipt,
    )
    from .conversation import (
        TodoItem as TodoItem,
    )
    from .conversation import (
        ToolCall as ToolCall,
    )
    from .conversation import (
        ToolResult as ToolResult,
    )
    from .conversation import (
        evolve as evolve,
    )
    from .daemons import (
        Daemon as Daemon,
    )
    from .daemons import (
        ProcessLimits as ProcessLimits,
    )
    from .daemons import (
        Timing as Timing,
    )
    from .errors import (
        AllyError as AllyError,
    )
    from .errors import (
        ArgumentsError as ArgumentsError,
    )
    from .errors import (
        AuditError as AuditError,
    )
    from .errors import (
        BudgetRefused as BudgetRefused,
    )
    from .errors import (
        ConfigError as ConfigError,
    )
    from .errors import (
        ConsentError as ConsentError,
    )
    from .errors import (
        EventError as EventError,
    )
    from .errors import (
        GateRefused as GateRefused,
    )
    from .errors import (
        HopLimitRefused as HopLimitRefused,
    )
    from .errors import (
        HostError as HostError,
    )
    from .errors import (
        JournalError as JournalError,
    )
    from .errors import (
        KeyConflictRefused as KeyConflictRefused,
    )
    from .errors import (
        ManifestError as ManifestError,
    )
    from .errors import (
        NotFoundRefused as NotFoundRefused,
    )
    from .errors import (
        OperatorError as OperatorError,
    )
    from .errors import (
        OrderError as OrderError,
    )
    from .errors import (
        PermissionRefused as PermissionRefused,
    )
    from .errors import (
        PluginError as PluginError,
    )
    from .errors import (
        PluginLoadError as PluginLoadError,
    )
    from .errors import (
        ProtocolError as ProtocolError,
    )
    from .errors import (
        RecordingError as RecordingError,
    )
    from .errors import (
        ReentryRefused as ReentryRefused,
    )
    from .errors import (
        RefusedError as RefusedError,
    )
    from .errors import (
        RemoteError as RemoteError,
    )
    from .errors import (
        SessionError as SessionError,
    )
    from .errors import (
        ToolCallError as ToolCallError,
    )
    from .errors import (
        UnavailableRefused as UnavailableRefused,
    )
    from .errors import (
        UndeclaredError as UndeclaredError,
    )
    from .errors import (
        ValidationRefused as ValidationRefused,
    )
    from .errors import (
        VersionError as VersionError,
    )
    from .errors import (
        WireError as WireError,
    )
    from .events import (
        CODE_ALLY_TYPES as CODE_ALLY_TYPES,
    )
    from .events import (
        EVENT_TYPES as EVENT_TYPES,
    )
    from .events import (
        PLUGIN_TYPES as PLUGIN_TYPES,
    )
    from .events import (
        AgentEnd as AgentEnd,
    )
    from .events import (
        AgentStart as AgentStart,
    )
    from .events import (
        AssistantMessage as AssistantMessage,
    )
    from .events import (
        CompactionComplete as CompactionComplete,
    )
    from .events import (
        CompactionStart as CompactionStart,
    )
    from .events import (
        ContextThreshold as ContextThreshold,
    )
    from .events import (
        ContextUsageUpdate as ContextUsageUpdate,
    )
    from .events import (
        Decision as Decision,
    )
    from .events import (
        DiffPreview as DiffPreview,
    )
    from .events import (
        Event as Event,
    )
    from .events import (
        EventsDropped as EventsDropped,
    )
    from .events import (
        ModelRequest as ModelRequest,
    )
    from .events import (
        ModelResponse as ModelResponse,
    )
    from .events import (
        PermissionRequest as PermissionRequest,
    )
    from .events import (
        PermissionResponse as PermissionResponse,
    )
    from .events import (
        PluginActionRequested as PluginActionRequested,
    )
    from .events import (
        PluginEvent as PluginEvent,
    )
    from .events import (
        PluginEventEmitted as PluginEventEmitted,
    )
    from .events import (
        PluginMessageReceived as PluginMessageReceived,
    )
    from .events import (
        PluginState as PluginState,
    )
    from .events import (
        SessionEnd as SessionEnd,
    )
    from .events import (
        SessionStart as SessionStart,
    )
    from .events import (
        TaskProgress as TaskProgress,
    )
    from .events import (
        ThoughtComplete as ThoughtComplete,
    )
    from .events import (
        TodoUpdate as TodoUpdate,
    )
    from .events import (
        ToolCallEnd as ToolCallEnd,
    )
    from .events import (
        ToolCallStart as ToolCallStart,
    )
    from .events import (
        UserMessage as UserMessage,
    )
    from .frozen import (
        FrozenDict as FrozenDict,
    )
    from .grants import (
        Grant as Grant,
    )
    from .handle import (
        Ally as Ally,
    )
    from .handle import (
        Task as Task,
    )
    from .home import (
        Home as Home,
    )
    from .host import (
        Host as Host,
    )
    from .journal import (
        Journal as Journal,
    )
    from .judging import (
        Ruling as Ruling,
    )
    from .manifest import (
        HOST_API as HOST_API,
    )
    from .manifest import (
        Manifest as Manifest,
    )
    from .markers import (
        hookimpl as hookimpl,
    )
    from .memory import (
        Conversation as Conversation,
    )
    from .policy.budget import (
        Limits as Limits,
    )
    from .policy.permissions import (
        GrantSet as GrantSet,
    )
    from .records import (
        PluginRecord as PluginRecord,
    )
    from .runtime.clock import (
        Clock as Clock,
    )
    from .runtime.clock import (
        RecordedClock as RecordedClock,
    )
    from .runtime.clock import (
        SystemClock as SystemClock,
    )
    from .session import (
        Session as Session,
    )
    from .stream import (
        ActivityStream as ActivityStream,
    )
    from .tasks import (
        PluginTask as PluginTask,
    )
    from .tasks import (
        Tasks as Tasks,
    )
    from .tools import (
        ToolSpec as ToolSpec,
    )
    from .tools import (
        action as action,
    )
    from .tools import (
        tool as tool,
    )
    from .verdicts import (
        Allow as Allow,
    )
    from .verdicts import (
        Ask as Ask,
    )
    from .verdicts import (
        Deny as Deny,
    )
    from .verdicts import (
        Replace as Replace,
    )

__version__: Final = "0.1.0"
"""The version of this distribution; what plugins depend on is `HOST_API`."""

_HOMES: Final = {
    "agentkit": (
        "AgentKit",
        "AgentWork",
        "LiveSession",
    ),
    "agentkit.permission": (
        "Approver",
        "PermissionQuestion",
    ),
    "agentkit.previews": ("file_preview",),
    "agenttools": ("MAIN_AGENT", "AgentTool"),
    "blocking": ("BlockingHost",),
    "bus": ("PluginMessageBus",),
    "conversation": (
        "ActionRequest",
        "AgentState",
        "Context",
        "Message",
        "ModelInput",
        "PromptSection",
        "Receipt",
        "TodoItem",
        "ToolCall",
        "ToolResult",
        "evolve",
    ),
    "daemons": (
        "Daemon",
        "ProcessLimits",
        "Timing",
    ),
    "errors": (
        "AllyError",
        "ArgumentsError",
        "AuditError",
        "BudgetRefused",
        "ConfigError",
        "ConsentError",
        "EventError",
        "GateRefused",
        "HopLimitRefused",
        "HostError",
        "JournalError",
        "KeyConflictRefused",
        "ManifestError",
        "NotFoundRefused",
        "OperatorError",
        "OrderError",
        "PermissionRefused",
        "PluginError",
        "PluginLoadError",
        "ProtocolError",
        "RecordingError",
        "ReentryRefused",
        "RefusedError",
        "RemoteError",
        "SessionError",
        "ToolCallError",
        "UnavailableRefused",
        "UndeclaredError",
        "ValidationRefused",
        "VersionError",
        "WireError",
    ),
    "events": (
        "AgentEnd",
        "AgentStart",
        "AssistantMessage",
        "CODE_ALLY_TYPES",
        "CompactionComplete",
        "CompactionStart",
        "ContextThreshold",
        "ContextUsageUpdate",
        "Decision",
        "DiffPreview",
        "EVENT_TYPES",
        "Event",
        "EventsDropped",
        "ModelRequest",
        "ModelResponse",
        "PLUGIN_TYPES",
        "PermissionRequest",
        "PermissionResponse",
        "PluginActionRequested",
        "PluginEvent",
        "PluginEventEmitted",
        "PluginMessageReceived",
        "PluginState",
        "SessionEnd",
        "SessionStart",
        "TaskProgress",
        "ThoughtComplete",
        "TodoUpdate",
        "ToolCallEnd",
        "ToolCallStart",
        "UserMessage",
    ),
    "frozen": ("FrozenDict",),
    "grants": ("Grant",),
    "handle": (
        "Ally",
        "Task",
    ),
    "home": ("Home",),
    "host": ("Host",),
    "journal": ("Journal",),
    "judging": ("Ruling",),
    "manifest": (
        "HOST_API",
        "Manifest",
    ),
    "markers": ("hookimpl",),
    "memory": ("Conversation",),
    "policy.budget": ("Limits",),
    "policy.permissions": ("GrantSet",),
    "records": ("PluginRecord",),
    "runtime.clock": (
        "Clock",
        "RecordedClock",
        "SystemClock",
    ),
    "session": ("Session",),
    "stream": ("ActivityStream",),
    "tasks": ("PluginTask", "Tasks"),
    "tools": (
        "ToolSpec",
        "action",
        "tool",
    ),
    "verdicts": (
        "Allow",
        "Ask",
        "Deny",
        "Replace",
    ),
}
_HOME_OF: Final = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: PLE0604 # pyright: ignore[reportUnsupportedDunderAll] - names, one by one, from the table
    "__version__",
    *_HOME_OF,
]


def __getattr__(name: str) -> Any:
    module = _HOME_OF.get(name)
    if module is None:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
