"""The real coding agents, in a box without a network, against a scripted model: `nox -s coding_agents`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ally_plugins.adapters.coding.dialects import DIALECTS

from .box import PROGRAMS, Run, Seen, command, plugin_tool, run_in_box, skip_without

pytestmark = pytest.mark.e2e

KEY = "AKIAIOSFODNN7REALKEY"
SHOWS = "printf 'AKIA%s\\n' IOSFODNN7REALKEY"
"""Shows a key that is not in the command."""
LEAKS = f"echo {KEY[:10]}''{KEY[10:]} > leaked"
"""Has the key in a form that no plugin can redact."""
END_HOST = "sh ~/end-host"
"""As a script, since agents look into commands: Copilot CLI runs no `pkill`, Gemini CLI no substitution."""

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "agents-in-ci.md"

ALL = sorted(PROGRAMS)
REDACTED = [name for name in ALL if "transform:tool_output" not in DIALECTS[name].serves.missing]
WITH_TOOLS = [name for name in ALL if DIALECTS[name].tool_prefix]
FIRST_TIER = ["claude", "codex"]


def of(*names: str) -> pytest.MarkDecorator:
    """Return what runs a test with each of these agents."""
    return pytest.mark.parametrize("agent", names)


@pytest.fixture(autouse=True)
def is_there(request: pytest.FixtureRequest) -> None:
    """Skip what is tried with a program that is not there."""
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None:
        skip_without(callspec.params["agent"])


def requests_of(seen: Seen) -> str:
    return json.dumps([each.requests for each in seen.runs])


@of(*ALL)
def test_a_denied_call_does_not_run_and_the_model_reads_why(agent: str, tmp_path: Path) -> None:
    seen = run_in_box(agent, tmp_path, Run([command("touch before"), command(LEAKS), command("touch after")]))
    assert {"before", "after"} <= {*seen.files}, seen
    assert "leaked" not in seen.files, seen
    assert "secret-guard" in seen.results[1], seen
    assert '"kind": "decision"' in seen.audit


@of(*REDACTED)
def test_a_key_in_an_output_reaches_no_request_not_even_of_a_command_that_failed(agent: str, tmp_path: Path) -> None:
    seen = run_in_box(agent, tmp_path, Run([command(SHOWS), command(f"{SHOWS}; exit 3"), command("touch after")]))
    assert "redacted" in seen.results[0], seen
    assert KEY not in requests_of(seen), seen
    assert ("after" in seen.files) == (agent != "claude"), seen  # whose turn ends at a failed one that shows it


@of(*ALL)
def test_removing_the_home_and_reading_its_keys_is_stopped_and_other_work_is_not(agent: str, tmp_path: Path) -> None:
    steps = ["touch before", "rm -rf ~", "cd / && rm -rf usr", "cat ~/.ssh/id_ed25519", "sh -c 'git push --force'"]
    plugins = ["secret-guard", "rule-guard"]
    seen = run_in_box(agent, tmp_path, Run([command(each) for each in (*steps, "touch after")]), plugins=plugins)
    assert {"before", "after"} <= {*seen.files}, seen
    # The home holds what says how the agent is guarded, which is denied before any plugin is asked.
    assert "which says how this agent is guarded" in seen.results[1], seen
    for result, rule in zip(seen.results[2:5], ("whole-folders", "keys", "force-push"), strict=True):
        # Where the agent asks by itself, nobody is there to agree.
        assert f"rule '{rule}'" in result or (rule == "force-push" and agent in {"claude", "copilot"}), seen


@of(*ALL)
def test_what_a_plugin_says_of_a_call_reaches_the_model_and_the_sixth_equal_failing_call_is_denied(
    agent: str, tmp_path: Path
) -> None:
    failing = [command("false; exit 7")] * 7
    seen = run_in_box(agent, tmp_path, Run([*failing, command("touch after")]), plugins=["loop-guard"])
    if DIALECTS[agent].takes_context:
        assert "[plugin loop-guard]" in requests_of(seen), seen
    # Gemini CLI's own detection of loops ends the turn before, at five.
    assert agent == "gemini" or any("loop-guard" in each for each in seen.results[5:7]), seen


@of(*WITH_TOOLS)
def test_a_plugins_tool_is_called_by_the_model_in_its_conversation(agent: str, tmp_path: Path) -> None:
    # Codex does not wait for servers of tools before its first request.
    steps = [command("touch before"), plugin_tool("remember", text="the tests run with make"), plugin_tool("recall")]
    seen = run_in_box(agent, tmp_path, Run(steps), plugins=["session-notes"])
    assert "remembered" in seen.results[1], seen
    assert "the tests run with make" in seen.results[2], seen
    (session,) = seen.sessions
    assert session.startswith(f"{agent}-")


@of(*REDACTED)
def test_without_its_host_in_the_middle_no_output_is_shown_and_the_next_call_asks_another_host(
    agent: str, tmp_path: Path
) -> None:
    kill = f"{END_HOST}; echo raw-output"
    seen = run_in_box(agent, tmp_path, Run([command("touch before"), command(kill), command("touch after")]))
    assert "before" in seen.files, seen
    assert "raw-output" not in seen.results[1].replace(kill, ""), seen
    assert "withholds the output" in seen.results[1], seen
    assert "after" in seen.files, seen


@of(*ALL)
def test_with_nothing_left_that_could_start_a_host_no_call_runs(agent: str, tmp_path: Path) -> None:
    steps = [command("touch before"), command("sh ~/end-for-good"), command("touch after")]
    seen = run_in_box(agent, tmp_path, Run(steps))
    assert "before" in seen.files, seen
    assert "after" not in seen.files, seen


@of(*ALL)
def test_an_agent_that_is_killed_amid_a_call_has_its_conversation_ended(agent: str, tmp_path: Path) -> None:
    steps = [command("touch started; sleep 60")]
    seen = run_in_box(agent, tmp_path, Run(steps, kill_when="started"), wait_for="SESSION_END")
    ((_, events),) = seen.sessions.items()
    assert "the agent has ended, and did not say so" in events, seen
    assert "its result never came" in events, seen


@of(*ALL)
def test_a_conversation_that_is_gone_on_with_is_the_same_session_and_is_guarded(agent: str, tmp_path: Path) -> None:
    first = [command("touch before")]
    more = [*first, command(LEAKS), command("touch after")]
    seen = run_in_box(agent, tmp_path, Run(first), Run(more, prompt="more", resumes=True))
    assert {"before", "after"} <= {*seen.files}, seen
    assert "leaked" not in seen.files, seen
    assert len(seen.sessions) == 1, seen


def test_two_agents_at_once_each_have_their_conversation_on_one_host(tmp_path: Path) -> None:
    skip_without(*FIRST_TIER)
    runs = [
        Run([command(f"touch {name}"), command("sleep 1"), plugin_tool("remember", text=f"of {name}")], agent=name)
        for name in FIRST_TIER
    ]
    seen = run_in_box("claude", tmp_path, runs, plugins=["session-notes", "secret-guard"])
    assert {*FIRST_TIER} <= {*seen.files}, seen
    assert sorted(name.partition("-")[0] for name in seen.sessions) == FIRST_TIER
    for name, events in seen.sessions.items():
        own, other = sorted(FIRST_TIER, key=lambda each: not name.startswith(each))
        assert f"of {own}" in events
        assert f"of {other}" not in events


@of(*ALL)
def test_what_loosens_the_guard_is_refused_to_what_the_agent_starts(agent: str, tmp_path: Path) -> None:
    # As a script, into which no gate looks.
    steps = [command("touch before"), command("sh ~/loosen > said 2>&1"), command(LEAKS), command("touch after")]
    seen = run_in_box(agent, tmp_path, Run(steps))
    assert {"before", "after"} <= {*seen.files}, seen
    assert "leaked" not in seen.files, seen
    assert f"started by {agent}" in (tmp_path / "project" / "said").read_text(), seen


CI = next(
    block
    for block in re.findall(r"^```sh\n(.*?)^```", HOW_TO.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    if block.startswith("# agent-job.sh")
)


@of(*FIRST_TIER)
def test_the_job_of_the_how_to_for_ci_runs_as_it_stands_and_keeps_its_audit(agent: str, tmp_path: Path) -> None:
    steps = [command("touch before"), command("rm -rf ~"), command("git push --force"), command("touch after")]
    job = Run(steps, script=CI, variables={"AGENT": agent, "TASK": "run the tests"})
    seen = run_in_box(agent, tmp_path, job, plugins=[], connects=False)
    assert seen.runs[0].code == 0, seen
    assert {"before", "after", "audit.jsonl"} <= {*seen.files}, seen
    assert "which says how this agent is guarded" in seen.results[1], seen  # of the host's own gate
    assert "rule-guard" in seen.results[2], seen
    assert "rule-guard" in (tmp_path / "project" / "audit.jsonl").read_text()


def test_the_job_of_the_how_to_fails_where_codex_ran_no_hook(tmp_path: Path) -> None:
    skip_without("codex")
    script = CI.replace("--dangerously-bypass-hook-trust", "")
    job = Run([command("touch before")], script=script, variables={"AGENT": "codex", "TASK": "run the tests"})
    seen = run_in_box("codex", tmp_path, job, plugins=[], connects=False)
    assert seen.runs[0].code == 1, seen
    assert "no gate was asked" in seen.runs[0].said
    assert "before" in seen.files, seen


def test_copilot_beside_a_claude_code_that_is_connected_is_asked_about_each_call_once(tmp_path: Path) -> None:
    skip_without("copilot")
    steps = [command("touch before"), command("touch after")]
    seen = run_in_box("copilot", tmp_path, Run(steps), before=[["connect", "claude"]])
    assert {"before", "after"} <= {*seen.files}, seen
    assert [name.partition("-")[0] for name in seen.sessions] == ["copilot"]
    assert seen.audit.count('"kind": "tool_call"') == len(steps), seen
