"""Fifty hosts and five workers on this machine with the real server, for ten minutes: load, memory, lag, lost, doubled.

Each host is a process with its publisher, and does tool calls under the gate of a plugin that the workers run in their
sandboxes; one collector keeps what all record. The exit code is 1 where a record was lost, altered or doubled, or a
call was denied.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fleet_ground import HERE, Usage, arrived, collecting, ended, programs, server, show, spread, wait_kept, wait_ready
from fleet_worker import NAME

from ally_plugins.fleet.store import FleetStore, open_store
from ally_plugins.journal.reader import JournalReader

_LOOK_S = 2.0
_LAST_S = 120.0  # that the collector may take for what is left at the end


def _lags(store: FleetStore, readers: Mapping[str, JournalReader]) -> list[tuple[float, int]]:
    """Return for each home how many ms its oldest record that is not kept yet has waited, and how many these are."""
    heads = {each.name: each.head.n if each.head else 0 for each in store.homes()}
    now, found = time.time() * 1000, []
    for name, reader in readers.items():
        first = reader.record(heads.get(name, 0) + 1)
        waited = (now - first.at, reader.last_n() - first.n + 1) if first is not None else (0.0, 0)
        found.append(waited)
    return found


def _written(homes: Mapping[str, Path]) -> dict[str, dict[int, str]]:
    found = {}
    for name, home in homes.items():
        with JournalReader(home / "journal.db") as reader:
            found[name] = {each.n: each.hash.hex() for each in reader.chained(0, 2**40)}
    return found


def run(hosts: int, workers: int, seconds: float, rate: float) -> dict[str, dict[str, Any]]:
    """Run it all, and return the figures by part."""
    names = [f"host-{number}" for number in range(1, hosts + 1)]
    staff = [f"worker-{number}" for number in range(1, workers + 1)]
    with (
        tempfile.TemporaryDirectory() as where,
        server(Path(where) / "fleet", names, {each: [NAME] for each in staff}) as nats,
        programs() as start,
    ):
        folder, place = Path(where) / "fleet", Path(where) / "fleet.db"
        collector = collecting(start, folder, place)
        serving = [start(HERE / "fleet_worker.py", folder / f"{name}.toml") for name in staff]
        wait_ready(serving)
        homes = {name: Path(where) / name for name in names}
        running = [start(HERE / "fleet_soak_host.py", folder / f"{n}.toml", home, rate) for n, home in homes.items()]
        wait_ready(running)
        parts = {"server": [nats.pid], "collector": [collector.pid], "workers": [each.pid for each in serving],
                 "hosts": [each.pid for each in running]}  # fmt: skip
        usage = {part: Usage(pids) for part, pids in parts.items()}
        lags = _watch(usage, place, homes, seconds)
        taken = {f"{part} ({len(parts[part])})": each.result() for part, each in usage.items()}
        load = os.getloadavg()[0]
        seen = [ended(each) for each in running]
        written = _written(homes)
        wait_kept(place, {name: len(records) for name, records in written.items()}, _LAST_S)
        records = arrived(folder, place, written)
    waits = [wait for each in seen for wait in each["waits_ms"]]
    denied = sum((Counter(each["denied"]) for each in seen), Counter[str]())
    return {
        "run": {"hosts": hosts, "workers": workers, "seconds": seconds, "load_average": load},
        "gates": {"calls": len(waits), "calls_a_second": len(waits) / seconds,
                  **{f"{name}_ms": value for name, value in spread(waits).items()}, "denied": denied.total(),
                  **({"why": "; ".join(denied)} if denied else {})},
        "records": {**records, "written_a_second": records["written"] / seconds},
        "lag": {**{f"{name}_ms": value for name, value in spread(ms for ms, _ in lags).items()},
                "most_records": max((count for _, count in lags), default=0)},
        **taken,
    }  # fmt: skip


def _watch(
    usage: Mapping[str, Usage], place: Path, homes: Mapping[str, Path], seconds: float
) -> list[tuple[float, int]]:
    lags: list[tuple[float, int]] = []
    readers = {name: JournalReader(home / "journal.db") for name, home in homes.items()}
    deadline = time.monotonic() + seconds
    with open_store(str(place)) as store:
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(_LOOK_S, left))
            lags += _lags(store, readers)
            for each in usage.values():
                each.look()
    for reader in readers.values():
        reader.close()
    return lags


def main() -> None:
    """Run it as the options say, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (10)")
    parser.add_argument("--hosts", type=int, default=50, help="how many hosts (50)")
    parser.add_argument("--workers", type=int, default=5, help="how many workers (5)")
    parser.add_argument("--rate", type=float, default=1.0, help="tool calls a second of each host (1)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    found = run(given.hosts, given.workers, given.minutes * 60, given.rate)
    show(f"{given.hosts} hosts and {given.workers} workers for {given.minutes:g} minutes", found, as_json=given.json)
    wrong = [found["records"][name] for name in ("lost", "altered", "doubled", "findings")]
    sys.exit(1 if any([*wrong, found["gates"]["denied"]]) else 0)


if __name__ == "__main__":
    main()
