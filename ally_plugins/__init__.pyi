# What type checkers see of `__init__`, which imports a name when it is first used.

from collections.abc import Callable, Mapping
from typing import Any

from .adapters.kit.blocking import BlockingKit as BlockingKit
from .adapters.kit.kit import AgentKit as AgentKit
from .adapters.kit.live_sessions import LiveSession as LiveSession
from .adapters.kit.tool_calls import CallDeferred as CallDeferred
from .adapters.kit.work import AgentWork as AgentWork
from .catalog.decide.record import PluginRecord as PluginRecord
from .catalog.discovery.bridge import Bridge as Bridge
from .catalog.discovery.bridge import BridgedPlugin as BridgedPlugin
from .catalog.discovery.bridge import BridgeHost as BridgeHost
from .catalog.discovery.bridge import Building as Building
from .catalog.discovery.found import Discovery as Discovery
from .catalog.discovery.found import Found as Found
from .catalog.discovery.source import Search as Search
from .catalog.discovery.source import Source as Source
from .catalog.home.folder import Home as Home
from .contract.calls import Task as Task
from .contract.grants import Grant as Grant
from .contract.handle import Ally as Ally
from .contract.manifest import HOST_API as HOST_API
from .contract.manifest import Manifest as Manifest
from .contract.markers import hookimpl as hookimpl
from .contract.process_spec import Daemon as Daemon
from .contract.process_spec import ProcessLimits as ProcessLimits
from .contract.process_spec import Restarts as Restarts
from .contract.process_spec import Timing as Timing
from .contract.process_spec import running_python as running_python
from .contract.programs import Program as Program
from .contract.programs import Ran as Ran
from .contract.serves import Serves as Serves
from .contract.tools.agent_tool import MAIN_AGENT as MAIN_AGENT
from .contract.tools.agent_tool import AgentTool as AgentTool
from .contract.tools.declared import ToolSpec as ToolSpec
from .contract.tools.declared import action as action
from .contract.tools.declared import tool as tool
from .contract.values.conversation import (
    ActionRequest as ActionRequest,
)
from .contract.values.conversation import (
    AgentState as AgentState,
)
from .contract.values.conversation import (
    Context as Context,
)
from .contract.values.conversation import (
    Message as Message,
)
from .contract.values.conversation import (
    ModelInput as ModelInput,
)
from .contract.values.conversation import (
    PromptSection as PromptSection,
)
from .contract.values.conversation import (
    Receipt as Receipt,
)
from .contract.values.conversation import (
    Stop as Stop,
)
from .contract.values.conversation import (
    TodoItem as TodoItem,
)
from .contract.values.conversation import (
    ToolCall as ToolCall,
)
from .contract.values.conversation import (
    ToolResult as ToolResult,
)
from .contract.values.conversation import (
    evolve as evolve,
)
from .contract.values.errors import (
    AllyError as AllyError,
)
from .contract.values.errors import (
    ArgumentsError as ArgumentsError,
)
from .contract.values.errors import (
    AuditError as AuditError,
)
from .contract.values.errors import (
    BudgetRefused as BudgetRefused,
)
from .contract.values.errors import (
    ConfigError as ConfigError,
)
from .contract.values.errors import (
    ConsentError as ConsentError,
)
from .contract.values.errors import (
    EventError as EventError,
)
from .contract.values.errors import (
    GateRefused as GateRefused,
)
from .contract.values.errors import (
    HopLimitRefused as HopLimitRefused,
)
from .contract.values.errors import (
    HostError as HostError,
)
from .contract.values.errors import (
    JournalError as JournalError,
)
from .contract.values.errors import (
    KeyConflictRefused as KeyConflictRefused,
)
from .contract.values.errors import (
    ManifestError as ManifestError,
)
from .contract.values.errors import (
    NotFoundRefused as NotFoundRefused,
)
from .contract.values.errors import (
    OperatorError as OperatorError,
)
from .contract.values.errors import (
    OrderError as OrderError,
)
from .contract.values.errors import (
    PermissionRefused as PermissionRefused,
)
from .contract.values.errors import (
    PluginError as PluginError,
)
from .contract.values.errors import (
    PluginLoadError as PluginLoadError,
)
from .contract.values.errors import (
    ProtocolError as ProtocolError,
)
from .contract.values.errors import (
    RecordingError as RecordingError,
)
from .contract.values.errors import (
    ReentryRefused as ReentryRefused,
)
from .contract.values.errors import (
    RefusedError as RefusedError,
)
from .contract.values.errors import (
    RemoteError as RemoteError,
)
from .contract.values.errors import (
    SessionError as SessionError,
)
from .contract.values.errors import (
    ToolCallError as ToolCallError,
)
from .contract.values.errors import (
    UnavailableRefused as UnavailableRefused,
)
from .contract.values.errors import (
    UndeclaredError as UndeclaredError,
)
from .contract.values.errors import (
    ValidationRefused as ValidationRefused,
)
from .contract.values.errors import (
    VersionError as VersionError,
)
from .contract.values.errors import (
    WireError as WireError,
)
from .contract.values.event_types import (
    CODE_ALLY_TYPES as CODE_ALLY_TYPES,
)
from .contract.values.event_types import (
    PLUGIN_TYPES as PLUGIN_TYPES,
)
from .contract.values.events import (
    EVENT_TYPES as EVENT_TYPES,
)
from .contract.values.events import (
    AgentEnd as AgentEnd,
)
from .contract.values.events import (
    AgentStart as AgentStart,
)
from .contract.values.events import (
    AssistantMessage as AssistantMessage,
)
from .contract.values.events import (
    CompactionComplete as CompactionComplete,
)
from .contract.values.events import (
    CompactionStart as CompactionStart,
)
from .contract.values.events import (
    ContextThreshold as ContextThreshold,
)
from .contract.values.events import (
    ContextUsageUpdate as ContextUsageUpdate,
)
from .contract.values.events import (
    Decision as Decision,
)
from .contract.values.events import (
    DiffPreview as DiffPreview,
)
from .contract.values.events import (
    Event as Event,
)
from .contract.values.events import (
    EventsDropped as EventsDropped,
)
from .contract.values.events import (
    ModelRequest as ModelRequest,
)
from .contract.values.events import (
    ModelResponse as ModelResponse,
)
from .contract.values.events import (
    PermissionRequest as PermissionRequest,
)
from .contract.values.events import (
    PermissionResponse as PermissionResponse,
)
from .contract.values.events import (
    PluginActionRequested as PluginActionRequested,
)
from .contract.values.events import (
    PluginEvent as PluginEvent,
)
from .contract.values.events import (
    PluginEventEmitted as PluginEventEmitted,
)
from .contract.values.events import (
    PluginMessageReceived as PluginMessageReceived,
)
from .contract.values.events import (
    PluginState as PluginState,
)
from .contract.values.events import (
    PromptPrefixChanged as PromptPrefixChanged,
)
from .contract.values.events import (
    SessionEnd as SessionEnd,
)
from .contract.values.events import (
    SessionStart as SessionStart,
)
from .contract.values.events import (
    TaskProgress as TaskProgress,
)
from .contract.values.events import (
    ThoughtComplete as ThoughtComplete,
)
from .contract.values.events import (
    TodoUpdate as TodoUpdate,
)
from .contract.values.events import (
    ToolCallEnd as ToolCallEnd,
)
from .contract.values.events import (
    ToolCallStart as ToolCallStart,
)
from .contract.values.events import (
    UserMessage as UserMessage,
)
from .contract.values.frozen import FrozenDict as FrozenDict
from .contract.values.questions import AskPerson as AskPerson
from .contract.values.questions import PluginQuestion as PluginQuestion
from .contract.values.verdicts import Allow as Allow
from .contract.values.verdicts import Ask as Ask
from .contract.values.verdicts import Deny as Deny
from .contract.values.verdicts import Replace as Replace
from .host.blocking import BlockingHost as BlockingHost
from .host.bus.bus import PluginMessageBus as PluginMessageBus
from .host.bus.tasks import PluginTask as PluginTask
from .host.bus.tasks import Tasks as Tasks
from .host.health import Health as Health
from .host.health import PluginHealth as PluginHealth
from .host.host import Host as Host
from .host.person.permission import Approver as Approver
from .host.person.permission import PermissionQuestion as PermissionQuestion
from .host.person.previews import file_preview as file_preview
from .host.sessions.gates import Ruling as Ruling
from .host.sessions.memory import Conversation as Conversation
from .host.sessions.open_calls import Postponed as Postponed
from .host.sessions.session import Session as Session
from .host.sessions.stream import ActivityStream as ActivityStream
from .host.sessions.stream import json_lines as json_lines
from .journal.journal import Journal as Journal
from .policy.budget import Limits as Limits
from .policy.permissions import GrantSet as GrantSet
from .runtime.lanes.clock import Clock as Clock
from .runtime.lanes.clock import RecordedClock as RecordedClock
from .runtime.lanes.clock import SystemClock as SystemClock

__version__: str
__all__: list[str]

def lazy_exports(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]: ...
