"""Reading `config` of a `plugin.json` into settings, and writing their values as a plugin's environment has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from attrs import evolve

from ally_plugins.contract.settings import Kind, Setting, Value
from ally_plugins.contract.tables import describe, suggest
from ally_plugins.contract.values.frozen import FrozenDict

if TYPE_CHECKING:
    from .jsonfields import JsonFields

__all__ = ["config_environment", "read_config"]

_KINDS: Final = get_args(Kind)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}\Z")  # as every setting's
_PREFIX: Final = "PLUGIN_CONFIG_"
_NO_SETTINGS: Final = FrozenDict()


def config_environment(settings: Mapping[str, Setting], values: Mapping[str, Any]) -> dict[str, str]:
    """Return `PLUGIN_CONFIG_<KEY>` for every setting that has a value, or else a default.

    The key is in upper case and otherwise as it is. Texts stay as they are; true and false are `true` and `false`;
    a whole number has no decimal point, as JavaScript writes it. No value and no default: no variable.
    """
    chosen = {name: values.get(name, setting.default) for name, setting in settings.items()}
    return {_PREFIX + name.upper(): _text(value) for name, value in chosen.items() if value is not None}


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def read_config(top: JsonFields) -> Mapping[str, Setting]:
    """Return the settings; mistakes are noted in `top`. The form without an inner `schema` is deprecated."""
    config = top.table("config")
    if config is None:
        return _NO_SETTINGS
    schema = config.table("schema")
    if schema is None:
        schema = config
        if "properties" in config:
            config.warn("properties", "settings outside of 'schema' are deprecated, expected config.schema.properties")
    else:
        config.close()
    schema.take("type")
    required = schema.texts("required")
    settings = {name: _setting(name, each, required) for name, each in _properties(schema)}
    schema.close()
    _check_variables(schema, settings)
    return settings


def _properties(schema: JsonFields) -> list[tuple[str, JsonFields]]:
    expected = "letters, digits, '_' and '-', not starting with a digit"
    found = schema.children("properties", lambda name: _NAME.match(name) is not None, expected)
    return [(name, cast("JsonFields", each)) for name, each in found]


def _check_variables(schema: JsonFields, settings: Mapping[str, Setting]) -> None:
    seen: dict[str, str] = {}
    for name in settings:
        other = seen.setdefault(name.upper(), name)
        if other != name:
            schema.note(f"properties.{name}", f"has the variable of {other!r}, expected names that differ in more")


def _setting(name: str, fields: JsonFields, required: tuple[str, ...]) -> Setting:
    encrypted = fields.boolean("encrypted")
    secret = fields.boolean("secret") or encrypted
    kind, choices = _kind(fields), _choices(fields)
    if kind == "choice" and not choices:
        fields.note("choices", "missing, expected a list of texts")
    if secret and kind != "string":
        fields.warn("secret", f"is for texts, so that this {kind} is kept as a text")
        kind, choices = "string", ()
    setting = Setting(
        name=name,
        kind=kind,
        description=" ".join(fields.prose("description").split()),
        required=fields.boolean("required") or name in required,
        secret=secret,
        choices=choices if kind == "choice" else (),
    )
    default = _default(fields, setting)
    fields.close()
    return setting if default is None else evolve(setting, default=default)


def _kind(fields: JsonFields) -> Kind:
    value = fields.take("type")
    if value is None:
        return "choice" if "choices" in fields else "string"
    if value not in _KINDS or not isinstance(value, str):
        hint = suggest(value, _KINDS) if isinstance(value, str) else f"expected one of {', '.join(_KINDS)}"
        fields.note("type", f"found {describe(value)}, {hint}")
        return "string"
    return cast("Kind", value)


def _choices(fields: JsonFields) -> tuple[str, ...]:
    return fields.texts("choices") or fields.texts("enum")


def _default(fields: JsonFields, setting: Setting) -> Value | None:
    value = fields.take("default")
    if value is None or (setting.secret and value == ""):
        return None
    if setting.secret:
        fields.warn("default", "a secret has no default, so this one is left out")
    elif not setting.accepts(value):
        fields.warn("default", f"found {describe(value)}, expected {setting.expected}, so it is left out")
    else:
        return cast("Value", value)
    return None
