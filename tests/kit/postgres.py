"""A real server of PostgreSQL in a folder of its own, on a socket that nobody else has."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

__all__ = ["Postgres"]


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


class Postgres:
    """A server, from `start` to `stop`. Skips the test where the program is not to be had."""

    def __init__(self) -> None:
        self._programs = _programs()
        if self._programs is None:
            pytest.skip("PostgreSQL's server (Debian: postgresql) is not here")
        # Short, since a socket's path is; and not in the test's own folder, which is root's: the server refuses root.
        self.folder = Path(tempfile.mkdtemp(prefix="ally-pg-", dir="/tmp"))
        self._user = "nobody" if os.geteuid() == 0 else None
        if self._user is not None:
            owner = pwd.getpwnam(self._user)
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        self._run("initdb", "-A", "trust", "-U", "fleet", "-N", "-D", str(self.folder / "data"))

    def url(self, user: str = "fleet", name: str = "postgres") -> str:
        """Return what `--into` takes."""
        return f"postgresql://{user}@/{name}?host={self.folder}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options, log = f"-c listen_addresses= -k {self.folder} -c shared_buffers=16MB", str(self.folder / "log")
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", log, "-o", options, "start")

    def stop(self, how: str = "immediate") -> None:
        """Stop it: at once, as if the machine had lost its power."""
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", how, "stop")

    def remove(self) -> None:
        """Stop it, and remove its files."""
        if (self.folder / "data" / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.folder)

    def _run(self, program: str, *arguments: str) -> None:
        assert self._programs is not None
        # Its output to a file: a server that goes on would keep a pipe of ours open.
        with (self.folder.parent / f"{self.folder.name}.out").open("w+b") as output:
            command = [str(self._programs / program), *arguments]
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.folder, user=self._user,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C"}, check=False,
            )  # fmt: skip
            output.seek(0)
            said = output.read().decode()
        Path(output.name).unlink()
        assert done.returncode == 0, said
