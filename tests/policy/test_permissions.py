from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.contract.grants import ADD_MESSAGE, CONTEXT_PARTS, GATES, TRANSFORMS
from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.contract.values.events import EVENT_TYPES
from ally_plugins.policy.permissions import Grant, GrantSet, command_for

if TYPE_CHECKING:
    from collections.abc import Callable

BY_TOOL = ["gate:tool_call", "transform:tool_input", "transform:tool_output"]

paths = st.sampled_from(["project", "project/a", "project/a/b", "project/ab", "data", "data/a", "/", "/srv", "/srv/a"])
names = st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True)
grants = st.one_of(
    st.sampled_from(
        [
            "emit_event",
            "tools",
            "actions",
            "tasks",
            "gate:waive",
            "gate:answer:sentence",
            "events:*",
            "request_action:*",
        ]
    ),
    st.sampled_from(ADD_MESSAGE).map("add_message:{}".format),
    st.sampled_from(CONTEXT_PARTS).map("get_context:{}".format),
    st.sampled_from(GATES).map("gate:{}".format),
    st.sampled_from(TRANSFORMS).map("transform:{}".format),
    st.sampled_from(sorted(EVENT_TYPES)).map("events:{}".format),
    st.tuples(st.sampled_from(BY_TOOL), names).map(":".join),
    names.map("request_action:{}".format),
    st.tuples(names, names | st.just("*")).map(lambda pair: f"events:{pair[0]}:{pair[1]}"),
)
beside = st.one_of(
    st.just("network"),
    names.map("run:{}".format),
    names.map("env:{}".format),
    st.tuples(st.sampled_from(["files:read", "files:write"]), paths).map(":".join),
)
every = grants | beside
sets = st.lists(every, max_size=6).map(GrantSet.of)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "expected one of"),
        (":", "expected one of"),
        ("add_message", "add_message:user"),
        ("add_mesage:user", "did you mean 'add_message:user'?"),
        ("add_message:usr", "did you mean 'add_message:user'?"),
        ("add_message:user:bash", "cannot be narrowed"),
        ("get_context:todo", "did you mean 'get_context:todos'?"),
        ("gate:tool_call:", "expected the name of a tool"),
        ("gate:tool_call:two words", "expected the name of a tool"),
        ("gate:tool_call:\x1b[2J", "expected the name of a tool"),
        ("gate:tool_cal:bash", "did you mean 'gate:tool_call'?"),
        ("gate:message:bash", "cannot be narrowed"),
        ("gate:stop:bash", "cannot be narrowed"),
        ("gate:answer:", "expected 'gate:answer' or 'gate:answer:sentence'"),
        ("gate:answer:bash", "expected 'gate:answer' or 'gate:answer:sentence'"),
        ("transform:answer:sentence", "cannot be narrowed"),
        ("tools:bash", "did you mean 'tools'?"),
        ("tools:", "did you mean 'tools'?"),
        ("events", "expected events:TYPE"),
        ("events:TOOL_CALL_STOP", "did you mean 'TOOL_CALL_START'?"),
        ("events:a:", "expected PLUGIN:TYPE"),
        ("events:A:b", "expected PLUGIN:TYPE"),
        ("request_action", "expected request_action:ACTION"),
        ("TOOLS", "did you mean 'tools'?"),
        ("files", "files:read, files:write"),
        ("files.read:project", "did you mean 'files:read'?"),
        ("files:read", "expected files:read:PATH, such as 'files:read:project'"),
        ("files:read:", "expected files:read:PATH"),
        ("files:read:projects", "expected 'project', 'project/...', 'data'"),
        ("files:read:~/notes", "expected 'project', 'project/...', 'data'"),
        ("files:read:../notes", "expected 'project', 'project/...', 'data'"),
        ("files:read:project/../..", "without '..'"),
        ("files:read:project/./a", "without '..'"),
        ("files:read:project/", "a slash at its end"),
        ("files:read://etc", "without '..'"),
        ("files:write:project/**", "a folder stands for all that is below it"),
        ("files:write:C:\\notes", "expected 'project', 'project/...', 'data'"),
        ("files:read:/proc/1/environ", "other processes and devices"),
        ("files:write:/dev", "other processes and devices"),
        ("files:read:/a\x1b[2J", "none that control a terminal"),
        ("files:read:/" + "a" * 600, "at most 500 characters"),
        ("network:example.org", "'network' has no narrower form"),
        ("run", "expected run:PROGRAM, such as 'run:git'"),
        ("run:*", "such as 'git', or its absolute path"),
        ("run:bin/git", "such as 'git', or its absolute path"),
        ("run:..", "such as 'git', or its absolute path"),
        ("run:-c", "such as 'git', or its absolute path"),
        ("run:git push", "such as 'git', or its absolute path"),
        ("run:/usr/bin/../git", "without '..'"),
        ("run:/proc/self/exe", "other processes and devices"),
    ],
)
def test_a_wrong_grant_is_refused_with_the_way_out(text: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Grant.parse(text)
    assert hint in str(caught.value)
    assert "\x1b" not in str(caught.value)


@given(st.text(max_size=40))
def test_garbage_parses_or_is_a_config_error(text: str) -> None:
    try:
        grant = Grant.parse(text)
    except ConfigError:
        return
    assert grant.text == text


@given(every)
def test_a_grant_is_written_as_it_was_read(text: str) -> None:
    assert Grant.parse(text).text == text


@given(grants)
def test_everything_covers_every_grant(text: str) -> None:
    assert GrantSet.everything().covers(text)


@given(beside)
def test_everything_of_a_host_author_opens_nothing_beside_the_host(text: str) -> None:
    assert not GrantSet.everything().covers(text)


@given(every)
def test_nothing_covers_nothing(text: str) -> None:
    assert not GrantSet().covers(text)


@given(sets, sets)
def test_the_intersection_allows_only_what_both_allow(one: GrantSet, other: GrantSet) -> None:
    both = one.intersection(other)
    assert both == other.intersection(one)
    assert not both.difference(one)
    assert not both.difference(other)


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        ("files:read:project", "files:read:project/src"),
        ("files:write:project/docs", "files:write:project/docs/a/b"),
        ("files:read:/", "files:read:/srv/notes"),
        ("files:read:/srv", "files:read:/srv"),
    ],
)
def test_a_folder_covers_what_is_below_it_and_nothing_else(wide: str, narrow: str) -> None:
    assert Grant.parse(wide).covers(Grant.parse(narrow))
    assert GrantSet.of([wide]).intersection(GrantSet.of([narrow])).texts() == (narrow,)


@pytest.mark.parametrize(
    ("own", "other"),
    [
        ("files:read:project/src", "files:read:project"),
        ("files:read:project/src", "files:read:project/src2"),
        ("files:read:project", "files:write:project"),
        ("files:read:/", "files:read:project"),
        ("files:read:project", "files:read:data"),
        ("run:git", "run:/usr/bin/git"),
        ("run:git", "run:gitk"),
        ("env:A", "env:AB"),
    ],
)
def test_a_path_or_program_covers_no_other_one(own: str, other: str) -> None:
    assert not Grant.parse(own).covers(Grant.parse(other))


@given(sets, sets, every)
def test_what_both_cover_the_intersection_covers(one: GrantSet, other: GrantSet, text: str) -> None:
    assert one.intersection(other).covers(text) == (one.covers(text) and other.covers(text))


def test_a_gate_that_asked_for_sentences_may_be_held_to_whole_answers_and_not_the_other_way_round() -> None:
    whole, sentence = GrantSet.of(["gate:answer"]), GrantSet.of(["gate:answer:sentence"])
    assert sentence.gates_sentences
    assert sentence.gates("answer")
    assert sentence.covers("gate:answer")
    assert not whole.covers("gate:answer:sentence"), "showing something before the verdict takes a new consent"
    for both in (whole.intersection(sentence), sentence.intersection(whole), GrantSet.everything()):
        assert both.gates("answer")
        assert not both.gates_sentences


@given(sets, sets)
def test_the_difference_is_what_the_other_does_not_cover(one: GrantSet, other: GrantSet) -> None:
    missing = one.difference(other)
    assert all(one.covers(grant) and not other.covers(grant) for grant in missing)
    assert not one.difference(GrantSet(other.grants | frozenset(missing)))


@given(sets, grants)
def test_the_fast_answers_agree_with_the_slow_one(granted: GrantSet, text: str) -> None:
    grant = Grant.parse(text)
    asks: dict[str, Callable[[], bool]] = {
        "add_message": lambda: granted.may_add_message(grant.topic) or granted.may_trigger_turn(),
        # What an answer's grant has there is no tool, but how the answer is held.
        "gate": lambda: granted.gates(grant.topic, None if grant.topic == "answer" else grant.target),
        "transform": lambda: granted.transforms(grant.topic, grant.target),
        "get_context": lambda: grant.topic in granted.context_parts,
        "request_action": lambda: granted.may_request_action(grant.topic),
        "events": lambda: granted.receives(grant.topic),
    }
    ask = asks.get(grant.kind, lambda: granted.may(grant.kind))
    if granted.covers(grant):
        assert ask()
    elif grant.kind != "add_message" and text != "gate:answer:sentence":
        assert not ask()


def test_nothing_is_allowed_by_default() -> None:
    nothing = GrantSet()
    assert not nothing
    assert not nothing.may_add_message("user")
    assert not nothing.may_emit_event()
    assert not nothing.may_trigger_turn()
    assert not nothing.may_waive()
    assert not nothing.gates("tool_call")
    assert not nothing.transforms("tool_input", "bash")
    assert not nothing.may("tools")
    assert not nothing.may_request_action("compact")
    assert not nothing.receives("TOOL_CALL_END")
    assert nothing.context_parts == frozenset()


def test_a_role_is_not_the_other_and_trigger_turn_is_no_role() -> None:
    granted = GrantSet.of(["add_message:user", "add_message:trigger_turn"])
    assert granted.roles == {"user"}
    assert granted.may_trigger_turn()
    assert not granted.may_add_message("system")
    assert not granted.may_add_message("trigger_turn")


def test_a_gate_narrowed_to_a_tool_gates_that_tool_only() -> None:
    granted = GrantSet.of(["gate:tool_call:bash"])
    assert granted.gates("tool_call")
    assert granted.gates("tool_call", "bash")
    assert not granted.gates("tool_call", "write")
    assert not granted.gates("tool_call", "")
    assert not granted.covers("gate:tool_call")
    assert not granted.may_waive()


def test_a_tool_may_have_colons_in_its_name() -> None:
    granted = GrantSet.of(["gate:tool_call:mcp:files:read"])
    assert granted.gates("tool_call", "mcp:files:read")


@pytest.mark.parametrize(
    ("grant", "received", "not_received"),
    [
        ("events:*", ["TOOL_CALL_END", "other:thing"], []),
        ("events:other:*", ["other:thing"], ["TOOL_CALL_END", "other-plugin:thing", "another:thing"]),
        ("events:other:thing", ["other:thing"], ["other:things", "other:*"]),
        ("events:TOOL_CALL_END", ["TOOL_CALL_END"], ["TOOL_CALL_START", "TOOL_CALL_END:x"]),
    ],
)
def test_subscriptions_let_through_what_they_name(grant: str, received: list[str], not_received: list[str]) -> None:
    granted = GrantSet.of([grant])
    assert [event for event in received if not granted.receives(event)] == []
    assert [event for event in not_received if granted.receives(event)] == []


def test_the_command_names_plugin_and_grant() -> None:
    assert command_for("loop-guard", "add_message:user") == "ally-plugins grant loop-guard add_message:user"
    assert command_for("loop-guard", Grant("tools")) == "ally-plugins grant loop-guard tools"


def test_texts_are_sorted_and_read_back() -> None:
    granted = GrantSet.of(["tools", "gate:tool_call:bash", "add_message:user"])
    assert granted.texts() == ("add_message:user", "gate:tool_call:bash", "tools")
    assert GrantSet.of(granted.texts()) == granted
