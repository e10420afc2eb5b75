"""What the requests of one session began with, and what plugins' changes of that have cost.

Compared are the digests of plugins' tools, of the system prompt's sections and of the messages, each as transforms left
them; no text is kept but what a plugin has added itself. How two requests are compared is `policy.prompt_prefix`'s.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs
from attrs import define, field, frozen

from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.conversation import Message, ModelInput, PromptSection
from ally_plugins.contract.values.events import ModelResponse, PromptPrefixChanged
from ally_plugins.contract.values.inert import inert
from ally_plugins.policy.prompt_prefix import (
    PrefixChange,
    PromptPart,
    SentPrompt,
    digest_of,
    find_change,
    uncached_tokens,
    with_added,
)

if TYPE_CHECKING:
    from ally_plugins.contract.tools.agent_tool import AgentTool  # noqa: TC004 - nobody reads this at run time
    from ally_plugins.runtime.lanes.dispatch import TransformChange, Transformed

__all__ = ["PROMPT_PREFIX", "PromptPrefixes"]

_log: Final = logging.getLogger(__name__)

PROMPT_PREFIX: Final = "prompt_prefix"
"""The kind of the records."""

CONVERSATIONS: Final = 32
"""Prompts of one session that are compared with: that of its agent, and those of sub-agents, which have others."""

T = TypeVar("T", PromptSection, Message)

Added = tuple[tuple["str | None", Any], ...]


@frozen
class _Last:
    """The last request of one kind: what was sent, and what each plugin had added, with the key of what it followed."""

    sent: SentPrompt
    added: dict[str, Added]


@frozen
class _Pending:
    """A change that nobody has been told yet: what it cost is known with the model's answer."""

    kind: str
    change: PrefixChange
    count: int


@define(eq=False)
class PromptPrefixes:
    """The requests of one session. Lives as long as that; `responded` and `tools` may be called by any thread.

    `limit_of` returns how many changes a plugin may make by a transform, None for one that takes no part in it: what
    that one added before must not come back. `emit` emits an event with its origin, `record` queues what is recorded
    about a plugin, and `is_replay` says whether the model's answers are those of a recording.
    """

    session_id: str
    limit_of: Callable[[str, str], int | None]
    emit: Callable[[PromptPrefixChanged, tuple[str, ...]], object]
    record: Callable[[str, dict[str, Any]], object]
    is_replay: Callable[[], bool]
    changes: Counter[str] = field(init=False, factory=Counter)
    """How often each plugin has changed what requests begin with."""
    _last: OrderedDict[tuple[str, bytes], _Last] = field(init=False, factory=OrderedDict)
    _tools: dict[str, tuple[AgentTool, ...]] = field(init=False, factory=dict)
    _pending: list[_Pending] = field(init=False, factory=list)
    _refused: set[tuple[str, str]] = field(init=False, factory=set)
    _totals: dict[str | None, int] = field(init=False, factory=dict)
    """The tokens of the last request of each agent."""
    _lock: threading.Lock = field(init=False, factory=threading.Lock)

    # --- what is sent ---

    def sections(
        self, own: Sequence[PromptSection], done: Transformed[tuple[PromptSection, ...]], *, moves_volatile: bool
    ) -> tuple[PromptSection, ...]:
        """Take note of a system prompt, and return the sections to be sent, those that are volatile last.

        `moves_volatile` says that the host sends these behind all messages; else they count as any other.
        """
        before = {section.name: digest_of(section.text) for section in own if not section.volatile}
        hosts = {section.name for section in own}
        whose = _whose(done.changes)
        tail = tuple(section for section in done.value if section.volatile)

        def sent(sections: Iterable[PromptSection]) -> SentPrompt:
            counted = [*sections, *(() if moves_volatile else tail)]
            parts = tuple(
                PromptPart(f"the section {each.name!r}", digest_of(each.text), whose.get(each.name, each.source),
                           before.get(each.name), each.name)
                for each in counted
            )  # fmt: skip
            return SentPrompt(parts, tuple(before.values()), _without(whose, {each.name for each in counted}))

        stable = [section for section in done.value if not section.volatile]
        kept = self._compare(
            "system_prompt",
            stable,
            sent,
            may_grow=False,
            name_of=lambda each: each.name,
            added_by=lambda each: each.source if each.name not in hosts else None,
            fixed=_fixed(done.changes, hosts),
        )
        return (*kept, *tail)

    def messages(self, own: ModelInput, done: Transformed[ModelInput]) -> ModelInput:
        """Take note of a request's messages, and return the request to be sent, what is volatile last."""
        before = {message.id: _message_digest(message) for message in own.messages}
        whose = {name.removeprefix("message "): plugin for name, plugin in _whose(done.changes).items()}
        value = done.value
        tail = [message for message in value.messages if message.volatile]

        def added_by(message: Message) -> str | None:
            return message.source_plugin if message.id not in before else None

        def sent(messages: Iterable[Message]) -> SentPrompt:
            listed = list(messages)
            while listed and added_by(listed[-1]) is not None:  # what is at the end has nothing behind it to lose
                listed.pop()
            parts = tuple(
                PromptPart(f"a message of the role {each.role}", _message_digest(each),
                           whose.get(each.id, added_by(each)), before.get(each.id), each.id)
                for each in listed
            )  # fmt: skip
            return SentPrompt(parts, tuple(before.values()), _without(whose, {each.id for each in listed}))

        kept = self._compare(
            "model_request",
            [message for message in value.messages if not message.volatile],
            sent,
            may_grow=True,
            name_of=lambda each: each.id,
            added_by=added_by,
            fixed=_fixed(done.changes, {f"message {name}" for name in before}),
        )
        messages = (*kept, *tail)
        return value if messages == value.messages else attrs.evolve(value, messages=messages)

    def tools(self, agent: str, offered: tuple[AgentTool, ...]) -> None:
        """Take note of the tools of plugins that an agent is offered in its next request."""
        last = self._tools.get(agent)
        if last == offered:
            return
        self._tools[agent] = offered
        if last is None:
            return
        change = find_change(_sent_tools(last), _sent_tools(offered), may_grow=False)
        if change is not None:
            self._note("tools", change)

    def _compare(
        self,
        kind: str,
        stable: list[T],
        sent: Callable[[Iterable[T]], SentPrompt],
        *,
        may_grow: bool,
        name_of: Callable[[T], str],
        added_by: Callable[[T], str | None],
        fixed: frozenset[str],
    ) -> list[T]:
        """Compare with the last request of the same agent; what a plugin's budget does not cover stays as it was.

        What the plugins in `fixed` have added is left as it is now, whatever it costs.
        """
        # What is pending of this kind belongs to a request that the model never answered.
        self._flush(kind)
        now = sent(stable)
        # Agents are told apart by the host's first part: a sub-agent has another system prompt and first message.
        key = (kind, now.own[0] if now.own else b"")
        # Taken out here and put back below as the newest: what was used longest ago goes first.
        last = self._last.pop(key, None)
        change = find_change(last.sent, now, may_grow=may_grow) if last is not None else None
        held = set(fixed)
        # Once for each plugin, so that it ends.
        while last is not None and change is not None and change.plugin not in held:
            plugin = change.plugin
            held.add(plugin)
            if not self._is_spent(plugin, kind):
                break
            others = [each for each in stable if added_by(each) != plugin]
            again = with_added(others, last.added.get(plugin, ()), name_of)
            found = find_change(last.sent, sent(again), may_grow=may_grow)
            if found == change:  # it has changed what is another's, which is never held: it may be a redaction
                break
            self._refuse(change)
            stable, now, change = again, sent(again), found
        if change is not None:
            self._note(kind, change)
        self._last[key] = _Last(now, _added(stable, name_of, added_by))
        if len(self._last) > CONVERSATIONS:
            self._last.popitem(last=False)
        return stable

    # --- what it costs ---

    def responded(self, event: ModelResponse) -> None:
        """Report the changes of the request that the model has answered, with what they cost; any thread."""
        counts = (event.input_tokens, event.cache_read_tokens, event.cache_creation_tokens)
        tokens, read, written = (count if isinstance(count, int) else 0 for count in counts)
        with self._lock:
            pending, self._pending = self._pending, []
            before = self._totals.get(event.agent_id)
            if tokens:
                # Some frameworks count what was cached as input, others beside it; then it is more than the input.
                self._totals[event.agent_id] = tokens if read + written <= tokens else tokens + read + written
        cost = uncached_tokens(before, read) if tokens else None
        if self.is_replay():  # it was answered without the plugin's change: what it read from a cache would be lost
            cost = read
        # Outside the lock: this emits, and a listener may emit a MODEL_RESPONSE itself.
        for each in pending:  # the first in the prompt is what the rest had to be read anew for
            self._report(each, cost)
            cost = None

    def flush(self) -> None:
        """Report what waits for an answer of the model that does not come."""
        self._flush(None)

    def _flush(self, kind: str | None) -> None:
        with self._lock:
            if kind is not None and all(each.kind != kind for each in self._pending):
                return
            pending, self._pending = self._pending, []
        for each in pending:
            self._report(each, None)

    def _is_spent(self, plugin: str, topic: str) -> bool:
        limit = self.limit_of(plugin, topic)
        return limit is not None and self.changes[plugin] >= limit

    def _note(self, kind: str, change: PrefixChange) -> None:
        with self._lock:
            self.changes[change.plugin] += 1
            self._pending.append(_Pending(kind, change, self.changes[change.plugin]))

    def _report(self, pending: _Pending, cost: int | None) -> None:
        change = pending.change
        about: dict[str, Any] = {"plugin_name": change.plugin, "part": change.part, "changes": pending.count}
        self.emit(PromptPrefixChanged(uncached_tokens=cost, **about), (change.plugin,))
        data = {"part": change.part, "changes": pending.count, "uncached_tokens": cost, "refused": False}
        self.record(change.plugin, data)

    def _refuse(self, change: PrefixChange) -> None:
        if (change.plugin, change.part) in self._refused:  # at each request: once is enough
            return
        self._refused.add((change.plugin, change.part))
        count = self.changes[change.plugin]
        text = "session %r: %s of %r would change what requests begin with, over limits.prompt_changes, after %d times"
        _log.warning(text, self.session_id, inert(change.part), change.plugin, count)
        about: dict[str, Any] = {"plugin_name": change.plugin, "part": change.part, "changes": count}
        self.emit(PromptPrefixChanged(refused=True, **about), (change.plugin,))
        self.record(change.plugin, {"part": change.part, "changes": count, "uncached_tokens": None, "refused": True})


def _whose(changes: Iterable[TransformChange]) -> dict[str, str]:
    """Return which plugin was the last to change each field."""
    return {name: each.plugin for each in changes if not each.shadow and not each.error for name in each.fields}


def _without(whose: Mapping[str, str], kept: Container[str]) -> dict[str, str]:
    """Return what was taken out: what a plugin has named as changed and is not there."""
    return {name: plugin for name, plugin in whose.items() if name not in kept}


def _fixed(changes: Iterable[TransformChange], hosts: Container[str]) -> frozenset[str]:
    """Return the plugins whose additions stay as they are: one has failed, or another plugin had a word in them.

    To send again what they had added before would undo what the other one, a guard perhaps, has changed or taken out.
    """
    adder: dict[str, str] = {}
    found: set[str] = set()
    for change in changes:
        if change.error:
            found.add(change.plugin)
        elif not change.shadow:
            found.update(
                adder[name]
                for name in change.fields
                if name not in hosts and adder.setdefault(name, change.plugin) != change.plugin
            )
    return frozenset(found)


def _message_digest(message: Message) -> bytes:
    calls = (f"{call.tool_name}\0{call.call_id}" for call in message.tool_calls)
    return digest_of(message.role, message.source_plugin or "", message.content, message.tool_call_id or "", *calls)


def _sent_tools(offered: Iterable[AgentTool]) -> SentPrompt:
    parts = [
        PromptPart(f"the tool {each.name!r}", digest_of(each.name, each.description, encode(each.schema).decode()),
                   each.plugin)
        for each in offered
    ]  # fmt: skip
    return SentPrompt(tuple(parts))


def _added(parts: Iterable[T], name_of: Callable[[T], str], added_by: Callable[[T], str | None]) -> dict[str, Added]:
    """Return what each plugin has added, each with the key of the part before it."""
    found: dict[str, list[tuple[str | None, T]]] = {}
    anchor: str | None = None
    for part in parts:
        if (plugin := added_by(part)) is not None:
            found.setdefault(plugin, []).append((anchor, part))
        anchor = name_of(part)
    return {plugin: tuple(listed) for plugin, listed in found.items()}
