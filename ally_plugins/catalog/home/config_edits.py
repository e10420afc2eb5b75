"""Changes of single keys in `config.toml`, so that its comments, its order and the way it is written stay."""

from __future__ import annotations

import tomllib
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from ally_plugins.contract.values.errors import ConfigError

from .config import MAX_CONFIG_BYTES, Config, check_config, read_config
from .folder import check_size, write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable

    from .folder import Home

__all__ = ["edit_config"]


def edit_config(
    home: Home, plugin: str, change: Callable[[dict[str, Any]], dict[str, Any]], config: Config | None = None
) -> None:
    """Change keys of `[plugins.NAME]`; everything else in the file stays as its writer left it.

    `change` is given what the table holds now and returns the new values of the keys to change; None removes a key, and
    within a table given as a dict likewise. Raises ConfigError when the file is wrong already, or cannot be written;
    it is then untouched. The caller holds `home.locked()`, so that two commands do not lose each other's edit; one that
    has read the file since passes it as `config`.
    """
    file = str(home.config_file)
    text = (read_config(home) if config is None else config).text
    before = tomllib.loads(text)
    changes = change(before.get("plugins", {}).get(plugin, {}))
    expected = _expected(before, plugin, changes)
    edited = _edited(text, plugin, changes, expected)
    if edited is None:
        raise ConfigError(f"{file} is written in a way that cannot be edited safely; change it by hand", file=file)
    # All else is as it was read, and was right; this one is read with the keys that count for every plugin.
    shared: dict[str, Any] = {key: expected[key] for key in ("sources", "limits", "deadlines") if key in expected}
    check_config(shared | {"plugins": {plugin: expected["plugins"][plugin]}}, file)
    try:
        check_size(content := edited.encode(), MAX_CONFIG_BYTES)
        write_atomically(home.config_file, content)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror or error}", file=file) from error


def _edited(text: str, plugin: str, changes: dict[str, Any], expected: dict[str, Any]) -> str | None:
    """Return the edited text, or None when no way of writing it means what it should.

    A new table gets a header of its own, or stands inline where its writer uses dotted keys or inline tables.
    """
    import tomlkit  # 40 ms, and only when something is changed

    for new_table in (tomlkit.table, tomlkit.inline_table):
        # Anew for each way: one that failed has left half of the change in the document.
        document = tomlkit.parse(text)
        with suppress(ValueError, TypeError):  # inline tables take no other ones
            if "plugins" not in document:
                # Without a header of its own, which would stand empty above `[plugins.NAME]`.
                document["plugins"] = tomlkit.table(is_super_table=True)
            plugins = cast("dict[str, Any]", document["plugins"])
            if plugin not in plugins:
                plugins[plugin] = new_table()
            _merge(plugins[plugin], changes, new_table)
            edited = tomlkit.dumps(document)
            # tomlkit is believed only when the parser that reads the file next finds just what was meant.
            if tomllib.loads(edited) == expected:
                return edited
    return None


def _expected(before: dict[str, Any], plugin: str, changes: dict[str, Any]) -> dict[str, Any]:
    plugins = before.setdefault("plugins", {})
    _merge(plugins.setdefault(plugin, {}), changes, dict)
    return before


def _merge(table: Any, changes: dict[str, Any], new_table: Callable[[], Any]) -> None:
    for key, value in changes.items():
        if value is None:
            table.pop(key, None)
        elif isinstance(value, dict):
            if key not in table:
                table[key] = new_table()
            _merge(table[key], value, new_table)
        else:
            table[key] = value
