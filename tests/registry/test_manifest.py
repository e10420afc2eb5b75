from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.contract.grants import Grant
from ally_plugins.contract.manifest import HOST_API, MAX_MANIFEST_BYTES, Manifest, manifest_line
from ally_plugins.contract.values.errors import ManifestError

if TYPE_CHECKING:
    from collections.abc import Callable

FULL = """
description = "steers an agent that repeats itself"
requires_host = ">=1,<2"
before = ["conversation-monitor"]
after = ["secret-guard"]

[events]
subscribe = ["TOOL_CALL_END", "CONTEXT_THRESHOLD", "other-plugin:*"]
durable = ["TOOL_CALL_END"]
thresholds = [85, 33.5, 85]

[permissions]
add_message = { roles = ["user"], trigger_turn = true, reason = "to steer the agent" }
emit_event = { reason = "to tell others" }
get_context = { parts = ["messages", "todos"], reason = "to see" }
gate = { on = ["tool_call", "message"], tools = ["bash", "write"], waive = true, reason = "to stop it" }
transform = { on = ["tool_input", "user_message"], tools = ["bash"], reason = "to mend it" }
tools = { reason = "to offer" }
actions = { reason = "to act" }
tasks = { reason = "to work" }
ask = { reason = "to ask" }
request_action = { actions = ["compact"], reason = "to make room" }

[settings.limit]
type = "integer"
default = 3
description = "failures before it speaks"

[settings.mode]
type = "choice"
choices = ["warn", "deny"]
default = "warn"

[settings.token]
type = "string"
secret = true
required = true
"""


def problems_of(text: str | bytes, plugin: str = "me") -> tuple[str, ...]:
    with pytest.raises(ManifestError) as caught:
        Manifest.from_mapping(Manifest.table_of(text.encode() if isinstance(text, str) else text, plugin), plugin)
    assert caught.value.plugin == plugin
    assert all("\n" not in problem for problem in caught.value.problems)
    return caught.value.problems


def read(make: Callable[[], Manifest]) -> Manifest | ManifestError:
    try:
        return make()
    except ManifestError as error:
        return error


@pytest.mark.parametrize(
    "content",
    [
        b"\x00\x01\x02\x7fELF",
        b"\xff\xfe\x00d",
        b"a = ",
        b"[permissions\n",
        b"a = 1\na = 2",
        b"a = " + b"[" * 20_000,
        b"[" + b"a." * 20_000 + b"b]",
        b"a = " + b"9" * 6_000,
        b"\xef\xbb\xbf\xef\xbb\xbfdescription = 'two marks of byte order'",
        b"\xef\xbb",
        b"#" * (MAX_MANIFEST_BYTES + 1),
    ],
    ids=lambda content: repr(content[:12]),
)
def test_what_is_not_a_manifest_is_one_problem(content: bytes) -> None:
    assert len(problems_of(content)) == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_a_mark_of_byte_order_says_how_it_is_encoded(encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    content = f'{mark}description = "für alle"\r\n'.encode(encoding)
    assert Manifest.from_mapping(Manifest.table_of(content)).description == "für alle"
    assert Manifest.from_text('\ufeffdescription = "y"').description == "y"


@given(st.binary(max_size=200))
def test_bytes_are_read_or_are_a_manifest_error(content: bytes) -> None:
    result = read(lambda: Manifest.from_mapping(Manifest.table_of(content)))
    assert isinstance(result, Manifest) or result.problems


values = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["description", "requires_host", "before", "after", "events", "permissions", "settings"]


@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), values, max_size=6))
def test_any_table_is_read_or_is_a_manifest_error(table: dict[str, object]) -> None:
    result = read(lambda: Manifest.from_mapping(table))
    assert isinstance(result, Manifest) or result.problems
    assert len(str(result)) < 10_000


@given(st.dictionaries(st.sampled_from(["add_message", "gate", "transform", "get_context", "tools"]), values))
def test_any_permissions_are_read_or_are_a_manifest_error(table: dict[str, object]) -> None:
    result = read(lambda: Manifest.from_mapping({"permissions": table}))
    if isinstance(result, ManifestError):
        assert all(problem.startswith("permissions") for problem in result.problems)


def test_every_mistake_is_named_at_once_with_its_path_and_the_nearest_word() -> None:
    problems = problems_of(
        """
        descripton = "x"
        requires_host = "one"
        before = ["Bad Name"]
        after = ["me"]
        [events]
        subscribe = ["TOOL_CALL_STOP", 3, "x:"]
        durable = ["AGENT_END"]
        [permissions]
        add_mesage = { roles = ["user"] }
        add_message = { roles = ["usr"], trigger_turn = "yes", reason = "" }
        emit_event = true
        gate = { on = ["message"], tools = ["bash"], reason = "r" }
        transform = { on = ["tool_input"], tools = [], reason = "r" }
        request_action = { reason = "r" }
        [settings.1x]
        [settings.limit]
        type = "int"
        [settings.flag]
        type = "boolean"
        default = "no"
        """
    )
    expected = [
        "requires_host: found 'one', expected a version range",
        "before: found 'Bad Name'",
        "after: names the plugin 'me' itself",
        "events.subscribe[1]: found 3, expected a text",
        "events.subscribe: no event type 'TOOL_CALL_STOP', did you mean 'TOOL_CALL_START'?",
        "events.subscribe: found 'x:'",
        "events.durable: found 'AGENT_END'",
        "permissions.add_message.reason: found '', expected a text that is not empty",
        "permissions.add_message.roles: found 'usr', did you mean 'user'?",
        "permissions.add_message.trigger_turn: found 'yes', expected true or false",
        "permissions.emit_event: found true, expected a table such as { reason",
        "permissions.gate.tools: only narrows tool_call",
        "permissions.transform.tools: is empty",
        "permissions.request_action.actions: missing",
        "permissions.add_mesage: unknown key, did you mean 'add_message'?",
        "settings: found the name '1x'",
        "settings.limit.type: found 'int', did you mean 'integer'?",
        "settings.flag.default: found 'no', expected true or false",
        "descripton: unknown key, did you mean 'description'?",
    ]
    missing = [text for text in expected if not any(problem.startswith(text) for problem in problems)]
    assert missing == []
    assert len(problems) == len(expected)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ('on = ["answer"], mode = "sentences"', "permissions.gate.mode: found 'sentences', did you mean 'sentence'?"),
        ('on = ["stop"], mode = "sentence"', "permissions.gate.mode: is how the gate of 'answer' is asked"),
        ('on = ["user_message"], tools = ["bash"]', "permissions.gate.tools: only narrows tool_call"),
    ],
)
def test_a_mode_that_no_gate_has_is_refused(given: str, problem: str) -> None:
    (found,) = problems_of(f'[permissions]\ngate = {{ {given}, reason = "r" }}')
    assert found.startswith(problem)
    (found,) = problems_of('[permissions]\ntransform = { on = ["answer"], mode = "sentence", reason = "r" }')
    assert found.startswith("permissions.transform.mode: unknown key")
    (found,) = problems_of('[permissions]\ntransform = { on = ["answer"], tools = ["bash"], reason = "r" }')
    assert found.startswith("permissions.transform.tools: only narrows tool_input and tool_output")


def test_the_mode_of_a_gate_is_part_of_its_grant() -> None:
    def grants(mode: str) -> list[str]:
        manifest = Manifest.from_text(f'[permissions]\ngate = {{ on = ["stop", "answer"], {mode} reason = "r" }}')
        return [request.grant.text for request in manifest.requests]

    assert grants("") == grants('mode = "whole",') == ["gate:stop", "gate:answer"]
    assert grants('mode = "sentence",') == ["gate:stop", "gate:answer:sentence"]
    line = '[permissions] gate = { on = ["answer"], mode = "sentence", reason = "..." }'
    assert manifest_line(Grant.parse("gate:answer:sentence")) == line


@pytest.mark.parametrize("text", ["\\u001b[2J", "two\\nlines", "right\\u202eleft", "bell\\u0007"])
def test_text_that_would_fool_a_terminal_is_refused(text: str) -> None:
    problems = problems_of(f'description = "{text}"\n[permissions]\ntools = {{ reason = "{text}" }}')
    assert len(problems) == 2
    assert all(problem.isprintable() for problem in problems)


def test_a_full_manifest_is_read() -> None:
    manifest = Manifest.from_text(FULL, "loop-warner")
    assert manifest.description == "steers an agent that repeats itself"
    assert (manifest.before, manifest.after) == (("conversation-monitor",), ("secret-guard",))
    assert manifest.durable == ("TOOL_CALL_END",)
    assert manifest.thresholds == (33.5, 85.0)
    assert [request.grant.text for request in manifest.requests] == [
        "events:TOOL_CALL_END",
        "events:CONTEXT_THRESHOLD",
        "events:other-plugin:*",
        "add_message:user",
        "add_message:trigger_turn",
        "emit_event",
        "get_context:messages",
        "get_context:todos",
        "gate:tool_call:bash",
        "gate:tool_call:write",
        "gate:message",
        "gate:waive",
        "transform:tool_input:bash",
        "transform:user_message",
        "tools",
        "actions",
        "tasks",
        "ask",
        "request_action:compact",
    ]
    assert manifest.requests[3].reason == "to steer the agent"
    assert manifest.host_problem() is None
    assert list(manifest.settings) == ["limit", "mode", "token"]


def test_an_empty_manifest_asks_for_nothing() -> None:
    assert Manifest.from_text("") == Manifest()


def test_a_manifest_given_by_code_is_read_as_the_file_would_be() -> None:
    assert Manifest.from_mapping(tomllib.loads(FULL)) == Manifest.from_text(FULL)


@pytest.mark.parametrize("needs", [">=2,<3", "<1", "==0.9", "~=2.0", "!=1.0"])
def test_an_unmet_range_says_what_is_needed_and_what_is_there(needs: str) -> None:
    problem = Manifest.from_mapping({"requires_host": needs}).host_problem()
    assert problem is not None
    assert needs in problem
    assert HOST_API in problem


@pytest.mark.parametrize("needs", ["", ">=1", ">=1,<2", "==1.*", "~=1.0", ">=1.0,!=1.5"])
def test_a_range_that_is_met_is_no_problem(needs: str) -> None:
    assert Manifest.from_mapping({"requires_host": needs}).host_problem() is None


@pytest.mark.parametrize("needs", [">=", "=>1", "1", ">=1 <2", ">=x"])
def test_what_is_no_range_is_refused(needs: str) -> None:
    assert "requires_host" in problems_of(f'requires_host = "{needs}"')[0]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("integer", "true"),
        ("integer", "1.0"),
        ("integer", "9223372036854775808"),
        ("number", "nan"),
        ("number", "inf"),
        ("number", "true"),
        ("boolean", "0"),
        ("string", "3"),
        ("string", "[]"),
        ("integer", "1979-05-27"),
    ],
)
def test_a_default_of_another_type_is_refused(kind: str, value: str) -> None:
    assert len(problems_of(f'[settings.x]\ntype = "{kind}"\ndefault = {value}')) == 1


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ('type = "choice"', "settings.x.choices: missing"),
        ('type = "choice"\nchoices = []', "settings.x.choices: is empty"),
        ('type = "choice"\nchoices = ["a"]\ndefault = "b"', "settings.x.default: found 'b', expected one of a"),
        ('type = "string"\nchoices = ["a"]', "settings.x.choices: is for type 'choice'"),
        ('type = "integer"\nsecret = true', "settings.x.secret: is for type 'string'"),
        ('type = "string"\nsecret = true\ndefault = "hunter2"', "settings.x.default: a secret has no default"),
        ("", "settings.x.type: missing"),
    ],
)
def test_a_setting_that_contradicts_itself_is_refused(lines: str, problem: str) -> None:
    found = problems_of(f"[settings.x]\n{lines}")
    assert [text for text in found if text.startswith(problem)] != []
    assert not any("hunter2" in text for text in found)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [("integer", "-3", -3), ("number", "0.5", 0.5), ("boolean", "True", True), ("boolean", "false", False)],
)
def test_a_setting_is_read_from_a_command(kind: str, text: str, value: object) -> None:
    setting = Manifest.from_mapping({"settings": {"x": {"type": kind}}}).settings["x"]
    assert setting.parse(text) == value


@pytest.mark.parametrize(
    ("kind", "text"), [("integer", "3.5"), ("integer", ""), ("number", "nan"), ("number", "x"), ("boolean", "yes")]
)
def test_a_setting_of_the_wrong_type_says_what_was_expected(kind: str, text: str) -> None:
    setting = Manifest.from_mapping({"settings": {"x": {"type": kind}}}).settings["x"]
    with pytest.raises(ValueError, match="expected"):
        setting.parse(text)


@pytest.mark.parametrize("request_", [request.grant.text for request in Manifest.from_text(FULL).requests])
def test_the_line_to_add_declares_the_grant(request_: str) -> None:
    grant = Grant.parse(request_)
    line = manifest_line(grant)
    assert grant.kind in line
    if "..., " not in line:
        section, _, entry = line.partition(" ")
        manifest = Manifest.from_text(f"{section}\n{entry.replace('...', 'a reason')}")
        assert grant in manifest.grants


@pytest.mark.parametrize(
    "levels", ["[0]", "[100]", "[-5, 50]", '["50"]', "[true]", "[nan]", "60", "[1,2,3,4,5,6,7,8,9]"]
)
def test_levels_of_usage_that_nobody_can_pass_or_too_many_are_a_mistake(levels: str) -> None:
    problems = problems_of(f'[events]\nsubscribe = ["CONTEXT_THRESHOLD"]\nthresholds = {levels}\n')
    assert all(problem.startswith("events.thresholds") for problem in problems)


def test_levels_without_the_event_that_tells_of_them_are_a_mistake() -> None:
    (problem,) = problems_of('[events]\nsubscribe = ["TOOL_CALL_END"]\nthresholds = [60]\n')
    assert problem == "events.thresholds: needs 'CONTEXT_THRESHOLD' among what 'subscribe' lists"


BESIDE = """
[permissions]
files = { read = ["project", "/srv/words"], write = ["project/docs"], reason = "to write the docs" }
network = { reason = "to look words up" }
run = { programs = ["git", "/opt/spell/bin/spell"], reason = "to see what changed" }
env = { names = ["LANG_KEY"], reason = "to be let in" }
"""


def test_what_a_plugin_does_beside_the_host_is_asked_for_each_with_its_reason() -> None:
    requests = [(request.grant.text, request.reason) for request in Manifest.from_text(BESIDE).requests]
    assert requests == [
        ("env:LANG_KEY", "to be let in"),
        ("files:read:project", "to write the docs"),
        ("files:read:/srv/words", "to write the docs"),
        ("files:write:project/docs", "to write the docs"),
        ("network", "to look words up"),
        ("run:git", "to see what changed"),
        ("run:/opt/spell/bin/spell", "to see what changed"),
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('files = { reason = "r" }', "permissions.files.read: missing, expected a list of paths here or in 'write'"),
        ('files = { read = [], reason = "r" }', "permissions.files.read: is empty, expected at least one"),
        ('files = { read = ["project"] }', "permissions.files.reason: missing"),
        ('files = { read = "project", reason = "r" }', "permissions.files.read: found 'project', expected a list"),
        ('files = { read = ["project/../.."], reason = "r" }', "expected a path without '..'"),
        ('files = { read = ["~"], reason = "r" }', "found '~', expected 'project'"),
        ('files = { write = ["project/*.py"], reason = "r" }', "a folder stands for all that is below it"),
        ('files = { read = ["project"], wirte = ["project"], reason = "r" }', "unknown key, did you mean 'write'?"),
        ("network = true", "permissions.network: found true, expected a table such as { reason"),
        ('network = { hosts = ["a.org"], reason = "r" }', "permissions.network.hosts: unknown key"),
        ('run = ["git"]', "permissions.run: found a list, expected a table"),
        ('run = { programs = ["sh -c"], reason = "r" }', "such as 'git', or its absolute path"),
        ('run = { reason = "r" }', "permissions.run.programs: missing"),
    ],
)
def test_a_request_beside_the_host_that_is_no_plain_one_is_refused(line: str, problem: str) -> None:
    with pytest.raises(ManifestError) as caught:
        Manifest.from_text(f"[permissions]\n{line}\n")
    assert problem in str(caught.value)
    assert str(caught.value).count("permissions.") == 1
