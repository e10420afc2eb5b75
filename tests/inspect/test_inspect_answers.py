"""What the page is told: entries by their place, filters, what led to one, costs; also of what was removed."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.cli.inspect.answers import Answers
from ally_plugins.cli.inspect.timelines import GROUPS, Query, Timeline
from ally_plugins.cli.shell.journal_rows import KINDS
from ally_plugins.contract.values.errors import JournalError, NotFoundRefused
from ally_plugins.contract.values.event_types import EVENT_NAMES
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.reader import JournalReader
from ally_plugins.policy.keeping import Keeping
from tests.kit.recorded_sessions import HOSTILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ally_plugins.catalog.home.folder import Home

    from .conftest import Page

S = "s-recorded-1"


@pytest.fixture
def answers(home: Home) -> Iterator[Answers]:
    answers = Answers(home)
    yield answers
    answers.close()


def rows(answers: Answers, count: int = 500, **asked: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = answers.answer("rows", {"session": S, "count": str(count), **asked})["rows"]
    return found


def test_every_place_has_its_entry_whatever_part_is_asked_for(page: Page) -> None:
    whole = page.ask("rows", session=S, count=500)
    assert [row["place"] for row in whole["rows"]] == list(range(whole["total"]))
    assert [row["id"] for row in whole["rows"] if row["isEvent"]] == [f"{S}:{seq}" for seq in range(1, 122)]
    for start in range(0, whole["total"], 7):
        asked: dict[str, Any] = {"session": S, "from": start, "count": 7}
        part = page.ask("rows", **asked)["rows"]
        assert part == whole["rows"][start : start + 7]
    last: dict[str, Any] = {"session": S, "from": "end", "count": 3}
    assert page.ask("rows", **last)["rows"] == whole["rows"][-3:]
    for row in whole["rows"][::9]:
        found = page.ask("find", session=S, id=row["id"])
        assert page.ask("entry", session=S, position=found["position"])["row"]["n"] == row["n"]


def test_a_filter_finds_what_the_journal_has(page: Page) -> None:
    everything = page.ask("rows", session=S, count=500)["rows"]
    denied = page.ask("rows", session=S, count=500, types="decision", q="nothing is removed")["rows"]
    expected = [row["id"] for row in everything if row["type"] == "decision" and row["tone"] == "bad"]
    assert [row["id"] for row in denied] == expected
    assert len(expected) > 2
    problems = page.ask("rows", session=S, count=500, groups="problems")["rows"]
    assert {row["type"] for row in problems} == {"crash", "refusal", "decision", "DECISION", "TOOL_CALL_END"}
    assert {row["tone"] for row in problems} == {"bad"}
    by = page.ask("rows", session=S, count=500, plugin="test-watch")["rows"]
    assert {row["type"] for row in by} == {"message", "refusal", "crash"}
    assert page.ask("rows", session=S, q="PASSED IN", count=500)["total"] > 10
    assert page.ask("rows", session=S, q='"seq":7,')["total"] == 0  # a quote is a quote of a text, not of our JSON
    assert page.ask("rows", session=S, q="no such thing")["total"] == 0
    found = page.ask("find", session=S, id=f"{S}:2", types="decision")
    assert not found["isShown"]


def test_a_decision_comes_with_all_votes_and_a_message_with_its_origin(page: Page) -> None:
    at = page.ask("find", session=S, id=f"d-{S}-17")["position"]
    entry = page.ask("entry", session=S, position=at)
    assert [(vote["plugin"], vote["verdict"]) for vote in entry["votes"]] == [
        ("loop-guard", "abstain"),
        ("secret-guard", "deny"),
    ]
    assert page.ask("explain", session=S, id=f"d-{S}-17")["why"].startswith(
        "tool_call of bash was denied by secret-guard"
    )
    at = page.ask("find", session=S, id=f"m-{S}")["position"]
    message = page.ask("entry", session=S, position=at)["message"]
    assert message["origin"] == ["test-watch", "loop-guard"]
    assert (message["state"], message["permission"], message["cause"]) == ("delivered", "add_message:user", f"{S}:5")
    assert message["content"] == f"try another way\n{HOSTILE}"
    led = page.ask("explain", session=S, id=f"m-{S}")
    assert [each["id"] for each in led["causes"]] == [f"{S}:3", f"{S}:4", f"{S}:5"]
    assert [(each["kind"], each["text"]) for each in led["permissions"]] == [("grant", "add_message:user")]


def test_an_event_says_who_received_it_and_how_long_that_took(page: Page) -> None:
    def receivers(number: int) -> list[tuple[str, str | None, float | None, int]]:
        at = page.ask("find", session=S, id=f"{S}:{number}")["position"]
        found = page.ask("entry", session=S, position=at)["receivers"]
        return [(each["plugin"], each["hook"], each["ms"], each["together"]) for each in found]

    # What a process has told stands in the place of that it was sent the event.
    assert receivers(5) == [("loop-guard", "ally_tool_call_end", 14.4, 1), ("session-notes", None, 0.9, 3)]
    assert receivers(6) == [("session-notes", None, 0.9, 3)]
    assert receivers(7) == [("session-notes", None, 0.9, 3), ("test-watch", None, None, 2)]
    assert receivers(9) == []


def test_costs_are_those_of_the_sessions_time(page: Page) -> None:
    costs = page.ask("costs", session=S)
    (model,) = costs["models"]
    assert (model["model"], model["requests"], model["outputTokens"]) == ("scripted-1", 24, 1920)
    assert model["inputTokens"] == 24 * 1200 + sum(range(2, 122, 5))
    assert (model["cacheReadTokens"], model["durationMs"]) == (21600, 19500.0)
    plugins = {each["name"]: each for each in costs["plugins"]}
    assert plugins["test-watch"]["crashes"] == 2
    assert plugins["secret-guard"]["hooks"][0]["denied"] == 3
    assert page.ask("plugins")["states"][0]["state"] == "quarantined"


def test_what_a_stranger_wrote_is_inert_in_rows_and_whole_in_the_content(page: Page) -> None:
    row = page.ask("rows", session=S, count=1, types="refusal")["rows"][0]
    assert "\\u202e" in row["text"]
    assert "\u202e" not in json.dumps(row, ensure_ascii=False)
    content = page.ask("entry", session=S, position=row["position"])["content"]
    assert json.loads(content)["text"].endswith(HOSTILE)


def test_pruned_content_keeps_its_places_and_says_so(home: Home, answers: Answers, record: Callable[..., None]) -> None:
    record(events=30)
    before = rows(answers)
    with closing(sqlite3.connect(home.journal_file)) as db, db:
        db.execute("UPDATE records SET data = NULL WHERE kind IN ('events', 'message', 'decision')")
    fresh = Answers(home)
    after = rows(fresh)
    assert [(row["place"], row["id"]) for row in after if row["isEvent"]] == [
        (row["place"], row["id"]) for row in before if row["isEvent"]
    ]
    assert len(after) == len(before)
    gone = [row for row in after if row["type"] in {"events", "message", "decision"}]
    assert {row["text"] for row in gone} == {"(its content was pruned)"}
    entry = fresh.answer("entry", {"session": S, "position": str(gone[0]["position"])})
    assert (entry["content"], entry["why"]) == (None, "(its content was pruned)")
    fresh.close()


def test_what_was_not_kept_is_shown_as_that(answers: Answers, record: Callable[..., None]) -> None:
    record(events=30, keeping=Keeping(content="metadata"))
    start = next(row for row in rows(answers) if row["type"] == "TOOL_CALL_START")
    assert "[not kept: " in start["text"]
    assert "pytest" not in json.dumps(rows(answers))


def test_damaged_records_keep_their_places_and_the_others_are_shown(
    home: Home, answers: Answers, record: Callable[..., None]
) -> None:
    record(events=30)
    total = len(rows(answers))
    with closing(sqlite3.connect(home.journal_file)) as db, db:
        blocks = [n for (n,) in db.execute("SELECT n FROM records WHERE kind = 'events' ORDER BY n")]
        db.execute("UPDATE records SET data = X'00FF' WHERE n = ?", (blocks[1],))
        db.execute("UPDATE records SET data = '{\"broken' WHERE kind = 'refusal'")
        db.execute("UPDATE records SET ref = 'nonsense' WHERE n = ?", (blocks[2],))
    fresh = Answers(home)
    found = rows(fresh)
    assert "it cannot be read: see `ally-plugins audit verify`" in {row["text"] for row in found}
    assert total - 10 < len(found) <= total
    assert fresh.answer("rows", {"session": S, "q": "passed", "count": "9"})["total"] > 2
    fresh.close()


def test_a_session_that_goes_on_grows_and_no_entry_changes_its_place(
    answers: Answers, record: Callable[..., None]
) -> None:
    record(events=30)
    before = rows(answers, q="passed")
    record(events=20, since=31)
    record("s-other", events=20)
    after = rows(answers, q="passed")
    assert after[: len(before)] == before
    assert len(after) == len(before) + 4
    assert answers.answer("rows", {"session": S})["isLive"] is False
    sessions = answers.answer("sessions", {})["sessions"]
    assert [(each["id"], each["events"]) for each in sessions] == [(S, 51), ("s-other", 21)]


def test_a_session_that_a_host_has_is_live_and_has_the_hosts_records_too(
    home: Home, record: Callable[..., None]
) -> None:
    from ally_plugins.journal.values import Record

    async def main() -> None:
        journal = Journal.open(home.journal_file)
        journal.claim(S, "h", lambda: None)
        await journal.append(Record("plugin_state", 9, "late", None, None, {"state": "failed", "reason": "x"}))
        answers = Answers(home)
        assert answers.answer("rows", {"session": S})["isLive"] is True
        (last,) = rows(answers, 1, **{"from": "end"})
        assert (last["type"], last["tone"]) == ("plugin_state", "bad")
        answers.close()
        journal.close_blocking()
        ended = Answers(home)
        assert rows(ended, 1, **{"from": "end"})[0]["type"] != "plugin_state"
        ended.close()

    record(events=10)
    asyncio.run(main())


def test_what_other_sessions_record_is_in_none_but_their_own(home: Home, record: Callable[..., None]) -> None:
    record(events=20)
    record("s-other", events=20)
    with JournalReader(home.journal_file) as reader:
        for session in (S, "s-other", None):
            timeline = Timeline(reader, session)
            timeline.refresh(is_live=False)
            found = {entry.session_id for entry in timeline.entries(0, 1_000)}
            assert found - {None} == ({session} if session is not None else {S, "s-other"})
            view = timeline.view(Query(text="passed"))
            view.refresh()
            assert len(view) == (3 if session is not None else 6)  # one of the four calls was denied


def test_a_filter_whose_journal_could_not_be_read_finds_each_entry_once_later(
    home: Home, record: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    record(events=40)
    with JournalReader(home.journal_file) as reader:
        timeline = Timeline(reader, S)
        timeline.refresh(is_live=False)
        view = timeline.view(Query(text="passed"))
        whole = reader.timeline

        def broken(*args: Any, **more: Any) -> Iterator[Any]:
            yield from list(whole(*args, **more))[:12]
            raise JournalError("the disk fails")

        monkeypatch.setattr(reader, "timeline", broken)
        with pytest.raises(JournalError, match="the disk fails"):
            view.refresh()
        monkeypatch.undo()
        view.refresh()
        assert len(view) == view.counts.total() == 7  # of eight calls one was denied
        assert len({entry.id for _, entry in view.entries(0, 9)}) == 7


def test_nothing_recorded_is_no_error(home: Home) -> None:
    answers = Answers(home)
    assert answers.answer("rows", {})["isEmpty"] is True
    with pytest.raises(NotFoundRefused, match="nothing answers"):
        answers.answer("delete", {})
    answers.close()


def test_each_kind_and_type_belongs_to_one_group_at_most() -> None:
    every = [name for group in GROUPS.values() for name in group]
    assert len(every) == len(set(every))
    assert {name for name in every if not name.isupper()} <= KINDS
    assert {name for name in every if name.isupper()} <= {*EVENT_NAMES}
