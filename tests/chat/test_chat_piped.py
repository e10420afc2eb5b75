"""A chat over a pipe: scripts and tests talk so. Nobody is there to be asked."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.journal.histories import read_history, saved_sessions
from ally_plugins.journal.reader import JournalReader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import Person


def journal_types(person: Person) -> list[str]:
    with JournalReader(person.home.journal_file) as reading:
        (session,) = reading.sessions()
        return [event.type for event in reading.events(session.id)]


def test_a_newcomer_sees_it_answer_without_key_and_network(person: Person) -> None:
    shown = person.chat("help", "read README.md")
    assert "ally-plugins chat: the offline model (no key, no network, no understanding; say help)" in shown
    assert "I am the offline model" in shown
    assert "* read_file path=README.md" in shown
    assert "It does things." in shown


def test_all_that_happens_is_an_event_in_order(person: Person) -> None:
    person.chat("read README.md")
    found = journal_types(person)
    wanted = [
        "SESSION_START", "USER_MESSAGE", "AGENT_START", "MODEL_REQUEST", "MODEL_RESPONSE", "THOUGHT_COMPLETE",
        "CONTEXT_USAGE_UPDATE", "TOOL_CALL_START", "TOOL_CALL_END", "MODEL_REQUEST", "MODEL_RESPONSE",
        "ASSISTANT_MESSAGE", "AGENT_END", "SESSION_END",
    ]  # fmt: skip
    rest = iter(found)
    assert [name for name in wanted if name not in rest] == []


def test_what_changes_something_is_refused_without_a_person_and_done_where_it_is_allowed(person: Person) -> None:
    shown = person.chat("write new.txt hello", "run touch made")
    assert "nobody is there to agree" in shown
    assert not (person.folder / "new.txt").exists()
    assert not (person.folder / "made").exists()
    allowed = ("--allow", "write_file", "--allow", "run_command")
    shown = person.chat("write new.txt hello", "run touch made", args=allowed)
    assert (person.folder / "new.txt").read_text() == "hello"
    assert (person.folder / "made").exists()
    assert "+hello" in shown


def test_the_configuration_may_allow_tools_and_name_the_model(person: Person) -> None:
    person.home.config_file.write_text('[chat]\nmodel = "offline:9000"\nallow = ["write_file"]\n')
    shown = person.chat("write new.txt hello", "/context")
    assert (person.folder / "new.txt").exists()
    assert "9,000 tokens" in shown


def test_a_message_of_several_lines_ends_its_lines_with_backslashes(person: Person) -> None:
    shown = person.chat("read README.md\\", "also read app.py\\", "say both")
    assert shown.count("* read_file") == 2
    assert "both" in shown


def test_a_gates_refusal_reaches_the_person_and_why_explains_it(helped: Person) -> None:
    shown = helped.chat("run rm -rf .", "/why", args=("--allow", "run_command"))
    assert "! refused: run_command, by helper: nothing is removed here" in shown
    assert "decision d-" in shown
    assert "helper  deny" in shown


@pytest.mark.slow
def test_a_plugins_messages_events_tools_and_actions_show_up_where_the_person_looks(helped: Person) -> None:
    shown = helped.chat(
        "steer read README.md",
        "read README.md",
        "list",  # its gate is asked when it has heard what came before
        "remember the tests are slow",
        "/actions",
        '/actions helper:report {"full": true}',
        "/plugins",
        "/why",
    )
    assert "[plugin helper] look at the tests \\u202etoo" in shown
    assert "The plugin helper tells me: look at the tests" in shown
    assert "~ helper:noticed tool=read_file odd=\\x1b]0;title\\x07" in shown
    assert "remember gave I have 1 notes" in shown
    assert "helper:report" in shown
    assert '\n  | {"notes": ["the tests are slow"], "full": true}\n' in shown
    assert "helper" in shown
    assert "running" in shown


@pytest.mark.long
@pytest.mark.slow
def test_a_plugin_wakes_the_idle_agent(helped: Person) -> None:
    process = helped.process("chat")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("say later\n")
    process.stdin.flush()
    shown = ""
    while "The plugin helper tells me: the count is 3" not in shown:
        line = process.stdout.readline()
        assert line, shown
        shown += line
    assert "~ task count of helper" in shown
    process.stdin.write("/tasks\n/quit\n")
    process.stdin.flush()
    rest, errors = process.communicate(timeout=60)
    assert "count" in rest
    assert (process.returncode, errors) == (0, "")


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_between_turns_ends_it_in_order(helped: Person, number: signal.Signals) -> None:
    process = helped.process("chat")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("say ready\n")
    process.stdin.flush()
    while process.stdout.readline() != "ready\n":
        pass
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")
    assert "SESSION_END" in journal_types(helped)


def test_an_unknown_slash_command_names_the_nearest_and_the_chat_goes_on(person: Person) -> None:
    shown = person.chat("/plugin", "/zzz", "/actions nobody:nothing", "/actions x {", "/tasks cancel t-1", "say on")
    assert "there is no command /plugin; did you mean /plugins?" in shown
    assert "there is no command /zzz; /help shows what there is" in shown
    assert "there is no action 'nothing'" in shown
    assert "are not JSON" in shown
    assert "no task 't-1' is running" in shown
    assert "\non\n" in shown


def test_todos_are_kept_and_shown(person: Person) -> None:
    shown = person.chat("plan build; test", "done build", "/todos")
    assert "[x] build\n  [>] test" in shown.rpartition("> /todos")[2]


def test_enabling_needs_a_person_and_disabling_takes_effect_at_once(helped: Person) -> None:
    lines = ("/disable helper", "run rm nothing", "/plugins", "/enable helper")
    shown = helped.chat(*lines, args=("--allow", "run_command"))
    assert "helper is disabled" in shown
    assert "in effect in 1 running host" in shown
    assert "refused: run_command" not in shown
    assert "consent needs a person" in shown


def test_plus_and_minus_alone_ask_no_model(helped: Person) -> None:
    shown = helped.chat("+helper", "-helper", "+nobody")
    assert "helper is on in this session" in shown
    assert "helper is on in every session; /disable helper stops it" in shown
    assert "I do not understand '+nobody'" in shown
    assert shown.count("I do not understand") == 1


# --- sessions


@pytest.mark.slow
def test_a_session_is_gone_on_with_its_todos_and_what_was_said(
    person: Person, history: Callable[[Person], list[str]]
) -> None:
    person.chat("plan build; test", "read README.md")
    shown = person.chat("done build", "/todos", "/context", args=("--continue",))
    (session,) = history(person)
    assert f"going on with {session}" in shown
    assert "user: read README.md" in shown
    assert "[x] build\n  [>] test" in shown.rpartition("> /todos")[2]
    assert history(person) == [session]
    again = person.chat("say three", args=("--resume", session[:8]))
    assert f"going on with {session}" in again


def test_the_sessions_are_listed_with_what_they_are_about(person: Person) -> None:
    assert "no session is saved yet; to start one: ally-plugins chat" in person.run("sessions").stdout
    person.chat("say one \x1b[31m\\", "and more")
    person.chat("/help")  # nothing was said: nothing is saved
    listed = person.run("sessions").stdout
    assert listed.count("s-") == 1
    assert "say one \\x1b[31m" in listed
    assert str(person.folder) in listed


def test_a_session_whose_folder_is_gone_says_so(person: Person, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    person.chat("say x", args=("--folder", str(gone)))
    gone.rmdir()
    error = person.run("chat", "--continue", code=2, text="").stderr
    assert "is gone; name another one with --folder" in error
    assert "going on" in person.chat("say y", args=("--continue", "--folder", str(person.folder)))


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (("--continue",), 1, "no session is saved yet; start one with `ally-plugins chat`"),
        (("--continue", "--resume", "x"), 2, "--continue and --resume are two sessions"),
        (("--model", "opnai:x"), 2, "the model 'opnai:x' cannot be used"),
        (("--base-url", "nowhere"), 2, "the base url is no address"),
        (("--json",), 2, "a chat has no --json"),
        (("--folder", "nowhere"), 2, "does not exist"),
    ],
)
def test_what_cannot_be_begun_is_one_line_with_the_way_out(
    person: Person, args: tuple[str, ...], code: int, text: str
) -> None:
    result = person.run("chat", *args, code=code, text="")
    assert text in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_export_of_a_chat_can_be_replayed(helped: Person, history: Callable[[Person], list[str]]) -> None:
    helped.chat("read README.md\\", "say steer", "say bye")
    (session,) = history(helped)
    lines = helped.run("export", session).stdout
    recording = helped.folder / "session.jsonl"
    recording.write_text(lines)
    report: dict[str, Any] = json.loads(helped.run("replay", "--json", str(recording)).stdout)
    assert report["events"]["TOOL_CALL_END"] == 1
    assert helped.run("audit", "verify").exit_code == 0
    assert "history" not in helped.run("audit").stdout


def test_keys_never_land_in_the_journal_or_on_the_screen(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-live-abcdef123456"
    monkeypatch.setenv("SOME_API_KEY", key)
    (person.folder / "leak.txt").write_text(f"the key is {key}\n")
    shown = person.chat("read leak.txt", f"say {key}", "run cat /proc/$PPID/environ", args=("--allow", "run_command"))
    assert key not in shown.replace(f"> say {key}", "")
    assert "the key is [secret]" in shown
    for file in (*person.home.path.glob("journal.db*"),):
        assert key.encode() not in file.read_bytes()


@pytest.mark.slow
def test_a_full_context_is_told_and_shortened_and_the_session_goes_on_from_there(person: Person) -> None:
    (person.folder / "big.txt").write_text("".join(f"line {i} of a large file\n" for i in range(120)))
    lines = [*["read big.txt"] * 8, "/compact what was read", "say x"]
    shown = person.chat(*lines, args=("--model", "offline:8000"))
    assert "! the context is 5" in shown
    assert shown.count("~ the conversation is shortened: ") == 2  # by itself, and because the person wanted it
    assert "the conversation is shortened before the model is asked next" in shown
    records = person.run("audit", "--kind", "history", "--json", "--limit", "0").stdout.splitlines()
    refs = [json.loads(record)["id"] for record in records]
    assert refs.count("history:begin") == 1
    assert "history:replace" in refs
    with JournalReader(person.home.journal_file) as reading:
        (saved,) = saved_sessions(reading)
        left = read_history(reading, saved.id)
    assert left is not None
    assert len(left) < 2 * len(lines)
    again = person.chat("say y", "/context", args=("--continue",))
    assert "\ny\n" in again
    assert "8,000 tokens" in again  # the model that it had


def test_todos_are_told_once_and_are_there_when_the_session_is_gone_on_with(person: Person) -> None:
    shown = person.chat("plan sow; water; reap", "done sow", "/todos")
    todos = shown.rpartition("> /todos")[2].partition("to go on")[0]
    assert "[>] water" in todos
    again = person.chat("/todos", "done water", "/todos", args=("--continue",))
    assert again.partition("> /todos")[2].partition("> done")[0] == todos
    assert "[>] reap" in again.rpartition("> /todos")[2]
    with JournalReader(person.home.journal_file) as reading:
        (session,) = saved_sessions(reading)
    lines = map(json.loads, person.run("export", session.id).stdout.splitlines())
    assert [line.get("event_type") for line in lines].count("TODO_UPDATE") == 3  # one for each change


@pytest.mark.slow
def test_after_compact_only_the_new_message_is_acted_on(person: Person) -> None:
    asked = [f"run echo first-{i}" for i in range(7)]
    edits = ["edit app.py return 1 -> return 2", "edit app.py return 2 -> return 1"]
    lines = [*asked, *edits, "/compact", "run echo second", "say bye"]
    shown = person.chat(*lines, args=("--allow", "run_command", "--allow", "edit_file"))
    assert shown.count("~ the conversation is shortened: ") == 1
    assert [shown.count(f"* run_command command=echo first-{i}") for i in range(7)] == [1] * 7
    assert shown.count("* edit_file") == len(edits)
    assert shown.count("* run_command command=echo second") == 1
