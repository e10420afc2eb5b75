"""What plugins do, as OpenTelemetry sees it: with the SDK's own exporters, in memory."""

from __future__ import annotations

import asyncio
import functools
import sys
from typing import TYPE_CHECKING, Any, ParamSpec

import pytest

from ally_plugins import Ally, Deny, Host, HostError, Replace, ToolCall, ToolCallEnd, ToolResult, evolve, hookimpl

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from opentelemetry.sdk.trace import ReadableSpan

P = ParamSpec("P")

GRANTS = {"guard": ["gate:tool_call", "transform:tool_output", "add_message:user", "events:TOOL_CALL_END"]}
CALL = ToolCall("bash", {"command": "rm"}, "c1")


class Guard:
    def __init__(self, ally: Ally) -> None:
        self.ally = ally

    @hookimpl
    async def ally_gate_tool_call(self, call: ToolCall) -> Any:
        if call.arguments["command"] == "crash":
            raise ValueError("its password is hunter2")
        return Deny("it says hunter2") if call.arguments["command"] == "rm" else None

    @hookimpl
    def ally_transform_tool_output(self, result: ToolResult) -> Any:
        return Replace(evolve(result, output="tidy")) if result.output == "untidy" else None

    @hookimpl
    async def ally_tool_call_end(self, event: ToolCallEnd) -> None:  # noqa: ARG002
        await self.ally.add_message("user", "noted")


class Seen:
    """The program's exporters."""

    def __init__(self) -> None:
        self.spans, self.metrics = InMemorySpanExporter(), InMemoryMetricReader()
        self.logs = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call] # its SDK types most of it, not this
        self.tracing = TracerProvider()
        self.tracing.add_span_processor(SimpleSpanProcessor(self.spans))
        self.logging = LoggerProvider()
        self.logging.add_log_record_processor(SimpleLogRecordProcessor(self.logs))
        self.metering = MeterProvider([self.metrics])

    def hooks(self) -> list[ReadableSpan]:
        return [span for span in self.spans.get_finished_spans() if span.name == "ally.hook"]

    def points(self) -> dict[str, list[Any]]:
        data = self.metrics.get_metrics_data()
        assert data is not None
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    """Return exporters that are the program's own for the time of a test."""
    made = Seen()
    # The API lets a program set these once; another test has its own.
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: made.tracing)
    monkeypatch.setattr(_logs._internal, "get_logger_provider", lambda: made.logging)
    monkeypatch.setattr(metrics._internal, "get_meter_provider", lambda: made.metering)
    yield made
    made.tracing.shutdown()
    made.logging.shutdown()
    made.metering.shutdown()


def on_a_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test that awaits."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@on_a_loop
async def test_a_deny_is_a_span_below_the_agents_tool_call_and_no_error(seen: Seen) -> None:
    async with Host(home=None, plugins={"guard": Guard}, grants=GRANTS) as host:
        session = host.session("s1")
        with seen.tracing.get_tracer("agent").start_as_current_span("execute_tool bash") as parent:
            assert (await session.gate_tool_call(CALL)).is_denied
    (span,) = seen.hooks()
    assert span.parent is not None
    assert span.parent.span_id == parent.get_span_context().span_id
    assert span.status.status_code is trace.StatusCode.UNSET
    assert attributes(span) == {
        "ally.plugin.name": "guard", "ally.plugin.version": "", "ally.plugin.placement": "inline",
        "ally.hook.name": "ally_gate_tool_call", "ally.hook.kind": "gate", "ally.hook.verdict": "deny",
        "ally.hook.cause": "verdict", "ally.hook.shadow": False,
        "gen_ai.conversation.id": "s1", "gen_ai.tool.name": "bash", "gen_ai.tool.call.id": "c1",
    }  # fmt: skip
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.start_time <= span.end_time


@on_a_loop
async def test_below_a_real_agents_execute_tool_stand_its_gates_and_transforms(seen: Seen) -> None:
    from pydantic_ai import Agent, Tool
    from pydantic_ai.capabilities.instrumentation import Instrumentation
    from pydantic_ai.models.instrumented import InstrumentationSettings
    from pydantic_ai.models.test import TestModel

    from ally_plugins.adapters.pydantic_ai import AllyPlugins

    def look(command: str) -> str:
        return command

    settings = InstrumentationSettings(tracer_provider=seen.tracing, meter_provider=seen.metering)
    async with Host(home=None, plugins={"guard": Guard}, grants=GRANTS) as host:
        tools = [Tool(look, name="bash")]
        agent = Agent(TestModel(), tools=tools, capabilities=[Instrumentation(settings), AllyPlugins(host)])
        await agent.run("look")
    (parent,) = [span for span in seen.spans.get_finished_spans() if span.name == "execute_tool bash"]
    assert [attributes(span)["ally.hook.kind"] for span in seen.hooks()] == ["gate", "transform"]
    for span in seen.hooks():
        assert span.parent is not None
        assert parent.context is not None
        assert span.parent.span_id == parent.context.span_id
        assert attributes(span)["gen_ai.tool.call.id"] == attributes(parent)["gen_ai.tool.call.id"]


@on_a_loop
async def test_a_hook_that_fails_is_an_error_and_no_text_of_it_leaves_the_program(seen: Seen) -> None:
    async with Host(home=None, plugins={"guard": Guard}, grants=GRANTS) as host:
        for command in ("crash", "rm"):
            assert (await host.session("s1").gate_tool_call(evolve(CALL, arguments={"command": command}))).is_denied
    failed, _ = seen.hooks()
    assert failed.status.status_code is trace.StatusCode.ERROR
    assert {name: attributes(failed)[name] for name in ("error.type", "ally.hook.cause", "ally.hook.verdict")} == {
        "error.type": "crash", "ally.hook.cause": "crash", "ally.hook.verdict": "deny",
    }  # fmt: skip
    exported = [span.to_json() for span in seen.spans.get_finished_spans()]
    exported += [log.to_json() for log in seen.logs.get_finished_logs()]
    assert len(exported) == 4
    assert "hunter2" not in "".join(exported)


@on_a_loop
async def test_texts_are_there_once_the_program_asks_for_contents(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true")
    async with Host(home=None, plugins={"guard": Guard}, grants=GRANTS) as host:
        await host.session("s1").gate_tool_call(CALL)
    assert attributes(seen.hooks()[0])["ally.hook.reason"] == "it says hunter2"


@on_a_loop
async def test_a_transform_is_a_span_with_what_it_did(seen: Seen) -> None:
    async with Host(home=None, plugins={"guard": Guard}, grants=GRANTS) as host:
        for output in ("untidy", "fine"):
            await host.session("s1").transform_tool_output(CALL, ToolResult(success=True, output=output))
    assert [attributes(span)["ally.hook.verdict"] for span in seen.hooks()] == ["replace", "unchanged"]


@on_a_loop
async def test_decisions_are_logs_and_what_plugins_cost_are_metrics(seen: Seen) -> None:
    async with Host(home=None, plugins={"guard": Guard}, grants=GRANTS) as host:
        session = host.session("s1")
        ruling = await session.gate_tool_call(CALL)
        session.emit(ToolCallEnd(tool_name="bash"))
        await session.drained()
        points = seen.points()
    (log,) = [each.log_record for each in seen.logs.get_finished_logs()]
    assert (log.event_name, log.body) == ("ally.decision", "tool_call of bash: deny by guard")
    assert log.attributes is not None
    assert log.attributes["ally.decision.id"] == ruling.decision_id
    assert log.attributes["gen_ai.tool.call.id"] == "c1"
    assert [point.value for point in points["ally.decisions"]] == [1]
    assert [point.count for point in points["ally.hook.duration"]] == [1]
    assert {point.attributes["ally.hook.name"]: point.value for point in points["ally.hook.calls"]} == {
        "ally_gate_tool_call": 1, "ally_tool_call_end": 1,
    }  # fmt: skip
    assert [point.value for point in points["ally.plugin.messages"]] == [1]


@on_a_loop
async def test_a_host_that_has_stopped_is_observed_no_more(seen: Seen) -> None:
    async with Host(home=None, plugins={"guard": Guard}, grants=GRANTS) as host:
        await host.session("s1").gate_tool_call(CALL)
    assert seen.points().get("ally.hook.calls", []) == []


@on_a_loop
async def test_a_report_that_fails_changes_no_verdict(
    seen: Seen, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("no exporter")

    async with Host(home=None, plugins={"guard": Guard}, grants=GRANTS) as host:
        monkeypatch.setattr(seen.spans, "export", fail)
        monkeypatch.setattr("opentelemetry.sdk.trace.Tracer.start_span", fail)
        monkeypatch.setattr("opentelemetry.sdk._logs.Logger.emit", fail)
        assert (await host.session("s1").gate_tool_call(CALL)).is_denied
        assert not (await host.session("s1").gate_tool_call(evolve(CALL, arguments={"command": "ls"}))).is_denied
    assert "could not be reported" in caplog.text


@pytest.mark.parametrize("telemetry", [False, None])
@on_a_loop
async def test_without_the_sdk_or_when_it_is_switched_off_nothing_is_reported(
    seen: Seen,
    monkeypatch: pytest.MonkeyPatch,
    telemetry: bool | None,  # noqa: FBT001
) -> None:
    if telemetry is None:
        monkeypatch.delitem(sys.modules, "opentelemetry.sdk")
    async with Host(home=None, plugins={"guard": Guard}, grants=GRANTS, telemetry=telemetry) as host:
        assert host.services.dispatcher.listener is None
        await host.session("s1").gate_tool_call(CALL)
    assert seen.hooks() == []


def test_telemetry_that_is_wanted_and_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)

    async def begin() -> None:
        async with Host(home=None, telemetry=True):
            pass

    with pytest.raises(HostError, match=r"ally-plugins\[otel\]"):
        asyncio.run(begin())
