"""Versions: the newest that both speak, or a sentence that names both sides'."""

from __future__ import annotations

from typing import Any

import pytest

from ally_plugins.contract.values.errors import VersionError
from ally_plugins.wire.handshake import PROTOCOL, PROTOCOLS, check_protocol, choose, find_early_problem


def test_the_newest_version_that_both_speak_is_chosen() -> None:
    assert choose(["1"]) == PROTOCOL == PROTOCOLS[0]
    assert choose(["7", "1", "2"], ["3", "2", "1"]) == "2"


@pytest.mark.parametrize(
    ("offered", "theirs"), [(["2", "3"], "'2', '3'"), (["x" * 500], f"'{'x' * 40}'"), (["1 "], "'1 '")]
)
def test_an_unknown_version_is_refused_in_a_sentence_that_names_both(offered: list[str], theirs: str) -> None:
    text = f"the peer speaks version {theirs} of the protocol, this side version '1' of the protocol; update the older"
    with pytest.raises(VersionError, match=text) as caught:
        choose(offered)
    assert (caught.value.offered, caught.value.known) == (tuple(offered), ("1",))


def test_no_version_at_all_is_refused() -> None:
    with pytest.raises(VersionError, match="the peer speaks no version of the protocol that can be read, this side"):
        choose([])


@pytest.mark.parametrize("answered", ["2", "", 1, 1.0, None, True, ["1"]])
def test_an_answer_with_a_version_that_was_not_offered_is_refused(answered: Any) -> None:
    assert check_protocol("1") == "1"
    with pytest.raises(VersionError, match="this side version '1'"):
        check_protocol(answered)


def test_initialize_comes_first_and_once() -> None:
    assert find_early_problem("initialize", is_ready=False) is None
    assert find_early_problem("log", is_ready=True) is None
    assert find_early_problem("log", is_ready=False) == "'log' came before 'initialize'; that opens a connection"
    assert find_early_problem("initialize", is_ready=True) == "'initialize' came again; it opens a connection, once"
