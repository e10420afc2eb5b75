"""The one tree of errors, split by whose fault an error is.

AllyError
├── PluginError               the plugin's fault: its author mends it
│   ├── ManifestError         the manifest cannot be read, or says something wrong
│   ├── PluginLoadError       the code cannot be imported, built, or registered
│   │   └── CannotExecute        a daemon's command cannot be executed
│   ├── UndeclaredError       it uses a hook, event or tool that its manifest does not declare
│   ├── TimedOut              a hook did not end within its deadline
│   └── RefusedError          one call was refused; a refusal is an answer, not a crash
│       ├── PermissionRefused    not granted; names the command that grants it
│       ├── BudgetRefused        too much, too often, too large
│       ├── ValidationRefused    the arguments are not acceptable
│       ├── KeyConflictRefused   an idempotency key came again with other content
│       ├── HopLimitRefused      plugins set each other off too often
│       ├── GateRefused          another plugin's gate said no
│       ├── ReentryRefused       the call would wait for the hook that makes it
│       ├── NotFoundRefused      no such session, action, tool or task
│       └── UnavailableRefused   the host cannot do it now (stopping, or the journal fails)
├── HostError                 the host author's fault
│   ├── EventError            an event or value does not fit its type
│   │   └── EncodeError       a value cannot be represented in JSON
│   ├── SessionError          a session is closed or unknown
│   └── ToolCallError         a tool call cannot be carried out, or failed
│       └── ArgumentsError    the arguments do not fit the tool's schema
├── OperatorError             what the operator can put right
│   ├── ConfigError           config.toml or an option is wrong
│   ├── ConsentError          something waits for the operator's consent
│   ├── OrderError            before/after edges form a cycle
│   └── JournalError          the journal cannot be opened, read or written
│       ├── JournalVersionError  a newer ally-plugins has written it, or none that is known
│       └── AuditError        the audit chain is broken
├── WireError                 the fault of whoever stands at the other end of a daemon's connection
│   ├── ProtocolError         it does not keep to the protocol; the connection is over
│   │   └── VersionError      it speaks no version of the protocol that we speak
│   └── RemoteError           it answered a call with an error that is none of ours
└── RecordingError            a recorded session cannot be read

Errors carry what they are about as attributes; the text is lower case, without a full stop, and never holds a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

__all__ = [
    "AllyError",
    "ArgumentsError",
    "AuditError",
    "BudgetRefused",
    "CannotExecute",
    "ConfigError",
    "ConsentError",
    "EncodeError",
    "EventError",
    "GateRefused",
    "HopLimitRefused",
    "HostError",
    "JournalError",
    "JournalVersionError",
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
    "TimedOut",
    "ToolCallError",
    "UnavailableRefused",
    "UndeclaredError",
    "ValidationRefused",
    "VersionError",
    "WireError",
    "error_text",
]


def error_text(error: BaseException) -> str:
    """Return what any error says, with its class before it: `ValueError: no such day`."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")


class AllyError(Exception):
    """Base of every error that this package raises on purpose."""


class PluginError(AllyError):
    """A plugin's fault. `plugin` is its name, where that is known."""

    def __init__(self, message: str, *, plugin: str | None = None) -> None:
        super().__init__(message)
        self.plugin: Final = plugin


class ManifestError(PluginError):
    """A manifest cannot be read, or says something wrong.

    `problems` holds every mistake that was found, each with the path of the field.
    """

    def __init__(self, message: str, *, plugin: str | None = None, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message, plugin=plugin)
        self.problems: Final = problems


class PluginLoadError(PluginError):
    """A plugin's code cannot be imported, built, or registered."""


class CannotExecute(PluginLoadError):
    """A daemon's command cannot be executed. `program` is what was to be executed.

    With `is_final` false the machine was at fault for now (no process or descriptor was free): it may be tried again.
    """

    def __init__(self, message: str, *, plugin: str | None = None, program: str, is_final: bool = True) -> None:
        super().__init__(message, plugin=plugin)
        self.program: Final = program
        self.is_final: Final = is_final


class UndeclaredError(PluginLoadError):
    """A plugin uses something that its manifest does not declare. `line` is the manifest line to add."""

    def __init__(self, message: str, *, plugin: str | None = None, line: str) -> None:
        super().__init__(message, plugin=plugin)
        self.line: Final = line


class TimedOut(PluginError):
    """A hook did not answer within its deadline, or its plugin was stopped before it could."""


class RefusedError(PluginError):
    """One outbound call was refused.

    A plugin may catch it and go on; one that does not is not counted as crashed. `reason` is the stable short word
    that the audit, the counters and daemons use for this kind of refusal.
    """

    reason: ClassVar[str] = "refused"


class PermissionRefused(RefusedError):
    """The operator has not granted this. `permission` is the missing grant, `command` the command that grants it."""

    reason: ClassVar[str] = "permission"

    def __init__(self, message: str, *, plugin: str | None = None, permission: str, command: str) -> None:
        super().__init__(message, plugin=plugin)
        self.permission: Final = permission
        self.command: Final = command


class BudgetRefused(RefusedError):
    """A budget is used up. `retry_after` is in seconds, None where waiting does not help (a size)."""

    reason: ClassVar[str] = "budget"

    def __init__(
        self, message: str, *, plugin: str | None = None, budget: str, retry_after: float | None = None
    ) -> None:
        super().__init__(message, plugin=plugin)
        self.budget: Final = budget
        self.retry_after: Final = retry_after


class ValidationRefused(RefusedError):
    """An argument is not acceptable. `field` names it."""

    reason: ClassVar[str] = "validation"

    def __init__(self, message: str, *, plugin: str | None = None, field: str) -> None:
        super().__init__(message, plugin=plugin)
        self.field: Final = field


class KeyConflictRefused(RefusedError):
    """An idempotency key was used in the session before, with other content."""

    reason: ClassVar[str] = "key_conflict"


class HopLimitRefused(RefusedError):
    """The chain of plugins that led to this call is too long. `chain` is it."""

    reason: ClassVar[str] = "hop_limit"

    def __init__(self, message: str, *, plugin: str | None = None, chain: tuple[str, ...]) -> None:
        super().__init__(message, plugin=plugin)
        self.chain: Final = chain


class GateRefused(RefusedError):
    """A gate or a blocking transform of another plugin said no. `decision_id` leads to the votes (`explain`)."""

    reason: ClassVar[str] = "gate"

    def __init__(self, message: str, *, plugin: str | None = None, decision_id: str | None = None) -> None:
        super().__init__(message, plugin=plugin)
        self.decision_id: Final = decision_id


class ReentryRefused(RefusedError):
    """The call would wait for the hook that makes it."""

    reason: ClassVar[str] = "reentry"


class NotFoundRefused(RefusedError):
    """There is no such session, action, tool or task."""

    reason: ClassVar[str] = "not_found"


class UnavailableRefused(RefusedError):
    """The host cannot do this now: it is stopping, the plugin is not running, or the journal cannot be written."""

    reason: ClassVar[str] = "unavailable"


class HostError(AllyError):
    """The host author's fault."""


class EventError(HostError):
    """A value does not fit its type. `path` leads to the field, `found` is a short description of what was there."""

    def __init__(self, message: str, *, path: str = "", found: Any = None) -> None:
        super().__init__(message)
        self.path: Final = path
        self.found: Final = found


class EncodeError(EventError, TypeError):
    """A value cannot be represented in JSON, whatever the encoder or an object in it raised.

    It is a TypeError too, as the error of orjson and of `json` is, so that code that expects theirs catches it.
    """


class SessionError(HostError):
    """A session is closed or unknown."""


class ToolCallError(HostError):
    """A tool call cannot be carried out, or failed. `tool` is the tool's name, `plugin` its owner where known."""

    def __init__(self, message: str, *, tool: str, plugin: str | None = None) -> None:
        super().__init__(message)
        self.tool: Final = tool
        self.plugin: Final = plugin


class ArgumentsError(ToolCallError):
    """Arguments do not fit the tool's JSON schema. `problems` names every field that is wrong."""

    def __init__(self, message: str, *, tool: str, plugin: str | None = None, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message, tool=tool, plugin=plugin)
        self.problems: Final = problems


class OperatorError(AllyError):
    """Something that the operator can put right."""


class ConfigError(OperatorError):
    """`config.toml` or an option is wrong. `path` is the dotted key, `file` the file, where known."""

    def __init__(self, message: str, *, path: str = "", file: str = "") -> None:
        super().__init__(message)
        self.path: Final = path
        self.file: Final = file


class ConsentError(OperatorError):
    """Something waits for the operator's consent. `command` is the command that gives it."""

    def __init__(self, message: str, *, command: str = "") -> None:
        super().__init__(message)
        self.command: Final = command


class OrderError(OperatorError):
    """`before` and `after` form a cycle. `cycle` names its members in order."""

    def __init__(self, message: str, *, cycle: tuple[str, ...]) -> None:
        super().__init__(message)
        self.cycle: Final = cycle


class JournalError(OperatorError):
    """The journal cannot be opened, read or written."""


class JournalVersionError(JournalError):
    """The journal has a version that this program cannot read; the text says what helps."""


class AuditError(JournalError):
    """The audit chain is broken. `record` is the number of the first bad record, `kind` what is wrong with it."""

    def __init__(self, message: str, *, record: int | None = None, kind: str = "") -> None:
        super().__init__(message)
        self.record: Final = record
        self.kind: Final = kind


class WireError(AllyError):
    """The fault of whoever stands at the other end of a daemon's connection."""


class ProtocolError(WireError):
    """The peer does not keep to the protocol; the connection is over.

    `received` holds the messages that came whole before it and have not been handed out.
    """

    def __init__(self, message: str, *, received: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.received: Final = received


class VersionError(ProtocolError):
    """The peer speaks no version of the protocol that we speak. `offered` are its versions, `known` ours."""

    def __init__(self, message: str, *, offered: tuple[str, ...], known: tuple[str, ...]) -> None:
        super().__init__(message)
        self.offered: Final = offered
        self.known: Final = known


class RemoteError(WireError):
    """The peer answered a call with an error that is none of ours.

    `code` is its number, `data` the details that it sent; both are the peer's, as the text is.
    """

    def __init__(self, message: str, *, code: int, data: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.code: Final = code
        self.data: Final = data


class RecordingError(AllyError):
    """A recorded session cannot be read at all; a single broken line is counted instead."""
