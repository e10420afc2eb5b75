"""Two requests that follow each other are compared: a change is the word of a plugin, or the host's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.policy.prompt_prefix import (
    PromptPart,
    SentPrompt,
    digest_of,
    find_change,
    uncached_tokens,
    with_added,
)


def prompt(*words: str, own: str | None = None, dropped: str = "") -> SentPrompt:
    """Return a prompt of these words: `text` is the host's, `+p:text` one that p has added, `~p:text` one it changed.

    `own` are the host's own texts where they are not those of its words; `dropped` are `p:text`.
    """
    parts, owned = [], []
    for word in words:
        mark, (plugin, _, text) = word[0], word[1:].partition(":")
        if mark == "+":
            parts.append(PromptPart(text, digest_of(text), plugin, key=text))
        elif mark == "~":
            parts.append(PromptPart(text, digest_of(text), plugin, digest_of("before"), "before"))
            owned.append("before")
        else:
            parts.append(PromptPart(word, digest_of(word), None, digest_of(word), word))
            owned.append(word)
    texts = owned if own is None else own.split()
    taken = {text: plugin for plugin, _, text in (each.partition(":") for each in dropped.split())}
    return SentPrompt(tuple(parts), tuple(map(digest_of, texts)), taken)


CASES = {
    "the same again": (prompt("+p:x", "a"), prompt("+p:x", "a"), None),
    "a text of its own": (prompt("+p:x", "a"), prompt("+p:y", "a"), ("p", "y")),
    "one more in front": (prompt("a"), prompt("+p:x", "a"), ("p", "x")),
    "one less in front": (prompt("+p:x", "a"), prompt("a"), ("p", "x")),
    "one more at the end": (prompt("a"), prompt("a", "+p:x"), ("p", "x")),
    "one less at the end": (prompt("a", "+p:x"), prompt("a"), ("p", "x")),
    "the host's, changed by it": (prompt("before"), prompt("~p:b"), ("p", "b")),
    "the host's, changed no more": (prompt("~p:b"), prompt("before"), ("p", "before")),
    "the host's, changed otherwise": (prompt("~p:b"), prompt("~p:c"), ("p", "c")),
    "the host's, taken out": (prompt("a", "b"), prompt("b", own="a b", dropped="p:a"), ("p", "a")),
    "the host's, put back": (prompt("b", own="a b", dropped="p:a"), prompt("a", "b"), ("p", "a")),
    "another's, taken out by a second": (prompt("+p:x", "a"), prompt("a", dropped="q:x"), ("q", "x")),
    "moved up since another's is gone": (prompt("+p:x", "+q:y"), prompt("+q:y"), ("p", "x")),
    "moved down since another's came": (prompt("+q:y"), prompt("+p:x", "+q:y"), ("p", "x")),
    "the first of two": (prompt("+p:x", "+q:y"), prompt("+p:1", "+q:2"), ("p", "1")),
    "the host's own, by the host": (prompt("a"), prompt("b"), None),
    "the host's own, with a plugin's behind it": (prompt("a", "+p:x"), prompt("b", "+p:x"), None),
    "one more of the host's in front": (prompt("a", "+p:x"), prompt("b", "a", "+p:x"), None),
    "one less of the host's in front": (prompt("b", "a", "+p:x"), prompt("a", "+p:x"), None),
}


@pytest.mark.parametrize("name", CASES)
def test_a_change_is_whose_word_it_was(name: str) -> None:
    before, now, expected = CASES[name]
    found = find_change(before, now, may_grow=False)
    assert (found and (found.plugin, found.part)) == expected


def test_what_may_grow_is_unchanged_by_more_and_by_less_at_its_end() -> None:
    short, long = prompt("a", "+p:x"), prompt("a", "+p:x", "b")
    assert find_change(short, long, may_grow=True) is None
    assert find_change(long, short, may_grow=True) is None
    inserted = prompt("a", "+p:y", "b")
    assert find_change(long, inserted, may_grow=True) is not None


TEXTS = st.lists(st.sampled_from("abcd"), max_size=4, unique=True)


@given(TEXTS, TEXTS, TEXTS)
def test_nobody_is_blamed_for_what_is_the_same(own: list[str], one: list[str], two: list[str]) -> None:
    mine = [prompt(*own, *(f"+p:{text}" for text in added)) for added in (one, two)]
    found = find_change(*mine, may_grow=False)
    assert (found is None) == (one == two)
    assert found is None or found.plugin == "p"
    assert find_change(prompt(*own), prompt(*one), may_grow=False) is None


@pytest.mark.parametrize(
    ("parts", "added", "expected"),
    [
        ("a b", [(None, "x"), ("x", "y"), ("a", "z")], "x y a z b"),
        ("b", [("a", "x"), ("x", "y"), ("b", "z")], "b z"),
        ("", [(None, "x")], "x"),
    ],
)
def test_what_was_added_before_comes_back_behind_what_it_followed(
    parts: str, added: list[tuple[str | None, str]], expected: str
) -> None:
    assert with_added(parts.split(), added, str) == expected.split()


def test_a_long_chain_of_what_was_added_comes_back_whole() -> None:
    chain = [str(number) for number in range(5_000)]
    assert with_added(["end"], list(zip([None, *chain], chain, strict=False)), str) == [*chain, "end"]


def test_what_was_added_under_a_name_that_it_follows_itself_comes_back_once() -> None:
    assert with_added(["a"], [("a", "x"), ("x", "y"), ("y", "x")], str) == ["a", "x", "y", "x"]


def test_digests_are_of_texts_and_not_of_their_joints() -> None:
    assert digest_of("ab", "c") != digest_of("a", "bc") != digest_of("abc")
    assert digest_of("\ud800") == digest_of("\ud800")


def test_what_was_not_read_from_a_cache_is_what_came_before_and_is_read_anew() -> None:
    assert uncached_tokens(1_000, 900) == 100
    assert uncached_tokens(1_000, None) == 1_000
    assert uncached_tokens(900, 1_000) == 0
    assert uncached_tokens(None, 1_000) is None
