"""What plugins do as OpenTelemetry's spans, metrics and logs, by the API alone: where they go is the program's affair.

Spans are made when a hook has ended, below the span that is current where the host asks: an agent's `execute_tool`.
Texts (reasons, arguments, outputs) are left out unless the program has asked for the contents of messages, as the
conventions for generative AI have it.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Final, ParamSpec, TypeAlias

from ally_plugins.contract.hookspecs import HOOKS
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import HostError
from ally_plugins.runtime.lanes.dispatch import HookEnd, HookListener

from .usage import usage_of_plugin

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation

    from ally_plugins.contract.values.events import Decision
    from ally_plugins.runtime.lanes.plugin import Plugin

    from .plugin_set import PluginSet

__all__ = ["CONTENT_VARIABLE", "NAME", "open_telemetry"]

P = ParamSpec("P")
_Values: TypeAlias = Iterator[tuple[float, dict[str, str]]]
_Reading: TypeAlias = "Callable[[Plugin], _Values]"

_log: Final = logging.getLogger(__name__)

NAME: Final = "ally_plugins"
CONTENT_VARIABLE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_FAILED: Final = "the answer was none: a crash, a deadline, or a plugin that does not run"
_MS_TO_NS: Final = 1_000_000


def open_telemetry(plugin_set: PluginSet, *, wanted: bool | None) -> HookListener | None:
    """Return what reports the hooks of a host; None where that is not `wanted`.

    Without a word on it (None), it is wanted where the program has loaded OpenTelemetry's SDK: the API alone, which
    many libraries import, leads nowhere. Raises HostError when it is wanted and the API is not installed.
    """
    if wanted is False or (wanted is None and "opentelemetry.sdk" not in sys.modules):
        return None
    try:
        return _Telemetry(plugin_set)
    except ImportError as error:
        if wanted is None:
            return None
        text = f"telemetry needs OpenTelemetry's API: pip install 'ally-plugins[otel]' ({error})"
        raise HostError(text) from error


def _harmless(function: Callable[P, None]) -> Callable[P, None]:
    """Log what a function raises: a verdict counts, whatever becomes of its report."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except Exception:  # noqa: BLE001 - an exporter may raise anything
            _log.exception("what a plugin did could not be reported to OpenTelemetry")

    return call


class _Telemetry(HookListener):
    """The instruments of one host. Lives as long as it runs; from `close` on nothing is observed any more."""

    def __init__(self, plugin_set: PluginSet) -> None:
        from opentelemetry import trace
        from opentelemetry._logs import LogRecord, SeverityNumber, get_logger
        from opentelemetry.metrics import Observation, get_meter

        from ally_plugins import __version__

        self._plugin_set: PluginSet | None = plugin_set
        self._trace = trace
        self._tracer = trace.get_tracer(NAME, __version__)
        self._log_record, self._info = LogRecord, SeverityNumber.INFO
        self._logger = get_logger(NAME, __version__)
        self._observation = Observation
        meter = get_meter(NAME, __version__)
        self._durations = meter.create_histogram(
            "ally.hook.duration", unit="s", description="How long the host waited for a gate or transform."
        )
        self._decisions = meter.create_counter("ally.decisions", description="Decisions of gates, by what came out.")
        for name, unit, about, read in _OBSERVED:
            meter.create_observable_counter(name, [self._observer(read)], unit=unit, description=about)
        meter.create_observable_gauge(
            "ally.plugin.memory", [self._observer(_memory)], unit="By",
            description="What a plugin's processes have resident.",
        )  # fmt: skip
        self._shows_content = os.environ.get(CONTENT_VARIABLE, "").lower() == "true"

    @override
    @_harmless
    def hook_ended(self, end: HookEnd) -> None:
        plugin, call, kind = end.plugin, end.call, HOOKS[end.call.hook].kind
        attributes = {
            "ally.plugin.name": plugin.name,
            "ally.hook.name": call.hook,
            "ally.hook.kind": kind,
            "ally.hook.verdict": end.verdict,
            "ally.hook.cause": end.cause,
        }
        is_failure = end.cause != "verdict"
        span = self._tracer.start_span(
            "ally.hook",
            attributes={
                **attributes,
                **self._about(plugin),
                **_conversation(call.session_id, call.tool, call.cause),
                "ally.hook.shadow": end.shadow,
                **({"error.type": end.cause} if is_failure else {}),
                **({"ally.hook.reason": end.reason} if end.reason and self._shows_content else {}),
            },
            start_time=end.started_ns,
        )
        # A deny is an answer, and no error.
        if is_failure:
            span.set_status(self._trace.StatusCode.ERROR, _FAILED)
        span.end(end.started_ns + int(end.elapsed_ms * _MS_TO_NS))
        self._durations.record(end.elapsed_ms / 1000, attributes)

    @override
    @_harmless
    def decided(self, decision: Decision, session_id: str) -> None:
        counted = {"ally.decision.kind": decision.kind, "ally.decision.verdict": decision.verdict}
        self._decisions.add(1, counted)
        is_tool = decision.kind == "tool_call"
        by = ", ".join(decision.decided_by)
        self._logger.emit(
            self._log_record(
                event_name="ally.decision",
                severity_number=self._info,
                body=f"{decision.kind} of {decision.subject}: {decision.verdict}{f' by {by}' if by else ''}",
                attributes={
                    **counted,
                    "ally.decision.id": decision.decision_id,
                    "ally.decision.subject": decision.subject,
                    "ally.decision.decided_by": list(decision.decided_by),
                    **_conversation(session_id, decision.subject if is_tool else None, decision.call_id),
                    **({"ally.decision.reason": decision.reason} if decision.reason and self._shows_content else {}),
                },
            )
        )

    @override
    def close(self) -> None:
        self._plugin_set = None

    def _about(self, plugin: Plugin) -> dict[str, str]:
        member = self._plugin_set.members.get(plugin.name) if self._plugin_set is not None else None
        placement = {"ally.plugin.placement": member.record.placement} if member is not None else {}
        return {"ally.plugin.version": plugin.version, **placement}

    def _observer(self, read: _Reading) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterator[Observation]:
            # A copy, made in one step: this is the thread of whoever collects, and the loop may add plugins meanwhile.
            members = self._plugin_set.members.copy() if self._plugin_set is not None else {}
            for member in members.values():
                for value, attributes in read(member.plugin):
                    yield self._observation(value, {"ally.plugin.name": member.plugin.name, **attributes})

        return observe


def _conversation(session_id: str, tool: str | None, call_id: str | None) -> dict[str, str]:
    """Return what the conventions for generative AI call a session, a tool and its call."""
    named = {"gen_ai.conversation.id": session_id, "gen_ai.tool.name": tool}
    # Of other hooks the cause is no call.
    return {name: text for name, text in {**named, "gen_ai.tool.call.id": call_id if tool else None}.items() if text}


def _calls(plugin: Plugin) -> _Values:
    for hook, time in plugin.times.all().items():
        yield time.calls, {"ally.hook.name": hook}


def _busy(plugin: Plugin) -> _Values:
    for hook, time in plugin.times.all().items():
        yield time.seconds, {"ally.hook.name": hook}


def _memory(plugin: Plugin) -> _Values:
    if (usage := usage_of_plugin(plugin)) is not None:
        yield usage.memory, {}


def _cpu(plugin: Plugin) -> _Values:
    if (usage := usage_of_plugin(plugin)) is not None:
        yield usage.cpu, {}


def _messages(plugin: Plugin) -> _Values:
    yield plugin.counts.messages, {}


def _refusals(plugin: Plugin) -> _Values:
    for reason, count in plugin.counts.refused.copy().items():
        yield count, {"ally.refusal.reason": reason}


def _crashes(plugin: Plugin) -> _Values:
    yield plugin.counts.crashes, {}


_OBSERVED: Final[tuple[tuple[str, str, str, _Reading], ...]] = (
    ("ally.hook.calls", "{call}", "Calls of hooks, those for events too.", _calls),
    ("ally.hook.busy", "s", "The time that hooks took together.", _busy),
    ("ally.plugin.cpu", "s", "The processor's time of a plugin's processes.", _cpu),
    ("ally.plugin.messages", "{message}", "Messages that were accepted.", _messages),
    ("ally.plugin.refusals", "{call}", "Calls of a plugin that were refused, by the reason.", _refusals),
    ("ally.plugin.crashes", "{crash}", "What went wrong in hooks and handlers.", _crashes),
)
"""Read when a collector asks: that costs the hooks nothing."""
