"""What a person sees of a chat in which plugins gate messages, answers and the end of a turn."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ally_plugins.journal.histories import read_history, saved_sessions
from ally_plugins.journal.reader import JournalReader

if TYPE_CHECKING:
    from .conftest import Person

MANIFEST = """
description = "minds what is said"
[permissions]
gate = { on = ["user_message", "answer", "stop"], mode = "MODE", reason = "to mind what is said" }
"""

CODE = """
from ally_plugins import Deny, hookimpl

class Plugin:
    def __init__(self, ally):
        self.left = 0

    @hookimpl
    def ally_gate_user_message(self, message):
        if "damn" in message.content:
            return Deny("mind your words")
        self.left = 9 if "insist" in message.content else 0

    @hookimpl
    def ally_gate_answer(self, message):
        return Deny("it has a secret") if "1234" in message.content else None

    @hookimpl
    def ally_gate_stop(self, stop):
        if self.left:
            self.left -= 1
            return Deny("say it once more")
"""


def minded(person: Person, mode: str = "whole") -> Person:
    person.install("helper", MANIFEST.replace("MODE", mode), CODE)
    return person


def saved(person: Person) -> str:
    """Return the history of the only session as it is kept."""
    with JournalReader(person.home.journal_file) as reading:
        (session,) = saved_sessions(reading)
        return json.dumps(read_history(reading, session.id))


def test_a_message_that_is_denied_is_not_sent_and_the_person_reads_why(person: Person) -> None:
    shown = minded(person).chat("damn", "say hello")
    assert "not sent: helper: mind your words" in shown
    assert shown.count("mind your words") == 1
    assert "hello" in shown


@pytest.mark.parametrize(
    ("mode", "kept"),
    [("whole", ""), ("sentence", "All is well.")],
)
def test_a_denied_answer_is_not_shown_and_the_chat_goes_on(person: Person, mode: str, kept: str) -> None:
    shown = minded(person, mode).chat("say All is well. The code is 1234 today.", "say and on")
    answers = "".join(line for line in shown.splitlines() if not line.startswith(">"))
    looked = "each sentence of the answer" if mode == "sentence" else "the answer"
    assert f"plugins look at {looked} before you see it" in shown
    assert "1234" not in answers
    assert (kept in answers) is True
    what = "cut here" if kept else "withheld"
    assert f"the answer was {what}: helper: it has a secret" in shown
    assert "and on" in answers
    history = saved(person)
    assert f"the answer was {what}: helper: it has a secret" in history
    assert history.count("1234") == 1, "the person's own words"


def test_where_nobody_looks_at_answers_nothing_is_said_of_it(person: Person) -> None:
    assert "before you see it" not in person.chat("say hello")


def test_an_agent_that_is_sent_on_says_so_and_so_does_its_limit(person: Person) -> None:
    shown = minded(person).chat("say insist")
    assert shown.count("[plugin helper] say it once more") == 3
    assert "! plugins have sent the agent on 3 times in a row without a tool call; the turn ends here" in shown


def test_one_task_whose_answer_is_denied_is_refused(person: Person) -> None:
    result = minded(person).run("run", "say the code is 1234", code=1)
    assert "1234" not in result.stdout
    assert "the answer was withheld: helper: it has a secret" in result.stderr
