"""What every daemon should keep to, on daemons that do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from ally_plugins.testing import DAEMON_CHECKS, run_daemon_check
from tests.kit.daemons import write_daemon

MANIFEST = """
description = "x"
[events]
subscribe = ["TOOL_CALL_END"]
[permissions]
add_message = { roles = ["user"], reason = "x" }
gate = { on = ["tool_call"], reason = "x" }
tools = { reason = "x" }
"""
HELLO = "hello={'hooks': ['ally_tool_call_end', 'ally_gate_tool_call']}"
GATE = "gate=lambda _: {'verdict': 'allow'}"
REFUSED = "def on_event(_):\n    assert 'result' in ask('add_message', role='user', content='x')"

BROKEN = {
    "answers the handshake": [
        ("serve(hello={'hooks': ['ally_tool_call_end']})", "lacks the hook 'ally_gate_tool_call'"),
        ("serve(hello={'hooks': ['ally_gate_tool_call', 'ally_user_message']})", "does not declare"),
        ("serve(hello={'hooks': ['ally_gate_tool_calls']})", "ally_gate_tool_call"),
        ("serve(initialize=lambda _: {'protocol': '9'})", "9"),
        (f"serve({HELLO[:-1]}, 'tools': [{{'name': 't', 'schema': {{'type': 'x'}}}}]}}, {GATE})", "['type'] is wrong"),
        ("raise SystemExit('no config')", "it ended with code 1; its stderr ends: no config"),
    ],
    "answers ping": [(f"serve({HELLO}, ping=lambda _: sys.exit(3))", "it ended with code 3")],
    "keeps its output clean": [
        (f"serve({HELLO}, {GATE}, on_event=lambda _: print('debug', flush=True))", "no message: 'debug'"),
    ],
    "answers its gates": [(f"serve({HELLO}, gate=lambda _: 'yes')", "gave no clear answer")],
    "survives what it does not know": [(f"serve({HELLO}, {GATE})", "it ended")],
    "survives being refused": [
        (f"{REFUSED}\nserve({HELLO}, on_event=on_event)", "AssertionError"),
    ],
    "ends with its input": [
        (f"try:\n    serve({HELLO})\nfinally:\n    linger()", "goes on 5 s after"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("check", "body", "text"),
    [
        pytest.param(check, body, text, marks=[pytest.mark.slow] if check == "ends with its input" else [])
        for check, cases in BROKEN.items()
        for body, text in cases
    ],
)
def test_a_daemon_that_does_not_keep_to_it_is_found(tmp_path: Path, check: str, body: str, text: str) -> None:
    finding = run_daemon_check(check, write_daemon(tmp_path, body), MANIFEST, name="p")
    assert finding.problem is not None
    assert text in finding.problem


def test_each_check_is_tried_on_a_daemon_that_fails_it() -> None:
    assert set(BROKEN) == set(DAEMON_CHECKS)
