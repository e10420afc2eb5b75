"""The reference agent with the plugins that come along: they steer, refuse and remember, and `explain` says why."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.catalog.registry import Registry

if TYPE_CHECKING:
    from .conftest import Person

PLUGINS = ("loop-guard", "secret-guard", "conversation-monitor", "session-notes")
SERVER = Path(__file__).parents[1] / "baddays" / "model_server.py"
KEY = "AKIA" + "Y34FZKBOKMUTVV7A"
PATIENCE_S = 120.0  # a busy machine, twice the framework's import
MARK = "[redacted:aws-access-key]"
HIDDEN = base64.b64encode(KEY.encode()).decode()
UNSEEN = "\\u0041" + KEY[1:]
"""In JSON the same key, in what a person types none: what makes the model make a call that holds it."""


@pytest.fixture
def guarded(person: Person) -> Person:
    """Return a person who has agreed to all that four of the plugins ask for."""
    registry = Registry(person.home)
    for name in PLUGINS:
        registry.enable(registry.plan(name, placement=None if name == "session-notes" else "inline"), by="test")
    return person


def data_of(lines: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [line["event_data"] for line in lines if line.get("event_type") == kind]


def denied(lines: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = [data for data in data_of(lines, "DECISION") if data["verdict"] == "deny"]
    return found


@pytest.mark.slow
def test_a_call_that_goes_on_failing_is_steered_then_refused_and_explain_tells_why(guarded: Person) -> None:
    lines = guarded.events("--allow", "run_command", "\n".join(["run cat gone.txt"] * 6), code=1)
    assert lines[-1]["ending"] == "refused"
    (steer,) = [data["message"] for data in data_of(lines, "PLUGIN_MESSAGE_RECEIVED")]
    assert "run_command has failed 3 times with the same arguments" in steer["content"]
    refusal = denied(lines)
    assert refusal["decidedBy"] == ["loop-guard"]
    assert [data["denied"] for data in data_of(lines, "TOOL_CALL_END")] == [False] * 5 + [True]
    told = guarded.run("explain", refusal["decisionId"]).stdout
    for words in ("deny", "run_command", "loop-guard: this call to run_command has failed 5 times", "secret-guard"):
        assert words in told
    assert "loop-guard" in guarded.run("explain", steer["id"]).stdout


@pytest.mark.slow
def test_a_credential_is_refused_where_it_is_hidden_and_redacted_where_it_is_not(guarded: Person) -> None:
    (guarded.folder / "env.txt").write_text(f"AWS_ACCESS_KEY_ID={KEY}\n")
    hidden = f'call run_command {{"command": "echo \\u{ord(HIDDEN[0]):04x}{HIDDEN[1:]} | base64 -d"}}'
    lines = guarded.events("--allow", "run_command", f"read env.txt\n{hidden}", code=1)
    refusal = denied(lines)
    assert refusal["decidedBy"] == ["secret-guard"]
    assert "a credential (aws-access-key)" in guarded.run("explain", refusal["decisionId"]).stdout
    assert MARK in json.dumps(lines)
    assert KEY not in json.dumps(lines)
    assert KEY.encode() not in guarded.home.journal_file.read_bytes()


@pytest.mark.slow
def test_in_a_chat_the_person_asks_why_and_what_was_counted(guarded: Person) -> None:
    shown = guarded.chat(
        f"remember the key is {KEY}", "read README.md", "call get_conversation_stats {}",
        f'call run_command {{"command": "echo {UNSEEN}"}}',
        "remember the tests are slow", "/why", "/actions conversation-monitor:report {}", "/tasks", "/quit",
    )  # fmt: skip
    assert "tool calls" in shown
    assert f"* remember text=the key is {MARK}" in shown  # the person's own line shows what they typed
    assert "a credential, which secret-guard took out on the way; it is not kept" in shown
    assert "session-notes" in shown.partition("> /why")[2].partition("> /actions")[0]
    assert "no plugin has started a task" in shown
    files = [file for file in guarded.home.path.rglob("*") if file.is_file()]
    # Their own words are redacted too, in the title as well, and what the model has put into a call.
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []


class Model:
    """A model server in a process of its own, and what it was asked."""

    def __init__(self, folder: Path, answers: list[str]) -> None:
        self._asked = folder / "asked.jsonl"
        script = folder / "script.json"
        script.write_text(json.dumps([{"text": text} for text in answers]), "utf-8")
        command = [sys.executable, str(SERVER), "--script", str(script), "--log", str(self._asked)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    @property
    def asked(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._asked.read_text("utf-8").splitlines()]

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate(timeout=60)


def finished(person: Person, *args: str) -> str:
    """Run a command to its end in a process, and return its output."""
    process = person.process(*args)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return str(output)


@pytest.mark.long
@pytest.mark.slow
def test_what_one_conversation_remembers_the_next_ones_model_is_told(guarded: Person, tmp_path: Path) -> None:
    shown = guarded.chat("remember tests run with make check, never with pytest", "recall tests", "/quit")
    assert "session-notes:remembered" in shown
    assert "make check" in guarded.chat("/actions session-notes:list-notes {}", "/quit")
    model = Model(tmp_path, ["I will use make check.", "Here is a poem."])
    try:
        chosen = ("--model", "scripted", "--base-url", model.url)
        assert finished(guarded, "run", *chosen, "please run the tests") == "I will use make check.\n"
        finished(guarded, "run", *chosen, "write a poem")
        first, second = model.asked
    finally:
        model.close()
    tools = {tool["function"]["name"] for tool in first["tools"]}
    assert {"remember", "recall", "forget", "get_conversation_stats"} <= tools
    assert {"list-notes", "forget-note", "report"}.isdisjoint(tools)  # these are the person's
    told = [message["content"] for message in first["messages"] if message["role"] == "system"]
    assert "tests run with make check, never with pytest" in "\n".join(told)
    assert "never with pytest" not in json.dumps(second["messages"])


@pytest.mark.slow
def test_why_tells_who_changed_a_call_in_this_session_not_in_another_with_the_same_ids(guarded: Person) -> None:
    lines = ("run echo mine", f'call run_command {{"command": "echo {UNSEEN}"}}', "/why", "/quit")
    for _ in range(2):
        shown = guarded.chat(*lines, args=("--allow", "run_command")).partition("> /why")[2]
        assert "ally_transform_tool_input: secret-guard changed ['command']" in shown
        assert shown.partition("session ")[2].split()[0] == shown.partition("--resume ")[2].split()[0]


class Talk:
    """A chat over pipes, one line after the other."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._input, self._output = process, process.stdin, process.stdout
        self.shown = ""

    def say(self, line: str) -> None:
        self._input.write(f"{line}\n")
        self._input.flush()

    def sees(self, *words: str) -> str:
        """Wait until one of these is shown."""
        hung = threading.Timer(PATIENCE_S, self._process.kill)  # then its output ends, and what it has shown is told
        hung.start()
        try:
            return self._line_with(words)
        finally:
            hung.cancel()

    def _line_with(self, words: tuple[str, ...]) -> str:
        while True:
            line = self._output.readline()
            assert line, self.shown
            self.shown += line
            if any(each in line for each in words):
                return line

    def leave(self) -> None:
        self.say("/quit")
        self.shown += self._process.communicate(timeout=60)[0]
        assert self._process.returncode == 0


@pytest.mark.long
@pytest.mark.slow
def test_tests_that_an_edit_breaks_are_told_to_the_agent_and_so_is_their_mending(person: Person) -> None:
    pytest.importorskip("watchfiles")
    (person.folder / "test_app.py").write_text("from app import main\n\ndef test_app():\n    assert main() == 1\n")
    registry = Registry(person.home)
    registry.enable(registry.plan("test-watch", placement="inline"), by="test")
    person.run("config", "test-watch", f"command={sys.executable} -m pytest -q -x -p no:cacheprovider")
    talk = Talk(person.process("chat", "--allow", "edit_file"))
    talk.sees("test-watch: watching ")  # not before: a change made earlier is none it can see
    for change, outcome, told in (
        ("edit app.py return 1 -> return 2", "failed after", "The tests fail since app.py changed"),
        ("edit app.py return 2 -> return 1", "passed after", "The tests pass again"),
    ):
        talk.say(change)
        talk.sees(outcome)
        talk.say("say I look")  # the message waits for the agent's next step
        while told not in (line := talk.sees(f"[plugin test-watch] {told}", "I look")):
            if line.strip() == "I look":  # it came too late for that step
                talk.say("say I look")
    (task,) = json.loads(person.run("tasks", "--json").stdout)["tasks"]  # as the operator, in another terminal
    assert (task["plugin"], task["name"], task["state"]) == ("test-watch", "watching", "running")
    assert "has ended in host" in person.run("tasks", "--cancel", task["id"]).stdout
    talk.sees("cancelled by the operator")
    talk.leave()
    assert "E       assert 2 == 1" in talk.shown
    assert "FAILED test_app.py::test_app" in talk.shown
