"""Which processes may be forked instead of started: plugins' classes that the host's own interpreter runs.

What forks them is left to `forker`; the guardian starts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from attrs import frozen

from ally_plugins.contract.process_spec import SDK_MODULE

if TYPE_CHECKING:
    from .process import ProcessSpec

__all__ = ["Fork", "fork_of"]

FORKER: Final = "ally_plugins.runtime.processes.forker"
PRELOADED: Final = "ally_plugins.daemon.preload"

_OF_THE_START: Final = ("PYTHON", "LC_", "LANG")
"""How the names begin of variables that an interpreter reads once, at its start: a forker has them, so that what it
forks has been started with them."""

_UNKNOWN: Final = ("LD_", "MALLOC_", "GLIBC_", "COVERAGE_")
"""The same for what others read at a start: the loader, the C library, what is hung into every interpreter."""


@frozen
class Fork:
    """The forker of a process, as a program: processes whose forkers are equal share one."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


def fork_of(spec: ProcessSpec, python: str, host: Mapping[str, str]) -> Fork | None:
    """Return the forker for a process, None for one that is to be started; `host` is the host's own environment."""
    if not (spec.fork and python and spec.argv[:3] == (python, "-m", SDK_MODULE)):
        return None
    if any(name.startswith(_UNKNOWN) for name in spec.env):
        return None
    environment = {name: value for name, value in spec.env.items() if name.startswith(_OF_THE_START)}
    # The operator's own packages are below it (`site.getusersitepackages`), also where the plugin is given another.
    if "HOME" in host:
        environment["HOME"] = host["HOME"]
    # `-P`: the guardian's folder, which it begins in, must not be searched for modules.
    return Fork((python, "-P", "-m", FORKER, SDK_MODULE, PRELOADED), environment)
