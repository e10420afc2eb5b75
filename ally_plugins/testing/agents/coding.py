"""Coding agents as a test plays them: their hooks on a real host, and what each does with the answers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.adapters.coding.serving.conversations import Conversations
from ally_plugins.contract.tools.common_names import COMMON_NAMES, TOOL_NAMES, common_name

from .payloads import PAYLOADS, failure_record, fill, output_of, response_of
from .reactions import Reaction, react
from .turns import AgentTurn, PlayedCall, ToolUse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ally_plugins.host.host import Host

__all__ = ["CodingAgent"]

_ID: Final = "test"
"""The agent's own id of the conversation."""

_WITHIN: Final = 20.0
"""Seconds that a hook has, as the client gives them."""


class CodingAgent:
    """One conversation of a coding agent, on a host that runs."""

    def __init__(self, name: str, host: Host, cwd: str) -> None:
        self.name = name
        self.session_id = f"{name}-{_ID}"
        self._conversations = Conversations(host)
        self._cwd = cwd
        self._folder = tempfile.TemporaryDirectory(prefix="ally-agent-")
        self._event_file = Path(self._folder.name, "events.jsonl")
        self._has_started = False
        self._calls = 0

    def close(self) -> None:
        """Remove the agent's own files."""
        self._folder.cleanup()

    def names_of(self, use: ToolUse) -> tuple[str, dict[str, Any]]:
        """Return the agent's names of a tool and its arguments. Raises LookupError for a tool that it has not."""
        if use.tool not in COMMON_NAMES:
            return use.tool, dict(use.arguments)
        for own in TOOL_NAMES[self.name]:
            common, names = common_name(self.name, own)
            if common == use.tool:
                to_own = {name: given for given, name in names.items()}
                return own, {to_own.get(name, name): value for name, value in use.arguments.items()}
        raise LookupError(f"{self.name} has no tool {use.tool!r}")

    async def turn(self, uses: Sequence[ToolUse], prompt: str, answer: str, *, person_agrees: bool) -> AgentTurn:
        """Play one turn; see `AgentHarness.turn`."""
        said = []
        if not self._has_started:
            self._has_started = True
            said.append((await self._hook("start")).context)
        asked = await self._hook("prompt", prompt=prompt, call="")
        said.append(asked.context)
        if asked.stopped:
            return AgentTurn(reason=asked.reason, words=_joined(said))
        read = asked.value if isinstance(asked.value, str) else prompt
        calls: list[PlayedCall] = []
        for use in uses:
            call, ended = await self._call(use, said, person_agrees=person_agrees)
            calls.append(call)
            if ended is not None:
                return AgentTurn(calls=tuple(calls), prompt=read, reason=ended, words=_joined(said))
        stop = await self._hook("stop", prompt=prompt, answer=answer)
        if stop.goes_on:
            said.append(stop.reason)
        return AgentTurn(
            calls=tuple(calls), prompt=read, answer=answer, words=_joined(said),
            goes_on=stop.goes_on, reason=stop.reason,
        )  # fmt: skip

    async def _call(self, use: ToolUse, said: list[str], *, person_agrees: bool) -> tuple[PlayedCall, str | None]:
        """Return what became of a call, and why the agent stops after it where it does."""
        tool, given = self.names_of(use)
        self._calls += 1
        call_id, output = f"call-{self._calls}", output_of(self.name, use)
        about = {"tool": tool, "call": call_id, "output": output, "response": response_of(self.name, tool, output)}
        before = await self._hook("before", arguments=given, **about)
        said.append(before.context)
        if before.stopped or (before.asks and not person_agrees):
            return PlayedCall(ran=False, shown=before.reason, is_asked=before.asks), None
        ran = before.value if isinstance(before.value, Mapping) else given
        kind = "failed" if not use.success and "failed" in PAYLOADS[self.name] else "after"
        after = await self._hook(kind, arguments=ran, **about)
        said.append(after.context)
        shown = output
        if self.name == "codex" and not use.success:
            with self._event_file.open("a") as file:
                file.write(failure_record(call_id))
        if after.stopped:
            shown = "\n".join(filter(None, _texts(after.value))) if after.value is not None else after.reason
        batch = await self._hook("calls", arguments=ran, **about)
        call = PlayedCall(ran=True, arguments=ran, shown=shown, is_asked=before.asks)
        return call, batch.reason if batch.stopped else None

    async def _hook(self, kind: str, **values: Any) -> Reaction:
        """Send the agent's hook of a kind, and return what the agent does; nothing where it has none."""
        if (template := PAYLOADS[self.name].get(kind)) is None:
            return Reaction()
        event, body = template
        payload = fill(body, {"session": _ID, "cwd": self._cwd, "event file": str(self._event_file), **values})
        reply = await self._conversations.reply(self.name, event, json.dumps(payload).encode(), _WITHIN)
        if reply.said is not None:
            await reply.said.confirm()  # the agent takes what it lists
        return react(self.name, event, payload, (reply.exit_code, reply.stdout, reply.stderr))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            if name != "type":  # what names the kind of a part is no text of it
                yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _joined(said: list[str]) -> str:
    return "\n".join(filter(None, said))
