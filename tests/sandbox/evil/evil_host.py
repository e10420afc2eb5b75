"""A program with a host, a plugin that means harm, and what it is after; prints what it has come to, as JSON.

EVIL_SECRET=secret python evil_host.py process|sandbox FOLDER
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import socket
import sys
import sysconfig
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[2]))

from ally_plugins import Host  # noqa: E402
from ally_plugins.catalog.home.folder import Home  # noqa: E402
from ally_plugins.contract.process_spec import Daemon, Timing  # noqa: E402
from tests.kit.hosts import make_record  # noqa: E402


def prepare(folder: Path) -> dict[str, Any]:
    """Make the files and sockets that the plugin is after."""
    home, user = folder / "home", folder / "user"
    for path in (home / "data" / "other", user / ".ssh"):
        path.mkdir(parents=True, mode=0o700)
    home.chmod(0o700)
    for path in (
        *(home / name for name in ("consent.toml", "config.toml", "secrets.json")),
        *(user / name for name in (".ssh/id_ed25519", "cut", "mode")), home / "data" / "other" / "notes",
    ):  # fmt: skip
        path.write_text("{}" if path.suffix == ".json" else "# kept\n")
        path.chmod(0o600)
    code = folder / "code"
    code.mkdir()
    for name in ("attacks.py", "evil_plugin.py"):
        (code / name).write_bytes((HERE / name).read_bytes())
    return {"home": str(home), "user": str(user), "code": str(code)}


def control_socket(home: str) -> str:
    """Return where the host takes commands."""
    return str(next(Path(home, "run").glob("*.sock")))


async def run(placement: str, folder: Path) -> dict[str, str]:
    """Run a host with the plugin in a placement, and let it try."""
    target = prepare(folder)
    # Where this program's own packages were named so, as for a user who may not read the environment of the tests.
    given = [path for path in [os.environ.get("PYTHONPATH", "")] if path]
    kept = ctypes.create_string_buffer(b"secret!!")
    libc = ctypes.CDLL(None, use_errno=True)
    shared = os.getpid() | 0x40000000
    segment = libc.shmget(shared, 64, 0o1600)
    with (
        socket.socket() as tcp,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
    ):
        tcp.bind(("127.0.0.1", 0))
        abstract.bind(f"\0evil-{os.getpid()}")
        datagrams.bind(f"{folder}/datagrams")
        tcp.listen()
        abstract.listen()
        daemon = Daemon.python(
            "evil_plugin:Evil",
            env={"PYTHONPATH": os.pathsep.join([target["code"], *given]), "PYTHONSAFEPATH": "1"},
            timing=Timing(startup_timeout=60),
        )
        record = make_record("evil", placement=placement, deadlines={"tool": 120.0})
        home = Home("evil", path=target["home"])
        async with Host("evil", home=home, plugins={"evil": (daemon, record)}, discover=False) as host:
            launcher: Any = host._daemon_services.launcher  # type: ignore[union-attr]
            target |= {
                "host": os.getpid(), "guardian": launcher.guardian_pid, "address": ctypes.addressof(kept),
                "shared": shared, "abstract": f"evil-{os.getpid()}", "datagrams": f"{folder}/datagrams",
                "port": tcp.getsockname()[1], "socket": control_socket(target["home"]),
                "site": sysconfig.get_path("purelib"), "readable": f"{target['code']}/attacks.py",
            }  # fmt: skip
            found = await host.call_tool("attack", {"target": target}, plugin="evil")
            data: dict[str, str] = json.loads(json.dumps(found.data, default=dict))
    libc.shmctl(segment, 0, None)
    return data


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(sys.argv[1], Path(sys.argv[2])))))
