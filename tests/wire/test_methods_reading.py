"""What a peer sends is read strictly; what is wrong is said with its method, its path and the nearest right name."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.contract.tables import described_fields
from ally_plugins.contract.values.errors import ValidationRefused
from ally_plugins.wire.methods import (
    HOST_METHODS,
    METHODS,
    PLUGIN_METHODS,
    read_host_params,
    read_initialize_result,
    read_params,
    unknown_method,
    write_params,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def _refusal(method: str, params: Any) -> ValidationRefused:
    with pytest.raises(ValidationRefused) as caught:
        read_params(method, params, "p")
    return caught.value


WRONG = {
    ("add_message", "role is the number 5; expected a string", "role"): {"role": 5, "content": "x"},
    ("add_message", "content is missing; expected a string", "content"): {"role": "user"},
    ("add_message", "content is null; expected a string", "content"): {"role": "user", "content": None},
    ("add_message", "trigger_turn is the number 1; expected true or false", "trigger_turn"): {
        "role": "user",
        "content": "x",
        "trigger_turn": 1,
    },
    ("add_message", "deliver_at is unknown; did you mean 'deliver_as'?", "deliver_at"): {
        "role": "user",
        "content": "x",
        "deliver_at": "steer",
    },
    ("add_message", "metadata is a list; expected an object", "metadata"): {"role": "u", "content": "", "metadata": []},
    ("emit_event", "session_id is true; expected a string", "session_id"): {"type": "x", "session_id": True},
    ("get_context", "parts is a string of 8 characters; expected a list", "parts"): {"parts": "messages"},
    ("get_context", "parts[1] is the number 2; expected a string", "parts[1]"): {"parts": ["focus", 2]},
    ("get_context", "params is a list; expected an object", "params"): ["focus"],
    ("register_tool", "name is missing; expected a string", "name"): {"description": "x"},
    ("register_tool", "descripton is unknown; did you mean 'description'?", "descripton"): {
        "name": "x",
        "descripton": "y",
    },
    ("request_action", "timeout is a string of 1 characters; expected a number", "timeout"): {
        "action": "compact",
        "timeout": "5",
    },
    ("log", "level is 'warn'; did you mean 'warning'?", "level"): {"level": "warn", "message": "x"},
    ("ack_events", "offset is the number 7; expected a string", "offset"): {"offset": 7},
}


@pytest.mark.parametrize(
    ("wrong", "params"), WRONG.items(), ids=lambda each: each[1] if isinstance(each, tuple) else ""
)
def test_what_a_daemon_sends_is_refused_with_its_method_path_and_what_was_expected(
    wrong: tuple[str, str, str], params: Any
) -> None:
    method, text, path = wrong
    refusal = _refusal(method, params)
    assert str(refusal) == f"{method}: {text}"
    assert (refusal.field, refusal.plugin) == (path, "p")


def test_no_text_that_a_daemon_sent_is_quoted_at_length() -> None:
    secret = "s3cret" * 40
    told = [_refusal("add_message", {"role": [secret], "content": secret}), _refusal("log", {"level": secret})]
    told += [_refusal("add_message", {"role": "u", "content": "", secret: 1}), unknown_method(secret)]
    assert all(len(str(refusal)) < 300 for refusal in told)
    assert all(secret not in str(refusal) for refusal in told)


def test_a_name_with_control_characters_stays_one_line() -> None:
    refusal = _refusal("add_message", {"role": "u", "content": "", "\x1b[2J\n": 1})
    assert str(refusal).isprintable()


@given(
    method=st.sampled_from(sorted(PLUGIN_METHODS)),
    params=json_values | st.dictionaries(st.sampled_from(["role", "name", "content", "id"]), json_values),
)
def test_garbage_is_read_or_refused_and_nothing_else(method: str, params: Any) -> None:
    with suppress(ValidationRefused):
        assert isinstance(read_params(method, params), PLUGIN_METHODS[method].params)


@given(result=json_values | st.dictionaries(st.sampled_from(["protocol", "hooks", "tools", "events"]), json_values))
def test_a_garbage_answer_to_initialize_is_read_or_refused_and_nothing_else(result: Any) -> None:
    with suppress(ValidationRefused):
        assert read_initialize_result(result, "p").protocol == result["protocol"]


def test_an_optional_param_that_is_null_counts_as_absent() -> None:
    read = read_params("emit_event", {"type": "x", "data": None, "session_id": None})
    assert (read.data, read.session_id) == ({}, None)


def test_what_a_newer_host_says_beyond_this_version_is_passed_over() -> None:
    read = read_host_params("shutdown", {"reason": "bye", "since_version_2": {"x": 1}})
    assert read.reason == "bye"
    told = {"protocol": "1", "protocols": ["1", "2"], "plugin": "p", "mood": "good"}
    host = {"name": "h", "version": "1", "api": "1.0", "color": "red"}
    assert read_host_params("initialize", {**told, "host": host}).host.name == "h"


def test_what_a_host_says_in_a_wrong_type_is_refused() -> None:
    with pytest.raises(ValidationRefused, match=r"^gate: on is 'tool'; did you mean 'tool_call'\?$"):
        read_host_params("gate", {"on": "tool", "session_id": "s"})


def test_a_hook_that_is_named_alone_gets_all_arguments_but_the_context() -> None:
    hooks = [
        "ally_start",
        "ally_gate_tool_call",
        {"name": "ally_gate_message", "arguments": ["context"]},
        {"name": "ally_transform_tool_output", "placement": "first"},
    ]
    read = read_initialize_result({"protocol": "1", "hooks": hooks}).hooks
    assert [(hook.name, hook.arguments, hook.placement) for hook in read] == [
        ("ally_start", (), None),
        ("ally_gate_tool_call", ("call",), None),
        ("ally_gate_message", ("context",), None),
        ("ally_transform_tool_output", ("call", "result"), "first"),
    ]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({}, "protocol is missing; expected a string"),
        ("hello", "it is a string of 5 characters; expected an object"),
        ({"hooks": ["ally_tool_cal_end"]}, "hooks[0] is 'ally_tool_cal_end', which is no hook; did you mean "),
        ({"hooks": [{"name": "ally_stat"}]}, "hooks[0].name is 'ally_stat', which is no hook; did you mean "),
        ({"hooks": ["ally_add_message"]}, "hooks[0] is 'ally_add_message', which only a host implements"),
        ({"hooks": [7]}, "hooks[0] is the number 7; expected a hook's name or an object"),
        ({"hooks": [{"name": "ally_start", "args": []}]}, "hooks[0].args is unknown; "),
        (
            {"hooks": [{"name": "ally_gate_tool_call", "arguments": ["contxt"]}]},
            "hooks[0].arguments[0] is 'contxt', which ally_gate_tool_call does not give; did you mean 'context'?",
        ),
        ({"hooks": [{"name": "ally_start", "placement": "1st"}]}, "hooks[0].placement is '1st'; "),
        ({"tools": [{"name": "x"}, {"nam": "y"}]}, "tools[1].name is missing; expected a string"),
        ({"tool": []}, "tool is unknown; did you mean 'tools'?"),
    ],
)
def test_a_wrong_answer_to_initialize_is_refused_with_the_place_and_the_nearest_name(answer: Any, text: str) -> None:
    whole = {"protocol": "1", **answer} if isinstance(answer, dict) and answer else answer
    with pytest.raises(ValidationRefused) as caught:
        read_initialize_result(whole, "p")
    assert str(caught.value).startswith(f"the answer to initialize: {text}")


def test_a_tool_is_described_as_the_maker_of_specs_takes_it() -> None:
    from ally_plugins.contract.tools.declared import make_spec

    read = read_params("register_tool", {"name": "x", "timeout": 5, "cause": "s1:4", "session_id": "s1"})

    async def handler(**_: Any) -> None: ...

    spec = make_spec("tool", handler, **read.described)
    assert (spec.name, spec.description, spec.timeout) == ("x", "", 5.0)
    action = read_params("register_action", {"name": "x"})
    assert make_spec("action", handler, **action.described).agent is False


@pytest.mark.parametrize("method", METHODS, ids=lambda method: f"{method.sender}-{method.name}")
def test_what_is_written_is_read_as_the_same(method: Any) -> None:
    from ally_plugins.contract.values.codec import decode, encode
    from ally_plugins.wire.samples import SAMPLES

    read = read_params if method.sender == "plugin" else read_host_params
    first = read(method.name, decode(encode(dict(SAMPLES[method.sender][method.name].params))))
    assert read(method.name, decode(encode(write_params(first)))) == first


def test_a_method_that_there_is_not_is_answered_with_the_nearest_name() -> None:
    assert str(unknown_method("addMessage")) == "there is no method 'addMessage'; did you mean 'add_message'?"


def test_both_sides_know_every_message_of_theirs_and_each_says_what_it_means() -> None:
    assert set(HOST_METHODS) & set(PLUGIN_METHODS) == {"initialize", "$/cancel", "$/progress"}
    for method in METHODS:
        assert method.doc.endswith("."), method.name
        for field in described_fields(method.params):
            assert field.metadata["description"], f"{method.name}.{field.name} says nothing"


def test_a_token_is_not_shown() -> None:
    assert "oTo0" not in repr(read_params("initialize", {"token": "oTo0", "protocol": "1"}))


def test_a_daemon_that_reads_its_host_imports_neither_cattrs_nor_pluggy() -> None:
    code = (
        "import sys; import ally_plugins.wire.host_params, ally_plugins.wire.values, ally_plugins.wire.answers,"
        "ally_plugins.contract.values.eventjson;"
        "print([name for name in ('cattrs', 'pluggy', 'click', 'asyncio', 'jsonschema') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
