"""Daemons, against a bare asyncio protocol and what other libraries do between processes.

Four parts: round trips (daemon_latency), events and floods (daemon_fanout), starts and crashes (daemon_life), and what
of it changes in a sandbox (daemon_sandbox). The other ends are child processes (daemon_peers), the plugins stand in
daemon_plugins; the libraries come with the dependency group `bench`. Linux only, since it pins processes and reads
/proc.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import daemon_fanout
import daemon_latency
import daemon_life
import daemon_sandbox


def run() -> list[dict[str, Any]]:
    """Measure and return one row for each promise, and for each other way to do the same."""
    logging.disable(logging.CRITICAL)  # of daemons that are killed on purpose
    return [*daemon_life.run(), *daemon_latency.run(), *daemon_fanout.run(), *daemon_sandbox.run()]


if __name__ == "__main__":
    for row in run():
        print(row)
