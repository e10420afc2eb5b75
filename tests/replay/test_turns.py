"""Where plugin messages may enter, and that every call and every agent ends, whatever a recording lacks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.replay.steps import (
    AgentEnded,
    AgentStarted,
    AssistantReplied,
    Interrupted,
    ModelRequested,
    PermissionAnswered,
    PermissionRequested,
    PersonMessage,
    SafePoint,
    SafePointKind,
    SessionEnded,
    Skipped,
    Step,
    ToolCalled,
    ToolReturned,
)
from ally_plugins.replay.turns import MAX_AGENTS, MAX_OPEN, with_safe_points


def call(call_id: str, at: int = 0, agent_id: str | None = None) -> ToolCalled:
    return ToolCalled(at, call_id, "bash", {}, agent_id=agent_id)


def returned(call_id: str, at: int = 0) -> ToolReturned:
    return ToolReturned(at, call_id, success=True, output="out")


def run(*steps: Step) -> list[Step]:
    return list(with_safe_points(steps))


def outline(steps: list[Step]) -> list[str]:
    """Name the steps in one word each, safe points by their kind."""
    return [str(step.kind) if isinstance(step, SafePoint) else type(step).__name__ for step in steps]


def test_a_safe_point_comes_after_all_parallel_calls_returned() -> None:
    steps = run(
        PersonMessage(0, "hello"), ModelRequested(1), call("a"), call("b"), returned("b"), returned("a"),
        ModelRequested(2), AssistantReplied(3, "done"), SessionEnded(4),
    )  # fmt: skip
    assert outline(steps) == [
        "PersonMessage", "turn_start", "ModelRequested", "ToolCalled", "ToolCalled", "ToolReturned", "ToolReturned",
        "step", "ModelRequested", "AssistantReplied", "turn_end", "SessionEnded",
    ]  # fmt: skip


def test_a_call_of_the_same_answer_after_a_result_has_no_safe_point_before_it() -> None:
    steps = run(ModelRequested(0), call("a"), returned("a"), call("b"), returned("b"), ModelRequested(1))
    assert outline(steps).count("step") == 1
    assert outline(steps)[-2:] == ["step", "ModelRequested"]


def test_a_call_without_a_result_fails_when_the_model_goes_on() -> None:
    steps = run(ModelRequested(0), call("a"), ModelRequested(7))
    assert steps[2:4] == [
        ToolReturned(7, "a", success=False, error="no result was recorded", tool_name="bash", duration_ms=7),
        SafePoint(7, SafePointKind.STEP),
    ]


def test_the_persons_next_message_closes_what_is_open_and_ends_the_turn() -> None:
    steps = run(PersonMessage(0, "go"), ModelRequested(1), call("a", 1), PersonMessage(9, "stop"))
    assert outline(steps)[4:] == ["ToolReturned", "turn_end", "PersonMessage", "turn_start"]
    assert isinstance(steps[4], ToolReturned)
    assert steps[4].error == "interrupted by the person"


def test_a_turn_ends_when_its_last_thing_happened_not_when_the_person_comes_back() -> None:
    steps = run(PersonMessage(0, "go"), ModelRequested(1), AssistantReplied(5, "done"), PersonMessage(900, "thanks"))
    assert SafePoint(5, SafePointKind.TURN_END) in steps


def test_an_interruption_ends_the_turn_once() -> None:
    steps = run(PersonMessage(0, "go"), call("a", 1), Interrupted(2), PersonMessage(3, "else"), SessionEnded(4))
    assert outline(steps) == [
        "PersonMessage", "turn_start", "ToolCalled", "Interrupted", "ToolReturned", "turn_end",
        "PersonMessage", "turn_start", "turn_end", "SessionEnded",
    ]  # fmt: skip


def test_an_interjection_waits_until_the_calls_returned() -> None:
    said = PersonMessage(2, "by the way", is_interjection=True)
    steps = run(ModelRequested(0), call("a"), call("b"), returned("a"), said, returned("b", 3), ModelRequested(4))
    assert outline(steps)[4:] == ["ToolReturned", "PersonMessage", "step", "ModelRequested"]


def test_a_rejected_call_shows_that_the_person_was_asked() -> None:
    steps = run(call("a", 1), ToolReturned(2, "a", success=False, is_rejected=True))
    assert steps[1:3] == [
        PermissionRequested(2, "a", "bash", {}, call_id="a"),
        PermissionAnswered(2, "a", "deny"),
    ]


def test_a_result_without_a_call_is_skipped_and_counted() -> None:
    assert run(returned("ghost")) == [Skipped(0, "result without a call")]


def test_the_same_id_twice_ends_the_first_call() -> None:
    assert outline(run(call("a"), call("a"), returned("a"))) == [
        "ToolCalled", "ToolReturned", "ToolCalled", "ToolReturned",
    ]  # fmt: skip


def test_an_agent_ends_right_before_its_call_returns_and_its_calls_before_it() -> None:
    steps = run(
        call("task", 1), AgentStarted(1, "task", "task", "Explore"), call("inner", 2, "task"), returned("task", 5),
    )  # fmt: skip
    assert outline(steps)[2:] == ["ToolCalled", "ToolReturned", "AgentEnded", "ToolReturned"]
    ended = steps[4]
    assert ended == AgentEnded(5, "task", "task", "Explore", "out", duration_ms=4, tool_use_count=1)


def test_a_launched_agent_outlives_its_call_and_ends_with_the_session() -> None:
    steps = run(
        call("task"),
        AgentStarted(0, "task", "task"),
        ToolReturned(1, "task", success=True, is_launch=True),
        SessionEnded(9),
    )
    assert outline(steps)[2:] == ["ToolReturned", "turn_end", "AgentEnded", "SessionEnded"]


def test_an_open_call_of_a_sub_agent_does_not_hold_back_a_safe_point() -> None:
    steps = run(
        AgentStarted(0, "x", None), call("inner", 0, "x"), call("a"), returned("a"), ModelRequested(1), SessionEnded(2)
    )
    assert outline(steps)[4:6] == ["step", "ModelRequested"]


def test_what_never_ends_is_bounded() -> None:
    calls = run(*(call(str(number)) for number in range(MAX_OPEN + 10)))
    assert outline(calls).count("ToolReturned") == 10
    agents = run(*(AgentStarted(0, str(number), None) for number in range(MAX_AGENTS + 10)))
    assert outline(agents).count("AgentEnded") == 10


def test_agents_that_started_one_another_to_any_depth_end() -> None:
    chain: list[Step] = []
    for depth in range(MAX_AGENTS * 2):
        chain += [
            call(str(depth + 1), 0, str(depth) if depth else None),
            AgentStarted(0, str(depth + 1), str(depth + 1)),
        ]
    steps = run(*chain, SessionEnded(1))
    assert outline(steps).count("ToolReturned") == outline(steps).count("ToolCalled")
    assert outline(steps).count("AgentEnded") == outline(steps).count("AgentStarted")


IDS = st.sampled_from("abc")
AGENTS = st.sampled_from([None, "a", "b"])
RAW = st.one_of(
    st.builds(call, IDS, st.just(0), AGENTS),
    st.builds(returned, IDS),
    st.builds(lambda agent: ModelRequested(0, agent_id=agent), AGENTS),
    st.builds(lambda mid: PersonMessage(0, "text", mid), st.booleans()),
    st.builds(lambda one: AgentStarted(0, one, one), IDS),
    st.builds(lambda one: AgentEnded(0, one, one), IDS),
    st.just(Interrupted(0)),
)


@given(st.lists(RAW, max_size=40))
def test_no_safe_point_ever_stands_between_calls_and_results(raw: list[Step]) -> None:
    raw = [*raw, SessionEnded(0)]
    open_calls: dict[str, str | None] = {}
    open_agents: set[str] = set()
    for step in with_safe_points(raw):
        match step:
            case ToolCalled():
                assert step.call_id not in open_calls
                open_calls[step.call_id] = step.agent_id
            case ToolReturned():
                assert open_calls.pop(step.call_id) == step.agent_id
            case AgentStarted():
                open_agents.add(step.agent_id)
            case AgentEnded():
                open_agents.remove(step.agent_id)
            case SafePoint() | PersonMessage():
                assert None not in open_calls.values()
            case SessionEnded():
                assert not open_agents
                assert not open_calls
            case _:
                pass
