"""What gates and transforms answer over the wire means what it would mean inline, nonsense included."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.contract.values.codec import decode, encode
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.conversation import Message, ModelInput, PromptSection, ToolCall, ToolResult, evolve
from ally_plugins.contract.values.errors import AllyError, PluginError
from ally_plugins.contract.values.verdicts import Allow, Ask, Deny, Replace
from ally_plugins.host.sessions.gates import check_call, check_message, check_result
from ally_plugins.policy.model_input import check_model_input
from ally_plugins.policy.prompt_sections import check_sections
from ally_plugins.policy.verdicts import read_replacement, read_verdict
from ally_plugins.wire.answers import replacement_from_wire, replacement_to_wire, verdict_from_wire, verdict_to_wire

CALL = ToolCall("bash", {"command": "ls", "n": 1}, "c1")
RESULT = ToolResult(success=True, output="a", data={"x": [1]})
MESSAGE = Message(role="user", content="hi", id="m1", metadata={"a": 1})
LONG = Ask("a" * 3000)
SECTIONS = (PromptSection("identity", "You help."), PromptSection("notes", "none", "other"))
REQUEST = ModelInput("m", (MESSAGE, Message(role="user", content="ho", id="m2")), {"n": 1})
CHECKS: dict[type, Any] = {
    ToolCall: check_call,
    ToolResult: check_result,
    Message: check_message,
    tuple: lambda old, new: check_sections(old, new, "p"),
    ModelInput: lambda old, new: check_model_input(old, new, "p"),
}


def _text_of(function: Any, *args: Any) -> str:
    """Return what an error says, or the repr of what came out."""
    try:
        return repr(function(*args))
    except AllyError as error:
        return str(error)


def _verdict_over_the_wire(value: Any) -> Any:
    return read_verdict(verdict_from_wire(decode(encode(verdict_to_wire(value)))))


class _Odd:
    @override
    def __repr__(self) -> str:  # without an address, which no two runs have in common
        return "odd"


@pytest.mark.parametrize(
    "value",
    [
        5,
        True,
        "allow",
        _Odd(),
        Allow,
        Deny,
        Replace(1),
        [],
        {"verdict": "allow"},
        1.5,
        Ask(""),
        Deny("x\x1b"),
        Ask("a" * 3000),
    ],
    ids=repr,
)
def test_nonsense_of_a_gate_is_told_in_the_same_words_as_inline(value: Any) -> None:
    assert _text_of(_verdict_over_the_wire, value) == _text_of(read_verdict, value)


@pytest.mark.parametrize("reason", [None, 5, _Odd(), ["x"]], ids=repr)
def test_a_reason_that_is_no_text_is_nonsense(reason: Any) -> None:
    with pytest.raises(PluginError, match=r"^the gate returned Deny with a reason of the type"):
        _verdict_over_the_wire(Deny(reason))


@pytest.mark.parametrize("value", [None, Allow(), Ask("sure?"), Deny("no"), Deny("no", sensitive=True)], ids=range(5))
def test_a_verdict_comes_out_as_it_went_in(value: Any) -> None:
    assert _verdict_over_the_wire(value) == value


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("allow", "the gate returned a string of 5 characters; expected Allow(), Ask(reason), Deny(reason) or None"),
        (True, "the gate returned true; expected Allow()"),
        ([], "the gate returned a list; expected Allow()"),
        ({}, "the gate's verdict is null; expected 'allow', 'ask', 'deny'"),
        ({"verdict": "maybe"}, "the gate's verdict is 'maybe'; expected 'allow', 'ask', 'deny'"),
        ({"verdict": 1}, "the gate's verdict is the number 1; expected"),
        ({"verdict": "deny"}, "the reason of Deny is None; expected a string"),
        ({"verdict": "deny", "reason": 5}, "the reason of Deny is of the type int; expected a string"),
        ({"verdict": "deny", "reasn": "x"}, "the gate's answer has 'reasn', did you mean 'reason'?"),
        ({"verdict": "deny", "reason": "x", "sensitive": 1}, "the gate's sensitive is the number 1; expected true"),
        (
            {"verdict": "allow", "sensitive": True},
            "the gate's sensitive is true; expected true, with the verdict 'deny'",
        ),
        ({"nonsense": "\x1b[2J" * 100}, "the gate returned something else; expected"),
        ({"nonsense": "x" * 5000}, "the gate returned xxx"),
    ],
)
def test_what_is_no_verdict_is_never_an_allow(answer: Any, text: str) -> None:
    with pytest.raises(PluginError) as caught:
        read_verdict(verdict_from_wire(answer))
    assert str(caught.value).startswith(text)
    assert len(str(caught.value)) < 400


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.dictionaries(st.sampled_from(["verdict", "reason", "sensitive", "replace", "nonsense"]), inner)
            | st.lists(inner, max_size=2)
        ),
        max_leaves=5,
    )
)
def test_garbage_is_an_answer_or_an_error_of_ours(answer: Any) -> None:
    _text_of(verdict_from_wire, answer)
    _text_of(replacement_from_wire, CALL, answer)
    _text_of(replacement_from_wire, RESULT, answer)
    _text_of(replacement_from_wire, MESSAGE, answer)
    _text_of(replacement_from_wire, SECTIONS, answer)
    _text_of(replacement_from_wire, REQUEST, answer)
    _text_of(replacement_from_wire, SECTIONS, {"replace": {"sections": answer}})
    _text_of(replacement_from_wire, SECTIONS, {"replace": {"sections": [answer]}})
    _text_of(replacement_from_wire, REQUEST, {"replace": {"messages": answer, "settings": answer}})
    _text_of(replacement_from_wire, REQUEST, {"replace": {"messages": [answer, {"id": "m1", "content": answer}]}})


def _replaced_over_the_wire(old: Any, value: Any) -> Any:
    answer = decode(encode(replacement_to_wire(old, value)))
    replacement = read_replacement(replacement_from_wire(old, answer))
    return None if replacement is None else CHECKS[type(old)](old, replacement.value)


def _replaced_inline(old: Any, value: Any) -> Any:
    replacement = read_replacement(value)
    return None if replacement is None else CHECKS[type(old)](old, replacement.value)


REPLACED: list[tuple[Any, Any]] = [
    (CALL, None),
    (CALL, Replace(CALL)),
    (CALL, Replace(evolve(CALL, arguments={"command": "ls -l", "n": 1}))),
    (CALL, Replace(evolve(CALL, arguments={}))),
    (CALL, Replace(evolve(CALL, arguments={"command": "ls", "n": True}))),
    (CALL, Replace(evolve(CALL, tool_name="rm"))),
    (CALL, Replace(evolve(CALL, call_id="other"))),
    (CALL, Replace("ls")),
    (CALL, Replace({"arguments": {}})),
    (CALL, Replace(RESULT)),
    (CALL, Replace(_Odd())),
    (CALL, evolve(CALL, arguments={})),
    (CALL, Replace),
    (CALL, 7),
    (RESULT, Replace(evolve(RESULT, output="b"))),
    (RESULT, Replace(evolve(RESULT, error="bad", data=None))),
    (RESULT, Replace(evolve(RESULT, data={"x": [1, 2]}))),
    (RESULT, Replace(evolve(RESULT, success=False))),
    (RESULT, Replace(evolve(RESULT, output=5))),
    (RESULT, Replace(evolve(RESULT, output=None))),
    (MESSAGE, Replace(evolve(MESSAGE, content="ho"))),
    (MESSAGE, Replace(evolve(MESSAGE, content=""))),
    (MESSAGE, Replace(evolve(MESSAGE, content=5))),
    (MESSAGE, Replace(evolve(MESSAGE, role="system"))),
    (MESSAGE, Replace(evolve(MESSAGE, metadata={"b": 2}))),
    (MESSAGE, Replace(evolve(MESSAGE, tool_calls=(CALL,)))),
    (SECTIONS, Replace(SECTIONS)),
    (SECTIONS, Replace(list(SECTIONS[:1]))),
    (SECTIONS, Replace((*SECTIONS, PromptSection("own", "text")))),
    (SECTIONS, Replace((*SECTIONS, PromptSection("own", "text", "other")))),
    (SECTIONS, Replace((evolve(SECTIONS[0], text=""), SECTIONS[1]))),
    (SECTIONS, Replace("text")),
    (SECTIONS, Replace(SECTIONS[0])),
    (REQUEST, Replace(REQUEST)),
    (REQUEST, Replace(evolve(REQUEST, messages=REQUEST.messages[:1]))),
    (REQUEST, Replace(evolve(REQUEST, messages=()))),
    (REQUEST, Replace(evolve(REQUEST, messages=(MESSAGE, Message(role="user", content="new", id="own"))))),
    (REQUEST, Replace(evolve(REQUEST, messages=(MESSAGE, Message(role="tool", content="new", id="own"))))),
    (REQUEST, Replace(evolve(REQUEST, messages=(evolve(MESSAGE, content="ho", role="system"), *REQUEST.messages[1:])))),
    (REQUEST, Replace(evolve(REQUEST, settings={"n": True}))),
    (REQUEST, Replace(evolve(REQUEST, model="other"))),
    (REQUEST, Replace(evolve(REQUEST, model=None))),
    (REQUEST, Replace(SECTIONS)),
]


@pytest.mark.parametrize(("old", "value"), REPLACED, ids=[f"{n}" for n in range(len(REPLACED))])
def test_a_replacement_comes_to_the_same_as_inline(old: Any, value: Any) -> None:
    assert _text_of(_replaced_over_the_wire, old, value) == _text_of(_replaced_inline, old, value)


def test_only_the_fields_that_differ_are_sent() -> None:
    new = Replace(evolve(RESULT, output="b"))
    assert replacement_to_wire(RESULT, new) == {"replace": {"output": "b"}}


def test_of_a_message_that_the_request_has_only_its_id_and_what_changed_are_sent() -> None:
    own = Message(role="user", content="new")
    new = evolve(REQUEST, messages=(evolve(MESSAGE, content="ho"), REQUEST.messages[1], own))
    sent: Any = replacement_to_wire(REQUEST, Replace(new))
    first, second, third = sent["replace"].pop("messages")
    assert sent == {"replace": {}}
    assert (first, second) == ({"id": "m1", "content": "ho"}, {"id": "m2"})
    assert (third["role"], third["content"], third["id"]) == ("user", "new", "")


def test_a_text_that_would_arrive_as_another_is_nonsense() -> None:
    section = evolve(SECTIONS[0], text="a\ud800")
    message = evolve(MESSAGE, content="a\ud800")
    pairs: list[tuple[Any, Any]] = [(SECTIONS, (section,)), (REQUEST, evolve(REQUEST, messages=(message,)))]
    for old, new in pairs:
        answer = decode(encode(replacement_to_wire(old, Replace(new))))
        with pytest.raises(PluginError, match="has a lone surrogate, which no UTF-8 can say"):
            replacement_from_wire(old, answer)


def test_a_tool_or_a_success_that_was_changed_is_sent_so_that_it_is_refused() -> None:
    assert replacement_to_wire(CALL, Replace(evolve(CALL, tool_name="rm"))) == {"replace": {"toolName": "rm"}}
    with pytest.raises(PluginError, match="the transform changed the tool from 'bash'"):
        _replaced_over_the_wire(CALL, Replace(evolve(CALL, tool_name="rm")))


@pytest.mark.parametrize("arguments", [None, [], "", 0, ["command"]])
def test_arguments_that_are_no_object_are_refused_however_they_came_into_the_call(arguments: Any) -> None:
    changed = evolve(CALL)
    object.__setattr__(changed, "arguments", arguments)  # past the check that making a call is
    with pytest.raises(PluginError, match="; expected an object"):
        check_call(CALL, changed)


def test_a_field_that_json_cannot_say_is_nonsense() -> None:
    sent = replacement_to_wire(RESULT, Replace(evolve(RESULT, output=_Odd())))
    with pytest.raises(PluginError, match="the transform returned a ToolResult with a field that JSON cannot say"):
        replacement_from_wire(RESULT, sent)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"replace": {"argumets": {}}}, "the transform's `replace` has 'argumets', did you mean 'arguments'?"),
        ({"replace": {"tool_name": "x"}}, "the transform's `replace` has 'tool_name', did you mean 'toolName'?"),
        ({"replace": "ls"}, "the transform replaced a ToolCall by a string of 2 characters; use"),
        ({"replaced": {}}, "the transform's answer has 'replaced', did you mean 'replace'?"),
        ({"verdict": "deny", "reason": "x"}, "the transform's answer has 'verdict', expected one of replace"),
        ({"replace": {"arguments": [1]}}, "expected a mapping, found list"),
        ("ls", "the transform returned a string of 2 characters; expected Replace(value) or None"),
    ],
)
def test_what_is_no_replacement_is_an_error_that_names_the_field(answer: Any, text: str) -> None:
    assert _text_of(replacement_from_wire, CALL, answer).startswith(text)
