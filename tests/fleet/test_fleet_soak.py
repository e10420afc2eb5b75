"""What `nox -s fleet_soak` runs for ten minutes and with a thousand homes, for a few seconds and with a few."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="what processes take is read from /proc"),
]

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def figures(name: str, *options: str) -> Any:
    """Run one of them, which ends with 0 where nothing was lost, doubled or denied, and return what it says."""
    # Its modules lie beside it, where the tests' own safe path would not look.
    env = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    command = [sys.executable, str(BENCHMARKS / name), *options, "--json"]
    done = subprocess.run(command, check=False, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)


def test_hosts_under_a_gate_that_workers_share_lose_and_double_nothing() -> None:
    found = figures("fleet_soak.py", "--hosts", "2", "--workers", "2", "--minutes", "0.05", "--rate", "5")
    records, gates = found["records"], found["gates"]
    assert gates["calls"] > 0
    assert gates["denied"] == 0
    assert records["kept"] == records["written"] > gates["calls"]
    assert records["lost"] == records["altered"] == records["doubled"] == records["findings"] == 0
    for part in ("server (1)", "collector (1)", "workers (2)", "hosts (2)"):
        assert found[part]["most_mb"] > 1


def test_homes_that_replay_recordings_lose_and_double_nothing() -> None:
    found = figures("fleet_simulation.py", "--homes", "12", "--seconds", "3", "--rate", "2", "--backlog", "20")
    records = found["records"]
    assert records["kept"] == records["written"] == 12 * (6 + 20)
    assert records["lost"] == records["altered"] == records["doubled"] == records["findings"] == 0
    assert found["backlog"]["records_a_second"] > 0
