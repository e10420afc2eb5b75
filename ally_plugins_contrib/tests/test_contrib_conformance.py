"""The plugins keep to what every plugin should."""

from __future__ import annotations

from typing import Any

import pytest

from ally_plugins.testing import CHECKS, find_manifest, run_check
from ally_plugins_contrib.conversation_monitor import ConversationMonitor
from ally_plugins_contrib.loop_guard import LoopGuard
from ally_plugins_contrib.rule_guard import RuleGuard
from ally_plugins_contrib.secret_guard import SecretGuard
from ally_plugins_contrib.session_notes import SessionNotes
from ally_plugins_contrib.test_watch import TestWatch

PLUGINS = (ConversationMonitor, LoopGuard, RuleGuard, SecretGuard, SessionNotes, TestWatch)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("plugin", PLUGINS)
def test_each_plugin_passes_every_check(plugin: Any, check: str) -> None:
    finding = run_check(check, plugin)
    assert finding.is_ok, finding.problem
    assert finding.remarks == ()


@pytest.mark.parametrize(
    "name", ["conversation-monitor", "loop-guard", "rule-guard", "secret-guard", "session-notes", "test-watch"]
)
def test_each_is_installed_with_its_entry_point_and_manifest(name: str) -> None:
    assert run_check("has a manifest", name).is_ok
    assert run_check("declares what it uses", name).is_ok


@pytest.mark.parametrize("plugin", PLUGINS)
def test_each_request_has_a_reason_of_its_own(plugin: Any) -> None:
    manifest = find_manifest(plugin)
    assert manifest is not None
    assert all(len(request.reason) > len("to listen") for request in manifest.requests)


@pytest.mark.parametrize(
    ("plugin", "asked"),
    [
        (ConversationMonitor, {"add_message:user", "emit_event", "tools", "actions"}),
        (LoopGuard, {"add_message:user", "emit_event", "gate:tool_call"}),
        (RuleGuard, {"files:read:project", "gate:tool_call", "get_context:focus"}),
        (
            SecretGuard,
            {"gate:answer:sentence", "gate:message", "gate:tool_call", "gate:user_message"}
            | {"transform:answer", "transform:plugin_message", "transform:user_message"}
            | {"transform:tool_input", "transform:tool_output"},
        ),
        (SessionNotes, {"actions", "emit_event", "get_context:focus", "tools", "transform:system_prompt"}),
        (
            TestWatch,
            {"actions", "add_message:user", "get_context:focus", "tasks", "tools"}
            | {"files:read:project", "files:write:project", "run:pytest"},
        ),
    ],
)
def test_no_plugin_asks_for_more_than_it_did_when_it_was_reviewed(plugin: Any, asked: set[str]) -> None:
    manifest = find_manifest(plugin)
    assert manifest is not None
    assert {grant.text for grant in manifest.grants if grant.kind != "events"} == asked
