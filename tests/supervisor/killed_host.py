"""A host that is killed from outside: daemons of all kinds, one of them hidden in a session of its own."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from ally_plugins import Host
from ally_plugins.contract.process_spec import Daemon, Timing


async def _main(folder: Path, kinds: list[str]) -> None:
    environment = {"NOTES": str(folder / "notes")}
    plugins = {
        kind: Daemon(
            (sys.executable, "-I", "-S", str(folder / f"{kind}.py")),
            env=environment,
            timing=Timing(shutdown_grace=0.3),
        )
        for kind in kinds
    }
    async with Host("test", home=folder / "home", discover=False, plugins=plugins) as host:
        host.session("s")
        print("ready", flush=True)  # noqa: T201
        await asyncio.sleep(600)


asyncio.run(_main(Path(sys.argv[1]), sys.argv[2:]))
