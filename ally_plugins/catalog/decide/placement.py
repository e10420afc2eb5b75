"""Where a plugin runs, and how: what it ships, joined with the placement, Python and limits that the operator settled.

A pure decision; whether the Python exists was looked up by `catalog.plugin_facts`.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Final

from attrs import evolve, field, frozen

from ally_plugins.catalog.home.files import UNREAD_BYTECODE
from ally_plugins.contract.process_spec import SAFE_PATH, Daemon, running_python

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ally_plugins.catalog.discovery.found import Found
    from ally_plugins.catalog.home.config import PluginConfig

__all__ = ["DEFAULT_PLACEMENT", "Interpreter", "Placed", "place", "why_outside"]

DEFAULT_PLACEMENT: Final = "sandbox"
"""Where a plugin is placed when it is first enabled. A machine without a sandbox runs it as in a process."""

_PYTHON: Final = re.compile(r"python(3(\.\d+)?)?(\.exe)?\Z")
"""Programs in whose place another Python can be put."""

_OF_A_DAEMON: Final = frozenset({"startup_timeout", "ping_interval", "ping_timeout", "ping_retries", "fork"})
"""Keys of `[plugins.NAME.process]` that mean nothing to programs which are run for each call."""

_BUILT_INSIDE: Final = "its source builds it inside the agent's process, where alone it runs"
_NO_CLASS: Final = "it ships a program and no class, and many hosts can share the process of a class alone"
_LISTENS: Final = "it listens on a Unix socket, which there is none of in a sandbox"


@frozen
class Interpreter:
    """The Python that the operator chose for a plugin; `problem` is why it cannot be used, empty when it can."""

    path: str = ""
    """Empty when the operator named none: then the running Python is meant."""
    problem: str = ""
    search: str = ""
    """The PYTHONPATH of the running Python, where that is the one: what it finds must be found in a process too."""


@frozen(kw_only=True)
class Placed:
    """How a plugin runs: `daemon` is None for inline, and for programs that are run for each call.

    `problem` is why it cannot run so, empty when it can; `daemon` is what would be run in either case.
    """

    daemon: Daemon | None = None
    problem: str = ""
    warnings: tuple[str, ...] = field(default=())
    python: str = ""
    """The Python that the operator named, for the programs of a plugin without a daemon too; empty for none."""


def place(name: str, found: Found, config: PluginConfig, interpreter: Interpreter) -> Placed:
    """Decide how an installed plugin runs. Problems and warnings name the command that changes it. Raises nothing."""
    if found.is_class:
        return _class(name, found, config, interpreter)
    if found.plugin is not None:
        problem = f"{_BUILT_INSIDE}: {_command(name, 'inline')}"
        return Placed(problem=problem if config.placement in {"process", "sandbox", "shared"} else "")
    if config.placement == "shared":
        return Placed(daemon=found.daemon, problem=f"{_NO_CLASS}: {_command(name, DEFAULT_PLACEMENT)}")
    if config.placement == "inline":
        listens = found.daemon is not None and found.daemon.transport == "socket"
        way_out = _command(name, "process" if listens else DEFAULT_PLACEMENT)
        return Placed(problem=f"it ships a program and no class, so it cannot run inline: {way_out}")
    if found.daemon is None:
        return Placed(problem=interpreter.problem, python=interpreter.path, warnings=_without_daemon(config))
    return _shipped(found, found.daemon, config, interpreter)


def why_outside(name: str, found: Found, config: PluginConfig, interpreter: Interpreter) -> str:
    """Return why a plugin cannot be placed as is usual, empty when it can."""
    if found.plugin is not None:
        return _BUILT_INSIDE
    if found.daemon is not None and found.daemon.transport == "socket":
        return _LISTENS
    problem = place(name, found, evolve(config, placement=DEFAULT_PLACEMENT), interpreter).problem
    # What keeps it from running anywhere, such as a Python that is not there, is no reason.
    return problem if problem and not place(name, found, config, interpreter).problem else ""


def _without_daemon(config: PluginConfig) -> tuple[str, ...]:
    idle = [key for key in config.process if key in _OF_A_DAEMON]
    return (f"config.toml has process.{', process.'.join(idle)} for it, of no use: it has no daemon",) if idle else ()


def _shipped(found: Found, daemon: Daemon, config: PluginConfig, interpreter: Interpreter) -> Placed:
    if daemon.transport == "socket" and config.placement == "sandbox":
        return Placed(daemon=daemon, problem=f"{_LISTENS}: {_command(found.name)}", python=interpreter.path)
    program, *arguments = daemon.command
    warnings: tuple[str, ...] = ()
    if interpreter.path and not _PYTHON.match(program.rpartition("/")[2]):
        way_out = _command(found.name, config.placement)
        warnings = (f"config.toml names a Python for it, and it starts {program!r}: {way_out}",)
    elif interpreter.path:
        daemon = evolve(daemon, command=(interpreter.path, *arguments))
    elif found.origin == "package" and _PYTHON.match(program):  # it is installed in the environment of this one
        if not (python := running_python()):
            return Placed(daemon=daemon, problem=_no_python(found.name, config), python=interpreter.path)
        daemon = evolve(daemon, command=(python, *arguments))
    if found.origin == "package":
        daemon = evolve(daemon, env={**daemon.env, **_bytecode(config)})
    settled = daemon.with_process(config.process)
    return Placed(daemon=settled, problem=interpreter.problem, warnings=warnings, python=interpreter.path)


def _no_python(name: str, config: PluginConfig) -> str:
    problem = f"this program, {sys.executable!r}, is no Python that could run it in a process"
    return f"{problem}; name one that has it and ally_plugins: {_command(name, config.placement)} --interpreter PYTHON"


def _class(name: str, found: Found, config: PluginConfig, interpreter: Interpreter) -> Placed:
    if config.placement not in {"process", "sandbox", "shared"}:
        without_use = [key for key in ("interpreter", "environment", "process") if getattr(config, key)]
        use = f"config.toml has {' and '.join(without_use)} for it, of no use while it runs inline: {_command(name)}"
        return Placed(warnings=(use,) if without_use else ())
    # Extras are for installers, and spaces may stand around the colon; the SDK takes neither.
    target = found.entry_point.partition("[")[0].replace(" ", "")
    search = {"PYTHONPATH": interpreter.search} if interpreter.search else {}
    # With files where a source has found it in a folder: all of them were agreed to, and nothing compiled.
    bytecode = UNREAD_BYTECODE if found.files else _bytecode(config)
    if config.placement == "shared":
        # Not run here: a worker runs it, with the Python that its own operator has chosen.
        return Placed(daemon=Daemon((target,)).with_process(config.process))
    python = interpreter.path or running_python()
    if not python:
        return Placed(problem=interpreter.problem or _no_python(name, config))
    daemon = Daemon.python(target, python, env={SAFE_PATH: "1", **search, **bytecode})
    return Placed(daemon=daemon.with_process(config.process), problem=interpreter.problem)


def _bytecode(config: PluginConfig) -> Mapping[str, str]:
    """Return what keeps compiled code unread where the files that were agreed to are all that may run."""
    return UNREAD_BYTECODE if config.consent == "files" else {}


def _command(name: str, placement: str | None = None) -> str:
    """Return the command that places a plugin; without a placement it is the one that all programs run in."""
    return f"ally-plugins place {name} {placement or 'process'}"
