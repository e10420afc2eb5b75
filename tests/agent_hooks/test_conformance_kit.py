"""All vectors of AGENT-HOOKS' conformance kit that its own reference passes, on a host with the bridge."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from agent_hooks.ctk.reference import ReferenceHarness
from agent_hooks.ctk.runner import load_vectors, run_vector

from tests.agent_hooks.harness import HostHarness

VECTORS = load_vectors()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["id"]))
def test_what_the_reference_passes_passes(vector: dict[str, Any]) -> None:
    known: Any = ReferenceHarness()
    reference = asyncio.run(run_vector(known, vector))
    ours = asyncio.run(run_vector(HostHarness(), vector))
    assert (ours.status, ours.failures) == (reference.status, [])
