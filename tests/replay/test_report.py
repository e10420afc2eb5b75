"""What a replay counted."""

from __future__ import annotations

import json

from ally_plugins.replay.report import MAX_NAMED, ReplayReport


def test_a_report_has_the_promised_keys_and_is_json() -> None:
    report = ReplayReport(elapsed_s=0.5)
    report.count_event("TOOL_CALL_START")
    report.count_event("TOOL_CALL_START")
    report.count_skipped("progress")
    report.count_broken("a.jsonl", 3, "not JSON")
    report.plugin("loop-guard").messages += 1
    report.plugin("loop-guard").refused["permission"] += 1
    found = json.loads(json.dumps(report.to_json()))
    assert found == {
        "events": {"TOOL_CALL_START": 2},
        "plugins": {
            "loop-guard": {
                "delivered": 0,
                "dropped": 0,
                "messages": 1,
                "emitted": 0,
                "refused": {"permission": 1},
                "crashes": 0,
                "prompt_changes": 0,
                "uncached_tokens": 0,
                "state": "running",
                "reason": "",
            }
        },
        "skipped": {"progress": 1},
        "broken_lines": 1,
        "broken": [{"file": "a.jsonl", "line": 3, "reason": "not JSON"}],
        "decisions": {"allow": 0, "ask": 0, "deny": 0},
        "sessions": [],
        "pending_messages": 0,
        "pending": [],
        "lost_records": 0,
        "not_kept": 0,
        "interrupted": False,
        "elapsed_s": 0.5,
        "events_per_s": 4.0,
    }


def test_a_replay_that_took_no_time_has_no_rate() -> None:
    assert ReplayReport().events_per_s == 0


def test_a_damaged_file_cannot_make_the_report_grow() -> None:
    report = ReplayReport()
    for number in range(5000):
        report.count_skipped(f"type-{number}")
        report.count_broken("f", number, "broken")
    assert report.skipped.total() == report.broken_lines == 5000
    assert len(report.skipped) <= 257
    assert len(report.broken) == MAX_NAMED
