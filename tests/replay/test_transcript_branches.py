"""Claude Code transcripts: what a person took back, what waited in the queue, and the files of sub-agents."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.replay.branches import Branches
from ally_plugins.replay.recording import open_recording
from ally_plugins.replay.steps import (
    AgentEnded,
    AgentStarted,
    AssistantReplied,
    BrokenLine,
    ModelRequested,
    ModelResponded,
    PersonMessage,
    SafePoint,
    SessionStarted,
    ToolCalled,
    ToolReturned,
)
from ally_plugins.replay.transcript import read_transcript
from ally_plugins.replay.turns import with_safe_points
from tests.kit.steps import only, said, skipped

if TYPE_CHECKING:
    from pathlib import Path

    from ally_plugins.replay.steps import Step


class Tree:
    """Records that name their parents, as Claude Code writes them: each follows the last one unless told otherwise."""

    def __init__(self, prefix: str = "r", **more: Any) -> None:
        self.prefix = prefix
        self.records: list[dict[str, Any]] = []
        self.more = more

    def add(self, kind: str, parent: int | None = -1, **more: Any) -> int:
        """Add a record behind another, which is named by its place; return its place."""
        place = len(self.records)
        parent = place - 1 if parent == -1 else parent
        self.records.append({
            "type": kind, "uuid": f"{self.prefix}{place}", "sessionId": "s1", "cwd": "/work", **self.more,
            "parentUuid": None if parent is None or parent < 0 else f"{self.prefix}{parent}",
            "timestamp": f"2026-03-10T09:{place:02d}:00Z", **more,
        })  # fmt: skip
        return place

    def says(self, words: str, parent: int | None = -1, **more: Any) -> int:
        return self.add("user", parent, message={"role": "user", "content": words}, **more)

    def answers(self, mid: str, *blocks: dict[str, Any], parent: int | None = -1, **more: Any) -> int:
        usage = {"input_tokens": 5, "output_tokens": more.pop("tokens", 1)}
        message = {"role": "assistant", "id": mid, "model": "m", "content": list(blocks), "usage": usage}
        return self.add("assistant", parent, message=message | {"stop_reason": more.pop("stop", None)}, **more)

    def returns(self, call_id: str, parent: int | None = -1, output: str = "out", **more: Any) -> int:
        block = {"type": "tool_result", "tool_use_id": call_id, "content": output}
        return self.add("user", parent, message={"role": "user", "content": [block]}, **more)

    def bare(self, kind: str, **more: Any) -> None:
        """Add a record without a name, such as those of the queue."""
        self.records.append({"type": kind, "sessionId": "s1", **more})

    def write(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in self.records))
        return path

    def steps(self) -> list[Step]:
        data = "".join(json.dumps(record) + "\n" for record in self.records).encode()
        return list(with_safe_points(read_transcript(io.BytesIO(data))))


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def use(call_id: str, name: str = "Bash", **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


# -- what was taken back


def rewound() -> Tree:
    """Return a session in which the second turn was taken back, and another one took its place."""
    tree = Tree()
    tree.says("first")
    end = tree.answers("m1", text("done"))
    tree.says("delete it all")
    tree.answers("m2", use("t1", command="rm -rf ."))
    tree.returns("t1")
    tree.says("look only", end)
    tree.answers("m3", text("looked"))
    return tree


def test_a_turn_that_was_taken_back_did_not_happen_and_is_counted() -> None:
    steps = rewound().steps()
    assert said(steps) == ["first", "look only"]
    assert not only(steps, ToolCalled)
    assert skipped(steps) == {"rewound": 3}


def test_what_hangs_on_a_branch_goes_with_it() -> None:
    tree = Tree()
    tree.says("first")
    end = tree.answers("m1", text("done"))
    tree.says("take back", end)
    tree.answers("m2", use("t1", "Task", prompt="search"))
    tree.bare("queue-operation", operation="enqueue", content="more")
    tree.says("search", None, isSidechain=True)
    tree.answers("n1", use("x1"), isSidechain=True)
    tree.bare("queue-operation", operation="remove")
    tree.add("system", end, subtype="informational")
    tree.says("instead")  # hangs on the remark, which hangs on the answer
    tree.answers("m3", text("well"))
    steps = tree.steps()
    assert said(steps) == ["first", "instead"]
    assert not only(steps, AgentStarted)
    assert skipped(steps) == {"rewound": 6, "system": 1}


def test_going_back_twice_leaves_the_last_way_only() -> None:
    tree = rewound()
    tree.says("third", 1)
    tree.answers("m4", text("yes"))
    tree.says("fourth")
    assert said(tree.steps()) == ["first", "third", "fourth"]
    tree.says("all anew", None)
    tree.answers("m5", text("at the start"))
    steps = tree.steps()
    assert said(steps) == ["all anew"]
    assert [one.text for one in only(steps, AssistantReplied)] == ["at the start"]


def test_results_of_parallel_calls_are_no_branches() -> None:
    tree = Tree()
    tree.says("go")
    one = tree.answers("m1", use("t1"))
    tree.add("progress", one, data={"type": "hook_progress"})
    two = tree.answers("m1", use("t2"), parent=one)
    tree.returns("t2", two)
    late = tree.returns("t1", one)
    tree.says("next", late)
    tree.answers("m2", text("done"))
    steps = tree.steps()
    assert "rewound" not in skipped(steps)
    assert [call.call_id for call in only(steps, ToolReturned) if call.success] == ["t2", "t1"]


def test_what_was_answered_on_a_branch_before_the_next_message_goes_with_it() -> None:
    tree = Tree()
    tree.says("go")
    tree.answers("m1", use("t1"))
    end = tree.returns("t1")
    tree.answers("m2", text("given up"))
    tree.says("taken back")
    tree.answers("m3", text("taken back too"))
    tree.says("instead", end)
    tree.answers("m4", text("done"))
    steps = tree.steps()
    assert said(steps) == ["go", "instead"]
    assert [one.text for one in only(steps, AssistantReplied)] == ["done"]
    assert skipped(steps) == {"rewound": 3}


def test_a_compaction_and_a_copy_of_another_session_are_no_branches() -> None:
    tree = Tree()
    tree.says("old", None, sessionId="s0")
    tree.answers("m0", text("old answer"), sessionId="s0")
    tree.says("resumed", None)
    end = tree.answers("m1", text("done"))
    tree.add("system", None, subtype="compact_boundary", logicalParentUuid=f"r{end}")
    tree.says("This session is being continued", isCompactSummary=True)
    tree.answers("m2", text("summarized"))
    tree.says("go on", end)
    assert said(tree.steps()) == ["old", "resumed", "go on"]


def test_a_file_that_names_no_parents_is_read_in_its_order() -> None:
    tree = Tree()
    for number in range(3):
        tree.says(f"turn {number}", None)
        tree.answers(f"m{number}", text("done"), parent=None)
    assert said(tree.steps()) == ["turn 0", "turn 1", "turn 2"]


def test_a_parent_that_is_not_there_takes_nothing_back() -> None:
    tree = Tree()
    tree.says("one")
    tree.answers("m1", text("done"))
    tree.says("two", 4000)
    assert said(tree.steps()) == ["one", "two"]


@given(st.lists(st.integers(0, 6), max_size=20))
def test_the_way_to_the_last_record_is_what_is_left(steps_back: list[int]) -> None:
    branches, way = Branches(), list[int]()
    for place, back in enumerate(steps_back):
        way = way[: max(len(way) - back, 1)]  # to the first record at most
        parent = f"r{way[-1]}" if way else None
        branches.receive_record(place, f"r{place}", parent, is_turn=True, is_anchor=True, may_branch=True)
        way.append(place)
    assert [place for place in range(len(steps_back)) if place not in branches.abandoned] == way


# -- what was typed while the agent worked


def typed(*operations: tuple[str, str | None], attached: str | None = None) -> list[Step]:
    """Return the steps of a session in which a message was typed during a call."""
    tree = Tree()
    tree.says("go")
    tree.answers("m1", use("t1"))
    for operation, content in operations:
        more = {} if content is None else {"content": content}
        tree.bare("queue-operation", operation=operation, **more)
    tree.returns("t1")
    if attached is not None:
        tree.add("attachment", attachment={"type": "queued_command", "prompt": attached})
    tree.answers("m2", text("understood"))
    return tree.steps()


@pytest.mark.parametrize(
    ("operations", "attached"),
    [
        ([("enqueue", "no push"), ("remove", None)], None),
        ([("enqueue", "no push"), ("remove", "no push")], None),
        ([("enqueue", "no push"), ("remove", None)], "no push"),
        ([("enqueue", "no push")], "no push"),
        ([("enqueue", "<task-notification>done"), ("enqueue", "no push"), ("remove", None)], None),
        ([("enqueue", "no push"), ("dequeue", None)], None),
        ([], "no push"),
    ],
)
def test_a_message_in_the_middle_of_a_turn_is_heard_once_where_it_entered(
    operations: list[tuple[str, str | None]], attached: str | None
) -> None:
    steps = typed(*operations, attached=attached)
    assert said(steps) == ["go", "no push"]
    kinds = [type(step) for step in steps if type(step) in {PersonMessage, ToolReturned, ModelRequested}]
    assert kinds == [PersonMessage, ModelRequested, ToolReturned, PersonMessage, ModelRequested]
    assert [str(point.kind) for point in only(steps, SafePoint)] == ["turn_start", "step", "turn_end"]


def test_a_message_that_waited_for_its_own_turn_is_heard_once() -> None:
    tree = Tree()
    tree.says("go")
    tree.bare("queue-operation", operation="enqueue", content="[Pasted text #1]")
    tree.answers("m1", text("done"))
    tree.bare("queue-operation", operation="dequeue")
    tree.says("the pasted text, as it was expanded")
    tree.answers("m2", text("done too"))
    assert said(tree.steps()) == ["go", "the pasted text, as it was expanded"]


def test_a_message_that_a_resumed_session_repeats_is_heard_once() -> None:
    tree = Tree()
    tree.says("go")
    tree.answers("m1", use("t1"))
    tree.add("attachment", attachment={"type": "queued_command", "prompt": "no push"})
    tree.records += tree.records[:3]
    steps = tree.steps()
    assert said(steps) == ["go", "no push"]
    assert skipped(steps)["duplicate"] == 3


@pytest.mark.parametrize("end", [[], [("popAll", None)], [("remove", None, "cancelled")]])
def test_a_message_that_never_entered_is_not_heard(end: list[tuple[Any, ...]]) -> None:
    tree = Tree()
    tree.says("go")
    tree.answers("m1", use("t1"))
    tree.bare("queue-operation", operation="enqueue", content="never mind")
    for operation, _, *reason in end:
        tree.bare("queue-operation", operation=operation, **({"reason": reason[0]} if reason else {}))
    tree.returns("t1")
    steps = tree.steps()
    assert said(steps) == ["go"]
    assert skipped(steps)["queued-message"] == (not end)


def test_what_programs_put_into_the_queue_is_no_persons_word() -> None:
    tree = Tree()
    tree.says("go")
    for attachment in (
        {"prompt": "<task-notification>done</task-notification>"},
        {"prompt": "the build failed", "origin": {"kind": "task-notification"}},
        {"prompt": "a reminder", "isMeta": True},
    ):
        tree.add("attachment", attachment={"type": "queued_command", **attachment})
    tree.says("a task has ended", origin={"kind": "channel"})
    tree.says("yes", origin={"kind": "human"})
    steps = tree.steps()
    assert said(steps) == ["go", "yes"]
    assert skipped(steps) == {"meta": 4}


# -- files of sub-agents


def session(tmp_path: Path, *, meta: bool = True, launch: bool = False) -> Path:
    """Return a transcript with one sub-agent, whose records lie beside it."""
    main = Tree()
    main.says("go")
    main.answers("m1", use("t1", "Agent", prompt="find it", subagent_type="Explore"), use("t2", "Agent", prompt="no"))
    status = {"status": "async_launched" if launch else "completed", "agentId": "a1"}
    main.returns("t1", toolUseResult=status)
    main.answers("m2", text("done"))
    sub = Tree("a", isSidechain=True, agentId="a1")
    sub.says("find it", None)
    sub.answers("n1", use("x1", command="cat key"))
    sub.returns("x1")
    sub.add("attachment", attachment={"type": "queued_command", "prompt": "not the person's"})
    sub.answers("n2", text("found"))
    path = main.write(tmp_path / "s1.jsonl")
    sub.write(tmp_path / "s1" / "subagents" / "agent-a1.jsonl")
    if meta:
        (tmp_path / "s1" / "subagents" / "agent-a1.meta.json").write_text('{"toolUseId": "t1"}')
    return path


@pytest.mark.parametrize("meta", [True, False])
def test_a_sub_agents_file_is_replayed_inside_the_call_that_started_it(tmp_path: Path, *, meta: bool) -> None:
    steps = list(open_recording(session(tmp_path, meta=meta)).steps())
    calls = {call.call_id: call.agent_id for call in only(steps, ToolCalled)}
    assert calls == {"t1": None, "t2": None, "x1": "t1"}
    ended = only(steps, AgentEnded)[0]
    assert (ended.agent_id, ended.agent_name, ended.tool_use_count, ended.is_interrupted) == ("t1", "Explore", 1, False)
    returned = [step.call_id for step in only(steps, ToolReturned)]
    assert returned.index("x1") < returned.index("t1")
    assert said(steps) == ["go"]


def test_a_sub_agent_in_the_background_ends_with_its_file(tmp_path: Path) -> None:
    steps = list(open_recording(session(tmp_path, launch=True)).steps())
    [ended] = [one for one in only(steps, AgentEnded) if one.agent_id == "t1"]
    assert (ended.call_id, ended.tool_use_count, ended.is_interrupted) == ("t1", 1, False)
    assert [call.agent_id for call in only(steps, ToolCalled)] == [None, None, "t1"]


def test_a_file_that_no_call_started_is_an_agent_of_its_own(tmp_path: Path) -> None:
    path = session(tmp_path)
    other = Tree("c", isSidechain=True)
    other.says("compact it")
    other.answers("c1", text("short"))
    other.write(tmp_path / "s1" / "subagents" / "deeper" / "agent-acompact-7.jsonl")
    started = only(list(open_recording(path).steps()), AgentStarted)
    assert [(one.agent_id, one.call_id) for one in started if one.call_id is None] == [("acompact-7", None)]


def test_files_beside_the_transcript_belong_to_it_by_their_session(tmp_path: Path) -> None:
    path = session(tmp_path)
    (tmp_path / "s1" / "subagents" / "agent-a1.jsonl").rename(tmp_path / "agent-a1.jsonl")
    stranger = Tree("b", isSidechain=True, agentId="b9", sessionId="another")
    stranger.answers("z1", use("z", command="not ours"))
    stranger.write(tmp_path / "agent-b9.jsonl")
    assert "x1" in {call.call_id for call in only(list(open_recording(path).steps()), ToolCalled)}
    assert "z" not in {call.call_id for call in only(list(open_recording(path).steps()), ToolCalled)}
    alone = list(open_recording(tmp_path / "agent-a1.jsonl").steps())
    assert [call.call_id for call in only(alone, ToolCalled)] == ["x1"]


def test_what_is_wrong_with_a_sub_agents_file_is_named_with_the_file(tmp_path: Path) -> None:
    path = session(tmp_path)
    file = tmp_path / "s1" / "subagents" / "agent-a1.jsonl"
    file.write_text("{torn\n" + file.read_text())
    (file.parent / "agent-dir.jsonl").mkdir()
    (file.parent / "agent-a1.meta.json").write_text("[" * 100)
    steps = list(open_recording(path).steps())
    assert [(one.number, one.file) for one in only(steps, BrokenLine)] == [(1, str(file))]
    assert "x1" in {call.call_id for call in only(steps, ToolCalled)}


def test_a_sub_agent_of_a_turn_that_was_taken_back_did_not_work(tmp_path: Path) -> None:
    path = session(tmp_path)
    tree = Tree()
    tree.records = [json.loads(line) for line in path.read_text().splitlines()]
    tree.says("from the start", None)
    tree.answers("m9", text("well"))
    tree.write(path)
    steps = list(open_recording(path).steps())
    assert said(steps) == ["from the start"]
    assert not only(steps, ToolCalled)
    assert skipped(steps) == {"rewound": 9}


# -- answers over several records


def test_tokens_and_stop_reason_are_those_of_an_answers_last_record() -> None:
    tree = Tree()
    tree.says("go")
    one = tree.answers("m1", use("t1"), tokens=7)
    tree.returns("t1", one)
    tree.answers("m1", use("t2"), parent=one, tokens=812, stop="tool_use")
    tree.returns("t2")
    tree.answers("m2", text("done"), tokens=3, stop="end_turn")
    answered = only(tree.steps(), ModelResponded)
    assert [(one.output_tokens, one.stop_reason) for one in answered] == [(812, "tool_use"), (3, "end_turn")]


def test_an_answer_whose_end_is_far_away_keeps_nothing_back_for_ever() -> None:
    tree = Tree()
    tree.answers("m1", use("t1", "Task", prompt="p"), tokens=5)
    for number in range(400):
        tree.answers(f"n{number}", use(f"x{number}"), isSidechain=True, agentId="a1")
    data = "".join(json.dumps(record) + "\n" for record in tree.records).encode()
    reading = read_transcript(io.BytesIO(data))
    assert isinstance(next(reading), SessionStarted)
    assert len([step for step in reading if isinstance(step, ToolCalled)]) == 401
