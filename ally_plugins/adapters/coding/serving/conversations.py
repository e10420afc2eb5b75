"""The conversations of all agents on one host: whose hook it is, and an answer whatever goes wrong."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from attrs import evolve

from ally_plugins.adapters.coding.dialects import DIALECTS
from ally_plugins.adapters.coding.payloads import HookKind, PayloadError
from ally_plugins.adapters.coding.replies import Reply, close
from ally_plugins.adapters.coding.settings.connections import guarded_places
from ally_plugins.adapters.coding.tools.plugin_tools import (
    CALL,
    LIST,
    list_reply,
    offered_tools,
    read_call,
    result_reply,
)
from ally_plugins.catalog.home.machine_policy import read_policy
from ally_plugins.contract.values.conversation import ToolResult
from ally_plugins.contract.values.errors import AllyError
from ally_plugins.contract.values.frozen import FrozenDict
from ally_plugins.contract.values.inert import inert

from .conversation import Conversation
from .own_gate import OwnGate

if TYPE_CHECKING:
    from ally_plugins.adapters.coding.dialect import Dialect
    from ally_plugins.adapters.coding.payloads import AgentHook
    from ally_plugins.contract.tools.agent_tool import AgentTool
    from ally_plugins.host.host import Host

    from .agent_process import AgentProcess

__all__ = ["Conversations", "NoConversations"]

_log: Final = logging.getLogger(__name__)

SILENT: Final = 6 * 3600.0
"""Seconds without a hook after which a conversation is closed; one that goes on is found again by its id."""

GONE: Final = 5.0
"""Seconds without a hook after which it is looked whether an agent runs still; its last hook may outlive it."""

_KEPT_REPLIES: Final = 512
"""Answers that are kept for a hook that comes twice: two configurations of one agent, the person's and a project's."""

_KEPT_ROOTS: Final = 4096
"""Sub-agents of which it is remembered for whom they work."""

_WORD: Final = re.compile(r"[A-Za-z][A-Za-z_ -]{0,39}")
"""What an agent says why a conversation has ended: `other`, `prompt_input_exit`."""

_KEPT_NAMES: Final = 32
_NAME_SHOWN: Final = 64
"""Fields of a newer version that are named, and their characters."""

_TAKE_BACK: Final = 1.0
"""Seconds that a call which nobody decided in time has to be ended; longer than that its agent does not wait."""


class NoConversations:
    """Answers hooks where no host could be started: each is closed, with the reason."""

    are_busy: Final = False
    newer: Final[Mapping[str, tuple[str, ...]]] = FrozenDict()

    def __init__(self, why: str) -> None:
        self._why = why

    def note_agent(self, agent: str, pid: int, started: int) -> None:
        """Nothing is to be kept: no call of it goes on."""

    async def reply(
        self,
        agent: str,
        event: str,
        payload: bytes,  # noqa: ARG002 - as below
        seconds: float,  # noqa: ARG002
        process: AgentProcess | None = None,  # noqa: ARG002
    ) -> Reply:
        """Close the hook."""
        return close(agent, event, f"ally-plugins: {self._why}")


class Conversations:
    """Answers hooks on a running host, and lives as long as it. Belongs to the host's loop."""

    def __init__(self, host: Host) -> None:
        self._host = host
        host.services.agents = frozenset(DIALECTS)
        self._open: dict[tuple[str, str], Conversation] = {}
        self._roots: OrderedDict[tuple[str, str], str] = OrderedDict()
        """The conversations of sub-agents' own, by agent and id, with the one that they work in."""
        self._by_task: OrderedDict[tuple[str, str], None] = OrderedDict()
        """Those of them that were known by their task, before the agent said anything of them."""
        self._replies: OrderedDict[tuple[str, str, bytes], asyncio.Future[Reply]] = OrderedDict()
        self.newer: dict[str, tuple[str, ...]] = {}
        """By agent, the fields that it sends and no version has that was seen: it was updated, and goes on."""

    @property
    def are_busy(self) -> bool:
        """Whether a call may run, in any of them, that has not ended."""
        return any(each.is_busy for each in self._open.values())

    def note_agent(self, agent: str, pid: int, started: int) -> None:
        """Keep a process as an agent's, so that what it starts loosens nothing. Raises OSError, and its hook closes."""
        agents = self._host.guarded_agents
        if agents is not None:
            agents.note(agent, pid, started)

    async def reply(
        self, agent: str, event: str, payload: bytes, seconds: float, process: AgentProcess | None = None
    ) -> Reply:
        """Return the answer to one hook within a time, or what a plugin's tool came to. Raises nothing.

        What cannot be answered is closed in the agent's way: a payload that is not known, a host that cannot record, a
        plugin that is too slow. Cancelling closes it as well, and what was asked of plugins is taken back. `process` is
        the agent that asks, as far as the system tells.
        """
        dialect = DIALECTS.get(agent)
        if dialect is None:
            return close(agent, event, f"ally-plugins knows no agent {agent!r:.80}")
        try:
            async with asyncio.timeout(seconds):
                if event == LIST:
                    return list_reply(offered_tools(self._host, dialect))
                if event == CALL:
                    return result_reply(await self._call_tool(dialect, payload, process))
                return await self._once(dialect, event, payload, process)
        except PayloadError as error:
            seen = ", ".join(dialect.versions)
            why = f"{error}; versions of {agent} that are known: {seen}; is ally-plugins older than the agent?"
        except TimeoutError:
            why = f"the plugins gave no answer within {seconds:.3g} s"
        except AllyError as error:
            why = str(error)
        except asyncio.CancelledError:
            why = "the host stops"
        except Exception as error:  # noqa: BLE001 - whatever it is, the hook is closed
            _log.exception("a hook %s of %s failed", event, agent)
            why = f"the host failed: {type(error).__name__}"
        _log.warning("%s %s: %s", agent, event, why)
        return dialect.close(event, f"ally-plugins: {why}")

    async def _once(self, dialect: Dialect, event: str, payload: bytes, process: AgentProcess | None) -> Reply:
        hook = dialect.read(event, payload)
        if hook.newer:
            self._note_newer(dialect, hook.newer)
        # The same again: an agent that runs two hooks of ours, the person's and a project's, asks once.
        key = (dialect.name, event, hashlib.sha256(payload).digest())
        if (known := self._replies.get(key)) is None:
            known = self._replies[key] = asyncio.ensure_future(self._answer(dialect, hook, process))
            if len(self._replies) > _KEPT_REPLIES:
                self._replies.popitem(last=False)
            if hook.tool is None or hook.tool.call.call_id is None:
                # What has no id may well come again, later.
                known.add_done_callback(lambda _: self._replies.pop(key, None))
        try:
            return await asyncio.shield(known)
        except asyncio.CancelledError:
            known.cancel()  # what is asked of plugins is taken back, for both of the two
            await asyncio.wait({known}, timeout=_TAKE_BACK)  # so that the call has ended when the agent reads why
            answered = known.done() and not known.cancelled() and known.exception() is None
            if answered and (said := known.result().said) is not None:
                said.take_back()  # the agent reads another answer
            raise

    def _note_newer(self, dialect: Dialect, fields: tuple[str, ...]) -> None:
        """Warn once of each field that is new; there are never many, whatever an agent sends."""
        known = self.newer.get(dialect.name, ())
        new = [each[:_NAME_SHOWN] for each in fields if each[:_NAME_SHOWN] not in known][: _KEPT_NAMES - len(known)]
        if new:
            self.newer[dialect.name] = (*known, *new)
            text = "%s is newer than the versions that are known (%s): its payloads have %s; it goes on, unread"
            _log.warning(text, dialect.name, ", ".join(dialect.versions), inert(", ".join(new)))

    async def _answer(self, dialect: Dialect, hook: AgentHook, process: AgentProcess | None) -> Reply:
        hook = self._placed(dialect, hook, process)
        if hook.cwd is None and process is not None:  # Goose says it of calls only, which come later
            hook = evolve(hook, cwd=process.folder())
        conversation = self._conversation(dialect, hook)
        conversation.process = process or conversation.process
        reply = await conversation.reply(hook)
        if hook.kind is HookKind.SESSION_END and hook.agent_id is None:
            # No transform sees it, and it is recorded: a word of the agent's own, or nothing.
            reason = hook.text if _WORD.fullmatch(hook.text) else "without a reason"
            await self._close(conversation, f"the agent has ended it ({reason})")
        return reply

    def _placed(self, dialect: Dialect, hook: AgentHook, process: AgentProcess | None) -> AgentHook:
        """Return a hook of a sub-agent that has a conversation of its own as one in that which it works in."""
        if hook.parent_id is not None and hook.agent_id is not None:
            root = self._roots.get((dialect.name, hook.parent_id), hook.parent_id)
            begins_again = hook.kind is HookKind.AGENT_START and (dialect.name, hook.agent_id) in self._by_task
            self._keep_root(dialect, hook.agent_id, root)
            return evolve(hook, session_id=root, kind=HookKind.SESSION_START if begins_again else hook.kind)
        if (known := self._roots.get((dialect.name, hook.session_id))) is None:
            giver = self._giver_of(dialect, hook, process)
            if giver is None:
                return hook
            self._keep_root(dialect, hook.session_id, giver)
            self._by_task[dialect.name, hook.session_id] = None
            if len(self._by_task) > _KEPT_ROOTS:
                self._by_task.popitem(last=False)
            # What it is told to do is the beginning of its work.
            return evolve(hook, kind=HookKind.AGENT_START, agent_id=hook.session_id, session_id=giver, is_person=False)
        # Its own id is all that the agent says.
        kind = {HookKind.STOP: HookKind.AGENT_STOP, HookKind.SESSION_END: HookKind.AGENT_STOP}.get(hook.kind, hook.kind)
        tool = hook.tool
        if tool is not None:
            tool = evolve(tool, call=evolve(tool.call, agent_id=hook.session_id))
        return evolve(hook, kind=kind, agent_id=hook.session_id, session_id=known, is_person=False, tool=tool)

    def _keep_root(self, dialect: Dialect, own: str, root: str) -> None:
        self._roots[dialect.name, own] = root
        if len(self._roots) > _KEPT_ROOTS:
            self._roots.popitem(last=False)

    def _giver_of(self, dialect: Dialect, hook: AgentHook, process: AgentProcess | None) -> str | None:
        """Return the conversation in which a call runs that gives a sub-agent the very task that a new one begins with.

        For agents that do not say for whom it works, or say it later.
        """
        if hook.kind is not HookKind.PROMPT or (dialect.name, hook.session_id) in self._open:
            return None
        for (name, session_id), each in self._open.items():
            if name == dialect.name and each.is_run_by(process) and each.is_giving(hook.text):
                return session_id
        return None

    def _conversation(self, dialect: Dialect, hook: AgentHook) -> Conversation:
        """Return the conversation, opened or found again. Raises as `Host.session` does."""
        now = asyncio.get_running_loop().time()
        key = (dialect.name, hook.session_id)
        found = self._open.get(key)
        if found is None or found.session.is_closed:
            session_id = f"{dialect.name}-{hook.session_id}"
            session = self._host.session(session_id, focus=hook.cwd, serves=dialect.serves)
            session.has_person = dialect.asks_person
            session.gates.overrides = self._host.services.overrides.of(dialect.name, session.id, session.project)
            tools = partial(offered_tools, self._host, dialect)
            found = self._open[key] = Conversation.of(
                dialect, session, self._own_gate(), now, read_policy().allow, tools
            )
        found.last_hook = now
        return found

    async def _call_tool(self, dialect: Dialect, payload: bytes, process: AgentProcess | None) -> ToolResult:
        """Return what a plugin's tool came to. Raises as `reply` catches."""
        name, arguments = read_call(payload)
        tool: AgentTool | None = offered_tools(self._host, dialect).get(name)
        if tool is None:
            return ToolResult(success=False, error=f"no plugin offers a tool {name!r:.80} any more")
        # Which of the agent's conversations it is, its hook has said before; else the one that the agent is at.
        own = [each for each in self._open.values() if each.dialect is dialect and each.is_run_by(process)]
        own.sort(key=lambda each: (each.plugin_tools.has_claim(name, arguments), each.last_hook))
        if not own or (process is None and not own[-1].plugin_tools.has_claim(name, arguments)):
            why = f"no hook of this {dialect.name} has come, so that no gate would see its calls"
            return ToolResult(success=False, error=f"not run: {why}; is it connected? ally-plugins connect --status")
        return await own[-1].plugin_tools.run(name, tool, arguments)

    def _own_gate(self) -> OwnGate:
        """Return the host's own gate; what it guards is looked up for each conversation. Raises ConfigError."""
        folders, files = guarded_places(self._host.home)
        return OwnGate(folders, files, str(Path.home()))

    async def close_silent(self, after: float = SILENT, gone_after: float = GONE) -> None:
        """Close the conversations that have been silent for long, or whose agent has ended; both are in seconds."""
        now = asyncio.get_running_loop().time()
        for each in list(self._open.values()):
            silent = now - each.last_hook
            if silent >= after:
                await self._close(each, "the agent has been silent for long")
            elif silent >= gone_after and each.process is not None and each.process.is_gone():
                await self._close(each, "the agent has ended, and did not say so")

    async def _close(self, conversation: Conversation, why: str) -> None:
        self._open = {key: each for key, each in self._open.items() if each is not conversation}
        try:
            if not conversation.session.is_closed:
                await conversation.close(why)
        except AllyError as error:  # another host has it
            _log.warning("%r is not closed: %s", conversation.session, error)
