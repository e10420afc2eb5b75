"""A chat at a real terminal: a pty with the program on its other end, and keys that a person presses."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING

import pytest

from ally_plugins.cli.chat.kept_history import KeptHistory
from ally_plugins.journal.histories import read_history, saved_sessions
from ally_plugins.journal.reader import JournalReader

from .terminal import ALT_ENTER, CTRL_C, CTRL_D, ENTER

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import Person
    from .terminal import Terminal

pytestmark = pytest.mark.slow  # whole programs at a terminal

COLOUR = re.compile(rb"\x1b\[[0-9;]*m")


def begun(terminal: Terminal) -> Terminal:
    terminal.expect("ally-plugins chat: the offline model")
    terminal.prompt()
    return terminal


def answer(terminal: Terminal, letter: str) -> None:
    terminal.expect("may it?")
    terminal.prompt()
    terminal.press(letter + ENTER)


def left(terminal: Terminal) -> str:
    terminal.press(CTRL_D)
    assert terminal.wait() == 0
    return terminal.text


@pytest.mark.long
def test_an_edit_is_shown_before_it_is_asked_about_and_made_only_then(person: Person) -> None:
    chat = begun(person.terminal())
    chat.say("edit app.py return 1 -> return 2 # 漢字 ✓")
    asked = chat.expect("may it?")
    assert "-    return 1" in asked
    assert "+    return 2 # 漢字 ✓" in asked
    assert "? the agent asks: edit_file needs permission" in asked
    assert b"\x1b[32m" in chat.raw  # what is added is green
    assert "return 1" in (person.folder / "app.py").read_text()
    chat.prompt()
    chat.press("y" + ENTER)
    chat.prompt()
    assert "return 2 # 漢字 ✓" in (person.folder / "app.py").read_text()
    chat.say("edit app.py return 2 -> return 3")
    answer(chat, "n")
    assert "not allowed" in chat.prompt()
    assert "return 2" in (person.folder / "app.py").read_text()
    assert "to go on: ally-plugins chat --resume s-" in left(chat)


@pytest.mark.long
def test_always_is_for_this_tool_and_session_and_a_plugin_that_asks_is_named(helped: Person) -> None:
    chat = begun(helped.terminal())
    chat.say("run echo one")
    answer(chat, "a")
    chat.expect("one")
    chat.prompt()
    chat.say("run echo two")
    assert "may it?" not in chat.prompt()
    chat.say("list")
    asked = chat.expect("may it?")
    assert "? the plugin helper asks: helper: folders are private" in asked
    chat.prompt()
    chat.press("y" + ENTER)
    assert "README.md" in chat.prompt()
    left(chat)


@pytest.mark.smoke
def test_ctrl_c_stops_the_turn_and_not_the_program(person: Person) -> None:
    chat = begun(person.terminal("--allow", "run_command"))
    chat.say("run sleep 60\nsay never")
    chat.expect("* run_command")
    chat.press(CTRL_C)
    chat.expect("stopped")
    chat.prompt()
    chat.say("say I am still here")
    chat.expect("\nI am still here")
    chat.prompt()
    chat.press("half a thought" + CTRL_C)  # clears the line
    chat.prompt()
    chat.press(CTRL_C)
    chat.expect("so does Ctrl-D\n>")
    chat.press(CTRL_C)
    assert chat.wait() == 0
    with JournalReader(person.home.journal_file) as reading:
        (saved,) = saved_sessions(reading)
        assert "I am still here" in str(read_history(reading, saved.id))


@pytest.mark.long
def test_ctrl_c_at_a_question_is_a_no_and_stops_the_turn(person: Person) -> None:
    chat = begun(person.terminal())
    chat.say("write new.txt hello")
    chat.expect("may it?")
    chat.prompt()
    chat.press(CTRL_C)
    chat.expect("stopped")
    chat.prompt()
    assert not (person.folder / "new.txt").exists()
    left(chat)


@pytest.mark.long
def test_several_lines_pasted_or_typed_are_one_message(person: Person) -> None:
    chat = begun(person.terminal())
    chat.paste("read README.md\nalso read app.py")
    chat.press(ENTER)
    assert chat.prompt().count("* read_file") == 2
    chat.press(f"say first{ALT_ENTER}say second{ENTER}")
    assert "first\nsecond" in chat.prompt()
    left(chat)


@pytest.mark.long
def test_the_history_of_what_was_typed_is_there_again_and_nobody_elses_to_read(person: Person) -> None:
    chat = begun(person.terminal())
    chat.say("say remembered")
    chat.prompt()
    left(chat)
    file = person.home.path / "chat-history"
    assert file.stat().st_mode & 0o077 == 0
    again = begun(person.terminal("--continue"))
    again.press("\x1b[A" + ENTER)  # the up arrow
    assert "\nremembered" in again.prompt()
    left(again)


def test_in_the_history_file_a_message_stands_as_plugins_left_it_and_not_before(tmp_path: Path) -> None:
    history = KeptHistory(str(tmp_path / "chat-history"))
    history.append_string("the key is 1234")
    history.append_string("/plugins")
    assert [*history.load_history_strings()] == ["/plugins"]
    history.keep("the key is [redacted]")
    assert [*history.load_history_strings()] == ["the key is [redacted]", "/plugins"]


@pytest.mark.long
def test_a_narrow_terminal_shows_all_of_it(person: Person) -> None:
    chat = begun(person.terminal(columns=24, rows=12))
    chat.say("say 漢字漢字漢字漢字漢字漢字漢字漢字 end")
    shown = chat.prompt().replace("\n", "")
    assert "漢字漢字漢字漢字漢字漢字漢字漢字 end" in shown
    chat.say("/help")
    assert "/plugins" in chat.prompt()
    left(chat)


@pytest.mark.long
def test_without_colours_where_they_are_not_wanted(person: Person) -> None:
    chat = begun(person.terminal(NO_COLOR="1"))
    chat.say("read README.md")
    chat.expect("done")
    chat.prompt()
    assert COLOUR.search(chat.raw.replace(b"\x1b[0m", b"").replace(b"\x1b[m", b"")) is None
    left(chat)


def test_what_a_file_or_a_plugin_says_cannot_act_on_the_terminal(helped: Person) -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J\x9b31m \u202eevil\u202c \x08\x08 end\n"
    (helped.folder / "hostile.txt").write_text(hostile)
    chat = begun(helped.terminal())
    chat.say("read hostile.txt\\n")
    chat.prompt()
    chat.say("read hostile.txt")
    shown = chat.prompt()
    assert "\\x1b]0;owned\\x07" in shown
    assert "\\u202eevil" in shown
    for bad in (b"\x1b]0;", b"\x1b[2J", "\u202e".encode(), "\x9b".encode()):
        assert bad not in chat.raw
    left(chat)


@pytest.mark.long
def test_a_plugin_wakes_the_agent_while_the_prompt_is_open_and_the_draft_stays(helped: Person) -> None:
    chat = begun(helped.terminal())
    chat.say("say later")
    chat.prompt()
    chat.press("say my draft")
    chat.expect("The plugin helper tells me: the count is 3")
    chat.expect("> say my draft")
    chat.press(ENTER)
    chat.expect("\nmy draft\n>")
    left(chat)


@pytest.mark.long
def test_a_plugin_is_enabled_and_disabled_in_the_chat_with_consent(helped: Person) -> None:
    helped.run("disable", "helper")
    chat = begun(helped.terminal("--allow", "run_command"))
    chat.say("/enable helper")
    asked = chat.expect("Agree, and enable helper?")
    assert "to keep the folder whole" in asked
    chat.prompt()
    chat.press("y" + ENTER)
    chat.expect("in effect in 1 running host")
    chat.prompt()
    chat.say("run rm x")
    assert "! refused: run_command, by helper: nothing is removed here" in chat.prompt()
    chat.say("/why")
    assert "decision d-" in chat.prompt()
    chat.say("/disable helper")
    chat.expect("helper is disabled")
    chat.prompt()
    left(chat)


@pytest.mark.long
def test_the_terminal_is_closed_and_nothing_is_lost_or_left_behind(helped: Person) -> None:
    chat = begun(helped.terminal("--allow", "run_command"))
    chat.say("say before")
    chat.prompt()
    chat.say("run sleep 61")
    chat.expect("* run_command")
    chat.hang_up()
    assert chat.child.wait(timeout=60) == 130
    with JournalReader(helped.home.journal_file) as reading:
        (saved,) = saved_sessions(reading)
        assert "before" in str(read_history(reading, saved.id))
        assert "SESSION_END" in [event.type for event in reading.events(saved.id)]
    assert "going on with" in helped.chat("say after", args=("--continue",))


@pytest.mark.long
def test_two_chats_on_one_home_never_mix_and_a_session_is_open_once(
    person: Person, history: Callable[[Person], list[str]]
) -> None:
    one, two = begun(person.terminal()), begun(person.terminal())
    one.say("say from one")
    two.say("say from two")
    one.expect("\nfrom one\n>")
    two.expect("\nfrom two\n>")
    ids = history(person)
    assert len(ids) == 2
    error = person.run("chat", "--resume", ids[0], code=1, text="").stderr
    assert "is open in another chat" in error
    left(one)
    left(two)
    with JournalReader(person.home.journal_file) as reading:
        found = [str(read_history(reading, session_id)) for session_id in ids]
    assert [("from one" in text, "from two" in text) for text in found] in (
        [(True, False), (False, True)],
        [(False, True), (True, False)],
    )


@pytest.mark.long
def test_the_first_output_comes_before_the_framework_is_imported(person: Person) -> None:
    begin = time.monotonic()
    chat = person.terminal()
    chat.expect("ally-plugins chat: the offline model")
    first = time.monotonic() - begin
    chat.prompt()
    assert first < (time.monotonic() - begin) / 2
    assert os.waitpid(chat.child.pid, os.WNOHANG) == (0, 0)
    left(chat)
