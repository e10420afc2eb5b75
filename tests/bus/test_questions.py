"""A plugin asks the person: who is asked, what they see, and what becomes of a question that nobody answers."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import (
    Ally,
    Host,
    PluginQuestion,
    RefusedError,
    UnavailableRefused,
    ValidationRefused,
)
from ally_plugins.journal.journal import Journal
from tests.kit.hosts import make_plugin, new_host, setup
from tests.kit.waiting import go

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable


class Person:
    """Answers what it is asked, once it wants to; keeps the questions, and those that were taken away."""

    def __init__(self, answer: Any = "yes") -> None:
        self.answer = answer
        self.asked: list[PluginQuestion] = []
        self.taken_away: list[str] = []
        self.may_answer = asyncio.Event()
        self.was_asked = asyncio.Event()

    async def __call__(self, question: PluginQuestion) -> str:
        self.asked.append(question)
        self.was_asked.set()
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.taken_away.append(question.id)
            raise
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]  # whatever the test wants of it


@asynccontextmanager
async def asking(ask_person: Callable[[PluginQuestion], Awaitable[str]] | None) -> AsyncGenerator[tuple[Host, Ally]]:
    plugin = make_plugin()
    async with new_host(plugins={"p": plugin}, grants={"p": ["ask"]}, ask_person=ask_person) as host:
        host.session("s")
        yield host, plugin.ally


async def records(host: Host) -> list[tuple[str, dict[str, Any]]]:
    """Return the records of questions and answers, in order, without what differs from run to run."""
    await host.journal.flush()
    both = [each for each in host.journal.reader.records() if each.kind in {"question", "answer"}]
    left_out = {"origin", "cause", "timeout"}
    return [(each.kind, {key: data for key, data in (each.data or {}).items() if key not in left_out}) for each in both]


QUESTION = ("question", {"question": "go on?", "choices": ["yes", "no"]})


def test_a_choice_reaches_the_plugin_and_question_and_answer_are_on_disk_before() -> None:
    async def main() -> None:
        person = Person("no")
        async with asking(person) as (host, ally):
            call = asyncio.create_task(ally.ask("go on?"))
            await person.was_asked.wait()
            assert await records(host) == [QUESTION]
            person.may_answer.set()
            assert await call == "no"
            assert await records(host) == [QUESTION, ("answer", {"state": "answered", "choice": "no"})]
            (question,) = person.asked
            assert (question.plugin, question.session_id, question.choices) == ("p", "s", ("yes", "no"))
            assert host.plugins["p"].budget.in_flight == 0

    go(main())


def test_where_nobody_can_be_asked_it_is_refused_at_once_and_nothing_is_recorded() -> None:
    async def main() -> None:
        async with asking(None) as (host, ally):
            with pytest.raises(UnavailableRefused, match="nobody is there to be asked"):
                await ally.ask("go on?", timeout=1e9)
            assert await records(host) == []
            assert host.plugins["p"].counts.refused == {"unavailable": 1}
            assert host.plugins["p"].budget.in_flight == 0

    go(main())


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("maybe", "the person chose none of the choices"),
        ("", "the person chose none of the choices"),
        (None, "the person chose none of the choices"),
        (True, "the person chose none of the choices"),
        (OSError("no terminal"), "the person could not be asked: OSError: no terminal"),
    ],
)
def test_what_is_no_choice_is_no_answer_and_no_crash(answer: Any, text: str) -> None:
    async def main() -> None:
        person = Person(answer)
        person.may_answer.set()
        async with asking(person) as (host, ally):
            with pytest.raises(UnavailableRefused) as refused:
                await ally.ask("go on?")
            assert str(refused.value) == text
            _, (kind, data) = await records(host)
            assert (kind, data["state"]) == ("answer", "unanswered")
            assert text in data["reason"]
            assert host.plugins["p"].counts.crashes == 0

    go(main())


def test_a_question_that_is_not_answered_in_time_is_taken_away() -> None:
    async def main() -> None:
        person = Person()
        async with asking(person) as (host, ally):
            with pytest.raises(UnavailableRefused, match=r"nobody answered within 0.01 s"):
                await ally.ask("go on?", timeout=0.01)
            await asyncio.sleep(0)
            assert person.taken_away == [person.asked[0].id]
            assert (await records(host))[1][1]["state"] == "unanswered"

    go(main())


def test_the_deadline_holds_for_an_approver_that_does_not_let_itself_be_cancelled() -> None:
    ends = asyncio.Event()

    async def stubborn(_: PluginQuestion) -> str:
        while not ends.is_set():
            try:
                await ends.wait()
            except asyncio.CancelledError:
                continue
        return "yes"

    async def main() -> None:
        async with asking(stubborn) as (_, ally):
            with pytest.raises(UnavailableRefused, match="nobody answered"):
                await ally.ask("go on?", timeout=0.01)
            ends.set()

    go(main())


def test_a_call_that_is_cancelled_withdraws_its_question() -> None:
    async def main() -> None:
        person = Person()
        async with asking(person) as (host, ally):
            call = asyncio.create_task(ally.ask("go on?"))
            await person.was_asked.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.sleep(0)
            assert person.taken_away == [person.asked[0].id]
            assert await records(host) == [QUESTION, ("answer", {"state": "withdrawn", "reason": ""})]
            assert host.plugins["p"].budget.in_flight == 0

    go(main())


def test_a_plugin_that_is_stopped_takes_its_question_along() -> None:
    async def main() -> None:
        person, plugin = Person(), make_plugin()
        grants = {"p": ["ask", "tasks"]}
        async with new_host(plugins={"p": plugin}, grants=grants, ask_person=person) as host:
            host.session("s")
            await plugin.ally.start_task("ask", plugin.ally.ask("go on?"))
            await person.was_asked.wait()
        assert person.taken_away == [each.id for each in person.asked]

    go(main())


def test_the_question_is_the_plugins_and_inert_whatever_it_says() -> None:
    async def main() -> None:
        person = Person("ok \\u202eno")
        person.may_answer.set()
        async with asking(person) as (_, ally):
            text = "The host asks:\nmay it?\u202e \u200b"
            assert await ally.ask(text, ["ok \u202eno", "never"]) == "ok \u202eno"
            (question,) = person.asked
            assert question.text == "[plugin p] The host asks:\n[plugin p] may it?\\u202e \\u200b"
            assert question.choices == ("ok \\u202eno", "never")

    go(main())


def test_the_person_and_the_journal_see_no_secret_of_the_plugins() -> None:
    async def main() -> None:
        from ally_plugins.contract.values.masking import Secrets

        person = Person("send [secret]")
        person.may_answer.set()
        async with asking(person) as (host, ally):
            host.plugins["p"].secrets = Secrets(["hunter2-hunter2"])
            chosen = await ally.ask("use hunter2-hunter2?", ["send hunter2-hunter2", "no"])
            assert chosen == "send hunter2-hunter2"
            assert person.asked[0].text == "[plugin p] use [secret]?"
            assert "hunter2" not in str(await records(host))

    go(main())


@pytest.mark.parametrize(
    ("question", "choices", "timeout", "field"),
    [
        ("", ["yes"], 1, "question"),
        ("a\x1b[2J", ["yes"], 1, "question"),
        ("x" * 2001, ["yes"], 1, "question"),
        (5, ["yes"], 1, "question"),
        ("?", [], 1, "choices"),
        ("?", list("0123456789"), 1, "choices"),
        ("?", "yes", 1, "choices"),
        ("?", ["yes", 5], 1, "choices"),
        ("?", ["yes", "YES"], 1, "choices"),
        ("?", ["a\u00a0b", "a b"], 1, "choices"),
        ("?", ["yes", " no"], 1, "choices"),
        ("?", ["yes", "n\no"], 1, "choices"),
        ("?", ["x" * 81], 1, "choices"),
        ("?", ["yes"], 0, "timeout"),
        ("?", ["yes"], float("inf"), "timeout"),
        ("?", ["yes"], True, "timeout"),
    ],
)
def test_what_nobody_could_answer_is_refused_and_nobody_is_asked(
    question: Any, choices: Any, timeout: Any, field: str
) -> None:
    async def main() -> None:
        person = Person()
        async with asking(person) as (_, ally):
            with pytest.raises(ValidationRefused) as refused:
                await ally.ask(question, choices, timeout=timeout)
            assert refused.value.field == field
            assert person.asked == []

    go(main())


def test_what_cannot_be_recorded_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        person = Person()
        async with asking(person) as (_, ally):
            from ally_plugins.contract.values.errors import JournalError

            async def full(*_: Any) -> int:
                raise JournalError("the disk is full")

            monkeypatch.setattr(Journal, "append", full)
            with pytest.raises(UnavailableRefused, match="cannot be recorded"):
                await ally.ask("go on?")
            assert person.asked == []
            monkeypatch.undo()

    go(main())


def test_questions_are_few_in_a_minute() -> None:
    async def main() -> None:
        person = Person()
        person.may_answer.set()
        async with asking(person) as (_, ally):
            for _ in range(6):
                await ally.ask("go on?")
            with pytest.raises(RefusedError, match="questions_per_minute"):
                await ally.ask("go on?")
            assert len(person.asked) == 6

    go(main())


def test_the_origin_of_a_question_is_recorded() -> None:
    async def main() -> None:
        person = Person()
        person.may_answer.set()

        async def act(self: Any) -> str:
            """Ask."""
            return str(await self.ally.ask("go on?"))

        from ally_plugins import action

        plugin = make_plugin(act=action(act))
        async with new_host(plugins={"p": setup(plugin, ["ask", "actions"])}, ask_person=person) as host:
            session = host.session("s")
            assert await session.request_action("p:act") == "yes"
            await host.journal.flush()
            (asked,) = host.journal.reader.records(kind="question")
            assert asked.data is not None
            assert asked.data["origin"] == ["p"]
            assert asked.data["cause"].startswith("a-")

    go(main())
