"""A plugin framework for LLM-agent hosts: everything public, loaded when it is first used.

`import ally_plugins` is cheap on purpose (PEP 562): a plugin that needs three names pays for three. Type checkers read
`__init__.pyi` instead.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__version__: Final = "0.1.0"
"""The version of this distribution; what plugins depend on is `HOST_API`."""


def lazy_exports(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` of a package whose names are imported when they are first used.

    `homes` has the names by the module that defines them, which is named relative to the package. Here and not in a
    module of its own, since `import ally_plugins.daemon` is every daemon's start and a module more is time.
    """
    home_of = {name: module for module, names in homes.items() for name in names.split()}
    namespace = vars(import_module(package))  # which is being imported: it is in sys.modules

    def getattr_(name: str) -> Any:
        module = home_of.get(name)
        if module is None:
            message = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(message)
        value = namespace[name] = getattr(import_module(f"{package}.{module}"), name)
        return value

    def dir_() -> list[str]:
        return sorted({*namespace, *home_of})

    return getattr_, dir_, sorted(home_of)


_HOMES: Final = {
    "adapters.kit.blocking": "BlockingKit",
    "adapters.kit.kit": "AgentKit",
    "adapters.kit.live_sessions": "LiveSession",
    "adapters.kit.tool_calls": "CallDeferred",
    "adapters.kit.work": "AgentWork",
    "catalog.decide.record": "PluginRecord",
    "catalog.discovery.bridge": "Bridge BridgedPlugin BridgeHost Building",
    "catalog.discovery.found": "Discovery Found",
    "catalog.discovery.source": "Search Source",
    "catalog.home.folder": "Home",
    "contract.grants": "Grant",
    "contract.calls": "Task",
    "contract.handle": "Ally",
    "contract.manifest": "HOST_API Manifest",
    "contract.markers": "hookimpl",
    "contract.process_spec": "Daemon ProcessLimits Restarts running_python Timing",
    "contract.programs": "Program Ran",
    "contract.serves": "Serves",
    "contract.tools.agent_tool": "AgentTool MAIN_AGENT",
    "contract.tools.declared": "action tool ToolSpec",
    "contract.values.conversation": (
        "ActionRequest AgentState Context evolve Message ModelInput PromptSection Receipt Stop TodoItem ToolCall "
        "ToolResult"
    ),
    "contract.values.errors": (
        "AllyError ArgumentsError AuditError BudgetRefused ConfigError ConsentError EventError GateRefused "
        "HopLimitRefused HostError JournalError KeyConflictRefused ManifestError NotFoundRefused OperatorError "
        "OrderError PermissionRefused PluginError PluginLoadError ProtocolError RecordingError ReentryRefused "
        "RefusedError RemoteError SessionError ToolCallError UnavailableRefused UndeclaredError ValidationRefused "
        "VersionError WireError"
    ),
    "contract.values.event_types": "CODE_ALLY_TYPES PLUGIN_TYPES",
    "contract.values.events": (
        "AgentEnd AgentStart AssistantMessage CompactionComplete CompactionStart ContextThreshold "
        "ContextUsageUpdate Decision DiffPreview Event EVENT_TYPES EventsDropped ModelRequest ModelResponse "
        "PermissionRequest PermissionResponse PluginActionRequested PluginEvent PluginEventEmitted "
        "PluginMessageReceived PluginState PromptPrefixChanged SessionEnd SessionStart TaskProgress ThoughtComplete "
        "TodoUpdate ToolCallEnd ToolCallStart UserMessage"
    ),
    "contract.values.frozen": "FrozenDict",
    "contract.values.questions": "AskPerson PluginQuestion",
    "contract.values.verdicts": "Allow Ask Deny Replace",
    "host.blocking": "BlockingHost",
    "host.bus.bus": "PluginMessageBus",
    "host.bus.tasks": "PluginTask Tasks",
    "host.health": "Health PluginHealth",
    "host.host": "Host",
    "host.person.permission": "Approver PermissionQuestion",
    "host.person.previews": "file_preview",
    "host.sessions.gates": "Ruling",
    "host.sessions.memory": "Conversation",
    "host.sessions.open_calls": "Postponed",
    "host.sessions.session": "Session",
    "host.sessions.stream": "ActivityStream json_lines",
    "journal.journal": "Journal",
    "policy.budget": "Limits",
    "policy.permissions": "GrantSet",
    "runtime.lanes.clock": "Clock RecordedClock SystemClock",
}

__getattr__, __dir__, __all__ = lazy_exports(__name__, _HOMES)
__all__ += ["__version__"]
