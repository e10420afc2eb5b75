"""How a plugin runs in a process of its own: the command, the transport, what limits it, and how long it is waited for.

Plain facts, and the table `[daemon]` of a manifest that they are read from. Starting the process is left to `runtime`;
the interpreter, limits and environment that the operator has set are joined with them in `catalog`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, Self

from attrs import Factory, evolve, field, fields_dict, frozen

from .documents import ARGUMENTS, LINE, checked, count, table
from .shapes import FLAG, SECONDS, Mistakes, Shape, one_of
from .values.errors import ConfigError
from .values.frozen import FrozenDict

__all__ = [
    "DAEMON",
    "LONGEST_SOCKET_PATH",
    "PROCESS",
    "SAFE_PATH",
    "SDK_MODULE",
    "Daemon",
    "ProcessLimits",
    "Restarts",
    "Timing",
    "Transport",
    "daemon_of",
    "path_problem",
    "running_python",
]

Transport = Literal["stdio", "socket"]

LONGEST_SOCKET_PATH: Final = 104
"""Bytes; `sun_path` has 104 on macOS and 108 on Linux, and Code-Ally allows 104."""

SDK_MODULE: Final = "ally_plugins.daemon"
SAFE_PATH: Final = "PYTHONSAFEPATH"
"""The variable that keeps the working directory, where a plugin may write, off the path of modules."""

"""What runs a Python class as a daemon: `python -m ally_plugins.daemon MODULE:CLASS`."""

_PYTHON_NAME: Final = re.compile(r"python|pypy|graalpy", re.IGNORECASE)
_TRANSPORTS: Final = ("stdio", "socket")
_NONE: Final = "none"


def running_python() -> str:
    """Return the path of the Python that runs, "" where the program is none.

    A program that was frozen into a file (PyInstaller, Nuitka), or a server that embeds Python, stands in
    `sys.executable` all the same. Started with Python's options it would start itself, and that one itself again; so
    nothing is run to find out.
    """
    program = sys.executable or ""
    # PyInstaller sets the first, Nuitka marks the main module.
    is_frozen = getattr(sys, "frozen", False) or hasattr(sys.modules.get("__main__"), "__compiled__")
    name = program.replace("\\", "/").rpartition("/")[2]
    return "" if is_frozen or not _PYTHON_NAME.search(name) else program


@frozen(kw_only=True)
class ProcessLimits:
    """What the kernel holds one process of a plugin to; None is not limited."""

    memory_mb: int | None = 4096
    """Memory of its own that it may write to. Not address space: WebAssembly reserves 10 GiB of that and uses little,
    as the `fetch` of Node does."""
    cpu_seconds: int | None = None
    """Processor time over the whole life of a process; a daemon lives for days, so none by default."""
    file_mb: int | None = 1024
    """The largest file it may write: a log that runs away ends before the disk does."""
    descriptors: int | None = 1024
    """Files and sockets open at once; the usual soft limit of Linux."""

    def with_settled(self, settled: Mapping[str, Any]) -> ProcessLimits:
        """Return them with those that the operator has settled in `[plugins.NAME.process]`."""
        return evolve(self, **{key: value for key, value in settled.items() if key in _LIMIT_KEYS})


@frozen(kw_only=True)
class Timing:
    """How long a daemon is waited for, in seconds. The numbers are Code-Ally's."""

    startup_timeout: float = 30.0
    shutdown_grace: float = 5.0
    ping_interval: float = 30.0
    ping_timeout: float = 5.0
    ping_retries: int = 3
    """Pings in a row without an answer, after which it counts as hung."""


@frozen(kw_only=True)
class Restarts:
    """When a daemon that failed is started again: after `delay` seconds times the number of the try, `most` times."""

    delay: float
    most: int


def _texts(values: Any) -> Any:
    # Not any iterable: a plain string stays one, and is reported, instead of becoming its letters.
    return tuple(values) if isinstance(values, list) else values


def _is_stdio(daemon: Daemon) -> bool:
    return daemon.transport == "stdio"


@frozen
class Daemon:
    """How one daemon is run. Raises ConfigError for what could not be.

    A relative program with a slash is looked for in `cwd`, one without a slash on PATH. An empty `cwd` leaves the
    choice to the host.
    """

    command: tuple[str, ...] = field(converter=_texts)
    transport: Transport = field(default="stdio", kw_only=True)
    socket: str = field(default="", kw_only=True)
    """Where a `socket` daemon listens: an absolute path, which may hold `{session_id}`."""
    talks_back: bool = field(default=Factory(_is_stdio, takes_self=True), kw_only=True)
    """Whether it calls the host: over `stdio` always; a `socket` daemon opts in and gets ALLY_SOCKET and ALLY_TOKEN."""
    cwd: str = field(default="", kw_only=True)
    env: Mapping[str, str] = field(default=FrozenDict(), converter=FrozenDict, kw_only=True, repr=False)
    """Variables that are set for it, over those that every daemon has. Values may be secret: never show them."""
    limits: ProcessLimits = field(default=ProcessLimits(), kw_only=True)
    timing: Timing = field(default=Timing(), kw_only=True)
    fork: bool = field(default=True, kw_only=True)
    """Whether a Python class may be forked from a process that has loaded the SDK; false starts each process afresh."""
    restarts: Restarts | None = field(default=None, kw_only=True)
    """Another system's rule for starting it again; None for ours, which doubles the delay and never gives up."""

    def __attrs_post_init__(self) -> None:
        problems = [f"{key}: {text}" for key, text in _problems(self.command, self.transport, self.socket)]
        if problems:
            raise ConfigError(f"the daemon cannot be run: {'; '.join(problems)}")

    @classmethod
    def python(cls, target: str, interpreter: str | None = None, **more: Any) -> Self:
        """Return the daemon that runs a class, named as MODULE:CLASS, by an interpreter: by default the running one.

        The interpreter must have ally_plugins and the class's module installed. `more` are fields of the
        daemon. Raises ConfigError for a name of another form, where the program that runs is no Python and no
        interpreter is given, and what `Daemon` raises.
        """
        module, colon, name = target.partition(":")
        if not (module and colon and name):
            raise ConfigError(f"found {target!r}, expected MODULE:CLASS", path="command")
        python = interpreter or running_python()
        if not python:
            text = f"the program that runs, {sys.executable!r}, is no Python that could run {target!r}"
            raise ConfigError(f"{text}; give the path of one that has it as the interpreter", path="interpreter")
        return cls((python, "-m", SDK_MODULE, target), **more)

    def at(self, folder: str) -> Daemon:
        """Return it with its paths in a folder: a relative program with a slash, and the working directory."""
        program, *arguments = self.command
        if _is_in_folder(program):
            program = f"{folder}/{program.removeprefix('./')}"
        return evolve(self, command=(program, *arguments), cwd=self.cwd or folder)

    def with_process(self, settled: Mapping[str, Any]) -> Daemon:
        """Return it with what the operator has settled in `[plugins.NAME.process]`: limits, times, how it starts."""
        timing = {key: value for key, value in settled.items() if key in _TIMING_KEYS}
        fork = settled.get("fork", self.fork)
        return evolve(self, limits=self.limits.with_settled(settled), timing=evolve(self.timing, **timing), fork=fork)


def _is_in_folder(program: str) -> bool:
    return "/" in program and not program.startswith("/")


def _problems(command: Any, transport: str, socket: str) -> Iterator[tuple[str, str]]:
    # Looked at though it is annotated: host authors give daemons by code, where a plain string is the usual slip.
    if not isinstance(command, tuple) or not all(isinstance(word, str) for word in command) or not command:
        yield "command", "expected a list of texts, the program first"
    elif not command[0].strip():
        yield "command", "the program is empty"
    # Such a program would lie outside of the files that were agreed to.
    elif ".." in command[0].split("/") and _is_in_folder(command[0]):
        yield "command", f"found {command[0]!r}, expected a program inside the folder, on PATH, or an absolute path"
    elif any("\0" in word for word in command):
        yield "command", "expected words without NUL characters"
    if transport not in _TRANSPORTS:
        yield "transport", f"found {transport!r}, expected one of {', '.join(_TRANSPORTS)}"
    elif transport == "socket":
        yield from _socket_problems(socket)
    elif socket:
        yield "socket", "only for the transport 'socket'"


def _socket_problems(path: str) -> Iterator[tuple[str, str]]:
    if not path:
        yield "socket", "missing, expected the absolute path on which the daemon listens"
    elif not path.startswith("/"):
        yield "socket", f"found {path!r}, expected an absolute path"
    # In bytes, which the kernel counts.
    elif (size := len(path.encode("utf-8", "surrogatepass"))) > LONGEST_SOCKET_PATH:
        yield "socket", f"has {size} bytes, expected at most {LONGEST_SOCKET_PATH}"


def path_problem(path: str) -> str | None:
    """Return why a daemon cannot listen at `path`, None when it can."""
    if not path.startswith("/"):
        return f"{path!r} is relative, expected an absolute path"
    if not path.isprintable():
        return f"{path!r} has control characters, expected a path without"
    length = max(len(path), len(path.encode("utf-8", "replace")))
    if length > LONGEST_SOCKET_PATH:
        return f"has {length} characters, expected at most {LONGEST_SOCKET_PATH}"
    return None


def _contradictions(given: dict[str, Any], _: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    transport = given.get("transport", "stdio")
    if transport == "stdio" and given.get("talk_back") is False:
        yield "talk_back", "only for the transport 'socket': over stdio a daemon may always call the host"
    for key, text in _problems(given.get("command", ()), transport, given.get("socket", "")):
        # A command that is missing or of a wrong type is reported already.
        if key != "command" or "command" in given:
            yield key, text


def _read_limit(value: int | str, path: str, mistakes: Mistakes) -> Any:
    if isinstance(value, str):
        return None if value == _NONE else mistakes.wrong(path, value, _LIMIT.expected)
    return count(1).read(value, path, mistakes)


_LIMIT: Final = Shape((int, str), "a whole number from 1, or 'none'", {"type": ["integer", "string"]}, _read_limit)
_LIMIT_KEYS: Final = dict.fromkeys(fields_dict(ProcessLimits), _LIMIT)
_TIMING_KEYS: Final = {key: count(1) if key == "ping_retries" else SECONDS for key in fields_dict(Timing)}

DAEMON: Final = checked(
    table(
        'a table such as { command = ["node", "daemon.js"] }',
        ("command",),
        command=ARGUMENTS,
        transport=one_of(*_TRANSPORTS),
        socket=LINE,
        talk_back=FLAG,
        startup_timeout=SECONDS,
        shutdown_grace=SECONDS,
        health=table(
            "a table such as { interval = 30, timeout = 5, retries = 3 }, in seconds",
            interval=SECONDS,
            timeout=SECONDS,
            retries=count(1),
        ),
        limits=table("a table such as { memory_mb = 512 }", **_LIMIT_KEYS),
    ),
    _contradictions,
)
"""The shape of `[daemon]` of a manifest."""

PROCESS: Final = table("a table such as { memory_mb = 512 }", **_LIMIT_KEYS, **_TIMING_KEYS, fork=FLAG)
"""The shape of `[plugins.NAME.process]`: limits and times by their field's name, and `fork`."""


def daemon_of(given: Mapping[str, Any]) -> Daemon:
    """Return the daemon that has been read from `[daemon]`, without a mistake."""
    health = {f"ping_{key}": value for key, value in given.get("health", {}).items()}
    timing = {key: given[key] for key in ("startup_timeout", "shutdown_grace") if key in given}
    more = {key: given[key] for key in ("transport", "socket") if key in given}
    if "talk_back" in given:
        more["talks_back"] = given["talk_back"]
    limits = ProcessLimits(**given.get("limits", {}))
    return Daemon(given["command"], timing=Timing(**timing, **health), limits=limits, **more)
