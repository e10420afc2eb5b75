"""`run`: one task without a person, for scripts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.journal.histories import saved_sessions
from ally_plugins.journal.reader import JournalReader

if TYPE_CHECKING:
    from .conftest import Person

FRAMEWORK = {"pydantic_ai", "prompt_toolkit", "openai", "pydantic"}


def data_of(lines: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [line["event_data"] for line in lines if line.get("event_type") == kind]


def test_the_words_go_to_stdout_and_what_happens_to_stderr(person: Person) -> None:
    result = person.run("run", "read README.md\nsay that is it")
    assert result.stdout.endswith("that is it\n")
    assert "* read_file" not in result.stdout
    assert "* read_file path=README.md" in result.stderr


def test_a_task_may_come_over_standard_input(person: Person) -> None:
    assert person.run("run", "-", text="say from a pipe").stdout == "from a pipe\n"
    assert "the task is empty" in person.run("run", "-", text=" \n", code=2).stderr


def test_json_is_every_event_as_it_happens_and_a_result_at_last(person: Person) -> None:
    lines = person.events("read README.md")
    types = [line.get("event_type") for line in lines]
    assert types[0] == "SESSION_START"
    assert {"USER_MESSAGE", "THOUGHT_COMPLETE", "TOOL_CALL_START", "TOOL_CALL_END", "AGENT_END"} <= set(types)
    assert [line["seq"] for line in lines[:-1]] == list(range(1, len(lines)))
    result = lines[-1]
    assert (result["type"], result["ending"], result["exitCode"], result["refusals"]) == ("RESULT", "done", 0, [])
    assert "# A project" in result["text"]
    assert result["sessionId"] == lines[0]["session_id"]


def test_what_needs_a_person_is_refused_with_an_exit_code_of_its_own(person: Person) -> None:
    lines = person.events("write new.txt hello", code=1)
    assert lines[-1]["ending"] == "refused"
    assert lines[-1]["exitCode"] == 1
    assert lines[-1]["refusals"]
    assert not (person.folder / "new.txt").exists()
    assert [data["choice"] for data in data_of(lines, "PERMISSION_RESPONSE")] == ["deny"]
    assert data_of(lines, "DIFF_PREVIEW")[0]["newContent"] == "hello"
    assert "refused" in person.run("run", "write new.txt hello", code=1).stderr


def test_a_tool_that_is_allowed_runs_and_is_done(person: Person) -> None:
    lines = person.events("--allow", "write_file", "write new.txt hello")
    assert lines[-1]["ending"] == "done"
    assert (person.folder / "new.txt").read_text() == "hello"


def test_a_gate_refuses_what_is_allowed_and_asks_nobody(helped: Person) -> None:
    lines = helped.events("--allow", "run_command", "run rm -rf .", code=1)
    assert "nothing is removed here" in lines[-1]["refusals"][0]
    asked = helped.events("list", code=1)  # its gate wants a person, and none is there
    assert "folders are private" in asked[-1]["refusals"][0]


@pytest.mark.slow
def test_a_plugin_that_wakes_the_agent_has_its_turn_before_the_end(helped: Person) -> None:
    lines = helped.events("--allow", "run_command", "say later\nrun sleep 1")  # the plugin speaks meanwhile
    said = [data["content"] for data in data_of(lines, "ASSISTANT_MESSAGE")]
    assert "The plugin helper tells me: the count is 3" in "\n".join(said)
    assert lines[-1]["ending"] == "done"


@pytest.mark.slow
def test_a_failing_model_is_a_failure_with_its_reason(person: Person) -> None:
    lines = person.events("--model", "qwen3", "--base-url", "http://127.0.0.1:9/v1", "say x", code=3)
    assert lines[-1]["ending"] == "failed"
    assert "the model server cannot be reached" in lines[-1]["reason"]
    shown = person.run("run", "--model", "qwen3", "--base-url", "http://127.0.0.1:9/v1", "say x", code=3).stderr
    assert "the model server cannot be reached" in shown
    assert "Traceback" not in shown


def test_a_saved_session_is_gone_on_with(person: Person) -> None:
    first = person.events("plan build; test")[-1]["sessionId"]
    lines = person.events("--resume", first, "done build")
    assert lines[-1]["sessionId"] == first
    assert lines[0]["event_data"]["resumed"] is True
    todos = data_of(lines, "TODO_UPDATE")[-1]["todos"]
    assert [todo["status"] for todo in todos] == ["completed", "in_progress"]


@pytest.mark.long
@pytest.mark.slow
def test_an_interrupt_stops_the_tool_and_leaves_a_session_that_goes_on(person: Person) -> None:
    process = person.process("run", "--json", "--allow", "run_command", "run sleep 60")
    assert process.stdout is not None
    lines = []
    while True:
        lines.append(json.loads(process.stdout.readline()))
        if lines[-1]["event_type"] == "TOOL_CALL_START":
            break
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    lines += [json.loads(line) for line in rest.splitlines()]
    assert (process.returncode, errors) == (130, "")
    assert (lines[-1]["ending"], lines[-1]["exitCode"]) == ("interrupted", 130)
    end = data_of(lines, "AGENT_END")[0]
    assert end["interrupted"] is True
    assert "SIGINT" in end["interruptionCause"]
    assert person.events("--resume", lines[-1]["sessionId"], "say on")[-1]["text"] == "on"


@pytest.mark.parametrize("command", [["list"], ["audit"], ["sessions"], ["chat", "--help"], ["run", "--help"]])
def test_other_commands_import_no_framework(person: Person, command: list[str]) -> None:
    code = (
        "import sys; from ally_plugins.cli.shell.main import main\ntry: main()\n"
        "finally: print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command], env=person.environment, capture_output=True, text=True, check=True
    )
    assert {"pydantic_ai", "prompt_toolkit", "openai", "pydantic"} & set(done.stderr.split()) == set()


@pytest.mark.slow
def test_a_missing_extra_is_named(person: Person) -> None:
    code = (
        "import sys; sys.modules['prompt_toolkit'] = None\n"
        "from ally_plugins.cli.shell.main import main\nsys.argv[1:] = ['run', 'say x']\nmain()"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=person.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "needs prompt_toolkit, which is not installed: pip install 'ally-plugins[chat]'" in done.stderr


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("command", [("run",), ("run", "--json"), ("chat",)], ids=["run", "run --json", "chat"])
def test_when_the_reader_of_the_output_goes_it_ends_quietly_and_the_sessions_end_is_recorded(
    person: Person, command: tuple[str, ...]
) -> None:
    steps = [f"run echo {i} >> done.txt; sleep 0.1" for i in range(40)]
    is_chat = command == ("chat",)
    process = person.process(*command, "--allow", "run_command", *([] if is_chat else ["\n".join(steps)]))
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    if is_chat:
        process.stdin.write("\\\n".join(steps) + "\n")  # one message; the input stays open
        process.stdin.flush()
    done, seen = person.folder / "done.txt", ""
    while (seen := seen + process.stdout.read(1)) and not done.exists():
        pass
    process.stdout.close()
    assert process.wait(60) == 141
    assert "Error" not in process.stderr.read()
    assert len(done.read_text().split()) < len(steps)
    with JournalReader(person.home.journal_file) as reading:
        (saved,) = saved_sessions(reading)
        assert [event.type for event in reading.events(saved.id)][-1] == "SESSION_END"
