"""Plugins' own questions to the person, put by the approver of the run that is at work, on its loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from attrs import define, field

from ally_plugins.contract.values.conversation import ToolCall
from ally_plugins.contract.values.errors import UnavailableRefused
from ally_plugins.contract.values.events import PermissionRequest
from ally_plugins.host.own_loop import OwnLoop

from .permission import NORMAL, PermissionQuestion

if TYPE_CHECKING:
    from ally_plugins.contract.values.questions import PluginQuestion
    from ally_plugins.host.sessions.session import Session  # noqa: TC004 - nobody reads these annotations at run time

    from .permission import Approver, PermissionFlow  # noqa: TC004

__all__ = ["RunQuestions"]

_ASK: Final = "ask"
"""What stands for the tool's name in the request, which is no tool's."""


@define(eq=False)
class RunQuestions:
    """Puts the questions of a session while one run is at work; made on the run's loop, it lives until `close`.

    Not longer: the approver is the run's, and a person at a prompt of their own is asked nothing.
    """

    session: Session
    flow: PermissionFlow
    approve: Approver
    _loop: OwnLoop = field(init=False, factory=OwnLoop)
    _open: set[asyncio.Task[str]] = field(init=False, factory=set)
    _is_closed: bool = field(init=False, default=False)

    def open(self) -> None:
        """Put the session's questions from now on."""
        self.session.ask_person = self

    async def __call__(self, question: PluginQuestion) -> str:
        """Put a question, on the host's loop. Raises UnavailableRefused when the run ends; cancelling withdraws it."""
        # A task of its own, so that `close` can withdraw the question and leave the plugin's call to raise.
        put = asyncio.get_running_loop().create_task(self._loop.run(self._put(question)))
        self._open.add(put)
        try:
            return await put
        except asyncio.CancelledError:
            me = asyncio.current_task()
            # Only the inner task was cancelled, by `close`; a cancellation of the caller goes on as one.
            if self._is_closed and me is not None and not me.cancelling():
                text = "the agent's turn ended before the person answered"
                raise UnavailableRefused(text, plugin=question.plugin) from None
            raise
        finally:
            self._open.discard(put)

    async def _put(self, question: PluginQuestion) -> str:
        request = PermissionRequest(
            request_id=question.id,
            tool_name=_ASK,
            arguments={"question": question.text, "choices": question.choices},
            sensitivity=NORMAL,
            options=question.choices,
        )
        call = ToolCall(_ASK, request.arguments)
        about = PermissionQuestion(request, call, question.text, (question.plugin,), plugin_question=question)
        return await self.flow.put(about, self.approve)

    def close(self) -> None:
        """Put no more of them, and withdraw those that are open. From any thread; a second call does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        # A later run of the session may have put its own in this place.
        if self.session.ask_person is self:
            self.session.ask_person = self.session.host_asks
        # The tasks are the host's loop's, and this may be called in any thread.
        loop = self.session.own_loop.loop
        if self._open and loop.is_running():
            loop.call_soon_threadsafe(self._withdraw)

    def _withdraw(self) -> None:
        for put in self._open:
            put.cancel()
