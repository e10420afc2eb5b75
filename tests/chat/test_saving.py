from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    UserPromptPart,
)

from ally_plugins.catalog.home.folder import Home
from ally_plugins.cli.chat.chat_options import find_saved
from ally_plugins.cli.chat.saved_history import Saver, SessionLock, load_history
from ally_plugins.contract.values.errors import ConfigError, HostError, JournalError, NotFoundRefused
from ally_plugins.contract.values.masking import Secrets
from ally_plugins.journal.histories import history_added, history_begun
from ally_plugins.journal.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEYS = Secrets(["top-secret-key"])


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal.open(tmp_path / "journal.db")
    yield journal
    journal.close_blocking()


def said(text: str) -> list[ModelMessage]:
    return [ModelRequest(parts=[UserPromptPart(text)]), ModelResponse(parts=[TextPart(f"so {text}")])]


def rows(journal: Journal) -> list[tuple[str | None, int]]:
    journal.flush_blocking()
    records = journal.reader.records(kind="history")
    return [(record.ref, len((record.data or {}).get("messages", ()))) for record in records]


def test_what_was_saved_comes_back_as_it_was(journal: Journal) -> None:
    saver = Saver(journal, "s", KEYS)
    history = [*said("one"), *said("two")]
    saver.follow(history)
    journal.flush_blocking()
    assert load_history(journal, "s") == history


def test_each_step_writes_only_what_is_new(journal: Journal) -> None:
    saver = Saver(journal, "s", KEYS)
    history: list[ModelMessage] = []
    for i in range(5):
        history = [*history, *said(str(i))]
        saver.follow(history)
        saver.follow(history)  # nothing is new
    assert rows(journal) == [(None, 2)] * 5


def test_the_same_messages_as_other_objects_are_not_written_again(journal: Journal) -> None:
    saver = Saver(journal, "s", KEYS)
    saver.follow(said("one"))
    journal.flush_blocking()
    again = load_history(journal, "s")
    saver.follow([*again, *said("two")])
    assert rows(journal) == [(None, 2), (None, 2)]
    resumed = Saver(journal, "s", KEYS)
    loaded = load_history(journal, "s")
    resumed.adopt(loaded)
    resumed.follow([*loaded, *said("three")])
    assert rows(journal) == [(None, 2), (None, 2), (None, 2)]


def test_a_shorter_history_replaces_the_one_before(journal: Journal) -> None:
    saver = Saver(journal, "s", KEYS)
    saver.follow([*said("one"), *said("two"), *said("three")])
    compacted = [*said("a summary"), *said("three")]
    saver.follow(compacted)
    saver.follow([*compacted, *said("four")])
    assert rows(journal) == [(None, 6), ("history:replace", 4), (None, 2)]
    assert load_history(journal, "s") == [*compacted, *load_history(journal, "s")[-2:]]


def test_keys_are_masked_before_anything_is_written(journal: Journal, tmp_path: Path) -> None:
    saver = Saver(journal, "s", KEYS)
    saver.begin({"title": "my key is top-secret-key"})
    saver.follow(said("top-secret-key"))
    journal.flush_blocking()
    assert "top-secret-key" not in str(load_history(journal, "s"))
    assert all(b"top-secret-key" not in file.read_bytes() for file in tmp_path.iterdir())


def test_calls_that_a_crash_left_unanswered_are_marked_so_that_the_framework_closes_them(journal: Journal) -> None:
    call = ModelResponse(parts=[ToolCallPart("run_command", {"command": "sleep 1"}, "call-1")])
    Saver(journal, "s", KEYS).follow([ModelRequest(parts=[UserPromptPart("run sleep 1")]), call])
    journal.flush_blocking()
    last = load_history(journal, "s")[-1]
    assert isinstance(last, ModelResponse)
    assert last.state == "interrupted"


def test_a_history_of_another_form_is_an_error_in_words(journal: Journal) -> None:
    journal.append_blocking(history_added("s", 1, [{"kind": "from the future"}]))
    with pytest.raises(JournalError, match="was saved in a form that this version does not read"):
        load_history(journal, "s")


def test_a_pruned_session_is_not_found(journal: Journal) -> None:
    journal.append_blocking(history_added("s", 1, ModelMessagesTypeAdapter.dump_python(said("x"), mode="json")))
    journal.prune_blocking(1000)
    with pytest.raises(NotFoundRefused, match="was pruned; start a new one"):
        load_history(journal, "s")


def test_a_session_is_found_by_its_id_by_its_beginning_or_as_the_last(tmp_path: Path) -> None:
    home = Home("app", tmp_path / "home")
    with pytest.raises(NotFoundRefused, match="no session is saved yet"):
        find_saved(home, None)
    home.prepare()
    journal = Journal.open(home.journal_file, head=home.audit_head_file)
    for session_id in ("s-aa-1", "s-ab-1", "s-ab-12"):
        journal.append_blocking(history_begun(session_id, 1, {"title": session_id}))
    journal.close_blocking()
    assert find_saved(home, None).id == "s-ab-12"
    assert find_saved(home, "s-aa").id == "s-aa-1"
    assert find_saved(home, "s-ab-1").id == "s-ab-1"
    with pytest.raises(ConfigError, match="2 sessions begin with 's-ab'"):
        find_saved(home, "s-ab")
    with pytest.raises(NotFoundRefused, match="no session 'x' is saved; `ally-plugins sessions`"):
        find_saved(home, "x")


def test_a_session_is_open_in_one_place_at_a_time(tmp_path: Path) -> None:
    home = Home("app", tmp_path / "home")
    lock = SessionLock(home, "s-1")
    with pytest.raises(HostError, match="the session 's-1' is open in another chat"):
        SessionLock(home, "s-1")
    SessionLock(home, "s-2").release()
    lock.release()
    SessionLock(home, "s-1").release()
