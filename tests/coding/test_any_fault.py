"""Whatever an agent sends, a plugin does, or fails in the host: what no gate has let through does not run.

Each example is a conversation on a running host: payloads as recorded, with fields dropped, changed and added, or other
bytes; a plugin that decides as the example says; and a fault in one part of ours.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from typing import Any, Self
from unittest.mock import patch

import pytest
from attrs import evolve, frozen
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins import Allow, Ask, Deny, Host, Message, Replace, ToolCall, ToolResult
from ally_plugins import evolve as changed
from ally_plugins.adapters.coding.client.hook_client import CLOSED
from ally_plugins.adapters.coding.dialects import DIALECTS
from ally_plugins.adapters.coding.payloads import HookKind
from ally_plugins.adapters.coding.serving.conversation import Conversation
from ally_plugins.adapters.coding.serving.conversations import Conversations
from ally_plugins.contract.values.errors import HostError
from ally_plugins.host.sessions.session import Session
from ally_plugins.testing.agents.reactions import LISTED, Reaction, fields_of, react
from tests.kit.hosts import make_plugin, setup

from .agents import recorded

AGENTS = sorted(DIALECTS)
DECIDED = {HookKind.BEFORE_TOOL, HookKind.PROMPT, HookKind.PERMISSION, HookKind.AFTER_TOOL, HookKind.AFTER_CALLS}
UNCLOSABLE = {("claude", "PostToolUseFailure")}
"""What follows it ends the turn, and has a test of its own below."""

WITHIN = 5.0
"""Seconds that a hook has; one whose plugin never answers has few."""

HURRY = 0.02


class OurFaultError(Exception):
    """What a part of ours raises in an example."""


@frozen
class Example:
    """What one hook meets: the bytes of its payload, what the plugin does, and which part of ours fails how."""

    event: str
    raw: bytes
    behaviour: str
    fault: str | None

    @property
    def is_no(self) -> bool:
        return self.behaviour not in {"allows", "abstains"} or self.fault is not None


NO = ("denies", "denies without a reason", "raises", "returns nonsense", "never answers", "asks")
"""What a plugin may do that is no yes; a question is one where the agent has no way to put it."""

FAULTS: dict[str, tuple[Any, str]] = {
    "reading": ("dialect", "read_event"),
    "writing": ("dialect", "writers"),
    "emitting": (Session, "emit"),
    "gating": (Conversation, "reply"),
    "placing": (Conversations, "_placed"),
    "opening": (Host, "session"),
}
ERRORS: tuple[type[Exception], ...] = (
    OurFaultError, HostError, OSError, RecursionError, MemoryError, UnicodeError, TimeoutError, KeyError,
)  # fmt: skip


async def decide(self: Any) -> Any:
    if self.does == "raises":
        raise ValueError("x" * 9)
    if self.does == "never answers":
        await asyncio.sleep(3600)
    return VERDICTS.get(self.does)


VERDICTS: dict[str, Any] = {
    "denies": Deny("no: \u202e\x00 'x'\n\""),
    "denies without a reason": Deny(" "),
    "asks": Ask("sure?"),
    "returns nonsense": {"verdict": "allow"},
    "allows": Allow(),
}


def plugin() -> type[Any]:
    """Return a plugin that does at each hook what its class attribute `does` says."""

    async def gate_tool_call(self: Any, call: ToolCall) -> Any:  # noqa: ARG001
        return await decide(self)

    async def gate_user_message(self: Any, message: Message) -> Any:  # noqa: ARG001
        return await decide(self)

    async def gate_permission(self: Any, request: Any) -> Any:  # noqa: ARG001
        return await decide(self)

    async def transform_tool_output(self: Any, call: ToolCall, result: ToolResult) -> Any:  # noqa: ARG001
        found = await decide(self)
        return Replace(changed(result, output="[gone]", data=None)) if isinstance(found, (Deny, Ask)) else None

    return make_plugin(
        ally_gate_tool_call=gate_tool_call,
        ally_gate_user_message=gate_user_message,
        ally_gate_permission=gate_permission,
        ally_transform_tool_output=transform_tool_output,
    )


GRANTS = ("gate:tool_call", "gate:user_message", "gate:permission", "transform:tool_output")

ODD = st.sampled_from(["\ud800", "\x00", "a" * 2000])

junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 10**30)
    | st.text(max_size=6)
    | st.sampled_from(["\ud800", "\x00", "a" * 2000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every field within a value, with what holds it."""
    if isinstance(value, dict):
        return [found for name, each in value.items() for found in ((value, name), *places(each))]
    if isinstance(value, list):
        return [found for at, each in enumerate(value) for found in ((value, at), *places(each))]
    return []


@st.composite
def payloads(draw: st.DrawFn, agent: str, event: str) -> bytes:
    """Return a recorded payload with up to three fields dropped, changed or added, or other bytes."""
    known = [each["payload"] for each in recorded(agent) if each["event"] == event]
    if not known or draw(st.integers(0, 9)) == 0:
        return draw(
            st.binary(max_size=40) | st.sampled_from([b"", b"{}", b"[]", b"null", b'{"a":1,"a":2}', b"[" * 9000])
        )
    payload = json.loads(json.dumps(draw(st.sampled_from(known))))
    for _ in range(draw(st.integers(0, 3))):
        found = places(payload)
        if not found:
            break
        holder, name = draw(st.sampled_from(found))
        match draw(st.sampled_from(["drop", "change", "add"])):
            case "drop":
                del holder[name]
            case "change":
                holder[name] = draw(junk)
            case _:
                if isinstance(holder, dict):
                    holder[draw(st.text(max_size=6))] = draw(junk)
    raw = json.dumps(payload).encode()
    return raw[: draw(st.integers(0, len(raw)))] if draw(st.integers(0, 19)) == 0 else raw


@st.composite
def examples(draw: st.DrawFn, agent: str) -> Example:
    event = draw(st.sampled_from(sorted(CLOSED[agent])))
    fault = draw(st.none() | st.sampled_from(sorted(FAULTS)))
    behaviour = draw(st.sampled_from((*NO, "allows", "abstains")))
    return Example(event, draw(payloads(agent, event)), behaviour, fault)


class Conversing:
    """A host with the plugin, and an agent that asks it; one for all examples of a test."""

    def __init__(self, agent: str) -> None:
        self.agent, self.plugin, self.stack = agent, plugin(), ExitStack()

    def __enter__(self) -> Self:
        self.runner = self.stack.enter_context(asyncio.Runner())
        given_plugin = setup(self.plugin, GRANTS, transform_on_error="block").under("p")
        self.host = Host(home=None, discover=False, plugins={"p": given_plugin})
        self.runner.run(self.host.__aenter__())
        # As many examples as there are must each meet the plugin, which would be in quarantine after five crashes.
        self.host.plugins["p"].crashes.limit = 10**9
        self.stack.callback(lambda: self.runner.run(self.host.__aexit__(None, None, None)))
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def ask(self, example: Example, error: Exception, conversations: Conversations | None = None) -> Reaction:
        """Return what the agent does after one hook."""
        self.plugin.does = example.behaviour
        conversations = conversations or Conversations(self.host)
        seconds = HURRY if example.behaviour == "never answers" else WITHIN
        with faulty(self.agent, example.fault, error):
            asked = conversations.reply(self.agent, example.event, example.raw, seconds)
            reply = self.runner.run(asked)
        assert fields_of(reply.stdout) <= LISTED[self.agent].get(example.event, set())
        try:
            payload = json.loads(example.raw)
        except (ValueError, RecursionError):
            payload = {}
        payload = payload if isinstance(payload, dict) else {}
        return react(self.agent, example.event, payload, (reply.exit_code, reply.stdout, reply.stderr))


def faulty(agent: str, fault: str | None, error: Exception) -> Any:
    """Return a context in which one part of ours fails."""

    def fails(*_: object, **__: object) -> Any:
        raise error

    if fault is None:
        return ExitStack()
    owner, name = FAULTS[fault]
    if owner != "dialect":
        return patch.object(owner, name, fails)
    dialect = DIALECTS[agent]
    changes: dict[str, Any] = {name: fails if name == "read_event" else dict.fromkeys(dialect.writers, fails)}
    return patch.dict(DIALECTS, {agent: evolve(dialect, **changes)})


def kind_of(agent: str, event: str) -> HookKind:
    return DIALECTS[agent].kinds[event]


def is_written_by_a_person(agent: str, example: Example) -> bool:
    try:
        return DIALECTS[agent].read(example.event, example.raw).is_person
    except ValueError:
        return True


@pytest.mark.parametrize("agent", AGENTS)
def test_what_was_not_let_through_does_not_run_and_what_only_observes_lets_the_agent_go_on(agent: str) -> None:
    dialect = DIALECTS[agent]
    with Conversing(agent) as conversing:

        @given(examples(agent), st.sampled_from(ERRORS))
        def check(example: Example, error: type[Exception]) -> None:
            found = conversing.ask(example, error("a fault"))
            kind = kind_of(agent, example.event)
            if not dialect.is_guard(example.event):
                assert not found.stopped
                assert not found.asks
                assert not (found.goes_on and example.fault is not None)
                return
            if not example.is_no or (agent, example.event) in UNCLOSABLE or kind is HookKind.AFTER_CALLS:
                return
            may_ask = example.behaviour == "asks" and example.fault is None
            if kind is HookKind.BEFORE_TOOL:
                assert found.stopped or (may_ask and found.asks)
            elif kind is HookKind.PERMISSION:
                assert not found.waived
                assert found.stopped or may_ask  # the agent's own question is there
            elif kind is HookKind.PROMPT and not is_written_by_a_person(agent, example):
                assert not found.waived
            else:
                assert found.stopped or (kind is HookKind.PROMPT and may_ask)

        check()


# --- outputs of calls that were let through ---

BEFORE = {
    "claude": "PreToolUse", "codex": "PreToolUse", "gemini": "BeforeTool", "copilot": "preToolUse",
    "opencode": "tool.execute.before", "pi": "tool_call",
}  # fmt: skip
"""Those whose hooks have a tool's output."""


def outputs(agent: str) -> list[str]:
    return [event for event, kind in DIALECTS[agent].kinds.items() if kind is HookKind.AFTER_TOOL]


@st.composite
def ended_calls(draw: st.DrawFn, agent: str) -> tuple[Example, Example]:
    """Return a call that is let through, and the hook that tells of its output."""
    event = draw(st.sampled_from(outputs(agent)))
    case = draw(st.sampled_from(sorted({each["case"] for each in recorded(agent) if each["event"] == event})))
    before = [each["payload"] for each in recorded(agent) if (each["event"], each["case"]) == (BEFORE[agent], case)]
    first = Example(BEFORE[agent], json.dumps(before[0]).encode() if before else b"", "allows", None)
    behaviour = draw(st.sampled_from([each for each in NO if each != "returns nonsense"]))
    return first, Example(
        event, draw(payloads(agent, event)), behaviour, draw(st.none() | st.sampled_from(sorted(FAULTS)))
    )


@pytest.mark.parametrize("agent", sorted(BEFORE))
def test_no_output_reaches_the_model_that_a_plugin_has_changed_or_could_not_look_at(agent: str) -> None:
    with Conversing(agent) as conversing:

        @given(ended_calls(agent), st.sampled_from(ERRORS))
        def check(hooks: tuple[Example, Example], error: type[Exception]) -> None:
            conversations = Conversations(conversing.host)
            first, second = hooks
            conversing.ask(first, error(), conversations)
            found = conversing.ask(second, error("a fault"), conversations)
            if not DIALECTS[agent].is_guard(second.event):
                assert not found.stopped
            elif (agent, second.event) in UNCLOSABLE:
                batch = next(
                    each["payload"]
                    for each in recorded(agent)
                    if (each["event"], each["case"]) == ("PostToolBatch", "fail")
                )
                ending = Example("PostToolBatch", json.dumps(batch).encode(), second.behaviour, None)
                assert conversing.ask(ending, error(), conversations).stopped
            else:
                assert found.stopped

        check()
