"""The child between fork and program: a session, a parent's death signal, limits, and nothing of its parents'."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import signal
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NoReturn

# By the way from here: the guardian does not load the package, which takes more than the standard library.
from ...sandbox.box import Box  # noqa: TID252
from ...sandbox.enter import enter  # noqa: TID252

__all__ = [
    "IGNORED",
    "PR_SET_CHILD_SUBREAPER",
    "PR_SET_DUMPABLE",
    "PR_SET_PDEATHSIG",
    "PYTHON_IGNORES",
    "exec_program",
    "name_process",
    "prctl",
    "set_up",
]

OOM_RAISE: Final = 100  # of 1000: when memory runs out, a daemon goes before the host
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
PR_SET_DUMPABLE: Final = 4
PR_SET_NAME: Final = 15
PR_SET_CHILD_SUBREAPER: Final = 36
IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP)
PYTHON_IGNORES: Final = (signal.SIGPIPE, signal.SIGXFSZ)  # the interpreter does, and a child would inherit it


_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process (see prctl in the kernel's manual). Raises OSError."""
    if _LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def name_process(name: str) -> None:
    """Set what lists of processes show as its name, 15 bytes of it."""
    text = ctypes.create_string_buffer(os.fsencode(name)[:15])
    prctl(PR_SET_NAME, ctypes.addressof(text))


def exec_program(request: dict[str, Any], descriptors: tuple[int, ...], writer: int, parent: int) -> NoReturn:
    """Turn the child that its keeper has forked into the program, or write `STAGE ERRNO` and exit. Never returns."""
    try:
        argv = [argument.encode("latin-1") for argument in request["argv"]]
        environment = {name.encode("latin-1"): text.encode("latin-1") for name, text in request["env"].items()}
        # Here and not by `execvpe`, which would import for this what a sandbox may not read.
        folders = map(os.fsencode, os.get_exec_path(environment))
        paths = [argv[0]] if b"/" in argv[0] else [os.path.join(folder, argv[0]) for folder in folders]  # noqa: PTH118
        set_up(request, descriptors, writer, parent, execute=partial(_execute, paths, argv, environment))
    finally:
        os._exit(127)  # nothing may return into the loop of a parent


def _execute(paths: list[bytes], argv: list[bytes], environment: dict[bytes, bytes]) -> NoReturn:
    """Execute the first of these that can be. Raises OSError: the first other one than that a file is not there."""
    failed: OSError | None = None
    for path in paths:
        try:
            os.execve(path, argv, environment)  # noqa: S606
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            failed = failed or error
    raise failed or FileNotFoundError(errno.ENOENT, "no such program")


def set_up(
    request: dict[str, Any],
    descriptors: tuple[int, ...],
    writer: int,
    parent: int,
    *,
    renew: Callable[[], None] | None = None,
    execute: Callable[[], None] | None = None,
) -> None:
    """Make the child that its keeper has forked what the request says.

    `renew` is called outside of the sandbox, `execute` in it, as the last. Where something fails, `STAGE ERRNO` is
    written to `writer`, and the process exits.
    """
    stage = "start"
    try:
        # A session of its own: a group to kill whole, and no terminal that could send it Ctrl-C.
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a setuid program loses it; the keeper's end still kills the rest
        if os.getppid() != parent:
            os._exit(127)  # it died before that could be noticed
        # As `exec` would: until then, files of its own in /proc would be root's.
        prctl(PR_SET_DUMPABLE, 1)
        _take(descriptors, has_stdio=request["stdio"])
        # A signal that is ignored stays so over `exec`; only handlers do not.
        for number in (*IGNORED, *PYTHON_IGNORES):
            signal.signal(number, signal.SIG_DFL)
        stage = "folder"
        os.chdir(request["cwd"].encode("latin-1"))
        stage = "limits"
        _lower_priority()
        # Late: what comes before may need more than they leave.
        for name, soft, hard in request["limits"]:
            _limit(getattr(resource, name), soft, hard)
        stage = "exec"
        if renew is not None:
            renew()
        # Behind all that a sandbox refuses, such as limits that are raised; the program itself is looked for inside.
        if request["box"] is not None:
            stage = "box"
            enter(Box.from_json(request["box"]))
            stage = "exec"
        if execute is not None:
            execute()
    except OSError as error:
        _give_up(writer, stage, error.errno or 0)
    # The limit of memory holds already, and may be below what this Python takes.
    except MemoryError:
        _give_up(writer, stage, errno.ENOMEM)
    except BaseException:  # noqa: BLE001 - as above
        _give_up(writer, stage, errno.EINVAL)


def _give_up(writer: int, stage: str, number: int) -> NoReturn:
    os.write(writer, b"%s %d" % (stage.encode(), number))
    os._exit(127)  # a shell's number for what cannot be executed


def _take(descriptors: tuple[int, ...], *, has_stdio: bool) -> None:
    stdio, stderr = descriptors if has_stdio else (None, descriptors[0])
    if stdio is not None:
        os.dup2(stdio, 0)
    os.dup2(stderr if stdio is None else stdio, 1)  # 0 is /dev/null from the guardian's own start
    os.dup2(stderr, 2)


def _lower_priority() -> None:
    """Let the host and the person's programs go first."""
    with contextlib.suppress(OSError):  # a batch of work is not woken at once: fan-out to 50 is a third faster
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+b", 0) as file:  # noqa: PTH123
        raised = min(1000, int(file.read()) + OOM_RAISE)
        file.seek(0)
        file.write(b"%d" % raised)


def _limit(which: int, soft: int, hard: int) -> None:
    most = resource.getrlimit(which)[1]
    if most != resource.RLIM_INFINITY:  # what the host itself is held to can only be lowered
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(which, (soft, hard))
