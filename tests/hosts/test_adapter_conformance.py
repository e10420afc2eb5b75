"""The adapter for pydantic-ai passes the checks for host adapters; so does a host author's own agent of a few lines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ally_plugins.testing import AdapterConformance
from ally_plugins.testing.agents.pydantic_ai import PydanticAIDriver
from tests.kit.agents import expect_ids_are_told_apart, expect_text_is_mended
from tests.kit.waiting import go

EXAMPLE = Path(__file__).parents[2] / "examples" / "pydantic_ai_agent"


class TestPydanticAI(AdapterConformance):
    driver = PydanticAIDriver()
    longest = 120.0  # measuring coverage makes the framework's import take half a minute on some Pythons


def test_text_that_no_request_could_carry_is_mended() -> None:
    go(expect_text_is_mended(PydanticAIDriver()))


def test_two_calls_with_one_id_get_ids_of_their_own() -> None:
    go(expect_ids_are_told_apart(PydanticAIDriver()))


@pytest.mark.long
@pytest.mark.slow
def test_the_agent_of_the_example_passes_each_of_them_too() -> None:
    # In a process of its own, as a host author runs it: with the example's own configuration of pytest.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE)]
    ran = subprocess.run(command, cwd=EXAMPLE, env=_env(), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-4_000:]


def _env() -> dict[str, Any]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
