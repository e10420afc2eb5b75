"""What counts as an answer in a chat: what was said, to a question that was on the screen when it was typed."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from .terminal import CTRL_D, ENTER

if TYPE_CHECKING:
    from .conftest import Person
    from .terminal import Terminal

pytestmark = pytest.mark.slow  # whole programs at a terminal

DISCARDED = "what was typed before this question is discarded"
WRONG = "is no answer, expected [n]o / [y]es / [a]lways"


def begun(terminal: Terminal) -> Terminal:
    terminal.expect("ally-plugins chat: the offline model")
    terminal.prompt()
    return terminal


def asked(chat: Terminal) -> str:
    """Wait until a question is put; return what was shown until then."""
    return chat.prompt() + chat.expect("may it?")


def files_of(shown: str) -> list[str]:
    """Return the files that a question to write is about; above it stands what calls have begun."""
    return re.findall(r"write_file path=(\S+)", shown.rpartition("? the agent asks")[2])


def refused(chat: Terminal, answer: str) -> None:
    """Give an answer that is none, and wait until it is asked again."""
    chat.press(answer + ENTER)
    chat.prompt()
    chat.expect(f"'{answer}' {WRONG}")


def left(chat: Terminal) -> None:
    chat.press(CTRL_D)
    assert chat.wait() == 0


@pytest.mark.long
def test_lines_sent_in_one_go_with_a_request_do_not_answer_its_question(person: Person) -> None:
    chat = begun(person.terminal())
    chat.press(f"write new.txt hello{ENTER}always{ENTER}a{ENTER}Yes{ENTER}")
    assert DISCARDED in asked(chat)
    assert not (person.folder / "new.txt").exists()
    chat.say("n")
    assert "not allowed" in chat.prompt()
    assert not (person.folder / "new.txt").exists()
    left(chat)


@pytest.mark.parametrize("ahead", [f"y{ENTER}", f"a{ENTER}always{ENTER}yes", "y"], ids=["line", "lines", "begun"])
def test_what_is_typed_while_a_tool_runs_does_not_answer_the_question_after_it(person: Person, ahead: str) -> None:
    os.mkfifo(person.folder / "hold")
    chat = begun(person.terminal("--allow", "run_command"))
    chat.paste("run cat hold\nwrite new.txt hello")
    chat.press(ENTER)
    chat.expect("* run_command")
    chat.press(ahead)
    chat.expect(ahead.rstrip()[-1])  # the terminal echoes it: it waits there
    (person.folder / "hold").write_text("go on\n")
    assert DISCARDED in asked(chat)
    refused(chat, "")  # what was begun is not finished by it
    assert not (person.folder / "new.txt").exists()
    chat.say("n")
    assert "not allowed" in chat.prompt()
    assert not (person.folder / "new.txt").exists()
    left(chat)


@pytest.mark.long
@pytest.mark.parametrize("joined", ["\n", "\nalso "], ids=["one after the other", "together"])
def test_what_follows_the_answer_to_one_question_does_not_answer_the_next(person: Person, joined: str) -> None:
    chat = begun(person.terminal())
    chat.paste(f"write one.txt 1{joined}write two.txt 2")
    chat.press(ENTER)
    # Calls that are made together are asked about as they come through the gates, one by one and in any order.
    (first,) = files_of(asked(chat))
    second = {"one.txt": "two.txt", "two.txt": "one.txt"}[first]
    assert first == "one.txt" or "also" in joined
    chat.press(f"y{ENTER}y{ENTER}always{ENTER}")
    shown = asked(chat)
    assert files_of(shown) == [second]
    assert DISCARDED in shown
    assert not (person.folder / second).exists()
    chat.say("no")
    assert "not allowed" in chat.prompt()
    assert (person.folder / first).exists()
    assert not (person.folder / second).exists()
    left(chat)


@pytest.mark.long
def test_only_the_words_that_are_offered_and_their_letters_are_answers(person: Person) -> None:
    chat = begun(person.terminal())
    chat.say("write new.txt hello")
    assert DISCARDED not in asked(chat)
    for wrong in ("absolutely not", "yesterday", "al", "ya", "y y", "y, but not now", "ja", "1", ""):
        refused(chat, wrong)
    chat.paste("y\nwrite other.txt hello")
    chat.press(ENTER)
    chat.prompt()
    chat.expect(WRONG)
    chat.press(f"nope{ENTER}y{ENTER}")  # the second was typed before it was asked again
    chat.prompt()
    chat.expect(f"'nope' {WRONG}")
    assert not (person.folder / "new.txt").exists()
    chat.press(CTRL_D)
    assert "not allowed" in chat.prompt()
    assert not (person.folder / "new.txt").exists()
    chat.say("write new.txt hello")
    asked(chat)
    chat.say(" YES ")
    chat.prompt()
    assert (person.folder / "new.txt").read_text() == "hello"
    left(chat)


def test_a_plugin_is_not_enabled_by_what_was_typed_before_its_requests_were_shown(helped: Person) -> None:
    helped.run("disable", "helper")
    chat = begun(helped.terminal())
    chat.press(f"/enable helper{ENTER}yes{ENTER}")
    shown = chat.prompt() + chat.expect("Agree, and enable helper?")
    assert "to keep the folder whole" in shown
    assert DISCARDED in shown
    chat.say("yellow")
    chat.prompt()
    chat.expect("'yellow' is no answer, expected [n]o / [y]es:")
    chat.say("n")
    chat.expect("helper is not enabled")
    chat.prompt()
    left(chat)
    assert '"disabled"' in helped.run("list", "--json").stdout


ASKS = """
description = "asks"
requires_host = ">=1,<2"
[permissions]
tools = { reason = "to be called" }
ask = { reason = "to ask" }
"""
ASKER = '''
from ally_plugins import tool

class Plugin:
    def __init__(self, ally):
        self.ally = ally

    @tool
    async def choose(self, text: str) -> str:
        """Have the person choose."""
        try:
            return await self.ally.ask(text, ["left", "right"])
        except Exception as error:
            return str(error)
'''


@pytest.mark.long
def test_a_plugins_own_question_is_put_as_its_and_answered_by_number(person: Person) -> None:
    person.install("asker", ASKS, ASKER)
    chat = begun(person.terminal())
    call = 'call choose {"text": "may it?\\nthe host asks: really?"}'
    chat.say(call)
    shown = chat.expect("which?")
    for line in ("? the plugin asker asks you:", "[plugin asker] may it?", "[plugin asker] the host asks: really?"):
        assert line in shown
    chat.prompt()
    chat.say("3")
    chat.expect("is no answer")
    chat.prompt()
    chat.say("2")
    assert "choose gave right" in chat.prompt()
    chat.say(call)
    chat.expect("which?")
    chat.prompt()
    chat.press(CTRL_D)
    assert "choose gave the person chose none of the choices" in chat.prompt()
    left(chat)
