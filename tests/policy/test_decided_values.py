from __future__ import annotations

import hashlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins import Message, PermissionRequest, ToolCall
from ally_plugins.policy.decided_values import MAX_DECIDED_BYTES, decided_value

SALT = b"0123456789abcdef"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)  # fmt: skip


def call(**arguments: Any) -> ToolCall:
    return ToolCall("bash", arguments, "c1")


def test_a_call_a_request_and_a_message_are_kept_as_they_were_shown() -> None:
    assert decided_value(call(command="ls"), salt=None) == {"value": {"arguments": {"command": "ls"}}}
    message = Message(role="user", content="hello", id="m1")
    assert decided_value(message, salt=None) == {"value": {"role": "user", "content": "hello"}}
    kept = decided_value(PermissionRequest(request_id="r1", tool_name="bash", command="ls"), salt=None)
    assert kept["value"]["command"] == "ls"


def test_a_large_value_is_shortened_and_its_size_and_digest_kept() -> None:
    value = call(path="a.py", content="x" * 100_000, lines=list(range(1000)), deep=[[[[[[[["end"]]]]]]]])
    kept = decided_value(value, salt=None)
    text = orjson.dumps({"arguments": dict(value.arguments)}, default=list)
    assert kept["bytes"] == len(text)
    assert kept["sha256"] == hashlib.sha256(text).hexdigest()
    arguments = kept["value"]["arguments"]
    assert arguments["path"] == "a.py"
    assert arguments["content"].endswith("... (99,000 characters more)")
    assert arguments["lines"][-1] == "... 968 more"
    assert "end" not in str(arguments["deep"])


def test_of_a_value_that_stays_large_when_it_is_shortened_the_shape_is_kept() -> None:
    kept = decided_value(call(**{f"field{i}": "y" * 2000 for i in range(40)}), salt=None)
    assert kept["shape"] == {"arguments": "object of 40"}


def test_of_a_sensitive_value_a_salted_digest_and_the_shape_are_kept() -> None:
    value = call(command="curl -u me:hunter2", tries=3, hosts=["a.example"], quiet=True)
    kept = decided_value(value, salt=SALT)
    text = orjson.dumps({"arguments": dict(value.arguments)}, default=list)
    assert kept == {
        "sensitive": True,
        "salt": SALT.hex(),
        "digest": hashlib.sha256(SALT + text).hexdigest(),
        "shape": {
            "arguments": {
                "command": "text of 18 characters",
                "tries": "whole number",
                "hosts": ["text of 9 characters"],
                "quiet": "true or false",
            }
        },
    }


@pytest.mark.parametrize(
    "name", ["AKIAQ3EGRZXDEMO7WXYZ", "ghp_abcdefghij0123456789", "hunter2", "x" * 90, "Tr0ub4dor&3"]
)
def test_the_name_of_a_field_that_may_be_a_credential_is_not_in_the_shape(name: str) -> None:
    kept = decided_value(call(**{"filePath": "x", name: "y"}), salt=SALT)
    assert kept["shape"] == {"arguments": {"filePath": "text of 1 characters", "(2)": "text of 1 characters"}}


@given(JSON)
def test_whatever_was_shown_it_is_kept_within_its_limit(value: Any) -> None:
    kept = decided_value(value, salt=None)
    assert kept["value"] == value
    assert len(orjson.dumps(kept)) < MAX_DECIDED_BYTES + 200


@given(st.text(st.characters(codec="ascii", categories=["Lu", "Nd"]), min_size=12, max_size=40), JSON)
def test_no_text_or_number_of_a_sensitive_value_is_kept(secret: str, value: Any) -> None:
    kept = decided_value(call(command=secret, more={secret: [secret, {"a": secret}], "rest": value}), salt=SALT)
    assert secret not in str(kept["shape"])
    assert set(kept) == {"sensitive", "salt", "digest", "shape"}


@pytest.mark.parametrize("value", [object(), {"a": object()}, 10**5000], ids=["object", "inside", "digits"])
def test_what_is_no_json_is_named_and_not_raised(value: Any) -> None:
    assert set(decided_value(value, salt=None)) == {"unshown"}
    assert set(decided_value(value, salt=SALT)) == {"unshown"}
