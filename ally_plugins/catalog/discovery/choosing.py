"""Which sources count: those that the operator has named, ours by their place here, others by their entry point.

The code of a source runs in the host and says what is a plugin. So only what was named is imported, and what was named
and cannot be had is an error: a host without one of its sources would be a host without its guards.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.contract.wording import describe, suggest

from .source import Source

if TYPE_CHECKING:
    from ally_plugins.catalog.home.folder import Home

__all__ = ["BUILT_IN", "GROUP", "Chosen", "choose"]

GROUP: Final = "ally.sources"


@frozen
class Chosen:
    """A source that counts, under the operator's name for it."""

    name: str
    origin: str
    """What its plugins are told from others of the same name by."""
    source: Source
    is_built_in: bool = False


# Named here and not by entry points of ours: looking those up would take each command 30 ms, a host that is run from a
# checkout or an archive would have none, and another distribution could offer one of the names.
BUILT_IN: Final[Mapping[str, tuple[str, str, str]]] = {
    "packages": ("package", "ally_plugins.catalog.discovery.packages", "Packages"),
    "folders": ("folder", "ally_plugins.catalog.discovery.folders", "Folders"),
    "code_ally": ("folder", "ally_plugins.bridges.code_ally.source", "CodeAlly"),
}
"""The origin of each one's plugins, and where it is."""


def choose(names: Sequence[str], home: Home) -> tuple[Chosen, ...]:
    """Return the sources of these names, in order. Raises ConfigError for one that nobody offers or that is broken."""
    file = str(home.config_file)
    return tuple(_built_in(name) if name in BUILT_IN else Chosen(name, name, _imported(name, file)) for name in names)


def _built_in(name: str) -> Chosen:
    origin, module, attribute = BUILT_IN[name]
    return Chosen(name, origin, getattr(importlib.import_module(module), attribute)(), is_built_in=True)


@cache
def _imported(name: str, file: str) -> Source:
    """Return the one of this process; an error is not kept."""
    entry_point = _entry_point(name, file)
    try:
        made = entry_point.load()()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        what = f"{entry_point.value!r} cannot be imported: {type(error).__name__}: {error}".splitlines()[0]
        raise _wrong(name, file, f"{what}; mend it") from error
    if not isinstance(made, Source):
        raise _wrong(name, file, f"{entry_point.value!r} is no subclass of ally_plugins.Source; its author mends it")
    return made


def _entry_point(name: str, file: str) -> Any:
    import importlib_metadata  # 20 ms, and only for sources of other distributions

    try:
        offered = tuple(importlib_metadata.entry_points(group=GROUP))
    except Exception as error:
        raise _wrong(name, file, f"what is installed cannot be read: {error}; mend it") from error
    same = [each for each in offered if each.name == name]
    if len({each.value for each in same}) > 1:
        owners = " and ".join(sorted(each.dist.name for each in same))
        raise _wrong(name, file, f"{owners} both offer it; uninstall one of them")
    if not same:
        known = [*BUILT_IN, *(each.name for each in offered)]
        why = "no installed distribution offers it; install the one that does"
        raise _wrong(name, file, why, f": {suggest(name, known)}")
    return same[0]


def _wrong(name: str, file: str, why: str, hint: str = "") -> ConfigError:
    text = f"{file} names the source {describe(name)}: {why}, or take it out of 'sources'{hint}"
    return ConfigError(text, path="sources", file=file)
