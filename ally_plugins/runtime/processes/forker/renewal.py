"""A forked child made what a fresh interpreter would be: descriptors, environment, signals, streams, arguments.

Random numbers, locks and threads are Python's own to renew (`os.register_at_fork`). What only a start can make, such as
the encodings and the flags, is as in the forker, which therefore serves only what would start alike.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import time
from io import BufferedReader, BufferedWriter, FileIO, TextIOWrapper
from typing import Any, Final

from ally_plugins.runtime.processes.guardian.child_setup import PYTHON_IGNORES, name_process

__all__ = ["renew"]

MOST_DESCRIPTORS: Final = (1 << 31) - 1  # closing a range is one call of the kernel's, however long that is
COERCED: Final = "LC_CTYPE"  # an interpreter sets it at its start where there is no locale (PEP 538)
SAFE_PATH: Final = "PYTHONSAFEPATH"
START_STAT: Final = 48  # arg_start, the 48th field of /proc/PID/stat, and arg_end behind it
STREAMS: Final = (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w"))


def renew(request: dict[str, Any], writer: int) -> None:
    """Take over what the request says, and close all descriptors but 0, 1, 2 and `writer`. Raises OSError."""
    argv = [_text(argument) for argument in request["argv"]]
    os.closerange(3, writer)
    os.closerange(writer + 1, MOST_DESCRIPTORS)
    coerced = os.environ.get(COERCED)
    os.environ.clear()
    os.environ.update({_text(name): _text(value) for name, value in request["env"].items()})
    if coerced is not None:
        os.environ.setdefault(COERCED, coerced)
    time.tzset()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in PYTHON_IGNORES:
        signal.signal(number, signal.SIG_IGN)
    for name, descriptor, mode in STREAMS:
        stream = _reopen(getattr(sys, name), name, descriptor, mode)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.orig_argv[:] = argv
    sys.argv[:] = argv[2:]
    if not os.environ.get(SAFE_PATH):
        sys.path.insert(0, os.getcwd())  # noqa: PTH109 - a text, as the interpreter has it
    # By hand: `importlib.invalidate_caches` imports what reads metadata, a megabyte.
    for finder in sys.path_importer_cache.values():
        if (invalidate := getattr(finder, "invalidate_caches", None)) is not None:
            invalidate()
    _show(argv)
    gc.enable()


def _text(latin: str) -> str:
    return os.fsdecode(latin.encode("latin-1"))


def _reopen(old: TextIOWrapper, name: str, descriptor: int, mode: str) -> TextIOWrapper:
    """Return a stream as the interpreter's own start makes it: the old one knows what it was opened on."""
    raw = FileIO(descriptor, mode, closefd=False)
    raw.name = f"<{name}>"
    is_raw = isinstance(old.buffer, FileIO)  # PYTHONUNBUFFERED
    buffer: Any = raw if is_raw else BufferedReader(raw) if mode == "r" else BufferedWriter(raw)
    stream = TextIOWrapper(
        buffer,
        encoding=old.encoding,
        errors=old.errors,
        line_buffering=old.line_buffering,
        write_through=old.write_through,
    )
    vars(stream)["mode"] = mode  # as the interpreter's own start does
    return stream


def _show(argv: list[str]) -> None:
    """Have the lists of processes show the program and not the forker."""
    name_process(os.path.basename(argv[0]))  # noqa: PTH119 - as `exec` does
    with open("/proc/self/stat", "rb") as file:  # noqa: PTH123
        fields = file.read().rpartition(b")")[2].split()
    # The fields are counted from one, and two stand before the bracket.
    start, end = map(int, fields[START_STAT - 3 : START_STAT - 1])
    command = b"\0".join(map(os.fsencode, argv))
    if start and len(command) < end - start:
        ctypes.memmove(start, command.ljust(end - start, b"\0"), end - start)
