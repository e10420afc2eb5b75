"""The sources that the operator has named in `config.toml`: ours from this table, others from their entry points.

The code of a source runs in the host and decides what is a plugin. So only what was named is imported, and a named
source that cannot be imported is an error: a host without one of its sources would be a host without its gates.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

from attrs import frozen

from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.contract.wording import describe, suggest

from .source import Source

if TYPE_CHECKING:
    from ally_plugins.catalog.home.folder import Home

__all__ = ["BUILT_IN", "GROUP", "ChosenSource", "choose"]

GROUP: Final = "ally.sources"


@frozen
class ChosenSource:
    """A source that the operator has named in `config.toml`, under that name."""

    name: str
    origin: str
    """What distinguishes its plugins from others of the same name: package, folder, or the source's name."""
    source: Source
    is_built_in: bool = False


# Named here and not by entry points of ours: looking those up would take each command 30 ms, a host that is run from a
# checkout or an archive would have none, and another distribution could offer one of the names.
BUILT_IN: Final[Mapping[str, tuple[str, str, str]]] = {
    "packages": ("package", "ally_plugins.catalog.discovery.packages", "Packages"),
    "folders": ("folder", "ally_plugins.catalog.discovery.folders", "Folders"),
    "code_ally": ("folder", "ally_plugins.bridges.code_ally.source", "CodeAlly"),
}
"""By the name of a source: the origin of its plugins, its module and its class."""


class _Unusable(Exception):
    """A source that cannot be used, and why; `hint` names the nearest right name."""

    def __init__(self, why: str, hint: str = "") -> None:
        super().__init__(why)
        self.hint: Final = hint


def choose(names: Sequence[str], home: Home) -> tuple[ChosenSource, ...]:
    """Return the sources of these names, in order; imports those of other distributions.

    Raises ConfigError for one that no installed distribution offers, or whose import or construction fails.
    """
    return tuple(_built_in(name) if name in BUILT_IN else _installed(name, str(home.config_file)) for name in names)


def _built_in(name: str) -> ChosenSource:
    origin, module, attribute = BUILT_IN[name]
    return ChosenSource(name, origin, getattr(importlib.import_module(module), attribute)(), is_built_in=True)


def _installed(name: str, file: str) -> ChosenSource:
    try:
        return ChosenSource(name, name, _imported(name))
    except _Unusable as error:
        text = f"{file} names the source {describe(name)}: {error}, or take it out of 'sources'{error.hint}"
        raise ConfigError(text, path="sources", file=file) from error


@cache
def _imported(name: str) -> Source:
    """Return the one source of this name in this process. Raises _Unusable, and looks again at the next call then."""
    entry_point = _entry_point(name)
    value = repr(entry_point.value)
    try:
        made = entry_point.load()()
        is_source = isinstance(made, Source) and all(isinstance(file, str) for file in made.manifest_files)
    except KeyboardInterrupt:
        raise
    # SystemExit among them: one of a stranger's modules would end a command that only lists.
    except BaseException as error:
        text = f"{value} cannot be imported: {type(error).__name__}: {error}".splitlines()[0]
        raise _Unusable(f"{text}; mend it") from error
    # A text is a row of texts, too: its letters would be taken for names of files.
    if not is_source or isinstance(made.manifest_files, str):
        raise _Unusable(
            f"{value} is no subclass of ally_plugins.Source with a tuple of manifest_files; its author mends it"
        )
    return cast("Source", made)


def _entry_point(name: str) -> Any:
    import importlib_metadata  # 20 ms, and only for sources of other distributions

    try:
        offered = tuple(importlib_metadata.entry_points(group=GROUP))
    except Exception as error:
        raise _Unusable(f"what is installed cannot be read: {error}; mend it") from error
    same = [each for each in offered if each.name == name]
    # The same value twice is one distribution that stands on the path twice, an editable one for instance.
    if len({each.value for each in same}) > 1:
        owners = " and ".join(sorted(each.dist.name for each in same))
        raise _Unusable(f"{owners} both offer it; uninstall one of them")
    if not same:
        names = [*BUILT_IN, *(each.name for each in offered)]
        why = "no installed distribution offers it; install the one that does"
        raise _Unusable(why, f": {suggest(name, names)}")
    return same[0]
