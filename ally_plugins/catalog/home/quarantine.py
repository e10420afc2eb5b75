"""Which plugins stay stopped until they are released, on disk in the home.

A file that cannot be read may name any plugin; so all plugins count as named, until each is released.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import orjson
from attrs import frozen

from ally_plugins.contract.documents import text_of
from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.contract.values.frozen import FrozenDict

from .folder import MAX_STATE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .folder import Home

__all__ = ["Quarantine", "read_quarantine", "set_quarantine"]


@frozen
class Quarantine:
    """The content of the file: the reason by plugin. `damage` is why it cannot be read; then it may name any plugin."""

    reasons: Mapping[str, str] = FrozenDict()
    damage: str = ""

    def of(self, plugin: str) -> str | None:
        """Return why a plugin is stopped, None when it is not."""
        if self.damage:
            return f"{self.damage}, so it may be one of those that are stopped"
        return self.reasons.get(plugin)


def read_quarantine(home: Home) -> Quarantine:
    """Return which plugins are stopped; none in a home without the file. Raises nothing: see `Quarantine.damage`."""
    file, content = home.quarantine_file, None
    try:
        content = home.read(file, MAX_STATE_BYTES)
        kept = {} if content is None else orjson.loads(text_of(content))
    except OSError as error:
        return Quarantine(damage=f"{file} cannot be read: {error.strerror or error}")
    except ValueError:
        return Quarantine(damage=f"{file} is damaged: {'it is not JSON' if content else 'it is empty'}")
    if not isinstance(kept, dict) or not all(isinstance(reason, str) for reason in kept.values()):
        return Quarantine(damage=f"{file} is damaged: it does not hold a reason by plugin")
    return Quarantine(FrozenDict(kept))


def set_quarantine(home: Home, name: str, reason: str | None, names: Iterable[str]) -> None:
    """Write why a plugin is stopped, or with None that it is not. Raises ConfigError when the file cannot be written.

    `names` are the plugins that a damaged file may name: all but this one stay stopped. The caller holds
    `home.locked()`, so that two commands do not lose each other's edit.
    """
    before = read_quarantine(home)
    kept = {each: before.of(each) for each in names} if before.damage else dict(before.reasons)
    # A damaged file is always written: that is what mends it.
    if not before.damage and kept.get(name) == reason:
        return
    changed = {**kept, name: reason}
    content = orjson.dumps({key: value for key, value in changed.items() if value is not None})
    file = home.quarantine_file
    try:
        home.write(file, content, MAX_STATE_BYTES)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror or error}", file=str(file)) from error
