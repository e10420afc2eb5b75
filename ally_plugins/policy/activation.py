"""Which plugins are active in a session: `always`, or `tagged`, which `+name` in the person's message turns on.

The message itself goes on to the model unchanged. What an inactive plugin is not given is left to the host: its tools
and events. Gates and transforms are not turned off by a tag in a message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from attrs import define, field, frozen

from ally_plugins.contract.manifest import Activation

__all__ = ["Activations", "Tag", "find_tags"]

# A sign at the start of a word, then a whole name: what follows ends the word, or the sentence.
_TAG: Final = re.compile(r"""(?<!\S)([+-])([a-z0-9_][a-z0-9_-]*)(?=[.,;:!?)\]}'"]*(?:\s|\Z))""")


@frozen
class Tag:
    """What a message asks for: a plugin on or off."""

    plugin: str
    is_on: bool


def find_tags(text: str, plugins: Iterable[str]) -> tuple[Tag, ...]:
    """Return the tags in a person's message that name one of `plugins`, in order; all else is just text."""
    names = frozenset(plugins)
    return tuple(Tag(name, sign == "+") for sign, name in _TAG.findall(text) if name in names)


@define
class Activations:
    """What is active in one session; it lives as long as the session, and is kept with it (`to_data`).

    `modes` are those of the installed plugins. The person's last tag holds, for a plugin that is always active too.
    """

    modes: Mapping[str, Activation]
    _chosen: dict[str, bool] = field(init=False, factory=dict)

    def read_message(self, text: str) -> tuple[Tag, ...]:
        """Take the person's message, and return the tags that changed something. Never give it a plugin's message."""
        changed = []
        for tag in find_tags(text, self.modes):
            if self.is_active(tag.plugin) != tag.is_on:
                changed.append(tag)
            # Also where nothing changes: the person's word then holds when the plugin's mode is another one.
            self._chosen[tag.plugin] = tag.is_on
        return tuple(changed)

    def is_active(self, plugin: str) -> bool:
        """Return whether a plugin is active; a plugin without a mode is none of ours, and always is."""
        chosen = self._chosen.get(plugin)
        return self.modes.get(plugin, "always") == "always" if chosen is None else chosen

    @property
    def active(self) -> tuple[str, ...]:
        """The active plugins, by name."""
        return tuple(sorted(name for name in self.modes if self.is_active(name)))

    def to_data(self) -> dict[str, bool]:
        """Return the person's tags as `{plugin: is on}`, to be kept with the session and given to `restore`."""
        return dict(self._chosen)

    def restore(self, data: Mapping[str, Any]) -> None:
        """Take what was kept; tags of plugins that are not installed now are kept for later."""
        self._chosen.update({name: on for name, on in data.items() if isinstance(on, bool)})
