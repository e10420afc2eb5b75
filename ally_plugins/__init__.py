"""A plugin framework for LLM-agent hosts: everything public, loaded when it is first used.

`import ally_plugins` is cheap on purpose (PEP 562): a plugin that needs three names pays for three.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .blocking import (
        BlockingHost as BlockingHost,
    )
    from .bus import (
        PluginMessageBus as PluginMessageBus,
    )
    from .conversation import (
        ActionRequest as ActionRequest,
        AgentState as AgentState,
        Context as Context,
        Message as Message,
        Receipt as Receipt,
        TodoItem as TodoItem,
        ToolCall as ToolCall,
        ToolResult as ToolResult,
    )
    from .errors import (
        AllyError as AllyError,
        ArgumentsError as ArgumentsError,
        AuditError as AuditError,
        BudgetRefused as BudgetRefused,
        ConfigError as ConfigError,
        ConsentError as ConsentError,
        EventError as EventError,
        GateRefused as GateRefused,
        HopLimitRefused as HopLimitRefused,
        HostError as HostError,
        JournalError as JournalError,
        KeyConflictRefused as KeyConflictRefused,
        ManifestError as ManifestError,
        NotFoundRefused as NotFoundRefused,
        OperatorError as OperatorError,
        OrderError as OrderError,
        PermissionRefused as PermissionRefused,
        PluginError as PluginError,
        PluginLoadError as PluginLoadError,
        RecordingError as RecordingError,
        ReentryRefused as ReentryRefused,
        RefusedError as RefusedError,
        SessionError as SessionError,
        ToolCallError as ToolCallError,
        UnavailableRefused as UnavailableRefused,
        UndeclaredError as UndeclaredError,
        ValidationRefused as ValidationRefused,
    )
    from .events import (
        AgentEnd as AgentEnd,
        AgentStart as AgentStart,
        AssistantMessage as AssistantMessage,
        CODE_ALLY_TYPES as CODE_ALLY_TYPES,
        CompactionComplete as CompactionComplete,
        CompactionStart as CompactionStart,
        ContextThreshold as ContextThreshold,
        ContextUsageUpdate as ContextUsageUpdate,
        Decision as Decision,
        DiffPreview as DiffPreview,
        EVENT_TYPES as EVENT_TYPES,
        Event as Event,
        EventsDropped as EventsDropped,
        ModelRequest as ModelRequest,
        ModelResponse as ModelResponse,
        PLUGIN_TYPES as PLUGIN_TYPES,
        PermissionRequest as PermissionRequest,
        PermissionResponse as PermissionResponse,
        PluginActionRequested as PluginActionRequested,
        PluginEvent as PluginEvent,
        PluginEventEmitted as PluginEventEmitted,
        PluginMessageReceived as PluginMessageReceived,
        PluginState as PluginState,
        SessionEnd as SessionEnd,
        SessionStart as SessionStart,
        TaskProgress as TaskProgress,
        ThoughtComplete as ThoughtComplete,
        TodoUpdate as TodoUpdate,
        ToolCallEnd as ToolCallEnd,
        ToolCallStart as ToolCallStart,
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
        RecordedClock as RecordedClock,
        SystemClock as SystemClock,
    )
    from .session import (
        Session as Session,
    )
    from .stream import (
        ActivityStream as ActivityStream,
    )
    from .tools import (
        ToolSpec as ToolSpec,
        action as action,
        tool as tool,
    )
    from .verdicts import (
        Allow as Allow,
        Ask as Ask,
        Deny as Deny,
        Replace as Replace,
    )

__version__: Final = "0.1.0"

_HOMES: Final = {
    "blocking": ("BlockingHost",),
    "bus": ("PluginMessageBus",),
    "conversation": (
        "ActionRequest",
        "AgentState",
        "Context",
        "Message",
        "Receipt",
        "TodoItem",
        "ToolCall",
        "ToolResult",
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
        "RecordingError",
        "ReentryRefused",
        "RefusedError",
        "SessionError",
        "ToolCallError",
        "UnavailableRefused",
        "UndeclaredError",
        "ValidationRefused",
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

__all__ = [  # noqa: PLE0604 - names, one by one, from the table above
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
