"""Which notes fit: words in common, rare ones first, within the bounds of a prompt."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ally_plugins_contrib.session_notes.ranking import chosen, fitting, words_of
from ally_plugins_contrib.session_notes.store import Note


def notes(*texts: str, pinned: tuple[int, ...] = ()) -> list[Note]:
    return [Note(i, "", text, i in pinned, 0) for i, text in enumerate(texts)]


def found(query: str, *texts: str) -> list[int]:
    return [note.number for note in fitting(notes(*texts), query)]


def test_words_are_compared_without_case_plural_and_by_the_parts_of_names() -> None:
    assert words_of("Tests of parse_feeds, CLASSES") == ["test", "of", "parse_feed", "parse", "feed", "classe"]
    assert words_of("class is 'ss' über-Straße") == ["class", "is", "ss", "über", "strasse"]


def test_a_note_fits_when_it_has_a_word_of_the_query_and_the_rarer_word_counts_more() -> None:
    texts = ["run the tests with uv", "the tests need a database", "deploy the site on fridays", "tests are slow"]
    assert found("how do I run the tests?", *texts)[0] == 0
    assert found("the database tests", *texts)[0] == 1
    assert found("anything about kubernetes on the site", *texts) == [2]
    assert found("what do they do with the things", *texts) == []
    assert found("", *texts) == []
    assert found("tests", *texts) == [3, 0, 1]  # the shortest first


def test_of_equals_the_first_comes_first_and_a_longer_note_needs_more() -> None:
    assert found("cache", "cache a", "cache b", "other") == [0, 1]
    assert found("cache", "cache " + "word " * 200, "cache once") == [1, 0]


def test_a_word_that_is_everywhere_still_finds_something() -> None:
    assert found("tests", "tests one", "tests two") == [0, 1]


def test_a_prompt_gets_the_pinned_ones_first_and_never_more_than_fits() -> None:
    kept = chosen(notes("tests a", "other b", "tests c", pinned=(1,)), "tests", most=2, characters=100)
    assert [note.number for note in kept] == [1, 0]
    kept = chosen(notes("x" * 90 + " tests", "tests c", "tests d"), "tests", most=9, characters=20)
    assert [note.number for note in kept] == [1, 2]
    assert chosen(notes("tests a", pinned=(0,)), "tests", most=0, characters=100) == []


@given(st.lists(st.text(max_size=60), max_size=20), st.text(max_size=200), st.integers(0, 5), st.integers(0, 200))
def test_whatever_is_asked_the_bounds_hold_and_no_note_comes_twice(
    texts: list[str], query: str, most: int, characters: int
) -> None:
    kept = chosen(notes(*texts), query, most=most, characters=characters)
    assert len(kept) <= most
    assert sum(len(note.text) for note in kept) <= characters
    assert len({note.number for note in kept}) == len(kept)
