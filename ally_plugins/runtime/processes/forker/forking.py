"""The forker's loop, and the way of a child from the fork to its program."""

from __future__ import annotations

import builtins
import ctypes
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.runtime.processes.guardian.child_setup import (
    IGNORED,
    PR_SET_DUMPABLE,
    PR_SET_PDEATHSIG,
    name_process,
    prctl,
    set_up,
)
from ally_plugins.runtime.processes.guardian.keeper import keep
from ally_plugins.runtime.processes.guardian.line import receive

from .loaded_files import is_changed, loaded_files
from .renewal import renew

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import CodeType

__all__ = ["main"]

LINE: Final = 3  # this and the next as `guardian.forkers` has them
FORK: Final = b"fork"
FAILED: Final = 1


def main() -> None:
    """Load what the command line names, and fork; returns at the guardian's end, and in a child at the program's."""
    name, *modules, guardian = sys.argv[1:]
    line = socket.socket(fileno=LINE)
    name_process("ally-forker")
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    prctl(PR_SET_DUMPABLE, 0)  # no plugin may look into what the others are forked from
    if os.getppid() != int(guardian):
        return  # it died before that could be noticed
    try:
        spec, code = _load(name, modules)
    except BaseException as error:  # noqa: BLE001 - whatever it is, plugins are started afresh then
        line.send(f"failed {type(error).__name__}: {error}"[:1000].encode("utf-8", "backslashreplace"))
        sys.exit(FAILED)
    if _serve(line):
        _run(spec, code)
    else:
        os._exit(0)  # at once: there is nothing to be written or ended


def _load(name: str, modules: Sequence[str]) -> tuple[ModuleSpec, CodeType]:
    """Import modules, and return the main module of a package."""
    # Signals to everything of a terminal, or of a user, are for others; each child takes them anew.
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # what it forks is watched by the guardian, and leaves no zombie
    # No garbage is looked for, now or later: what is there stays, and a look would copy its pages in each child.
    gc.disable()
    for each in modules:
        import_module(each)
    spec = find_spec(f"{name}.__main__")
    loader: Any = spec.loader if spec is not None else None
    if spec is None or loader is None:
        raise ImportError(f"no module named {name}.__main__")
    code = loader.get_code(spec.name)
    gc.freeze()
    # What an import has printed must not come out of each child, into its protocol.
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    ctypes.CDLL(None).fflush(None)
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - of libraries too
    if threads != 1:
        raise RuntimeError(f"{', '.join(modules)} began {threads - 1} threads, which a fork would not have")
    return spec, code


def _serve(line: socket.socket) -> bool:
    """Fork at each word. Returns false at the guardian's end, and true in a child that is set up."""
    files = loaded_files()
    line.send(b"ready")
    while line.recv(len(FORK)) == FORK:  # else it is the end; or a request, whose keeper was killed before it took it
        if is_changed(files):
            line.send(b"stale")
            break
        try:
            reader, taken = os.pipe()
            keeper = os.fork()
        except OSError as error:
            line.send(f"failed {os.strerror(error.errno or 0).lower()}".encode())
            break
        if keeper == 0:
            _become(line, taken)
            return True
        os.close(taken)
        os.read(reader, 1)  # nothing comes, but the end: the request behind the word has been taken
        os.close(reader)
    return False


def _become(line: socket.socket, taken: int) -> None:
    """Take the request, and keep; returns in the program below, which is what was requested."""
    # Here and not in the forker: what is secret in it would be in the memory of all that are forked later.
    data, (*given, writer, link) = receive(line)
    os.close(taken)
    request: dict[str, Any] = json.loads(data)
    descriptors = tuple(given)
    parent = keep(descriptors, writer, socket.socket(fileno=link), is_separate=request["is_separate"])
    set_up(request, descriptors, writer, parent, renew=partial(renew, request, writer))
    os.close(writer)  # whoever waits for that finds it begun


def _run(spec: ModuleSpec, code: CodeType) -> None:
    """Run a package's main module in the place of the forker's own, as `-m` does."""
    # By hand: `runpy` would look for it again, in each child.
    main = ModuleType("__main__")
    attributes = {"__spec__": spec, "__loader__": spec.loader, "__package__": spec.parent, "__file__": spec.origin}
    vars(main).update(attributes, __cached__=spec.cached, __builtins__=builtins)
    sys.modules["__main__"] = main
    sys.argv[0] = spec.origin or ""
    exec(code, vars(main))  # noqa: S102 - the SDK's own
