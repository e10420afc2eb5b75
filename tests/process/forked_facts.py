"""What a process can find out about how it was begun, printed as JSON; run by `forked_probe`, by fork and by start."""

from __future__ import annotations

import gc
import json
import locale
import logging
import os
import resource
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

LIMITS = ("RLIMIT_DATA", "RLIMIT_CPU", "RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_CORE", "RLIMIT_AS", "RLIMIT_STACK")


def _stream(stream: Any) -> list[Any]:
    raw = getattr(stream.buffer, "raw", stream.buffer)
    kept = [stream.encoding, stream.errors, stream.line_buffering, stream.write_through, stream.name, stream.mode]
    return [*kept, type(stream.buffer).__name__, raw.fileno(), raw.closefd, stream.isatty()]


def _status() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    wanted = ("Umask", "SigQ", "SigBlk", "SigIgn", "SigCgt", "Threads", "CapEff", "NoNewPrivs", "Groups", "Name")
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines) if name in wanted}


def _descriptors() -> dict[str, str]:
    found = {}
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}").partition(":")[0]  # noqa: PTH115
        except FileNotFoundError:  # the listing's own
            continue
    return found


def _named(handler: Any) -> str:
    return getattr(handler, "__qualname__", str(handler))


def facts() -> dict[str, Any]:
    """Return them; what differs between any two processes is left out."""
    status = _status()
    status.pop("SigQ")
    main = sys.modules["__main__"]
    return {
        "argv": sys.argv,
        "orig_argv": sys.orig_argv,
        "cmdline": Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").decode(),
        "main": [main.__name__, main.__file__, main.__spec__ and main.__spec__.name, main.__package__],
        "executable": sys.executable,
        "path": sys.path,
        "env": {name: value for name, value in os.environ.items() if name != "ALLY_DAEMON_ID"},
        "cwd": os.getcwd(),  # noqa: PTH109
        "status": status,
        "handlers": {int(number): _named(signal.getsignal(number)) for number in signal.valid_signals()},
        "limits": [resource.getrlimit(getattr(resource, name)) for name in LIMITS],
        "session": [os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()],
        "scheduling": [os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0), sorted(os.sched_getaffinity(0))],
        "oom": Path("/proc/self/oom_score_adj").read_text(),
        "streams": [_stream(stream) for stream in (sys.stdin, sys.stdout, sys.stderr)],
        "same": [sys.stdin is sys.__stdin__, sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__],
        "descriptors": _descriptors(),
        "threads": [thread.name for thread in threading.enumerate()],
        "is_main": threading.current_thread() is threading.main_thread(),
        "gc": [gc.isenabled(), gc.get_threshold(), gc.get_debug()],
        "encodings": [sys.getfilesystemencoding(), locale.getpreferredencoding(), locale.setlocale(locale.LC_CTYPE)],
        "time": [time.tzname, time.timezone],
        "logging": [logging.getLogger().level, len(logging.getLogger().handlers)],
        "warnings": [str(each) for each in warnings.filters],
        "hooks": [sys.excepthook is sys.__excepthook__, str(sys.gettrace()), sys.getrecursionlimit()],
        "multiprocessing": "multiprocessing" in sys.modules,  # its key is made at the import, and must not be shared
    }


def show() -> None:
    """Print them."""
    print(json.dumps(facts()))  # noqa: T201 - the test reads its stderr
