"""The fuzz target itself works: it reaches every kind of outcome, and it finds what is broken."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ally_plugins.wire import messages

if TYPE_CHECKING:
    from types import ModuleType


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_wire", Path(__file__).with_name("fuzz_wire.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


target = _load()


@pytest.mark.parametrize("number", range(len(target.CORPUS)))
def test_the_corpus_holds(number: int) -> None:
    target.try_input(target.CORPUS[number], random.Random(1))  # noqa: S311 - the cuts are to be the same each time


def test_a_few_hundred_inputs_hold_and_do_many_different_things() -> None:
    tried, outcomes, broken = target.fuzz(600, seed=1, most=600)
    assert (tried, broken) == (600, [])
    assert outcomes > 20


def test_a_mistake_in_the_code_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "_check_shape", lambda *_: None)
    tried, _, broken = target.fuzz(600, seed=1, most=5_000)
    assert tried < 5_000
    assert len(broken) == 1
