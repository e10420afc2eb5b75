"""Two trials of the same recordings are compared: what is loosened stands first."""

from __future__ import annotations

from typing import Any

import pytest

from ally_plugins.replay.trial import Change, compare


def vote(verdict: str, cause: str | None = "c1", why: str = "verdict", reason: str = "") -> dict[str, Any]:
    return {"session": "s", "kind": "tool_call", "cause": cause, "number": 0, "subject": "bash", "verdict": verdict,
            "why": why, "reason": reason}  # fmt: skip


def trial(*votes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"votes": list(votes), "messages": [], "requests": [], "hooks": {}, **more}


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        (vote("deny"), vote("abstain"), ("deny", "allow", True)),
        (vote("deny"), vote("ask"), ("deny", "ask", True)),
        (vote("ask"), vote("allow"), ("ask", "allow", True)),
        (vote("abstain"), vote("deny"), ("allow", "deny", False)),
        (vote("deny"), vote("deny", why="crash"), ("deny", "deny (crash)", False)),
        (vote("deny", why="timeout"), vote("allow"), ("deny (timeout)", "allow", True)),
    ],
)
def test_a_change_says_what_was_and_what_is_and_whether_that_loosens(
    old: dict[str, Any], new: dict[str, Any], change: tuple[str, str, bool]
) -> None:
    (found,) = compare(trial(old), trial(new)).changes
    assert (found.old, found.new, found.is_loosened) == change


def test_what_says_the_same_is_no_change_however_it_says_so() -> None:
    assert compare(trial(vote("allow")), trial(vote("abstain"))).is_nothing
    assert compare(trial(vote("deny", reason="no")), trial(vote("deny", reason="never"))).is_nothing


def test_a_gate_that_is_not_asked_any_more_is_a_denial_that_became_nothing() -> None:
    (found,) = compare(trial(vote("deny")), trial()).changes
    assert (found.old, found.new, found.is_loosened) == ("deny", "", True)


def test_loosened_decisions_come_first_and_messages_are_counted_each() -> None:
    old = trial(
        vote("abstain", "c1"), vote("deny", "c2"), messages=[["s", "eight ch"], ["s", "eight ch"], ["s", "gone"]]
    )
    new = trial(vote("deny", "c1"), vote("allow", "c2"), messages=[["s", "eight ch"], ["t", "new"]],
                requests=["emit_event"])  # fmt: skip
    found = compare(old, new)
    assert [each.is_loosened for each in found.changes] == [True, False]
    assert found.added == (("t", "new"),)
    assert sorted(found.removed) == [("s", "eight ch"), ("s", "gone")]
    assert found.tokens == (5, 3)
    assert found.requests == ("emit_event",)
    assert not found.is_nothing


def test_the_reason_is_that_of_whoever_says_something() -> None:
    (found,) = compare(trial(vote("deny", reason="no")), trial(vote("allow"))).changes
    assert found == Change("s", "tool_call", "bash", "deny", "allow", "no")
