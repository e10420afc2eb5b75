"""One coding agent as the host knows it: its events, its names of tools, what it serves, and how it is answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import evolve, frozen

from ally_plugins.contract.serves import Serves
from ally_plugins.contract.tools.common_names import common_name
from ally_plugins.contract.values.conversation import ToolCall
from ally_plugins.contract.values.errors import EventError
from ally_plugins.contract.values.frozen import EMPTY

from .client.hook_client import CLOSED, PASSES
from .event_records import ReadRecord
from .payloads import AgentHook, EndedCall, HookKind, Payload, PayloadError, read_payload
from .replies import Answer, Reply, UnsayableError, close
from .seen_fields import SEEN_FIELDS

__all__ = ["FROM_EVENT_FILE", "Dialect", "Write"]

FROM_EVENT_FILE = frozenset({"CONTEXT_USAGE_UPDATE", "CONTEXT_THRESHOLD", "THOUGHT_COMPLETE"})
"""Events that no hook tells of, and an agent's own file does."""

Read = Callable[["Dialect", str, Payload], AgentHook]
Write = Callable[[AgentHook, Answer], Reply]


@frozen(kw_only=True)
class Dialect:
    """What one agent's hooks say and understand. Pure: bytes in, values out, and back.

    `versions` are those that were seen. `kinds` are the events that are asked for. `takes_context` are the
    events where text beside the answer reaches the model; plugins' messages enter there only.
    """

    name: str
    versions: tuple[str, ...]
    kinds: Mapping[str, HookKind]
    serves: Serves
    takes_context: frozenset[str]
    read_event: Read
    writers: Mapping[HookKind, Write]
    """How the kinds of hooks are answered that take an answer."""
    tool_prefix: str = ""
    """What stands before the name of a plugin's tool in its own; empty where it takes no server of tools."""
    asks_person: bool
    """Whether it asks the person where a gate wants that; else that is a deny, and no writer is given a question."""
    takes_prompts: bool = False
    """Whether it takes a changed prompt in the place of the person's."""
    shown_events: frozenset[str] = frozenset()
    """Events after a tool whose output the agent shows whatever it is answered."""
    find_exit_code: Callable[[bytes, str], int | None] | None = None
    """Finds how a command ended, by its call's id, in the end of the event file, where no hook says so."""
    read_record: ReadRecord | None = None
    """Says what a record of the agent's own file says, where its payloads name that and its form is known."""
    limits: Mapping[str, str]
    """What it does not serve, or not wholly: the grant, and why, in a sentence for the operator."""

    def is_guard(self, event: str) -> bool:
        """Say whether an event is closed where nobody can answer; one that is not known is."""
        return CLOSED[self.name].get(event) != PASSES

    def read(self, event: str, raw: bytes) -> AgentHook:
        """Return what a hook says. Raises PayloadError for what is not known, which has to be answered by `close`."""
        if event not in self.kinds:
            raise PayloadError(f"{self.name} has no event {event!r:.80} that is known; expected one of its own")
        payload = read_payload(raw)
        hook = self.read_event(self, event, payload)
        newer = payload.data.keys() - SEEN_FIELDS[self.name]
        return evolve(hook, newer=tuple(sorted(newer))) if newer else hook

    def answer(self, hook: AgentHook, answer: Answer) -> Reply:
        """Return the answer in the agent's own form.

        What the agent cannot do is never passed over: it is a refusal, with the reason. Raises nothing.
        """
        try:
            return self.say(hook, answer)
        except UnsayableError as error:
            return self.say(hook, Answer(refusal=str(error)))

    def say(self, hook: AgentHook, answer: Answer) -> Reply:
        """Return the answer in the agent's own form. Raises UnsayableError for what the agent cannot do."""
        if answer.refusal is None and answer.question is not None:
            if not self.asks_person:
                raise UnsayableError(answer.question)
            if answer.arguments is not None:
                raise UnsayableError(
                    f"{answer.question} (and the person would be asked about arguments that plugins changed)"
                )
        write = self.writers.get(hook.kind)
        return write(hook, answer) if write is not None else Reply()

    def close(self, event: str, reason: str) -> Reply:
        """Return what closes a guard event, with a reason, and lets an observing one pass."""
        return close(self.name, event, reason)

    def call(self, tool_name: str, arguments: Any, call_id: str | None, agent_id: str | None, at: str) -> EndedCall:
        """Return a call under both names of its tool; with `unshown` where its arguments can be shown to nobody.

        Raises PayloadError where they are no object.
        """
        if not isinstance(arguments, Mapping):
            raise PayloadError(f"{at!r} is {type(arguments).__name__}; expected an object")
        common, names = common_name(self.name, tool_name)
        bare = ToolCall(tool_name, EMPTY, call_id, agent_id, common, names)
        try:
            return EndedCall(evolve(bare, arguments=arguments))
        except EventError as error:
            return EndedCall(bare, unshown=str(error))
