"""`ally-plugins hooks`: what a plugin may implement, and what plugins answer when one hook is called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.contract.hookspecs import HOOKS
from ally_plugins.contract.manifest import Manifest
from tests.author.conftest import edit
from tests.kit.commands import run_command

if TYPE_CHECKING:
    from collections.abc import Callable

SHOWN = [info for info in HOOKS.values() if info.kind != "capability"]
CALLED = [info for info in SHOWN if info.topic is not None]

MANIFEST = """
description = "x"
[daemon]
command = ["python3", "daemon.py"]
[events]
subscribe = ["TOOL_CALL_END"]
[permissions]
gate = {{ on = ["tool_call", "message", "permission", "user_message", "answer", "stop"], reason = "x" }}
transform = {{ on = [{}], reason = "x" }}
""".format(", ".join(f'"{info.topic}"' for info in CALLED if info.kind == "transform"))
DAEMON = """
import json, sys
HOOKS = %s
for line in sys.stdin:
    message = json.loads(line)
    if message["method"] == "initialize":
        result = {"protocol": "1", "hooks": HOOKS}
    elif message["method"] == "gate":
        result = {"verdict": "deny", "reason": "not " + message["params"]["on"]}
    else:
        result = None
    if "id" in message:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""


@pytest.fixture
def judge(tmp_path: Path) -> Path:
    """Return the folder of a plugin that has every gate and transform, and denies everything."""
    folder = tmp_path / "judge"
    folder.mkdir()
    (folder / "ally-plugin.toml").write_text(MANIFEST, encoding="utf-8")
    (folder / "daemon.py").write_text(DAEMON % [info.name for info in CALLED], encoding="utf-8")
    return folder


def called(*words: str, code: int = 0, text: str | None = None) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(run_command("hooks", "test", *words, "--json", code=code, text=text).stdout)
    return answer


def test_every_hook_is_there_with_its_signature_and_a_line_that_a_manifest_takes() -> None:
    shown = {each["name"]: each for each in json.loads(run_command("hooks", "--json").stdout)["hooks"]}
    assert list(shown) == [info.name for info in SHOWN]
    gate = shown["ally_gate_tool_call"]
    expected = "ally_gate_tool_call(self, call: ToolCall, context: Context) -> Allow | Ask | Deny | None"
    assert gate["signature"] == expected
    for each in shown.values():
        if each["manifest"] is not None:
            table, _, line = each["manifest"].partition(" ")
            read = Manifest.from_text(f"{table}\n{line}")
            assert each["grant"] in {grant.text for grant in read.grants}


@pytest.mark.parametrize("kind", ["gate", "transform"])
def test_every_gate_and_transform_can_be_called(judge: Path, kind: str) -> None:
    # One process for each would take as long as there are hooks: two of each kind here, all of them when slow.
    for info in [each for each in CALLED if each.kind == kind][:2]:
        answer = called(info.name, "--path", str(judge))
        assert [row["plugin"] for row in answer["answers"]] == ["judge"]
        assert answer["verdict"] == ("deny" if kind == "gate" else None)


@pytest.mark.slow
@pytest.mark.parametrize("hook", [info.name for info in CALLED])
def test_each_gate_and_transform_can_be_called(judge: Path, hook: str) -> None:
    answer = called(hook, "--path", str(judge))
    assert [row["plugin"] for row in answer["answers"]] == ["judge"]
    if HOOKS[hook].kind == "gate":
        assert answer["answers"][0]["reason"] == f"not {HOOKS[hook].topic}"


@pytest.mark.slow
def test_a_payload_is_what_the_plugins_are_called_with(new: Callable[..., Path], tmp_path: Path) -> None:
    folder = str(new(kind="daemon", language="sh", has_gate=True))
    payload = tmp_path / "payload.json"
    payload.write_text('{"call": {"toolName": "bash", "arguments": {"command": "rm -rf x"}}}', encoding="utf-8")
    answer = called("ally_gate_tool_call", "--path", folder, "--payload", str(payload))
    assert (answer["verdict"], answer["answers"][0]["answer"]) == ("deny", "deny")
    event = '{"toolName": "bash", "success": false}'
    answer = called("tool_call_end", "--path", folder, "--payload", "-", text=event)
    assert answer["answers"] == [{"plugin": "loop-warner", "answer": "received it", "reason": "", "ms": None}]


def test_what_is_no_payload_is_told(new: Callable[..., Path]) -> None:
    folder = str(new(kind="daemon", language="sh", has_gate=True))
    words = ("hooks", "test", "ally_gate_tool_call", "--path", folder, "--payload", "-")
    assert "is no JSON" in run_command(*words, code=2, text="{").stderr
    assert "is no object" in run_command(*words, code=2, text="[]").stderr
    assert "lacks 'call'" in run_command(*words, code=1, text="{}").stderr
    assert "did you mean 'ally_gate_tool_call'?" in run_command("hooks", "test", "ally_gate_tool_cal", code=2).stderr


@pytest.mark.slow
def test_a_plugin_that_fails_is_the_commands_failure(new: Callable[..., Path]) -> None:
    folder = new()
    edit(folder / "src/loop_warner/__init__.py", "Counter()", "undefined()")
    answer = called("ally_tool_call_end", "--path", str(folder), code=1)
    assert "NameError" in answer["failures"][0]


def test_without_plugins_it_says_that_there_are_none(home: Path) -> None:
    home.chmod(0o700)
    assert called("ally_gate_tool_call")["answers"] == []
    assert "no plugin implements it" in run_command("hooks", "test", "ally_gate_tool_call").stdout
