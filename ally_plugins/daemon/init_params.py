"""What a daemon is told when a connection opens: the params of `initialize`, or the answer to its own."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from types import MappingProxyType
from typing import Any, Final

from attrs import frozen

from ally_plugins.contract.values.errors import EventError
from ally_plugins.contract.values.frozen import EMPTY, freeze_mapping

__all__ = ["DEADLINES", "Told"]

DEADLINES: Final[Mapping[str, float]] = {"gate": 15.0, "transform": 15.0, "observe": 30.0, "start": 30.0, "stop": 5.0}
"""Seconds for each kind of hook, where the host does not say."""


@frozen
class Told:
    """Who the plugin is for its host, and what it may and has."""

    plugin: str
    protocols: tuple[str, ...] = ()
    capabilities: frozenset[str] = frozenset()
    settings: Mapping[str, Any] = EMPTY
    data_dir: str | None = None
    deadlines: Mapping[str, float] = DEADLINES
    frame_bytes: int | None = None

    @classmethod
    def read(cls, params: Mapping[str, Any]) -> Told:
        """Read it; what a newer host adds is passed over. Raises EventError for a field of a wrong type."""
        limits = _field(params, "limits", dict, {})
        frame_bytes = limits.get("frame_bytes")
        data_dir = _field(params, "data_dir", str, "")
        return cls(
            plugin=_field(params, "plugin", str),
            protocols=tuple(_texts(params, "protocols")) or (_field(params, "protocol", str, ""),),
            capabilities=frozenset(_texts(params, "capabilities")),
            settings=_settings(params),
            data_dir=data_dir or None,
            deadlines={**DEADLINES, **_numbers(params, "deadlines")},
            frame_bytes=frame_bytes if type(frame_bytes) is int and frame_bytes > 0 else None,
        )

    def deadline(self, hook: str, kind: str) -> float:
        """Return the seconds that a hook may take."""
        return self.deadlines.get(hook, self.deadlines[kind])


def _settings(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings; those that the host names as `secrets` hide themselves, as they do inline."""
    settings = freeze_mapping(_field(params, "settings", dict, {}))
    secrets = [name for name in _texts(params, "secrets") if isinstance(settings.get(name), str)]
    if not secrets:
        return settings
    from ally_plugins.contract.settings import Secret

    return MappingProxyType({**settings, **{name: Secret(settings[name]) for name in secrets}})


def _field(params: Mapping[str, Any], name: str, kind: type, default: Any = None) -> Any:
    value = params.get(name)
    if value is None and default is not None:
        return default
    if type(value) is not kind:
        raise EventError(f"{name} of initialize is of the type {type(value).__name__}", path=name)
    return value


def _texts(params: Mapping[str, Any], name: str) -> list[str]:
    values: list[str] = _field(params, name, list, [])
    if not all(type(value) is str for value in values):
        raise EventError(f"{name} of initialize is no list of texts", path=name)
    return values


def _numbers(params: Mapping[str, Any], name: str) -> dict[str, float]:
    values = _field(params, name, dict, {})
    for key, value in values.items():
        if type(value) not in {int, float} or not isfinite(value) or value <= 0:
            raise EventError(f"{name}.{key[:80]} of initialize is no number of seconds", path=name)
    return dict(values)
