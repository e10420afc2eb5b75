"""`.ally/project.toml`: what a project narrows, and which settings it proposes; read strictly."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from attrs import evolve, frozen

from ally_plugins.catalog.home.config import thawed
from ally_plugins.contract.documents import LINES, Document, lines, named_tables, table, text_of
from ally_plugins.contract.grants import is_plugin_name
from ally_plugins.contract.hookspecs import HOOKS
from ally_plugins.contract.shapes import FLAG, OBJECT, SECONDS, Mistakes
from ally_plugins.contract.tables import keys
from ally_plugins.contract.values.errors import ConfigError, EventError
from ally_plugins.contract.values.frozen import FrozenDict, freeze_mapping
from ally_plugins.policy.permissions import GrantSet
from ally_plugins.policy.project_rules import NARROWED, ProjectRules

__all__ = ["FILE", "ProjectFile", "parse_project_file"]

FILE: Final = "project.toml"

_GUARDS: Final = ("gate", "transform")
_HOOKS: Final = [name for name, info in HOOKS.items() if info.kind in _GUARDS]


@frozen
class ProjectFile:
    """What the file says: the rules that hold once it is trusted, and settings by plugin that wait for the operator."""

    rules: ProjectRules
    settings: Mapping[str, Mapping[str, Any]] = FrozenDict()


def parse_project_file(content: bytes, folder: str) -> ProjectFile:
    """Read the text of a project's file. Raises ConfigError with every mistake in it, unknown keys too."""
    file = f"{folder}/.ally/{FILE}"
    try:
        written = tomllib.loads(text_of(content))
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ConfigError(f"{file} is not TOML: {reason}", file=file) from None
    document = Document()
    given: dict[str, Any] = _FILE.read(written, "", document)
    if document.problems:
        raise ConfigError(f"{file} is wrong: {'; '.join(document.problems)}", file=file)
    plugins: Mapping[str, Mapping[str, Any]] = given.get("plugins", {})
    rules = ProjectRules(
        folder=folder,
        mandatory=given.get("mandatory", ()),
        denied_tools=given.get("deny_tools", ()),
        left_out=frozenset(name for name, each in plugins.items() if "enabled" in each),
        ceilings=MappingProxyType({name: each["grants"] for name, each in plugins.items() if "grants" in each}),
        deadlines=FrozenDict(
            {name: FrozenDict(each["deadlines"]) for name, each in plugins.items() if "deadlines" in each}
        ),
    )
    settings = {name: thawed(each["settings"]) for name, each in plugins.items() if each.get("settings")}
    return ProjectFile(rules, FrozenDict(settings))


def _name_problem(text: str) -> str | None:
    return None if is_plugin_name(text) else f"found {text!r}, expected the name of a plugin"


def _read_enabled(value: bool, path: str, mistakes: Mistakes) -> Any:  # noqa: FBT001 - what was written
    return mistakes.refuse(path, "found true, and a project enables nothing, expected false") if value else value


def _read_ceiling(value: Any, path: str, mistakes: Mistakes) -> Any:
    found = LINES.read(value, path, mistakes)
    try:
        ceiling = GrantSet.of(found)
    except ConfigError as error:
        return mistakes.refuse(path, str(error))
    for grant in ceiling.grants:
        if grant.kind not in NARROWED:
            kinds = ", ".join(sorted(NARROWED))
            text = f"found {grant.text!r}, which a project cannot narrow; expected grants of these kinds: {kinds}"
            mistakes.refuse(path, text)
    return ceiling


def _read_settings(value: Mapping[str, Any], path: str, mistakes: Mistakes) -> Any:
    try:
        return freeze_mapping(value)
    except EventError:  # a date or an infinite number, which no setting can be
        return mistakes.refuse(path, "holds what no setting can be, expected texts, finite numbers, true or false")


_PLUGIN: Final = table(
    'a table such as { grants = ["tools"] }',
    enabled=evolve(FLAG, convert=_read_enabled),
    grants=evolve(LINES, convert=_read_ceiling),
    deadlines=table("a table such as { gate = 5 }, in seconds", **dict.fromkeys((*_GUARDS, *_HOOKS), SECONDS)),
    settings=evolve(OBJECT, convert=_read_settings),
)
_FILE: Final = keys(
    mandatory=lines(_name_problem),
    deny_tools=LINES,
    plugins=named_tables(_PLUGIN, is_plugin_name, "the name of a plugin"),
)
