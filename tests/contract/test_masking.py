"""Secret values are found in texts however these are written, cut or handed over, and shown by no `repr`."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.contract.values.inert import inert
from ally_plugins.contract.values.masking import MASK, Secret, Secrets

TOKEN = 'pa"ss/wörd\u200b\t7%'  # noqa: S105 - of nothing
PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0\nAQ==\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    "written",
    [TOKEN, json.dumps(TOKEN), json.dumps(TOKEN, ensure_ascii=False), inert(TOKEN), f"https://h/{quote(TOKEN)}",
     f"https://u:{quote(TOKEN, safe='')}@h/", repr({"a": [TOKEN]}), str(KeyError(TOKEN))],
)  # fmt: skip
def test_a_secret_is_found_as_python_json_addresses_and_terminals_write_it(written: str) -> None:
    shown = Secrets([TOKEN]).masked(f"before {written} behind")
    assert MASK in shown
    assert "pa" not in shown
    assert shown.startswith("before ")
    assert shown.endswith(" behind")


def test_every_line_of_a_secret_with_several_is_one_but_what_is_too_short_to_be() -> None:
    secrets = Secrets([PEM])
    assert secrets.masked(f"key is {PEM!r}") == f"key is '{MASK}'"
    assert [secrets.masked(line) for line in PEM.splitlines()] == [MASK, MASK, "AQ==", MASK]


def test_of_two_of_which_one_begins_the_other_nothing_is_left() -> None:
    assert Secrets(["abcdef", "abcdef-and-more"]).masked("abcdef-and-more abcdef") == f"{MASK} {MASK}"


def test_a_secret_that_is_part_of_the_mask_is_masked_once() -> None:
    stream = Secrets(["secret", "cret]x"]).stream()
    assert "".join([*map(stream.feed, "the secret is"), stream.rest()]) == f"the {MASK} is"


def test_very_short_ones_are_left_alone_and_none_are_no_secrets() -> None:
    assert Secrets(["abc"]).masked("abcabc") == "abcabc"
    assert not Secrets(["", "abc"])
    assert Secrets(["abcd"])


def test_no_repr_shows_one() -> None:
    secret = Secret("hunter22")
    shown = f"{Secrets([secret])!r} {secret!r} {[secret]} {Secrets([secret]) | Secrets(['another'])!r}"
    assert "hunter22" not in shown
    assert "another" not in shown


def test_what_was_cut_off_in_a_secret_keeps_no_part_of_it() -> None:
    secrets = Secrets(["hunter22-hunter33"])
    text = "the key is hunter22-hunter33"
    for end in range(len("the key is "), len(text)):
        assert secrets.masked(text[:end], is_cut=True) == "the key is "
    assert secrets.masked(text, is_cut=True) == f"the key is {MASK}"


@given(st.lists(st.sampled_from(["abca", "abcabd", "ab", "c", "d", " ", "abcab"]), max_size=30), st.data())
def test_whatever_pieces_a_text_comes_in_no_secret_is_let_through_and_nothing_else_is_lost(
    words: list[str], data: st.DataObject
) -> None:
    text = "".join(words)
    secrets = Secrets(["abcabd", "cabcab"])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    stream = secrets.stream()
    pieces = [stream.feed(text[a:b]) for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    shown = "".join([*pieces, stream.rest()])
    assert "abcabd" not in shown
    assert "cabcab" not in shown
    assert (shown == text) == (secrets.masked(text) == text)


def test_values_are_masked_in_keys_lists_and_tables() -> None:
    assert Secrets(["hunter22"]).masked_value({"hunter22": ["a hunter22", 1, None], "b": ("hunter22",)}) == {
        MASK: [f"a {MASK}", 1, None],
        "b": (MASK,),
    }
