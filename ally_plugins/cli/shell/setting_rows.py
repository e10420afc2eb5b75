"""A plugin's settings as rows and as data: value, source, type. Secrets are shown as set or not set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ally_plugins.contract.values.errors import ConfigError

from .text import columns, inert

if TYPE_CHECKING:
    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.catalog.registry import Registry
    from ally_plugins.contract.settings import Setting

__all__ = ["setting_rows", "shown_settings"]


def setting_rows(registry: Registry, record: PluginRecord) -> list[str]:
    """Return a line for each setting: its value, where that comes from, its type, what it is for."""
    rows = [
        (inert(key), inert(about["shown"]), inert(about["source"]), inert(about["type"]), inert(about["description"]))
        for key, about in shown_settings(registry, record).items()
    ]
    return columns(rows)


def shown_settings(registry: Registry, record: PluginRecord) -> dict[str, dict[str, Any]]:
    """Return the settings without any secret's value."""
    return {key: _shown(registry, record, setting) for key, setting in record.manifest.settings.items()}


def _shown(registry: Registry, record: PluginRecord, setting: Setting) -> dict[str, Any]:
    about: dict[str, Any] = {
        "type": "secret" if setting.secret else setting.expected,
        "required": setting.required,
        "description": setting.description,
    }
    if setting.secret:
        return {**about, **_shown_secret(registry, record.name, setting.name)}
    given = record.config.settings.get(setting.name)
    value = setting.default if given is None else given
    source = "config.toml" if given is not None else "default" if value is not None else "-"
    return {**about, "value": value, "shown": "not set" if value is None else str(value), "source": source}


def _shown_secret(registry: Registry, plugin: str, key: str) -> dict[str, Any]:
    try:
        is_set = registry.secrets.get(plugin, key) is not None
    except ConfigError as error:
        # A keyring that is locked or does not answer hides one row, not the page.
        return {"is_set": None, "shown": f"unknown: {error}", "source": "-"}
    return {"is_set": is_set, "shown": "set" if is_set else "not set", "source": registry.secrets.place}
