"""What a home holds, for `fleet status`: the revision of its plugins, and of its machine's policy."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ally_plugins import __version__
from ally_plugins.catalog.decide.lock import revision_of
from ally_plugins.catalog.home.machine_policy import read_policy
from ally_plugins.catalog.locking import locked_plugins
from ally_plugins.catalog.registry import Registry

from .batches import UNREADABLE, Held

if TYPE_CHECKING:
    from ally_plugins.catalog.home.folder import Home

__all__ = ["holdings_of"]

_log: Final = logging.getLogger(__name__)


def holdings_of(home: Home) -> Held:
    """Return what the files of a home say now; reads those of its plugins. Raises nothing for files that are wrong."""
    plugins = _or_unreadable(lambda: revision_of(locked_plugins(Registry(home))))
    return Held(plugins, _or_unreadable(lambda: read_policy().digest), __version__)


def _or_unreadable(read: Callable[[], str]) -> str:
    try:
        return read()
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the files, the home's word has to go out
        _log.debug("what this home holds cannot be read: %s", error)
        return UNREADABLE
