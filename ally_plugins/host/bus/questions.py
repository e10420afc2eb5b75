"""Plugins' questions to the person: recorded, put by whoever can, and answered or withdrawn.

Who puts them is the session's `ask_person`: an adapter's approver while an agent is at work, or what the host has been
given.
"""

from __future__ import annotations

import asyncio
import logging
from math import inf
from typing import TYPE_CHECKING, Final

from attrs import define, field

from ally_plugins.contract.values.errors import RefusedError, UnavailableRefused, ValidationRefused
from ally_plugins.contract.values.ids import new_id
from ally_plugins.contract.values.questions import PluginQuestion
from ally_plugins.policy.questions import check_question, shown_choices, shown_question
from ally_plugins.runtime.lanes.plugin import describe

from .records import Records

if TYPE_CHECKING:
    from ally_plugins.contract.calls import AskQuestion
    from ally_plugins.contract.values.questions import AskPerson
    from ally_plugins.host.sessions.session import Session
    from ally_plugins.runtime.lanes.plugin import Plugin

__all__ = ["Questions"]

_log: Final = logging.getLogger(__name__)


@define(eq=False)
class Questions:
    """Puts the questions of one host's plugins to the person. Lives as long as the host."""

    records: Records
    _open: set[asyncio.Task[str]] = field(init=False, factory=set)
    """Those that are being put, and what ignores that it was withdrawn."""

    async def ask(
        self, plugin: Plugin, session: Session, call: AskQuestion, origin: tuple[str, ...], cause: str | None
    ) -> str:
        """Put a question and return the choice, as the plugin gave it.

        Question and answer are on disk before anybody sees them. Raises ValidationRefused, and UnavailableRefused where
        nobody can be asked, at once; where nobody answers in time, or chooses none; and where it cannot be recorded.
        Cancelling withdraws the question.
        """
        # What is refused at once comes before the record: a question on disk was put to somebody.
        text, choices = check_question(call.question, call.choices)
        _check_timeout(call.timeout)
        masked = plugin.secrets.masked(text)
        shown = shown_choices(tuple(map(plugin.secrets.masked, choices)))
        ask_person = session.ask_person
        # At once, and not after the timeout: a plugin can then do without an answer.
        if ask_person is None:
            raise UnavailableRefused("nobody is there to be asked, or nothing here can ask them", plugin=plugin.name)
        question = PluginQuestion(
            new_id("q"), plugin.name, session.id, shown_question(plugin.name, masked), choices=shown
        )
        data = {"question": masked, "choices": shown, "timeout": call.timeout, "origin": origin, "cause": cause}
        await self.records.write("question", plugin.name, session.id, question.id, data)
        try:
            answer = await self._put(ask_person, question, call.timeout)
        except BaseException as error:
            state = "withdrawn" if isinstance(error, asyncio.CancelledError) else "unanswered"
            about = {"state": state, "reason": "" if state == "withdrawn" else describe(error)}
            self.records.write_soon("answer", plugin.name, session.id, question.id, about)
            raise
        about = {"state": "answered", "choice": answer}
        # Waited for: the plugin may act on it, so that it must be on disk before.
        await self.records.write("answer", plugin.name, session.id, question.id, about)
        return choices[shown.index(answer)]

    async def _put(self, ask_person: AskPerson, question: PluginQuestion, timeout: float) -> str:
        task = asyncio.get_running_loop().create_task(_answer(ask_person, question), name=f"ally-ask-{question.id}")
        self._open.add(task)
        task.add_done_callback(self._forget)
        try:
            # Not `asyncio.timeout`: it would wait for the end of an approver that does not let itself be cancelled.
            done, _ = await asyncio.wait([task], timeout=timeout)
        finally:
            task.cancel()  # nothing once it is done
        if not done:
            raise UnavailableRefused(f"nobody answered within {timeout:g} s", plugin=question.plugin)
        try:
            answer = task.result()
        except RefusedError:
            raise
        except asyncio.CancelledError:  # the approver's own doing, since nobody has cancelled us
            raise UnavailableRefused("the question was taken from the person", plugin=question.plugin) from None
        except Exception as error:
            _log.exception("asking the person for %r failed", question.plugin)
            text = f"the person could not be asked: {describe(error)}"
            raise UnavailableRefused(text, plugin=question.plugin) from error
        # An approver that only knows tool calls returns True, which is no choice.
        if type(answer) is not str or answer not in question.choices:
            raise UnavailableRefused("the person chose none of the choices", plugin=question.plugin)
        return answer

    def _forget(self, task: asyncio.Task[str]) -> None:
        self._open.discard(task)
        if not task.cancelled():
            task.exception()  # of one that was withdrawn: nobody asks for it, and asyncio would log it


async def _answer(ask_person: AskPerson, question: PluginQuestion) -> str:
    return await ask_person(question)  # a function that returns nothing to await fails in the task, as any other


def _check_timeout(timeout: object) -> None:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < inf:
        raise ValidationRefused(f"timeout is {timeout!r}; expected seconds, more than 0", field="timeout")
