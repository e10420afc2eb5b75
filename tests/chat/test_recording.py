"""The recorded chat in the docs is what a chat shows today."""

from __future__ import annotations

from collections import Counter

import pytest

from .record_chat import COLUMNS, RECORDING, record

WANTED = (
    "* read_file",
    "? the agent asks: edit_file needs permission",
    "+    return",
    "may it?",
    "[plugin loop-guard]",
    "! refused: read_file, by loop-guard",
    "~ session-notes:remembered",
    "decision d-",
)


@pytest.mark.slow
def test_the_recording_in_the_docs_is_what_a_chat_shows() -> None:
    pytest.importorskip("ally_plugins_contrib.session_notes")
    shown = record()
    # As often as there, in whatever order: what a plugin tells comes at a moment of its own.
    assert Counter(shown.splitlines()) == Counter(RECORDING.read_text("utf-8").splitlines())


def test_the_recording_shows_what_the_page_promises() -> None:
    text = RECORDING.read_text("utf-8")
    for wanted in WANTED:
        assert wanted in text
    assert "\x1b" not in text
    assert "/tmp" not in text  # noqa: S108 - where it was recorded
    assert max(map(len, text.splitlines())) <= COLUMNS
