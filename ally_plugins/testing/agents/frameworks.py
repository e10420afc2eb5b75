"""Agents of frameworks as a test plays them: the framework itself, with a model that makes the calls of the test."""

from __future__ import annotations

import importlib
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.contract.values.conversation import ToolCall, ToolResult
from ally_plugins.testing.adapters.driver import AgentSetup
from ally_plugins.testing.adapters.script import Answer, Asked, Script

from .turns import AgentTurn, PlayedCall, ToolUse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ally_plugins.contract.handle import Ally
    from ally_plugins.host.host import Host
    from ally_plugins.host.person.permission import PermissionQuestion
    from ally_plugins.testing.adapters.driver import AdapterDriver

__all__ = ["DRIVERS", "FrameworkAgent"]

DRIVERS: Final = {
    "google-adk": ("google.adk", "google_adk:GoogleADKDriver"),
    "langchain": ("langchain", "langchain:LangChainDriver"),
    "openai-agents": ("agents", "openai_agents:OpenAIAgentsDriver"),
    "pydantic-ai": ("pydantic_ai", "pydantic_ai:PydanticAIDriver"),
    "strands": ("strands", "strands:StrandsDriver"),
}
"""By framework, what is imported of it, and the driver."""

_PLUGIN: Final = "[plugin "
"""How what a plugin says begins, in the form in which the model reads it."""


class FrameworkAgent:
    """One conversation with an agent of a framework, whose tools are those of the test: another plugin offers them.

    So their results are told in the same way in each framework, also those of calls that fail.
    """

    def __init__(self, name: str, host: Host, other: Ally) -> None:
        self.session_id = "s1"
        self._driver: AdapterDriver = driver_of(name)
        self._tools = other
        self._offered: set[str] = set()
        self._current: tuple[str, ToolUse] | None = None
        self._ran: dict[str, Mapping[str, Any]] = {}
        self._asked: set[str] = set()
        self._person_agrees = False
        self._script = Script([])
        self._calls = 0
        self._agent = self._driver.make(AgentSetup(host=host, script=self._script, approve=self._answer))

    def close(self) -> None:
        """Do nothing: it ends with its host."""

    async def _answer(self, question: PermissionQuestion) -> str:
        self._asked.add(question.call.call_id or "")
        return "allow" if self._person_agrees else "deny"

    async def turn(self, uses: Sequence[ToolUse], prompt: str, answer: str, *, person_agrees: bool) -> AgentTurn:
        """Play one turn; see `AgentHarness.turn`."""
        for name in {use.tool for use in uses} - self._offered:
            await self._offer(name)
        self._person_agrees = person_agrees
        made = [(f"call-{self._calls + number}", use) for number, use in enumerate(uses, 1)]
        self._calls += len(made)
        before = len(self._script.asked)
        self._script.steps[:] = [*(partial(self._call, each) for each in made), answer]
        reason, said = "", None
        try:
            said = await self._driver.run(self._agent, prompt, session_id=self.session_id)
        except Exception as error:  # noqa: BLE001 - how a framework ends a turn that a plugin stops is its own way
            reason = str(error)
        requests = self._script.asked[before:]
        if not requests:
            return AgentTurn(reason=reason or said or "")
        return AgentTurn(
            calls=tuple(self._outcome(call_id, requests[-1]) for call_id, _ in made if _is_told(call_id, requests[-1])),
            words="\n".join(_words(requests[-1])),
            prompt=_prompt(requests[0]),
            answer=said,
            reason=reason,
            goes_on=len(requests) > len(made) + 1,
        )

    def _call(self, made: tuple[str, ToolUse], _: Asked) -> Answer:
        self._current = call_id, use = made
        return Answer(calls=(ToolCall(use.tool, use.arguments, call_id),))

    def _outcome(self, call_id: str, request: Asked) -> PlayedCall:
        return PlayedCall(
            ran=call_id in self._ran,
            arguments=self._ran.get(call_id, {}),
            shown=request.result_of(call_id) or "",
            is_asked=call_id in self._asked,
        )

    async def _offer(self, name: str) -> None:
        async def run(**arguments: Any) -> ToolResult:
            assert self._current is not None  # noqa: S101 - the model has made a call, one after another
            call_id, use = self._current
            self._ran[call_id] = arguments
            error = None if use.success else use.output
            return ToolResult(success=use.success, output=use.output, error=error)

        schema = {"type": "object", "properties": {}, "additionalProperties": True}
        await self._tools.register_tool(run, name=name, description="A tool of the test.", schema=schema)
        self._offered.add(name)


def driver_of(name: str) -> AdapterDriver:
    """Return the driver of a framework. Raises LookupError for one that is not installed."""
    root, where = DRIVERS[name]
    module, _, driver = where.partition(":")
    try:
        importlib.import_module(root)
    except ImportError as error:
        raise LookupError(f"{name} is not installed here ({error})") from None
    made: AdapterDriver = getattr(importlib.import_module(f"{__package__}.{module}"), driver)()
    return made


def _is_told(call_id: str, request: Asked) -> bool:
    return request.result_of(call_id) is not None


def _words(request: Asked) -> list[str]:
    return [each.content for each in request.messages if each.role == "user" and each.content.startswith(_PLUGIN)]


def _prompt(request: Asked) -> str | None:
    said = [each.content for each in request.messages if each.role == "user" and not each.content.startswith(_PLUGIN)]
    return said[-1] if said else None
