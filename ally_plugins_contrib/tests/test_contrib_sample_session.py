"""On the sample session, which the demo plays, each plugin does what the demo shows."""

from __future__ import annotations

from ally_plugins.testing import replay_recording
from ally_plugins_contrib.conversation_monitor import ConversationMonitor
from ally_plugins_contrib.loop_guard import LoopGuard
from ally_plugins_contrib.rule_guard import RuleGuard
from ally_plugins_contrib.secret_guard import SecretGuard


def test_conversation_monitor_warns_once() -> None:
    played = replay_recording(ConversationMonitor)
    assert [message.content[:25] for message in played.messages] == ["The context is 76 % full."]
    assert [event.event_type for event in played.emitted] == ["conversation-monitor:context-warning"]
    assert played.crashes == ()


def test_loop_guard_speaks_after_three_failures_and_refuses_the_sixth_try() -> None:
    played = replay_recording(LoopGuard)
    assert [message.content[:24] for message in played.messages] == ["Bash has failed 3 times "]
    assert [event.event_type for event in played.emitted] == ["loop-guard:loop"]
    refused = [decision for decision in played.decisions if decision.verdict == "deny"]
    assert [decision.subject for decision in refused] == ["Bash"]
    assert "failed 5 times" in refused[0].reason
    assert played.crashes == ()


def test_secret_guard_lets_no_credential_into_any_event_and_refuses_nothing() -> None:
    played = replay_recording(SecretGuard)
    seen = str(played.events)
    assert "AKIA" + "Y34FZKBOKMUTVV7A" not in seen
    assert "ghp" + "_EXAMPLE" not in seen
    assert seen.count("[redacted:aws-access-key]") == 1
    assert "[redacted:github-token]" in seen
    assert {decision.verdict for decision in played.decisions} == {"allow"}
    assert played.crashes == ()


def test_rule_guard_asks_about_the_force_push_and_about_nothing_else() -> None:
    played = replay_recording(RuleGuard)
    asked = [decision for decision in played.decisions if decision.verdict != "allow"]
    assert ["rule 'force-push'" in decision.reason for decision in asked] == [True]
    assert len(played.decisions) > 20
    assert played.crashes == ()
