"""A host that is killed from outside: daemons of all kinds, one of them hidden in a session of its own."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from ally_plugins import Host
from ally_plugins.catalog.decide.record import PluginRecord
from ally_plugins.catalog.home.config import PluginConfig
from ally_plugins.contract.process_spec import Daemon, Timing
from ally_plugins.policy.permissions import GrantSet


async def _main(folder: Path, kinds: list[str]) -> None:
    plugins = {Path(kind).name: _plugin(folder / f"{kind}.py") for kind in kinds}
    async with Host("test", home=folder / "home", discover=False, plugins=plugins) as host:
        host.session("s")
        print("ready", flush=True)  # noqa: T201
        await asyncio.sleep(600)


def _plugin(script: Path) -> Any:
    argv = (sys.executable, "-I", "-S", str(script))
    daemon = Daemon(argv, env={"NOTES": str(script.with_name("notes"))}, timing=Timing(shutdown_grace=0.3))
    if script.stem != "boxed":
        return daemon
    grants = GrantSet.of([f"files:write:{script.parent}"])
    config = PluginConfig(enabled=True, is_decided=True, grants=grants, placement="sandbox")
    return daemon, PluginRecord.by_code(script.stem, None, grants=grants, config=config)


asyncio.run(_main(Path(sys.argv[1]), sys.argv[2:]))
