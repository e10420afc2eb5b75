"""What a daemon reads when a connection opens: the params of `initialize`, or the answer to its own."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Self

from attrs import frozen

from ally_plugins.contract.shapes import OBJECT, SECONDS, TEXT, TEXTS, named
from ally_plugins.contract.tables import keys, read_object
from ally_plugins.contract.values.frozen import EMPTY, freeze_mapping

__all__ = ["DEADLINES", "Initialization"]

DEADLINES: Final[Mapping[str, float]] = {"gate": 15.0, "transform": 15.0, "observe": 30.0, "start": 30.0, "stop": 5.0}
"""Seconds for each kind of hook, where the host names none."""

# Not the class that `wire.host_params` has of them, which takes its forty neighbours along: 25 ms of a daemon's start.
_PARAMS: Final = keys(
    ("plugin",),
    plugin=TEXT,
    protocol=TEXT,
    protocols=TEXTS,
    capabilities=TEXTS,
    settings=OBJECT,
    secrets=TEXTS,
    data_dir=TEXT,
    deadlines=named(SECONDS),
    limits=OBJECT,
)


@frozen
class Initialization:
    """Who the plugin is for its host, and what it may and has."""

    plugin: str
    protocols: tuple[str, ...] = ()
    capabilities: frozenset[str] = frozenset()
    settings: Mapping[str, Any] = EMPTY
    data_dir: str | None = None
    deadlines: Mapping[str, float] = DEADLINES
    frame_bytes: int | None = None

    @classmethod
    def read(cls, params: Any) -> Self:
        """Read it; what a newer host adds is passed over. Raises ValidationRefused for a field of a wrong type."""
        given: dict[str, Any] = read_object(_PARAMS, params, "initialize", is_strict=False)
        # By hand and lenient: the other limits are the host's business, and a newer one may have more of them.
        frame_bytes = given.get("limits", EMPTY).get("frame_bytes")
        return cls(
            plugin=given["plugin"],
            # A connection back is answered with the one version that the host takes, a process with all that it speaks.
            protocols=given.get("protocols") or (given.get("protocol", ""),),
            capabilities=frozenset(given.get("capabilities", ())),
            settings=_settings(given.get("settings", EMPTY), given.get("secrets", ())),
            data_dir=given.get("data_dir") or None,
            deadlines={**DEADLINES, **given.get("deadlines", EMPTY)},
            frame_bytes=frame_bytes if type(frame_bytes) is int and frame_bytes > 0 else None,
        )

    def deadline(self, hook: str, kind: str) -> float:
        """Return the seconds that a hook may take."""
        return self.deadlines.get(hook, self.deadlines[kind])


def _settings(given: Mapping[str, Any], names: tuple[str, ...]) -> Mapping[str, Any]:
    """Return the settings; those that the host names as `secrets` hide themselves, as they do inline."""
    settings = freeze_mapping(given)
    secrets = [name for name in names if isinstance(settings.get(name), str)]
    if not secrets:
        return settings
    from ally_plugins.contract.values.masking import Secret

    return MappingProxyType({**settings, **{name: Secret(settings[name]) for name in secrets}})
