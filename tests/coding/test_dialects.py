"""What each agent's hooks say is read as recorded, and no answer is taken by the agent for another one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins import ToolResult
from ally_plugins.adapters.coding.client.hook_client import CLOSED, closed
from ally_plugins.adapters.coding.dialects import DIALECTS
from ally_plugins.adapters.coding.payloads import AgentHook, HookKind, PayloadError
from ally_plugins.adapters.coding.replies import Answer, Reply
from ally_plugins.testing.agents.reactions import LISTED, Reaction, fields_of, react

from .agents import recorded

AGENTS = sorted(DIALECTS)
PAYLOADS = [
    pytest.param(agent, each, id=f"{agent}-{each['event']}-{each['case']}")
    for agent in AGENTS
    for each in recorded(agent)
    if each["event"] in CLOSED[agent]
]
GUARDED = {HookKind.PROMPT, HookKind.BEFORE_TOOL, HookKind.AFTER_TOOL, HookKind.AFTER_CALLS, HookKind.PERMISSION}
REASON = 'not "today" \\ é\n\u202e'

BESIDE = {"agent_id", "agentId", "structuredContent", "isError"}
"""Fields that say more of a call and may be missing."""

UNCLOSABLE = {("claude", "PostToolUseFailure")}
"""Guard events whose agent shows the raw output whatever is answered; another event that follows ends the turn."""


def raw(payload: Any) -> bytes:
    return json.dumps(payload).encode()


def hook_of(agent: str, each: dict[str, Any]) -> AgentHook:
    return DIALECTS[agent].read(each["event"], raw(each["payload"]))


def reaction(agent: str, each: dict[str, Any], reply: Reply) -> Reaction:
    return react(agent, each["event"], each["payload"], (reply.exit_code, reply.stdout, reply.stderr))


def recorded_of(agent: str, kind: HookKind) -> list[dict[str, Any]]:
    return [each for each in recorded(agent) if DIALECTS[agent].kinds.get(each["event"]) is kind]


# --- reading ---


@pytest.mark.parametrize("agent", AGENTS)
def test_the_client_closes_exactly_the_events_that_the_dialect_reads(agent: str) -> None:
    dialect = DIALECTS[agent]
    assert CLOSED[agent].keys() == dialect.kinds.keys()
    for event, kind in dialect.kinds.items():
        assert not dialect.is_guard(event) or kind in GUARDED


@pytest.mark.parametrize(("agent", "each"), PAYLOADS)
def test_a_recorded_payload_is_read_whole(agent: str, each: dict[str, Any]) -> None:
    payload, hook = each["payload"], hook_of(agent, each)
    words = {text for text in _texts(payload) if text}
    assert hook.event == each["event"]
    is_sub_agents = hook.parent_id is not None and hook.kind is HookKind.AGENT_START
    assert hook.kind is DIALECTS[agent].kinds[hook.event] or is_sub_agents
    assert hook.session_id in words
    assert hook.agent_id is None or hook.agent_id in words
    assert (hook.tool is None) == (hook.kind not in {HookKind.BEFORE_TOOL, HookKind.AFTER_TOOL, HookKind.PERMISSION})
    if hook.tool is not None:
        assert hook.tool.call.tool_name in words
        assert json.loads(raw(hook.tool.call.arguments)) in list(_objects(payload))
        assert (hook.tool.result is None) == (hook.kind is not HookKind.AFTER_TOOL)


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for each in inner for text in _texts(each)]


def _objects(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return ([value] if isinstance(value, dict) else []) + [found for each in inner for found in _objects(each)]


@pytest.mark.parametrize(("agent", "each"), PAYLOADS)
def test_a_field_that_nobody_knows_changes_nothing(agent: str, each: dict[str, Any]) -> None:
    more = {**each["payload"], "brand_new": {"deep": [1, None, "x"]}}
    assert DIALECTS[agent].read(each["event"], raw(more)) == hook_of(agent, each)


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("kind", sorted(GUARDED))
def test_a_guard_event_without_a_field_that_it_needs_is_refused_by_the_name_of_the_field(
    agent: str, kind: HookKind
) -> None:
    for each in recorded_of(agent, kind):
        hook, needed = hook_of(agent, each), 0
        for name in each["payload"]:
            less = {key: value for key, value in each["payload"].items() if key != name}
            found = _read_or_why(agent, each["event"], less)
            if isinstance(found, str):
                needed += 1
                assert repr(name) in found
            else:  # what can be left out is not what guards look at
                assert found.text == hook.text
                assert [found.tool, found.tools] == [hook.tool, hook.tools] or name in BESIDE
        assert needed >= 2


def _read_or_why(agent: str, event: str, payload: dict[str, Any]) -> AgentHook | str:
    try:
        return DIALECTS[agent].read(event, raw(payload))
    except PayloadError as error:
        return str(error)


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b'{"session_id": NaN}',
        b"[" * 100_000,
        b'{"a": "\\ud800"}',
        b"x" * 20_000_000,
    ],
)
def test_what_is_no_payload_is_refused(agent: str, odd: bytes) -> None:
    for event in DIALECTS[agent].kinds:
        with pytest.raises(PayloadError):
            DIALECTS[agent].read(event, odd)


@pytest.mark.parametrize("agent", AGENTS)
def test_an_event_that_is_not_known_and_one_under_another_name_are_refused(agent: str) -> None:
    each = recorded_of(agent, HookKind.BEFORE_TOOL)[0]
    with pytest.raises(PayloadError, match="no event 'Brand'"):
        DIALECTS[agent].read("Brand", raw(each["payload"]))
    assert closed(agent, "Brand", "why") == (2, "", "why")
    if "hook_event_name" in each["payload"]:
        with pytest.raises(PayloadError, match="'hook_event_name' is"):
            DIALECTS[agent].read(each["event"], raw({**each["payload"], "hook_event_name": "Stop"}))


@pytest.mark.parametrize("agent", AGENTS)
def test_the_shell_has_the_common_name_and_its_command_the_common_argument(agent: str) -> None:
    for each in recorded_of(agent, HookKind.BEFORE_TOOL):
        if each["case"] == "":
            hook = hook_of(agent, each)
            assert hook.tool is not None
            assert hook.tool.call.common_name == "bash"
            assert hook.tool.call.common_arguments["command"] == "echo hi"


@pytest.mark.parametrize("agent", AGENTS)
def test_arguments_that_cannot_be_shown_are_none_and_say_why(agent: str) -> None:
    each = recorded_of(agent, HookKind.BEFORE_TOOL)[0]
    deep: Any = "x"
    for _ in range(200):
        deep = [deep]
    text = raw(each["payload"]).replace(b'"echo hi"', raw(deep)).replace(b'"select:mcp__ally__ally_shout"', raw(deep))
    hook = DIALECTS[agent].read(each["event"], text)
    assert hook.tool is not None
    assert hook.tool.unshown
    assert not hook.tool.call.arguments


# --- answering ---


@pytest.mark.parametrize(("agent", "each"), PAYLOADS)
def test_without_a_word_of_plugins_the_agent_goes_on_as_it_would(agent: str, each: dict[str, Any]) -> None:
    reply = DIALECTS[agent].answer(hook_of(agent, each), Answer())
    assert reply == Reply()
    assert reaction(agent, each, reply) == Reaction()


@pytest.mark.parametrize(("agent", "each"), PAYLOADS)
def test_what_nobody_can_answer_is_closed_where_a_guard_is_asked_and_passes_elsewhere(
    agent: str, each: dict[str, Any]
) -> None:
    dialect = DIALECTS[agent]
    found = reaction(agent, each, dialect.close(each["event"], REASON))
    assert found.stopped == (dialect.is_guard(each["event"]) and (agent, each["event"]) not in UNCLOSABLE)
    assert not found.goes_on


@pytest.mark.parametrize(("agent", "each"), PAYLOADS)
def test_a_refusal_stops_what_it_is_about(agent: str, each: dict[str, Any]) -> None:
    dialect, hook = DIALECTS[agent], hook_of(agent, each)
    reply = dialect.answer(hook, Answer(refusal=REASON))
    found = reaction(agent, each, reply)
    assert found.stopped == (dialect.is_guard(each["event"]) and (agent, each["event"]) not in UNCLOSABLE)
    assert found.goes_on == (hook.kind is HookKind.STOP and HookKind.STOP in dialect.writers)
    assert not found.waived
    if reply.stdout and hook.kind is not HookKind.AFTER_TOOL:
        assert REASON in _texts(json.loads(reply.stdout))


@pytest.mark.parametrize("agent", AGENTS)
def test_a_refusal_without_a_reason_is_one_all_the_same(agent: str) -> None:
    for each in recorded_of(agent, HookKind.BEFORE_TOOL):
        assert reaction(agent, each, DIALECTS[agent].answer(hook_of(agent, each), Answer(refusal=""))).stopped


@pytest.mark.parametrize("agent", AGENTS)
def test_a_question_is_put_to_the_person_or_the_call_does_not_run(agent: str) -> None:
    for each in recorded_of(agent, HookKind.BEFORE_TOOL):
        hook = hook_of(agent, each)
        found = reaction(agent, each, DIALECTS[agent].answer(hook, Answer(question="sure?")))
        assert found.stopped != found.asks
        changed = Answer(question="sure?", arguments={"command": "other"})
        assert reaction(agent, each, DIALECTS[agent].answer(hook, changed)).stopped


@pytest.mark.parametrize("agent", AGENTS)
def test_changed_arguments_run_or_nothing_does_and_no_question_of_the_agent_is_waived(agent: str) -> None:
    for each in recorded_of(agent, HookKind.BEFORE_TOOL):
        hook, new = hook_of(agent, each), {"command": "echo changed", "n": [1, {"a": None}]}
        found = reaction(agent, each, DIALECTS[agent].answer(hook, Answer(arguments=new)))
        assert found.stopped or found.value == new
        assert not (found.waived and hook.may_ask)


def test_codex_is_given_changed_arguments_only_where_it_would_ask_nobody() -> None:
    each = recorded_of("codex", HookKind.BEFORE_TOOL)[0]
    asking = {**each, "payload": {**each["payload"], "permission_mode": "default"}}
    for payload, runs in ((each, True), (asking, False)):
        reply = DIALECTS["codex"].answer(hook_of("codex", payload), Answer(arguments={"command": "x"}))
        assert reaction("codex", payload, reply) == Reaction(stopped=not runs, value={"command": "x"} if runs else None,
                                                             waived=runs)  # fmt: skip


@pytest.mark.parametrize("agent", AGENTS)
def test_a_changed_prompt_reaches_the_model_changed_or_not_at_all(agent: str) -> None:
    for each in recorded_of(agent, HookKind.PROMPT):
        reply = DIALECTS[agent].answer(hook_of(agent, each), Answer(prompt="with [secret] gone"))
        found = reaction(agent, each, reply)
        assert found.stopped or found.value == "with [secret] gone" or not DIALECTS[agent].is_guard(each["event"])
        assert ("with [secret] gone" in reply.stdout) == DIALECTS[agent].is_guard(each["event"])


@pytest.mark.parametrize("agent", AGENTS)
def test_a_changed_output_is_what_the_model_sees_and_the_raw_one_is_not(agent: str) -> None:
    for each in recorded_of(agent, HookKind.AFTER_TOOL):
        hook = hook_of(agent, each)
        is_closed = DIALECTS[agent].is_guard(each["event"]) and (agent, each["event"]) not in UNCLOSABLE
        if not is_closed or hook.tool is None or hook.tool.result is None:
            continue
        result = ToolResult(hook.tool.result.success, "redacted", data=hook.tool.result.data)
        reply = DIALECTS[agent].answer(hook, Answer(result=result))
        found = reaction(agent, each, reply)
        assert found.stopped
        assert hook.tool.result.output not in _texts(found.value)


@pytest.mark.parametrize(("agent", "each"), PAYLOADS)
def test_what_plugins_say_reaches_the_model_where_the_dialect_says_so(agent: str, each: dict[str, Any]) -> None:
    hook = hook_of(agent, each)
    reply = DIALECTS[agent].answer(hook, Answer(context="[plugin p] hello"))
    wanted = "[plugin p] hello" if hook.event in DIALECTS[agent].takes_context else ""
    assert reaction(agent, each, reply).context == wanted


# --- any payload, any verdict ---

words = st.text(max_size=12)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
answers = st.builds(
    Answer,
    refusal=st.none() | words,
    question=st.none() | words,
    arguments=st.none() | st.dictionaries(words, values, max_size=3),
    prompt=st.none() | words,
    waives=st.booleans(),
    context=words,
)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, str, dict[str, Any]]:
    """Return an agent, an event and a recorded payload in which fields were dropped or changed."""
    agent = draw(st.sampled_from(AGENTS))
    each = draw(st.sampled_from([each for each in recorded(agent) if each["event"] in CLOSED[agent]]))
    payload = dict(each["payload"])
    for name in draw(st.lists(st.sampled_from(sorted(payload)), max_size=2, unique=True)):
        if draw(st.booleans()):
            del payload[name]
        else:
            payload[name] = draw(values)
    return agent, each["event"], payload


@given(mutated(), answers, st.data())
def test_whatever_is_said_and_answered_nothing_runs_that_was_refused_or_not_seen(
    said: tuple[str, str, dict[str, Any]], answer: Answer, data: st.DataObject
) -> None:
    agent, event, payload = said
    dialect = DIALECTS[agent]
    must_stop = dialect.is_guard(event) and (agent, event) not in UNCLOSABLE
    try:
        hook = dialect.read(event, raw(payload))
    except PayloadError as error:
        reply = dialect.close(event, str(error))
        assert react(agent, event, payload, (reply.exit_code, reply.stdout, reply.stderr)).stopped == must_stop
        return
    if hook.tool is not None and hook.tool.result is not None:
        changed = ToolResult(hook.tool.result.success, data.draw(words), data=data.draw(values))
        answer = Answer(refusal=answer.refusal, context=answer.context, result=data.draw(st.none() | st.just(changed)))
    reply = dialect.answer(hook, answer)
    found = react(agent, event, payload, (reply.exit_code, reply.stdout, reply.stderr))
    assert fields_of(reply.stdout) <= LISTED[agent].get(event, set())
    if must_stop and answer.refusal is not None:
        assert found.stopped
    if hook.kind is HookKind.BEFORE_TOOL:
        assert not (found.waived and hook.may_ask)
        assert found.stopped or found.asks or answer.question is None
        assert found.stopped or answer.arguments is None or found.value == answer.arguments
    if hook.kind is HookKind.PROMPT and answer.prompt is not None and must_stop:
        assert found.stopped or found.value == answer.prompt
    if hook.kind is HookKind.AFTER_TOOL and answer.result is not None:
        assert found.stopped == must_stop


@given(st.sampled_from(AGENTS), st.binary(max_size=60) | st.from_regex(rb"\{.{0,20}\}"), words, st.data())
def test_any_bytes_are_closed_for_a_guard_and_pass_for_an_observer(
    agent: str, odd: bytes, reason: str, data: st.DataObject
) -> None:
    event = data.draw(st.sampled_from(sorted(CLOSED[agent])))
    with pytest.raises(PayloadError):
        DIALECTS[agent].read(event, odd)
    reply = DIALECTS[agent].close(event, reason)
    found = react(agent, event, {}, (reply.exit_code, reply.stdout, reply.stderr))
    assert found.stopped == (DIALECTS[agent].is_guard(event) and (agent, event) not in UNCLOSABLE)


@pytest.mark.parametrize("blanks", ["", " ", "\n\t", "\u00a0\u2003"])
@pytest.mark.parametrize("agent", AGENTS)
def test_a_refusal_without_a_word_still_has_one(agent: str, blanks: str) -> None:
    each = recorded_of(agent, HookKind.BEFORE_TOOL)[0]
    reply = DIALECTS[agent].answer(hook_of(agent, each), Answer(refusal=blanks))
    assert reaction(agent, each, reply).stopped
    assert "gives no reason" in f"{reply.stdout}{reply.stderr}"
