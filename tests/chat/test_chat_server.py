"""The same chat through an OpenAI-compatible server on this machine, which answers by a script."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.baddays.model_server import ModelServer, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Person

KEY = "sk-of-the-chat-0123456789"


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server
    assert server.refused == []


@pytest.fixture
def args(server: ModelServer, person: Person, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    file = person.home.config_file
    settled = file.read_text() if file.exists() else ""
    file.write_text(f'{settled}\n[chat]\napi_key_env = "SERVER_KEY"\ncontext_window = 1000\n')
    monkeypatch.setenv("SERVER_KEY", KEY)
    return ("--model", "scripted", "--base-url", server.url)


def test_it_reads_and_edits_with_the_difference_shown_and_goes_on_later(
    person: Person, server: ModelServer, args: tuple[str, ...]
) -> None:
    edit = {"path": "app.py", "old_text": "return 1", "new_text": "return 2"}
    server.add(
        Reply(text="I look.", tools=[{"name": "read_file", "arguments": {"path": "app.py"}}], usage=(400, 20)),
        Reply(tools=[{"name": "edit_file", "arguments": edit}], usage=(450, 20)),
        Reply(text="It returns two now.", usage=(500, 30)),
    )
    shown = person.chat("make it return 2", "/context", args=(*args, "--allow", "edit_file"))
    assert "I look.\n* read_file path=app.py" in shown
    assert "  -    return 1\n  +    return 2" in shown
    assert "It returns two now." in shown
    assert "53.0 % full of 1,000 tokens" in shown
    assert "return 2" in (person.folder / "app.py").read_text()
    server.add(Reply(text="As I said, two.", when="what does it return"))
    again = person.chat("what does it return", args=("--continue", "--base-url", server.url))
    assert "assistant: It returns two now." in again
    assert "As I said, two." in again


def test_a_gate_refuses_and_the_model_is_told_why(helped: Person, server: ModelServer, args: tuple[str, ...]) -> None:
    server.add(
        Reply(tools=[{"name": "run_command", "arguments": {"command": "rm -rf ."}}]),
        Reply(text="Then I leave it.", when="nothing is removed here"),
    )
    result = helped.run("run", "--json", *args, "--allow", "run_command", "clean up", code=1)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert lines[-1]["text"] == "Then I leave it."
    assert "nothing is removed here" in lines[-1]["refusals"][0]


def test_a_server_that_repeats_the_key_in_its_error_does_not_get_it_into_anything(
    person: Person, server: ModelServer, args: tuple[str, ...]
) -> None:
    server.add(Reply(status=401, body=json.dumps({"error": {"message": f"no such key: {KEY}"}}), times=0))
    result = person.run("run", "--json", *args, "say x", code=3)
    shown = person.chat("say y", args=args)
    assert "the model server does not take the key (no such key: [secret])" in shown
    for text in (result.stdout, result.stderr, shown):
        assert KEY not in text
    for file in person.home.path.rglob("*"):
        if file.is_file():
            assert KEY.encode() not in file.read_bytes()


@pytest.mark.slow
def test_a_server_that_is_down_is_a_sentence_and_the_conversation_goes_on(
    person: Person, server: ModelServer, args: tuple[str, ...]
) -> None:
    server.down()
    assert "the model server cannot be reached" in person.chat("say x", args=args)
    server.up()
    server.add(Reply(text="Here I am."))
    assert "Here I am." in person.chat("say y", args=("--continue", "--base-url", server.url))


WRITE = ({"name": "run_command", "arguments": {"command": "echo half > marker-and-more"}},)
CUT = {
    "a stream that ends amid its text": (Reply("half an answer, and no end", fault="end", after=2), "without a finish"),
    "a limit of tokens": (Reply("half an answer", finish="length"), "the limit of tokens"),
    "a filter": (Reply("half an answer", finish="content_filter"), "content filter"),
    "a stream that ends amid a call": (Reply(tools=WRITE, fault="end", after=3, piece=8), "without a finish"),
    "a stream that ends behind a call": (Reply(tools=WRITE, fault="end", after=8, piece=8), "without a finish"),
    "a limit of tokens at a call": (
        Reply(tools=({"name": "run_command", "arguments": '{"command": "echo half > marker'},), finish="length"),
        "the limit of tokens",
    ),
}


@pytest.mark.parametrize(("reply", "why"), CUT.values(), ids=CUT)
def test_an_answer_that_was_cut_off_is_no_good_end_and_no_call_of_it_is_made(
    person: Person, server: ModelServer, args: tuple[str, ...], reply: Reply, why: str
) -> None:
    server.add(reply)
    lines = person.events(*args, "--allow", "run_command", "do it", code=3)
    assert (lines[-1]["ending"], lines[-1]["exitCode"]) == ("failed", 3)
    assert "was cut off" in lines[-1]["reason"]
    assert why in lines[-1]["reason"]
    assert not [line for line in lines if line.get("event_type") == "TOOL_CALL_START"]
    assert not list(person.folder.glob("marker*"))
    server.add(Reply("the whole of it"))
    again = person.events(*args, "--resume", lines[-1]["sessionId"], "go on")
    assert (again[-1]["ending"], again[-1]["text"]) == ("done", "the whole of it")
