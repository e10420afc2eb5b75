"""Virtual environments for plugins that run in a process of their own, below the home: looked at, built, removed.

One is built beside its place and put there whole, so that half of one is never used. Which plugin uses it stands in
`config.toml`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson
from attrs import frozen

from ally_plugins.catalog.decide.placement import Interpreter
from ally_plugins.catalog.discovery.bridge import Building
from ally_plugins.catalog.home.folder import read_capped, write_atomically
from ally_plugins.contract.grants import is_plugin_name
from ally_plugins.contract.process_spec import running_python
from ally_plugins.contract.values.errors import ConfigError, OperatorError
from ally_plugins.contract.wording import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ally_plugins.catalog.home.config import PluginConfig
    from ally_plugins.catalog.home.folder import Home

__all__ = [
    "Environment",
    "build",
    "chosen_interpreter",
    "editable_projects",
    "environments",
    "missing_modules",
    "plan",
    "python_in",
    "remove",
]

CREATE_TIMEOUT: Final = 60.0
INSTALL_TIMEOUT: Final = 300.0
"""Seconds for an empty environment, and for what is installed into it; Code-Ally's numbers."""

_STALE: Final = 86_400.0
"""Seconds after which what a killed build left behind is removed: a build that runs has ended long before."""

_FIND: Final = (
    "import importlib.util, json, sys; print(json.dumps([m for m in sys.argv[1:] if importlib.util.find_spec(m)]))"
)

_MARKER: Final = ".complete"
_MAX_MARKER_BYTES: Final = 64 * 1024
_SCRIPT_BYTES: Final = 64 * 1024
"""Larger files among an environment's programs are no scripts."""


@frozen(kw_only=True)
class Environment:
    """One that is there. `problem` is why it cannot be used."""

    name: str
    path: Path
    requirements: tuple[str, ...] = ()
    problem: str = ""


def python_in(path: Path) -> Path:
    """Return the path of the Python of a virtual environment, whether it is there or not."""
    return path / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def environments(home: Home) -> tuple[Environment, ...]:
    """Return those that are there, by name. Raises nothing."""
    with suppress(OSError):
        names = sorted(path.name for path in home.envs_dir.iterdir() if is_plugin_name(path.name))
        return tuple(_look(home, name) for name in names)
    return ()


def _look(home: Home, name: str) -> Environment:
    path = home.envs_dir / name
    rebuild = f"to build it: ally-plugins env {name}"
    try:
        marker = read_capped(path / _MARKER, _MAX_MARKER_BYTES)
        if marker is None:
            state = "is not complete" if path.is_dir() else "is not there"
            return Environment(name=name, path=path, problem=f"the environment {name!r} {state}; {rebuild}")
        requirements = tuple(str(word) for word in orjson.loads(marker)["requirements"])
    except (OSError, ValueError, KeyError, TypeError):
        return Environment(name=name, path=path, problem=f"the environment {name!r} is damaged; {rebuild}")
    problem = _python_problem(python_in(path))
    text = f"the environment {name!r} is broken: {problem}; {rebuild}" if problem else ""
    return Environment(name=name, path=path, requirements=requirements, problem=text)


def editable_projects(home: Home, path: str) -> tuple[str, ...]:
    """Return the projects that the operator has had installed editable into an environment of this home, by its path.

    None for one that is not whole, or of elsewhere. Blocks on a file; raises nothing.
    """
    folder, name = os.path.split(path)
    if folder != str(home.envs_dir):
        return ()
    words = _look(home, name).requirements
    # As `requirement_of` writes them; what the operator has given in another form is theirs to place.
    return tuple(after for word, after in pairwise(words) if word == "-e" and after.startswith("/"))


def _python_problem(path: Path) -> str:
    if not running_python() and sys.executable and path.resolve() == Path(sys.executable).resolve():
        return f"{str(path)!r} is this program, which is no Python"
    if not path.is_file():
        return f"there is no Python at {str(path)!r}"
    return "" if os.access(path, os.X_OK) else f"{str(path)!r} is no program"


def chosen_interpreter(home: Home, name: str, config: PluginConfig) -> Interpreter:
    """Return the Python that `config.toml` names for a plugin, or why it cannot be used."""
    if config.environment:
        environment = _look(home, config.environment)
        return Interpreter(str(python_in(environment.path)), environment.problem)
    if config.interpreter and (problem := _python_problem(Path(config.interpreter))):
        way_out = f"to choose another one: ally-plugins place {name} {config.placement or 'process'}"
        return Interpreter(config.interpreter, f"{problem}; {way_out}")
    # Only for the running Python: what PYTHONPATH names is made for its version.
    return Interpreter(config.interpreter, search="" if config.interpreter else os.environ.get("PYTHONPATH", ""))


def missing_modules(python: str, modules: Sequence[str]) -> list[str]:
    """Return which top-level modules a Python does not find: all of them when it does not run.

    Blocks for up to `CREATE_TIMEOUT`; imports none of them. Raises nothing.
    """
    # `-P`: a module in the working directory is not installed, and would be found.
    command = (python, "-P", "-c", _FIND, *modules)
    try:
        done = subprocess.run(  # noqa: S603  # the operator's own Python, and our own lines
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=CREATE_TIMEOUT, check=True
        )
        found: list[str] = orjson.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        found = []
    return [module for module in modules if module not in found]


def plan(home: Home, name: str, requirements: Sequence[str], python: str | None = None) -> Building:
    """Return what building would run: uv's commands where it is there, and pip's otherwise.

    `python` is the interpreter to build with, by default the running one. Raises ConfigError for a bad name, and
    OperatorError when that interpreter is not there, or what runs is none.
    """
    if not is_plugin_name(name):
        raise ConfigError(f"{describe(name)} cannot be an environment, expected the name of a plugin", path="env")
    if not (base := python or running_python()):
        text = f"the environment {name!r} cannot be built: this program, {sys.executable!r}, is no Python"
        raise OperatorError(f"{text}; use the ally-plugins of one, or name one with --python")
    if not Path(base).is_absolute():
        base = shutil.which(base) or base
    if problem := _python_problem(Path(base)):
        raise OperatorError(f"the environment {name!r} cannot be built: {problem}; name another one with --python")
    beside = home.envs_dir / f".{name}.{os.getpid()}.{time.monotonic_ns()}"
    return Building(
        name=name,
        path=home.envs_dir / name,
        beside=beside,
        requirements=tuple(requirements),
        commands=_commands(base, beside, tuple(requirements)),
    )


def _commands(base: str, beside: Path, requirements: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    python = str(python_in(beside))
    uv = None if _is_pip_configured() else shutil.which("uv")
    if uv is not None:
        create: tuple[str, ...] = (uv, "venv", "--python", base, str(beside))
        # By uv, since there is no pip in an environment that it has made.
        install: tuple[str, ...] = (uv, "pip", "install", "--python", python)
    else:
        create = (base, "-m", "venv", str(beside))
        install = (python, "-m", "pip", "--disable-pip-version-check", "--no-input", "install")
    return (create, (*install, *requirements)) if requirements else (create,)


def _is_pip_configured() -> bool:
    """Say whether the operator has configured pip, an index for one: uv reads none of that."""
    # That one variable says nothing of where packages come from.
    if any(key.startswith("PIP_") and key != "PIP_DISABLE_PIP_VERSION_CHECK" for key in os.environ):
        return True
    own = Path(os.path.expanduser("~"))  # noqa: PTH111 - a user who has none has configured nothing there either
    files = (own / ".config/pip/pip.conf", own / ".pip/pip.conf", Path("/etc/pip.conf"), Path(sys.prefix, "pip.conf"))
    return any(file.is_file() for file in files)


def build(home: Home, building: Building, write: Callable[[str], object]) -> None:
    """Run the commands of a plan; their output goes to `write`, line by line. An old one is replaced at the end.

    Blocks for minutes. Raises OperatorError when a program fails or takes longer than its timeout, which ends its
    process group as Ctrl-C does, and ConfigError when the home cannot be used; then what was there before is untouched.
    """
    home.prepare(home.envs_dir)
    _sweep(home)
    try:
        # Not strict: without requirements there is nothing to install.
        for command, timeout in zip(building.commands, (CREATE_TIMEOUT, INSTALL_TIMEOUT), strict=False):
            _run(command, timeout, write)
        _repoint_scripts(building.beside, building.path)
        content = {"requirements": building.requirements, "python": building.commands[0][0]}
        # The marker last: only an environment with one counts as whole.
        write_atomically(building.beside / _MARKER, orjson.dumps(content))
        # Locked only now: a build takes minutes, and other commands wait for the lock for seconds.
        with home.locked():
            _put_in_place(building)
    except OSError as error:
        raise OperatorError(f"the environment {building.name!r} cannot be built: {error.strerror or error}") from error
    finally:
        shutil.rmtree(building.beside, ignore_errors=True)


def _run(command: Sequence[str], timeout: float, write: Callable[[str], object]) -> None:
    late = threading.Event()
    with subprocess.Popen(  # noqa: S603  # shown to the operator before, and no shell
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # a process group of its own, so that what it starts is killed with it
    ) as process:
        # A timer, since reading line by line has no timeout. The kill of the group ends the reading too.
        timer = threading.Timer(timeout, _stop, (process, late))
        deadline = time.monotonic() + timeout
        timer.start()
        try:
            try:
                for line in process.stdout or ():
                    write(line)
            finally:
                # Before it is waited for: from then on its number may be that of another process group.
                timer.cancel()
                timer.join()
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _stop(process, late)
        except BaseException:
            # Ctrl-C reaches the process group of the terminal only, and this one has its own.
            _kill(process)
            raise
    if late.is_set():
        raise OperatorError(f"{command[0]!r} was stopped, since it took more than {timeout:g} s; its output says why")
    if process.returncode != 0:
        raise OperatorError(f"{command[0]!r} failed with exit code {process.returncode}; its output above says why")


def _stop(process: subprocess.Popen[str], late: threading.Event) -> None:
    late.set()
    _kill(process)


def _kill(process: subprocess.Popen[str]) -> None:
    with suppress(OSError):  # it has ended by itself
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _put_in_place(building: Building) -> None:
    """Replace the environment by the new one. A daemon that runs in the old one keeps what it has loaded."""
    # Hidden, as `beside` is: should this process be killed before it is removed, `_sweep` finds it.
    old = building.beside.with_name(f"{building.beside.name}.old")
    # There is none at the first build.
    with suppress(FileNotFoundError):
        building.path.rename(old)
    try:
        building.beside.rename(building.path)
    except OSError:
        with suppress(FileNotFoundError):
            old.rename(building.path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _repoint_scripts(beside: Path, path: Path) -> None:
    """Write the place where the environment will be into its scripts, which name their Python in the first line."""
    for script in _scripts(python_in(beside).parent):
        content = script.read_bytes()
        if (changed := content.replace(os.fsencode(beside), os.fsencode(path))) != content:
            script.write_bytes(changed)


def _scripts(directory: Path) -> Iterator[Path]:
    for entry in directory.iterdir():
        # A link leads out of the environment: `python` is one, to the interpreter that built it.
        if entry.is_file() and not entry.is_symlink() and entry.stat().st_size <= _SCRIPT_BYTES:
            yield entry


def remove(home: Home, name: str) -> Path:
    """Remove an environment and return where it was.

    Raises ConfigError when there is none of that name, and OperatorError when it cannot be removed.
    """
    paths = (home.envs_dir / name, home.envs_dir / f"{name}.node")  # the second one has a `node_modules` in it
    path = next((path for path in paths if path.is_dir()), None)
    if not is_plugin_name(name) or path is None:
        names = ", ".join(each.name for each in environments(home)) or "none"
        raise ConfigError(f"there is no environment {describe(name)}; there are: {names}", path="env")
    gone = path.with_name(f".{name}.{os.getpid()}.{time.monotonic_ns()}.old")
    try:
        with home.locked():
            path.rename(gone)  # at once, so that nothing starts in half of it
        shutil.rmtree(gone)
    except OSError as error:
        raise OperatorError(f"the environment {name!r} cannot be removed: {error.strerror or error}") from error
    return path


def _sweep(home: Home) -> None:
    """Remove what builds that were killed have left behind."""
    for path in home.envs_dir.glob(".*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE:
                shutil.rmtree(path, ignore_errors=True)
