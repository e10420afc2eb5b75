"""Reading `config` of a `plugin.json` into settings, and writing their values as a plugin's environment has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, cast, get_args

from attrs import evolve

from ally_plugins.contract.documents import LINES, named_tables
from ally_plugins.contract.settings import Kind, Setting, Value
from ally_plugins.contract.shapes import ANY, FLAG, OBJECT, WRONG, Mistakes, Shape, one_of
from ally_plugins.contract.tables import keys
from ally_plugins.contract.wording import describe

from .document import PROSE

__all__ = ["CONFIG", "config_environment"]

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}\Z")  # as every setting's
_PREFIX: Final = "PLUGIN_CONFIG_"


def config_environment(settings: Mapping[str, Setting], values: Mapping[str, Any]) -> dict[str, str]:
    """Return `PLUGIN_CONFIG_<KEY>` for every setting that has a value, or else a default.

    The key is in upper case and otherwise as it is. Texts stay as they are; true and false are `true` and `false`;
    a whole number has no decimal point, as JavaScript writes it. No value and no default: no variable.
    """
    chosen = {name: values.get(name, setting.default) for name, setting in settings.items()}
    return {_PREFIX + name.upper(): _text(value) for name, value in chosen.items() if value is not None}


def _text(value: Value) -> str:
    # First, since True is an int. Code-Ally, in JavaScript, writes it as `true`.
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _read_setting(value: dict[str, Any], path: str, mistakes: Mistakes) -> Setting:
    given: dict[str, Any] = _KEYS.read(value, path, mistakes)
    choices: tuple[str, ...] = given.get("choices", ())
    if not choices and "enum" in given:
        found = LINES.read(given["enum"], f"{path}.enum", mistakes)
        choices = () if found is WRONG else found
    unsaid: Kind = "choice" if "choices" in value and value.get("type") is None else "string"
    kind = cast("Kind", given.get("type", unsaid))
    secret = given.get("secret", False) or given.get("encrypted", False)
    if kind == "choice" and not choices:
        mistakes.refuse(f"{path}.choices", "missing, expected a list of texts")
    if secret and kind != "string":
        mistakes.warn(f"{path}.secret", f"is for texts, so that this {kind} is kept as a text")
        # A warning and no mistake, since Code-Ally takes such a file.
        kind, choices = "string", ()
    setting = Setting(
        name="",
        kind=kind,
        description=" ".join(given.get("description", "").split()),
        required=given.get("required", False),
        secret=secret,
        choices=choices if kind == "choice" else (),
    )
    return evolve(setting, default=_default(given.get("default"), setting, f"{path}.default", mistakes))


def _default(value: Any, setting: Setting, path: str, mistakes: Mistakes) -> Value | None:
    if value is None or (setting.secret and value == ""):
        return None
    if setting.secret:
        mistakes.warn(path, "a secret has no default, so this one is left out")
    elif not setting.accepts(value):
        mistakes.warn(path, f"found {describe(value)}, expected {setting.expected}, so it is left out")
    else:
        return cast("Value", value)
    return None


_KEYS: Final = keys(
    type=one_of(*get_args(Kind)),
    description=PROSE,
    default=ANY,
    required=FLAG,
    secret=FLAG,
    encrypted=FLAG,
    choices=LINES,
    enum=ANY,
)
_SCHEMA: Final = {
    "type": ANY,
    "required": LINES,
    "properties": named_tables(
        Shape((dict,), "an object", {"type": "object"}, _read_setting),
        lambda name: _NAME.match(name) is not None,
        "letters, digits, '_' and '-', not starting with a digit",
        "an object",
    ),
}
_INNER: Final = keys(**_SCHEMA)
_CONFIG: Final = keys(schema=OBJECT)
_DEPRECATED: Final = keys(schema=OBJECT, **_SCHEMA)


def _read_config(value: dict[str, Any], path: str, mistakes: Mistakes) -> Mapping[str, Setting]:
    """Return the settings in `config`. The form without an inner `schema` is deprecated."""
    inner = value.get("schema")
    if isinstance(inner, dict):
        _CONFIG.read(value, path, mistakes)
        path = f"{path}.schema"
        given = _INNER.read(inner, path, mistakes)
    else:
        given = _DEPRECATED.read(value, path, mistakes)
        if "properties" in value:
            expected = "expected config.schema.properties"
            mistakes.warn(f"{path}.properties", f"settings outside of 'schema' are deprecated, {expected}")
    required = given.get("required", ())
    settings = {
        name: evolve(setting, name=name, required=setting.required or name in required)
        for name, setting in given.get("properties", {}).items()
    }
    _check_variables(settings, f"{path}.properties", mistakes)
    return settings


def _check_variables(settings: Mapping[str, Setting], path: str, mistakes: Mistakes) -> None:
    seen: dict[str, str] = {}
    for name in settings:
        # Names that differ in case only would get one variable, with the value of either.
        other = seen.setdefault(name.upper(), name)
        if other != name:
            mistakes.refuse(f"{path}.{name}", f"has the variable of {other!r}, expected names that differ in more")


CONFIG: Final = Shape((dict,), "an object", {"type": "object"}, _read_config)
"""The shape of `config`, which is read into settings by name."""
