from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Operator

TRAP = "raise SystemExit('imported')\n"


def test_a_tool_is_called_and_what_it_says_is_inert(enabled: Operator) -> None:
    done = enabled.process("call", "loop-warner", "shout", "--args", '{"text": "hi"}')
    assert done.stdout == "HI\\x1b[31m\n"
    assert "it added a message (user): heard hi" in done.stderr
    assert [record["data"] for record in enabled.records("tool_call")] == [
        {"tool": "shout", "arguments": {"value": {"text": "hi"}}}
    ]


def test_json_holds_the_exact_result(enabled: Operator) -> None:
    done = json.loads(
        enabled.run("call", "loop-warner", "shout", "--args", "-", "--json", text='{"text": "hi"}').stdout
    )
    assert (done["success"], done["output"], done["error"]) == (True, "HI\x1b[31m", None)
    assert [(each["role"], each["content"]) for each in done["messages"]] == [("user", "heard hi")]


@pytest.mark.slow
def test_a_tool_that_fails_is_an_error_of_one_line(enabled: Operator) -> None:
    done = enabled.run("call", "loop-warner", "shout", "--args", '{"text": "boom"}', code=1)
    assert done.stderr == "ally-plugins: 'shout' of 'loop-warner' failed with ValueError: no boom\n"
    assert "no boom" in enabled.run("info", "loop-warner").stdout


def test_wrong_arguments_are_named_before_anything_runs(enabled: Operator) -> None:
    assert "'text'" in enabled.run("call", "loop-warner", "shout", "--args", '{"txt": 1}', code=2).stderr
    assert "is not JSON" in enabled.run("call", "loop-warner", "shout", "--args", "{text", code=2).stderr
    assert "a JSON object" in enabled.run("call", "loop-warner", "shout", "--args", "[]", code=2).stderr
    long = '{"text": [1, 18446744073709551616]}'
    assert (
        "text[1] is an integer of 20 digits"
        in enabled.run("call", "loop-warner", "shout", "--args", long, code=2).stderr
    )


def test_an_unknown_tool_names_those_there_are(enabled: Operator) -> None:
    assert "shout" in enabled.run("call", "loop-warner", "shot", code=1).stderr


def test_a_plugin_that_nobody_agreed_to_does_not_run(warner: Operator) -> None:
    warner.install(code=TRAP)
    error = warner.run("call", "loop-warner", "shout", code=1).stderr
    assert "waiting for consent" in error
    assert "imported" not in error


@pytest.mark.slow
def test_other_plugins_are_not_loaded_not_even_mandatory_ones(enabled: Operator) -> None:
    enabled.install("guard", '[permissions]\ntasks = { reason = "r" }\n', code=TRAP)
    enabled.enable("guard")
    file = enabled.home.config_file
    file.write_text(file.read_text().replace("[plugins.guard]", "[plugins.guard]\nmandatory = true"))
    done = enabled.process("call", "loop-warner", "shout", "--args", '{"text": "hi"}')
    assert "imported" not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_plugin_that_cannot_start_says_why(enabled: Operator) -> None:
    enabled.install(code="raise RuntimeError('no \\x1b[31mway')\n")
    done = enabled.process("call", "loop-warner", "shout", code=1)
    assert "no \\x1b[31mway" in done.stderr
    assert "Traceback" not in done.stderr
