"""A plugin that means harm, in the sandbox, by every kind of user; and the table of the page on what is trusted."""

from __future__ import annotations

import json
import os
import platform
from typing import Any

import pytest

from ally_plugins.runtime.sandbox.support import gaps, support
from tests.kit.sandboxes import needs_sandbox
from tests.sandbox.evil.attacks import TABLE
from tests.sandbox.evil.write_threats import DONE, FILE, KINDS, OWN, Kind, python_for_nobody, try_all

STORED: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
ROWS = {row["name"]: row for row in STORED["rows"]}

NEEDED = {"cut": 3, "signals": 6, "guardian": 6}
"""The version of Landlock that keeps a row; the others that it keeps need the first."""


def is_kept_here(name: str) -> bool:
    """Say whether this kind of machine can keep a row of the sandbox, by the mechanism that the table names."""
    if name == "fork bomb" and os.geteuid() == 0:  # a namespace has a limit of its own
        return tuple(map(int, platform.release().split(".")[:2])) >= (6, 14)
    needed = NEEDED.get(name, 1 if TABLE[name].sandbox.startswith("Landlock") else 0)
    return support().has_filter and support().landlock >= needed


def kinds() -> list[Any]:
    """Return who there is to try it; this user as it is first, which is all that a commit waits for."""
    own = Kind(OWN, has_namespaces=True)
    others = [pytest.param(kind, id=kind.name, marks=pytest.mark.slow) for kind in KINDS if kind != own]
    return [pytest.param(own, id=own.name), *others]


def tried(kind: Kind, placement: str) -> dict[str, str]:
    if kind.user != OWN and python_for_nobody() is None:
        pytest.skip("no Python that an ordinary user may run")
    return try_all(kind, placement)


@needs_sandbox
@pytest.mark.parametrize("kind", kinds())
def test_every_attack_from_a_sandbox_is_refused_or_stands_there_as_not_kept(kind: Kind) -> None:
    came = tried(kind, "sandbox")

    assert set(came) == set(TABLE)
    assert [name for name, how in came.items() if how.startswith("error")] == []
    expected = {name for name, row in ROWS.items() if kind.name in row["done"]["sandbox"]}
    assert {name for name, how in came.items() if how == DONE and is_kept_here(name)} <= expected
    if not gaps(support()):
        too_old = set() if is_kept_here("fork bomb") else {"fork bomb"}
        assert {name for name, how in came.items() if how == DONE} <= expected | too_old


@needs_sandbox
@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.name) for kind in KINDS])
def test_what_a_process_is_said_to_refuse_is_refused(kind: Kind) -> None:
    came = tried(kind, "process")

    done = {name for name, how in came.items() if how == DONE}
    # Not the other way round: a stricter machine than that of the table refuses more.
    assert done & {name for name, row in ROWS.items() if kind.name not in row["done"]["process"]} == set()
    # What nothing refuses anywhere: it shows that the attacks are real ones.
    assert {"consent", "config", "secrets", "environ", "control socket", "tcp"} <= done


def test_the_stored_table_has_every_attack_in_its_words() -> None:
    words = {name: (row["what"], row["process"], row["sandbox"]) for name, row in ROWS.items()}

    assert words == {name: (row.what, row.process, row.sandbox) for name, row in TABLE.items()}
    kinds = [Kind(user, has_namespaces) for user in ("root", "ordinary user") for has_namespaces in (True, False)]
    assert STORED["kinds"] == [kind.name for kind in kinds]


def test_every_row_says_what_stands_against_it() -> None:
    assert [name for name, row in ROWS.items() if not row["sandbox"]] == []
    assert [name for name, row in ROWS.items() if len(row["done"]["process"]) < 4 and not row["process"]] == []
