"""Each check finds the fault that it is for, says what to do, and passes a plugin that has none."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from typing import Any

import pytest

from ally_plugins import (
    Ally,
    ContextUsageUpdate,
    Deny,
    Replace,
    ToolCall,
    ToolCallStart,
    hookimpl,
    tool,
)
from ally_plugins.contract.values.codec import decode, encode
from ally_plugins.contract.values.eventjson import event_from_params, event_params
from ally_plugins.contract.values.events import EVENT_TYPES
from ally_plugins.testing import CHECKS, check_plugin, run_check, sample_calls, sample_events

HEAD = 'description = "for a test"\nrequires_host = ">=1,<2"\n'
USAGE = HEAD + '[events]\nsubscribe = ["CONTEXT_USAGE_UPDATE"]\n'
GATE = HEAD + '[permissions]\ngate = { on = ["tool_call"], reason = "r" }\n'
SPEAK = '[permissions]\nadd_message = { roles = ["user"], reason = "r" }\n'


class Plugin:
    def __init__(self, ally: Ally) -> None:
        self.ally = ally


def problem(check: str, plugin: Any, manifest: str | None) -> str:
    finding = run_check(check, plugin, manifest, name="bad")
    assert finding.check == check
    assert not finding.is_ok
    return finding.problem or ""


def test_a_good_plugin_passes_all_and_the_report_reads_well() -> None:
    class Good(Plugin):
        @hookimpl
        async def ally_context_usage_update(self, event: ContextUsageUpdate) -> None:
            if event.context_usage > 90:
                await self.ally.add_message("user", "nearly full")

    report = check_plugin(Good, USAGE + SPEAK)
    assert report.is_ok, report
    assert str(report).splitlines()[0] == "good: ok"
    assert len(report.findings) == len(CHECKS)


@pytest.mark.slow
def test_a_report_shows_what_failed_and_what_is_only_a_note() -> None:
    report = check_plugin(Plugin, 'description = "x"\n[settings.n]\ntype = "integer"\n', name="bare")
    assert report.is_ok
    assert "note: requires_host is missing" in str(report)
    assert "note: setting 'n' has no description" in str(report)
    assert "FAIL has a manifest: no ally-plugin.toml" in str(check_plugin(Plugin))


def test_an_installed_plugin_is_found_by_its_name() -> None:
    assert problem("has a manifest", "no-such-plugin", None).startswith("no plugin 'no-such-plugin' is installed; ")


def test_no_manifest() -> None:
    assert "no ally-plugin.toml lies beside its module" in problem("has a manifest", Plugin, None)


@pytest.mark.parametrize(
    ("manifest", "text"),
    [
        ('requires_host = ">=1"', "no description"),
        ('description = "x"\nrequires_host = ">=2"', "needs host API >=2"),
        ('descripton = "x"', "did you mean 'description'"),
        ("description = ", "not TOML"),
    ],
)
def test_a_wrong_manifest(manifest: str, text: str) -> None:
    assert text in problem("has a manifest", Plugin, manifest)


def test_an_undeclared_hook_names_the_line_to_add() -> None:
    class Bad(Plugin):
        @hookimpl
        async def ally_context_usage_update(self) -> None: ...

    assert 'subscribe = ["CONTEXT_USAGE_UPDATE"]' in problem("declares what it uses", Bad, HEAD)


def test_an_undeclared_tool_names_the_line_to_add() -> None:
    class Bad(Plugin):
        @tool
        def look(self) -> str:
            """Look."""
            return ""

    assert "tools = { reason" in problem("declares what it uses", Bad, HEAD)


def test_a_request_without_a_hook() -> None:
    text = problem("asks for no more than it uses", Plugin, HEAD + '[events]\nsubscribe = ["TODO_UPDATE"]\n')
    assert "events:TODO_UPDATE" in text
    assert "is granted 'gate:tool_call' and lacks the hook" in problem("asks for no more than it uses", Plugin, GATE)


def test_a_tool_without_a_description() -> None:
    class Bad(Plugin):
        @tool
        def look(self, where: str) -> str:
            return where

    manifest = HEAD + '[permissions]\ntools = { reason = "r" }\n'
    assert "no description: look" in problem("describes its tools", Bad, manifest)


def test_a_start_that_fails() -> None:
    class Bad(Plugin):
        @hookimpl
        def ally_start(self) -> None:
            raise SystemExit(3)

    assert "it could not start" in problem("starts and stops", Bad, HEAD)


def test_a_crash_over_an_odd_event() -> None:
    class Bad(Plugin):
        @hookimpl
        async def ally_tool_call_start(self, event: ToolCallStart) -> None:
            _ = event.arguments["command"]

    manifest = HEAD + '[events]\nsubscribe = ["TOOL_CALL_START"]\n'
    assert "ally_tool_call_start: KeyError: 'command'" in problem("survives every event", Bad, manifest)


def test_a_gate_that_answers_nonsense() -> None:
    class Bad(Plugin):
        @hookimpl
        async def ally_gate_tool_call(self, call: ToolCall) -> Any:
            return bool(call.arguments)

    assert "expected Allow(), Ask(reason), Deny(reason)" in problem("answers every question", Bad, GATE)


def test_a_transform_that_changes_what_it_must_not() -> None:
    class Bad(Plugin):
        @hookimpl
        async def ally_transform_tool_input(self) -> Replace[ToolCall]:
            return Replace(ToolCall("another tool"))

    manifest = HEAD + '[permissions]\ntransform = { on = ["tool_input"], reason = "r" }\n'
    assert "only arguments may change" in problem("answers every question", Bad, manifest)


def test_a_plugin_that_takes_a_refusal_for_a_receipt() -> None:
    class Bad(Plugin):
        @hookimpl
        async def ally_context_usage_update(self) -> None:
            receipt = None
            try:
                receipt = await self.ally.add_message("user", "hello")
            finally:
                if receipt is None:
                    raise RuntimeError("no receipt")

    for check in ("survives being refused", "survives an empty budget"):
        assert "RuntimeError: no receipt" in problem(check, Bad, USAGE + SPEAK)


@pytest.mark.slow
def test_a_plugin_that_blocks_the_loop() -> None:
    class Bad(Plugin):
        @hookimpl
        async def ally_gate_tool_call(self) -> None:
            time.sleep(0.15)  # noqa: ASYNC251 - the fault

    assert "make the hook a plain def" in problem("does not block the loop", Bad, GATE)

    class Good(Plugin):
        @hookimpl
        def ally_gate_tool_call(self) -> None:
            time.sleep(0.15)

    assert run_check("does not block the loop", Good, GATE).is_ok


@pytest.mark.slow
def test_a_task_and_a_thread_that_stay_behind() -> None:
    stop = threading.Event()

    class Bad(Plugin):
        @hookimpl
        async def ally_start(self) -> None:
            self.task = asyncio.create_task(asyncio.sleep(3600), name="forgotten")
            threading.Thread(target=stop.wait, name="lost", daemon=True).start()

    text = problem("leaves nothing behind", Bad, HEAD)
    stop.set()
    assert "the thread 'lost', the task 'forgotten'" in text
    assert "end it in ally_stop" in text


def test_a_plugin_that_throws_dice() -> None:
    dice = itertools.count()

    class Bad(Plugin):
        @hookimpl
        async def ally_gate_tool_call(self) -> Deny:
            return Deny(f"number {next(dice)}")

    assert "the second time it gave something else" in problem("gives the same twice", Bad, GATE)


def test_a_plugin_that_mixes_sessions_up() -> None:
    class Bad(Plugin):
        @hookimpl
        async def ally_context_usage_update(self) -> None:
            await self.ally.add_message("user", "gossip", session_id="s2")

    assert "told another one: gossip" in problem("keeps sessions apart", Bad, USAGE + SPEAK)


def test_a_plugin_that_greets_each_session_keeps_them_apart() -> None:
    class Greets(Plugin):
        @hookimpl
        async def ally_session_start(self) -> None:
            await self.ally.add_message("user", "welcome")
            await self.ally.emit_event("greeted", {})

    manifest = HEAD + '[events]\nsubscribe = ["SESSION_START"]\n' + SPEAK + 'emit_event = { reason = "r" }\n'
    finding = run_check("keeps sessions apart", Greets, manifest, name="greets")
    assert finding.is_ok, finding.problem


def test_the_samples_are_of_every_type_and_each_can_be_written_down() -> None:
    events = list(sample_events())
    assert {event.type for event in events} >= set(EVENT_TYPES)
    for event in events:
        if type(event) in EVENT_TYPES.values():
            assert event_from_params(decode(encode(event_params(event)))) == event
    assert list(sample_events()) == events
    assert any(not call.arguments for call in sample_calls())
