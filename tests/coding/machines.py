"""A machine with a hook client on it: a home, the hooks that an agent would run, and stand-ins for its host."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ally_plugins.adapters.coding.client.client_files import hook_line, lay_client
from ally_plugins.adapters.coding.client.compiled_client import TABLE, compile_client
from ally_plugins.adapters.coding.client.hook_client import SOCKET
from ally_plugins.catalog.home.folder import Home
from ally_plugins.host.control.client import hosts_of
from ally_plugins.testing.agents.reactions import Reaction, react
from tests.kit.processes import wait_for_ends

from .agents import recorded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ally_plugins.adapters.coding.client.client_files import ClientKind

NOBODY = ("/bin/sh", "-c", "echo it is broken >&2; exit 3")
"""A host that cannot be started, and says why."""


class Machine:
    """A home with a client in it, and the hooks that an agent would run."""

    def __init__(self, path: Path, kind: ClientKind = "python") -> None:
        self.home = Home("ally-plugins", path)
        self.kind: ClientKind = kind
        self.client = path / "hooks" / "hook"

    def lay(self, *starts: str, python: str | None = None) -> None:
        """Lay the client; `starts` stands for the host's command."""
        serve = (sys.executable, "-m", "ally_plugins", "serve", "--home", str(self.home.path), "--idle", "5")
        lay_client(self.home, python, starts or serve, kind=self.kind)

    def copy(self, path: Path) -> Machine:
        """Return another machine with the same client, which starts what this one's starts."""
        new = Machine(path, self.kind)
        new.home.prepare()
        shutil.copytree(self.client.parent, new.client.parent)
        if self.kind == "python":
            old_folder, folder = repr(str(self.client.parent)), repr(str(new.client.parent))
            new.client.write_text(self.client.read_text().replace(old_folder, folder))
        return new

    def shorten(self) -> None:
        """Give the client half a second to answer."""
        file = self.client.with_name("ally_hook.py" if self.kind == "python" else TABLE)
        text = file.read_text()
        for long, short in (("SECONDS = 50.0", "SECONDS = 0.5"), (" 50000", " 500"), (" 50 s", " 0.5 s")):
            text = text.replace(long, short)
        file.write_text(text)
        if self.kind == "c":
            compile_client(self.client.parent, self.client)

    def start_with(self, *starts: str) -> None:
        """Have the client start another host."""
        self.client.with_name("serve").write_text("\n".join(starts))

    def hook(self, event: str = "PreToolUse", agent: str = "claude", **changes: Any) -> Reaction:
        found = [each["payload"] for each in recorded(agent) if each["event"] == event]
        payload = {**found[0], **changes}
        done = self.run(event, json.dumps(payload).encode(), agent)
        return react(agent, event, payload, (done.returncode, done.stdout.decode(), done.stderr.decode()))

    def run(
        self,
        event: str,
        payload: bytes,
        agent: str = "claude",
        env: dict[str, str] | None = None,
        first: Callable[[], object] | None = None,
        after: str = "",
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a hook's command as agents do, by the shell; `after` is what it does first."""
        line = after + hook_line(self.client, agent, event)
        return subprocess.run(
            ["/bin/sh", "-c", line], input=payload, capture_output=True, timeout=60, check=False, env=env,
            preexec_fn=first,
        )  # fmt: skip

    def end(self) -> None:
        pids = [host.pid for host in hosts_of(self.home)]
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        wait_for_ends(pids)


@contextmanager
def standing_in(machine: Machine, *replies: bytes | tuple[bytes, ...], reads: bool = True) -> Iterator[list[bytes]]:
    """Listen in the place of a host, and give each hook one of these answers, in the pieces that it is in.

    Yields what was sent, which is whole once the hook has ended. Without `reads` the connection ends at once.
    """
    machine.home.prepare()
    got: list[bytes] = []

    def serve() -> None:
        for reply in replies:
            connection, _ = listening.accept()
            with connection:
                if reads:
                    got.append(_request(connection))
                try:
                    for part in (reply,) if isinstance(reply, bytes) else reply:
                        connection.sendall(part)
                except OSError:
                    pass  # a client that has read enough

    with bound(machine) as listening:
        listening.listen(1)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield got
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(30)


def _request(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as file:
        head = file.readline()
        return head + file.read(int(head.split(b" ")[3]))


@contextmanager
def bound(machine: Machine) -> Iterator[socket.socket]:
    """Give a socket in the place of the host's, on which nobody listens yet."""
    machine.home.prepare()
    here = os.getcwd()  # noqa: PTH109 - as below
    os.chdir(machine.home.run_dir)  # the path of the folder may be too long for a socket's address
    with socket.socket(socket.AF_UNIX) as found:
        Path(SOCKET).unlink(missing_ok=True)
        found.bind(SOCKET)
        os.chdir(here)
        yield found
