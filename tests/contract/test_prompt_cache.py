"""A plugin that changes what requests begin with is named, with what it cost; one that keeps the contract is not."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable
from typing import Any

import attrs
import pytest

from ally_plugins import (
    GrantSet,
    Limits,
    Message,
    ModelInput,
    ModelResponse,
    PromptSection,
    Replace,
    Session,
    ToolCall,
    tool,
)
from tests.kit.hosts import Setup, make_plugin, new_host, setup
from tests.kit.waiting import go

BASE = PromptSection("base", "You help.")
OTHER = PromptSection("base", "You search.")
U1 = Message(role="user", content="my secret", id="u1")
A1 = Message(role="assistant", content="", id="a1", tool_calls=(ToolCall("ls", {}, "c1"),))
T1 = Message(role="tool", content="a secret file", id="t1", tool_call_id="c1")
U2 = Message(role="user", content="go on", id="u2")
HISTORY = (U1, A1, T1, U2)


def sections(make: Callable[[tuple[PromptSection, ...], int], Iterable[PromptSection]], **config: Any) -> Setup:
    """Return a plugin that makes sections of those that it is shown; the second argument counts requests from 1."""
    count = itertools.count(1)

    def transform(self: Any, sections: tuple[PromptSection, ...]) -> Replace[Any]:  # noqa: ARG001
        return Replace(tuple(make(sections, next(count))))

    return setup(make_plugin(ally_transform_system_prompt=transform), ("transform:system_prompt",), **config)


def request(make: Callable[[tuple[Message, ...], int], Iterable[Message]], **config: Any) -> Setup:
    """Return a plugin that makes messages likewise."""
    count = itertools.count(1)

    def transform(self: Any, request: ModelInput) -> Replace[Any]:  # noqa: ARG001
        return Replace(attrs.evolve(request, messages=tuple(make(request.messages, next(count)))))

    return setup(make_plugin(ally_transform_model_request=transform), ("transform:model_request",), **config)


def clock(n: int, **more: Any) -> PromptSection:
    return PromptSection("clock", f"it is {n} o'clock", **more)


class Played:
    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.changes: list[Any] = []

    @property
    def told(self) -> list[tuple[Any, ...]]:
        return [(each.plugin_name, each.part, each.changes, each.uncached_tokens) for each in self.changes]


def play(plugins: dict[str, Any], *steps: Callable[[Session], Any], **how: Any) -> Played:
    """Play steps in one session: what they return is kept in `sent`, awaited where it has to be."""
    played = Played()

    async def main() -> None:
        async with new_host(plugins) as host:
            host.stream.subscribe("PROMPT_PREFIX_CHANGED", played.changes.append)
            session = host.session("s")
            for step in steps:
                made = step(session)
                played.sent.append(await made if hasattr(made, "__await__") else made)
            await session.close()
            await host.journal.flush()
            records = list(host.journal.reader.records(kind="prompt_prefix"))
            assert [
                (each.plugin, each.data["part"], each.data["uncached_tokens"]) for each in records if each.data
            ] == [(each.plugin_name, each.part, each.uncached_tokens) for each in played.changes]

    go(main(**how))
    return played


def asks(*own: PromptSection, **how: Any) -> Callable[[Session], Any]:
    return lambda session: session.transform_system_prompt(own, **how)


def sends(*messages: Message) -> Callable[[Session], Any]:
    return lambda session: session.transform_model_request(ModelInput(None, messages))


def answers(tokens: int | None, cached: int | None = None, **more: Any) -> Callable[[Session], Any]:
    return lambda session: session.emit(ModelResponse(input_tokens=tokens, cache_read_tokens=cached, **more))


# --- the system prompt ---


def test_a_section_that_changes_is_told_with_the_tokens_that_were_not_cached() -> None:
    plugins = {"clocky": sections(lambda own, n: (clock(n), *own))}
    played = play(plugins, asks(BASE), answers(1_000), asks(BASE), answers(1_200, 100), asks(BASE), answers(1_300, 0))
    assert played.told == [("clocky", "the section 'clock'", 1, 900), ("clocky", "the section 'clock'", 2, 1_200)]
    assert [each.origin for each in played.changes] == [("clocky",), ("clocky",)]


def test_a_framework_that_counts_cached_tokens_beside_the_input_costs_the_same() -> None:
    plugins = {"clocky": sections(lambda own, n: (clock(n), *own))}
    played = play(plugins, asks(BASE), answers(10, 800, cache_creation_tokens=190), asks(BASE), answers(1_200, 100))
    assert played.told == [("clocky", "the section 'clock'", 1, 900)]


def test_one_that_is_stable_and_one_that_is_declared_volatile_are_not_told() -> None:
    plugins = {
        "notes": sections(lambda own, n: (*own, PromptSection("notes", "tests live in tests/"))),  # noqa: ARG005
        "clocky": sections(lambda own, n: (clock(n, volatile=True), *own)),
    }
    played = play(plugins, *[asks(BASE, moves_volatile=True)] * 3)
    assert played.told == []
    notes = PromptSection("notes", "tests live in tests/", "notes")
    assert played.sent[2] == (BASE, notes, attrs.evolve(clock(3, volatile=True), source="clocky"))


def test_a_volatile_section_is_told_where_the_host_cannot_send_it_behind_the_messages() -> None:
    plugins = {"clocky": sections(lambda own, n: (clock(n, volatile=True), *own))}
    played = play(plugins, asks(BASE), asks(BASE))
    assert played.told == [("clocky", "the section 'clock'", 1, None)]
    assert [each.name for each in played.sent[1]] == ["base", "clock"]


def test_what_the_host_changes_by_itself_is_nobodys_word() -> None:
    plugins = {"notes": sections(lambda own, n: (*own, PromptSection("notes", "x")))}  # noqa: ARG005
    steps = [asks(PromptSection("base", f"It is {n} o'clock.")) for n in range(3)]
    assert play(plugins, *steps).told == []


def test_what_a_plugin_makes_of_the_hosts_section_is_the_plugins_word() -> None:
    plugins = {"p": sections(lambda own, n: (attrs.evolve(own[0], text=f"{own[0].text} {n}"),))}
    assert play(plugins, asks(BASE), asks(BASE)).told == [("p", "the section 'base'", 1, None)]


def test_the_prompts_of_several_agents_are_not_compared_with_each_other() -> None:
    plugins = {"notes": sections(lambda own, n: (*own, PromptSection("notes", own[0].text)))}  # noqa: ARG005
    assert play(plugins, asks(BASE), asks(OTHER), asks(BASE), asks(OTHER)).told == []


def test_another_plugins_section_cannot_be_called_volatile() -> None:
    plugins = {"p": sections(lambda own, n: (attrs.evolve(own[0], volatile=True),))}  # noqa: ARG005
    assert play(plugins, asks(BASE)).sent == [(BASE,)]


def test_a_change_of_which_no_answer_comes_is_told_at_the_sessions_end() -> None:
    plugins = {"clocky": sections(lambda own, n: (clock(n), *own))}
    assert play(plugins, asks(BASE), answers(1_000), asks(BASE)).told == [("clocky", "the section 'clock'", 1, None)]


# --- messages ---


def test_a_message_put_in_between_is_told_when_it_changes_and_at_the_end_it_may() -> None:
    between = {"p": request(lambda all_, n: (all_[0], Message(role="user", content=f"note {n}"), *all_[1:]))}
    played = play(between, sends(*HISTORY), answers(500), sends(*HISTORY), answers(500, 20))
    assert played.told == [("p", "a message of the role user", 1, 480)]
    behind = {"p": request(lambda all_, n: (*all_, Message(role="user", content=f"note {n}")))}
    more = (*HISTORY, Message(role="assistant", content="yes", id="a2"), Message(role="user", content="so", id="u3"))
    assert play(behind, sends(*HISTORY), sends(*more)).told == []


def test_a_volatile_message_is_sent_at_the_end_wherever_it_was_put() -> None:
    plugins = {
        "p": request(lambda all_, n: (Message(role="user", content=f"note {n}", volatile=True), *all_)),
        "q": request(lambda all_, n: (*all_, Message(role="user", content="stable"))),  # noqa: ARG005
    }
    played = play(plugins, sends(*HISTORY), sends(*HISTORY))
    assert played.told == []
    assert [each.content for each in played.sent[1].messages[-2:]] == ["stable", "note 2"]


def test_redaction_is_no_change_for_it_is_the_same_each_time() -> None:
    plugins = {
        "p": request(lambda all_, n: (attrs.evolve(m, content=m.content.replace("secret", "***")) for m in all_))  # noqa: ARG005
    }
    more = (
        *HISTORY,
        Message(role="assistant", content="a secret", id="a2"),
        Message(role="user", content="so", id="u3"),
    )
    assert play(plugins, sends(*HISTORY), sends(*more)).told == []


def test_taking_out_what_was_sent_is_told_once_and_going_on_without_it_is_not() -> None:
    def drop(all_: tuple[Message, ...], n: int) -> Iterable[Message]:
        return [m for m in all_ if n == 1 or m.id not in {"a1", "t1"}]

    played = play({"p": request(drop)}, *[sends(*HISTORY)] * 3)
    assert played.told == [("p", "a message of the role assistant", 1, None)]


def test_a_compaction_and_a_rewind_are_nobodys_word() -> None:
    plugins = {"p": request(lambda all_, n: (*all_, Message(role="user", content="be brief")))}  # noqa: ARG005
    assert play(plugins, sends(*HISTORY), sends(U2), sends(U1), sends(*HISTORY)).told == []


# --- tools ---


def test_a_tool_that_comes_is_told_and_tools_that_stay_are_not() -> None:
    class Offers:
        def __init__(self, ally: Any) -> None:
            self.ally = ally

        @tool
        async def first(self) -> str:
            """Be there from the start."""
            return ""

        async def second(self) -> str:
            """Come later."""
            return ""

        async def add(self) -> None:
            await self.ally.register_tool(self.second)

    async def main() -> None:
        changes: list[Any] = []
        async with new_host({"offers": Offers}) as host:
            host.stream.subscribe("PROMPT_PREFIX_CHANGED", changes.append)
            session = host.session("s")
            for _ in range(2):
                session.agent_tools()
            await host.plugins["offers"].instance.add()
            session.agent_tools()
            session.emit(ModelResponse(input_tokens=100))
            assert [(each.plugin_name, each.part) for each in changes] == [("offers", "the tool 'second'")]

    go(main())


# --- the budget ---


def test_a_second_change_is_refused_where_the_budget_allows_one_and_what_was_there_is_sent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = Limits(prompt_changes=1)
    plugins = {
        "clocky": sections(lambda own, n: (clock(n), *own), limits=limits),
        "notes": sections(lambda own, n: (*own, PromptSection("notes", "x"))),  # noqa: ARG005
    }
    with caplog.at_level(logging.WARNING):
        played = play(plugins, *[asks(BASE)] * 5)
    texts = [[each.text for each in sent] for sent in played.sent]
    assert texts == [["it is 1 o'clock", "You help.", "x"], *[["it is 2 o'clock", "You help.", "x"]] * 4]
    assert [(each.changes, each.refused) for each in played.changes] == [(1, False), (1, True)]
    (said,) = caplog.messages
    assert "the section 'clock' of 'clocky' would change what requests begin with" in said
    assert "over limits.prompt_changes, after 1 times" in said


def test_a_budget_of_none_keeps_the_first_and_refuses_what_comes_later() -> None:
    plugins = {"late": sections(lambda own, n: own if n == 1 else (clock(n), *own), limits=Limits(prompt_changes=0))}
    assert play(plugins, *[asks(BASE)] * 3).sent == [(BASE,)] * 3


def test_one_plugins_budget_is_not_anothers() -> None:
    plugins = {
        "a": sections(lambda own, n: (*own, PromptSection("a", f"a{n}")), limits=Limits(prompt_changes=0)),
        "b": sections(lambda own, n: (*own, PromptSection("b", f"b{n}"))),
    }
    sent = play(plugins, *[asks(BASE)] * 3).sent
    assert [[each.text for each in one] for one in sent] == [["You help.", "a1", f"b{n}"] for n in (1, 2, 3)]


def test_a_message_over_budget_stays_as_it_was() -> None:
    plugins = {
        "p": request(
            lambda all_, n: (all_[0], Message(role="user", content=f"note {n}"), *all_[1:]),
            limits=Limits(prompt_changes=0),
        )
    }
    sent = play(plugins, *[sends(*HISTORY)] * 3).sent
    assert [one.messages[1].content for one in sent] == ["note 1"] * 3


def test_a_redaction_is_never_refused_whatever_it_costs() -> None:
    def hide(all_: tuple[Message, ...], n: int) -> Iterable[Message]:
        return [attrs.evolve(m, content=m.content.replace("secret", "*" * n)) for m in all_]

    played = play({"p": request(hide, limits=Limits(prompt_changes=0))}, *[sends(*HISTORY)] * 3)
    assert all("secret" not in m.content for sent in played.sent for m in sent.messages)
    assert [each.refused for each in played.changes] == [False, False]


def guard(make: Callable[[tuple[PromptSection, ...], int], Iterable[PromptSection]]) -> Setup:
    return attrs.evolve(sections(make), options={**sections(make).options, "mandatory": True})  # the last in the chain


NOTES_OF_NONE = {
    "notes": sections(
        lambda own, n: (*own, PromptSection("notes", f"the key is {n}")), limits=Limits(prompt_changes=0)
    )
}  # fmt: skip


def test_what_a_guard_takes_out_of_the_prompt_does_not_come_back_by_a_budget() -> None:
    def take_out(own: tuple[PromptSection, ...], n: int) -> Iterable[PromptSection]:
        return [each for each in own if n == 1 or each.name != "notes"]

    played = play({**NOTES_OF_NONE, "guard": guard(take_out)}, *[asks(BASE)] * 3)
    assert [[each.name for each in sent] for sent in played.sent] == [["base", "notes"], ["base"], ["base"]]
    assert played.told == [("guard", "the section 'notes'", 1, None)]


def test_what_a_guard_redacts_in_anothers_section_is_not_sent_as_it_was_before() -> None:
    def redact(own: tuple[PromptSection, ...], n: int) -> Iterable[PromptSection]:
        return [each if n == 1 else attrs.evolve(each, text=each.text.replace("key", "***")) for each in own]

    played = play({**NOTES_OF_NONE, "guard": guard(redact)}, *[asks(BASE)] * 3)
    assert ["key" in str(sent) for sent in played.sent] == [True, False, False]


@pytest.mark.parametrize("how", ["quarantined", "revoked", "shadowed", "crashed"])
def test_what_a_plugin_added_does_not_come_back_once_it_has_no_word_any_more(how: str) -> None:
    calls = itertools.count(1)

    def transform(self: Any, sections: tuple[PromptSection, ...]) -> Replace[Any]:  # noqa: ARG001
        if next(calls) > 1:
            raise ValueError("a bug")
        return Replace((*sections, PromptSection("notes", "x")))

    limits = Limits(prompt_changes=0)
    added = setup(make_plugin(ally_transform_system_prompt=transform), ("transform:system_prompt",), limits=limits)

    async def main() -> None:
        async with new_host({"notes": added}) as host:
            session, plugin = host.session("s"), host.plugins["notes"]
            assert len(await session.transform_system_prompt([BASE])) == 2
            if how == "quarantined":
                plugin._quarantine("it was too much")
            elif how == "revoked":
                plugin.options = attrs.evolve(plugin.options, grants=GrantSet())
            elif how == "shadowed":
                plugin.options = attrs.evolve(plugin.options, shadow=True)
            for _ in range(2):
                assert await session.transform_system_prompt([BASE]) == (BASE,)

    go(main())
