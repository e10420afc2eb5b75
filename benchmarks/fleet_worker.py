"""A worker of `bench_fleet`, as a program: `fleet_worker.py CREDENTIALS [bare]`; `bare` answers with nats-py alone."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from attrs import evolve

from ally_plugins import GrantSet, PluginRecord
from ally_plugins.catalog.home.config import Placement, PluginConfig
from ally_plugins.catalog.home.folder import Home
from ally_plugins.contract.process_spec import Daemon
from ally_plugins.fleet.connection import connected
from ally_plugins.fleet.credentials import WORKERS, Credentials, hello_subject, read_credentials
from ally_plugins.fleet.machine import serve
from ally_plugins.fleet.worker import Served

NAME = "guard"
DIGEST = "d" * 64
FOLDER = str(Path(__file__).parent)


def record(placement: Placement) -> PluginRecord:
    """Return the plugin that is shared, in a placement."""
    granted = GrantSet.everything()
    config = PluginConfig(enabled=True, is_decided=True, grants=granted, placement=placement)
    daemon = Daemon.python("fleet_guard:Guard", env={"PYTHONPATH": FOLDER})
    made = PluginRecord.by_code(NAME, grants=granted, config=config, daemon=daemon)
    assert made.agreement is not None
    return evolve(made, agreement=evolve(made.agreement, files=DIGEST))


async def _answer_bare(who: Credentials) -> None:
    async with connected(who) as client:

        async def answer(message: object) -> None:
            await message.respond(b"x" * 60)  # type: ignore[attr-defined]

        await client.subscribe(hello_subject(NAME, "bare", "*"), queue=WORKERS, cb=answer)
        await client.flush()
        print("ready", flush=True)
        await asyncio.get_running_loop().create_future()


def main() -> None:
    """Serve until killed."""
    who = read_credentials(Path(sys.argv[1]))
    if sys.argv[2:] == ["bare"]:
        asyncio.run(_answer_bare(who))
        return
    with tempfile.TemporaryDirectory() as folder:
        served = {NAME: Served(record("sandbox"), DIGEST)}
        asyncio.run(serve(who, served, Home("bench", Path(folder)), lambda: (), lambda: print("ready", flush=True)))


if __name__ == "__main__":
    main()
