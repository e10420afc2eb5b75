"""The values of a plugin's settings: what the operator gave, checked against its manifest; defaults and secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.contract.values.frozen import trusted
from ally_plugins.contract.values.masking import Secret
from ally_plugins.contract.wording import suggest

from .secret_store import NotFoundHere

if TYPE_CHECKING:
    from collections.abc import Callable

    from ally_plugins.contract.manifest import Manifest
    from ally_plugins.contract.settings import Setting

__all__ = ["resolve_settings"]


def resolve_settings(
    plugin: str, manifest: Manifest, given: Mapping[str, Any], secret: Callable[[str, str], str | None]
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Return a plugin's values (None where there is none) and what is wrong with those that were given.

    Blocks for as long as `secret` does: it may wait for a keyring.
    """
    problems = [
        f"plugins.{plugin}.settings.{key}: unknown setting, {suggest(key, tuple(manifest.settings))}"
        for key in given
        if key not in manifest.settings
    ]
    values: dict[str, Any] = {}
    for name, setting in manifest.settings.items():
        doubt = ""
        try:
            kept = secret(plugin, name) if setting.secret else given.get(name)
        except NotFoundHere as error:  # which counts only where the plugin needs it
            kept, doubt = None, f"; {error}"
        except ConfigError as error:  # a locked keyring stops this plugin, not the others
            problems.append(str(error))
            continue
        value = Secret(kept) if setting.secret and isinstance(kept, str) else kept
        if (problem := _setting_problem(plugin, setting, value, is_in_file=name in given)) is not None:
            problems.append(problem + doubt)
        values[name] = setting.default if value is None else value
    return trusted(values), tuple(problems)


def _setting_problem(plugin: str, setting: Setting, value: object, *, is_in_file: bool) -> str | None:
    path = f"plugins.{plugin}.settings.{setting.name}"
    command = f"ally-plugins config {plugin} {setting.name}"
    if setting.secret and is_in_file:
        return f"{path}: a secret is not kept in config.toml; remove it there, then: {command}"
    if value is None:
        needs = setting.required and setting.default is None
        return f"{path}: required and not set: {command}{'' if setting.secret else '=VALUE'}" if needs else None
    if not setting.accepts(value):
        return f"{path}: expected {setting.expected}, found something else: {command}=VALUE"
    return None
