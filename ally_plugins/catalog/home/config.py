"""`config.toml`: what the operator has settled, read strictly.

Editing it is left to `config_edits`. What was agreed to is in `consent`, secrets in `secret_store`. The values of a
plugin's settings need its manifest, so they are checked in `setting_values`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from attrs import asdict, evolve, field, fields_dict, frozen

from ally_plugins.contract.documents import (
    FILLED,
    LINE,
    LINES,
    Document,
    checked,
    choices,
    count,
    line,
    lines,
    named_tables,
    table,
    text_of,
    toml_of,
)
from ally_plugins.contract.grants import is_plugin_name
from ally_plugins.contract.hookspecs import HOOKS, HOOKS_OF_TOPICS
from ally_plugins.contract.process_spec import PROCESS
from ally_plugins.contract.shapes import FLAG, SECONDS, WRONG, Mistakes, Shape, inside, one_of
from ally_plugins.contract.tables import keys, object_of
from ally_plugins.contract.values.errors import ConfigError, EventError
from ally_plugins.contract.values.frozen import FrozenDict, freeze
from ally_plugins.contract.wording import describe, nearest
from ally_plugins.policy.budget import Limits
from ally_plugins.policy.permissions import Grant, GrantSet

from .chat_settings import ChatSettings
from .journal_settings import JournalSettings

if TYPE_CHECKING:
    from .folder import Home

__all__ = [
    "DEFAULT_SOURCES",
    "MAX_CONFIG_BYTES",
    "Config",
    "Placement",
    "PluginConfig",
    "check_config",
    "config_table",
    "host_config",
    "host_table",
    "parse_config",
    "plugin_config",
    "read_config",
]

MAX_CONFIG_BYTES: Final = 1024 * 1024
"""A hundred plugins with every key take some 60 KiB."""

DEFAULT_SOURCES: Final = ("packages", "folders", "code_ally")
"""A source of another distribution must be named by the operator: its code runs in the host."""

_ORIGINS: Final = ("package", "folder")
"""The origins of plugins of our own sources; for those of others the origin is the source's name."""

_DEADLINE_KINDS: Final = ("gate", "transform", "observe", "start", "stop")
_NOTHING: Final = GrantSet()

_DEFAULT_LIMITS: Final = Limits()
_DEFAULT_CHAT: Final = ChatSettings()
_DEFAULT_JOURNAL: Final = JournalSettings()

Placement = Literal["inline", "process", "sandbox", "shared"]


@frozen(kw_only=True)
class PluginConfig:
    """`[plugins.NAME]`: what the operator has settled for one plugin. Names are as in the file."""

    enabled: bool = False
    is_decided: bool = False
    """Whether the operator has decided at all: `enabled` is in the file, and where it is true also `grants`.

    Commands write both; with the second line lost, a plugin would run without its gates.
    """
    placement: Placement | None = None
    """None leaves it to the plugin: a class runs inline, a daemon in its process."""
    sandbox: Literal["best", "require"] = "best"
    """What to do on a machine that does not keep all of a sandbox: start it with what is kept, or not at all."""
    interpreter: str = ""
    """The Python that runs it in its process, an absolute path."""
    environment: str = ""
    """The virtual environment in the home's `envs` whose Python runs it."""
    process: Mapping[str, Any] = FrozenDict()
    """Limits and times of its process, by the names of `ProcessLimits` and `Timing`, over those of its manifest."""
    origin: str | None = None
    """Which one is meant where several have the same name, package, folder or a source: `source` in the file."""
    grants: GrantSet = _NOTHING
    shadow: bool | frozenset[str] = False
    """True for all gates and transforms, or the names of hooks that are asked and recorded but not enforced."""
    mandatory: bool = False
    ungated_tools: bool | frozenset[str] = False
    """Tools that a model's provider may run past its gate, though it is mandatory; True for all."""
    consent: str = "requests"
    """`files`: a change of its code needs a new consent too."""
    gate_on_error: str = "deny"
    transform_on_error: str = "drop"
    deadlines: Mapping[str, float] = FrozenDict()
    """Seconds by hook, or by kind of hook: gate, transform, observe, start, stop."""
    limits: Limits = _DEFAULT_LIMITS
    settings: Mapping[str, Any] = field(default=FrozenDict(), repr=False)
    """As written, not yet checked against the manifest; not shown, since somebody may have put a secret there."""


@frozen(kw_only=True)
class Config:
    """The whole of `config.toml`. A plugin that it does not name has the defaults, and is not enabled."""

    plugins: Mapping[str, PluginConfig] = FrozenDict()
    default: PluginConfig = PluginConfig()
    chat: ChatSettings = _DEFAULT_CHAT
    journal: JournalSettings = _DEFAULT_JOURNAL
    sources: tuple[str, ...] = DEFAULT_SOURCES
    """The sources that are searched for plugins, in this order."""
    indexes: Mapping[str, str] = FrozenDict()
    """Where `search` looks, by the operator's names: files and https URLs. One that is added loosens nothing."""
    text: str = field(default="", eq=False, repr=False)
    """What the file holds, for `config_edits`; not shown, since settings stand in it."""

    def of(self, name: str) -> PluginConfig:
        """Return what is settled for a plugin, the defaults for one that the file does not name."""
        return self.plugins.get(name, self.default)


def read_config(home: Home) -> Config:
    """Read `config.toml`; without one, nothing is enabled. Raises ConfigError with every mistake in it."""
    return parse_config(_read_text(home), str(home.config_file))


def parse_config(text: str, file: str) -> Config:
    """Read the text of a `config.toml`. Raises ConfigError with every mistake in it."""
    try:
        table = toml_of(text)
    except ValueError as error:
        raise ConfigError(f"{file} is {error}", file=file) from None
    return evolve(check_config(table, file), text=text)


def check_config(table: dict[str, Any], file: str) -> Config:
    """Read what the file holds as TOML. Raises ConfigError with every mistake in it."""
    document = Document()
    config = _read(document, table)
    if problems := document.problems:
        count = f"{len(problems)} problems: " if len(problems) > 1 else ""
        first = problems[0].partition(": ")[0]
        raise ConfigError(f"{file} is wrong: {count}{'; '.join(problems)}", path=first, file=file)
    return config


def _read_text(home: Home) -> str:
    file = home.config_file
    try:
        # Through a link too, which `Home.read` refuses otherwise: people keep this file among their dotfiles.
        return text_of(home.read(file, MAX_CONFIG_BYTES, follow=True) or b"")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 (byte {error.start})", file=str(file)) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{file} cannot be read: {reason}", file=str(file)) from error


def _read(document: Document, written: Mapping[str, Any]) -> Config:
    given: dict[str, Any] = FILE.read(written, "", document)
    sources: tuple[str, ...] = given.get("sources", DEFAULT_SOURCES)
    # Our sources are not among them by name: their plugins are those of packages and folders.
    origins = (*_ORIGINS, *(name for name in sources if name not in DEFAULT_SOURCES))
    # First, since a plugin's own limits and deadlines replace single ones of those for all.
    default = PluginConfig(
        limits=_limits(given, _DEFAULT_LIMITS),
        deadlines=_deadlines(given, FrozenDict()),
        sandbox=given.get("sandbox", "best"),
    )
    plugins = {name: _plugin(table, default) for name, table in given.get("plugins", {}).items()}
    # Checked here, since the shape of one plugin does not see `sources`.
    for name, plugin in plugins.items():
        if plugin.origin is not None and plugin.origin not in origins:
            document.wrong_choice(f"plugins.{name}.source", plugin.origin, _origin_hint(plugin.origin, origins))
    chat = given.get("chat", _DEFAULT_CHAT)
    journal = given.get("journal", _DEFAULT_JOURNAL)
    return Config(plugins=MappingProxyType(plugins), default=default, chat=chat, journal=journal, sources=sources,
                  indexes=FrozenDict(given.get("indexes", {})))  # fmt: skip


def _origin_hint(found: str, origins: tuple[str, ...]) -> str:
    if (close := nearest(found, origins)) is not None:
        return f"did you mean {close!r}?"
    expected = f"expected {', '.join(origins)}, or a source that 'sources' names"
    return f"{expected}; for none of them, take this line out"


def _limits(given: Mapping[str, Any], base: Limits) -> Limits:
    return evolve(base, **given["limits"]) if "limits" in given else base


def _deadlines(given: Mapping[str, Any], base: Mapping[str, float]) -> Mapping[str, float]:
    return FrozenDict({**base, **given["deadlines"]}) if "deadlines" in given else base


def _plugin(given: Mapping[str, Any], default: PluginConfig) -> PluginConfig:
    on_error = given.get("on_error", {})
    return PluginConfig(
        **{key: given[key] for key in _AS_WRITTEN if key in given},
        is_decided="grants" in given if given.get("enabled") else "enabled" in given,
        process=FrozenDict(given.get("process", {})),
        origin=given.get("source"),
        gate_on_error=on_error.get("gate", "deny"),
        transform_on_error=on_error.get("transform", "drop"),
        limits=_limits(given, default.limits),
        deadlines=_deadlines(given, default.deadlines),
        sandbox=given.get("sandbox", default.sandbox),
    )


_AS_WRITTEN: Final = (
    "enabled",
    "placement",
    "interpreter",
    "environment",
    "grants",
    "shadow",
    "mandatory",
    "ungated_tools",
    "consent",
    "settings",
)


def config_table(config: PluginConfig) -> dict[str, Any]:
    """Return what is settled for a plugin as `plugin_config` reads it: all that counts, whatever holds for others."""
    limits = {key: value for key, value in asdict(config.limits).items() if value != getattr(_DEFAULT_LIMITS, key)}
    several = {name: value if isinstance(value, bool) else sorted(value) for name, value in
               (("shadow", config.shadow), ("ungated_tools", config.ungated_tools))}  # fmt: skip
    table = {
        "enabled": config.enabled,
        "placement": config.placement,
        "interpreter": config.interpreter or None,
        "environment": config.environment or None,
        "process": {key: "none" if value is None else value for key, value in config.process.items()},
        "source": config.origin,
        "grants": list(config.grants.texts()),
        **several,
        "mandatory": config.mandatory,
        "consent": config.consent,
        "on_error": {"gate": config.gate_on_error, "transform": config.transform_on_error},
        "deadlines": dict(config.deadlines),
        "limits": limits,
        "sandbox": config.sandbox,
        "settings": thawed(config.settings),
    }
    return {key: value for key, value in table.items() if value is not None}


def plugin_config(table: Mapping[str, Any], path: str, mistakes: Document) -> PluginConfig:
    """Read what `config_table` has returned; what is wrong is noted in the document."""
    given = _PLUGIN.read(table, path, mistakes)
    return PluginConfig() if given is WRONG else _plugin(given, PluginConfig())


def host_table(config: Config) -> dict[str, Any]:
    """Return what is settled for no single plugin as `host_config` reads it: sources, chat and journal."""
    chat = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config.chat).items()}
    written = {key: value for key, value in chat.items() if value not in ("", None)}
    return {"sources": list(config.sources), "chat": written, "journal": asdict(config.journal)}


def host_config(table: Mapping[str, Any], path: str, mistakes: Document) -> Config:
    """Read what `host_table` has returned; what is wrong is noted in the document."""
    given = _HOST.read(table, path, mistakes)
    return Config() if given is WRONG else Config(**given)


def thawed(value: Any) -> Any:
    """Return a value of frozen tables and lists as plain ones, which TOML is written from."""
    if isinstance(value, Mapping):
        return {key: thawed(each) for key, each in value.items()}
    return [thawed(each) for each in value] if isinstance(value, tuple) else value


def _read_settings(value: Mapping[str, Any], path: str, mistakes: Mistakes) -> FrozenDict:
    values = {}
    for key, each in value.items():
        try:
            values[key] = freeze(each)
        except EventError:  # a date or an infinite number, which no setting can be
            mistakes.wrong(inside(path, key), each, "a text, a finite number, true or false")
    return FrozenDict(values)


def _read_grants(value: Any, path: str, mistakes: Mistakes) -> GrantSet:
    grants = set()
    for text in LINES.read(value, path, mistakes):
        try:
            grants.add(Grant.parse(text))
        except ConfigError as error:
            mistakes.refuse(path, str(error))
    return GrantSet(frozenset(grants))


def _source_problem(text: str) -> str | None:
    expected = "the names of sources: lower-case letters, digits, '_' and '-'"
    # Its name is the origin of its plugins, and must not pass for one of ours in `folder:NAME`.
    is_source = is_plugin_name(text) and text not in _ORIGINS
    return None if is_source else f"found {describe(text)}, expected {expected}"


def _interpreter_problem(text: str) -> str | None:
    return None if Path(text).is_absolute() else f"found {describe(text)}, expected the absolute path of a Python"


def _environment_problem(text: str) -> str | None:
    expected = "the name of an environment: ally-plugins env NAME"
    return None if is_plugin_name(text) else f"found {describe(text)}, expected {expected}"


def _two_pythons(given: dict[str, Any], _: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if given.get("interpreter") and given.get("environment"):
        yield "interpreter", "there is an 'environment' too, expected one of the two"


def _read_shadow(value: Any, path: str, mistakes: Mistakes) -> bool | frozenset[str]:
    if isinstance(value, bool):
        return value
    found: tuple[str, ...] = _HOOK_WORDS.read(value, path, mistakes)
    return frozenset(name for each in found for name in HOOKS_OF_TOPICS.get(each, (each,)))


def _read_ungated_tools(value: Any, path: str, mistakes: Mistakes) -> bool | frozenset[str]:
    if isinstance(value, bool):
        return value
    return frozenset(LINES.read(value, path, mistakes))


_HOOK_WORDS: Final = choices(*HOOKS_OF_TOPICS, *(name for names in HOOKS_OF_TOPICS.values() for name in names))
_HOOKS: Final = [name for name, info in HOOKS.items() if info.kind != "capability"]
_SHARED: Final = {
    "limits": table("a table such as { messages_per_minute = 30 }", **dict.fromkeys(fields_dict(Limits), count())),
    "deadlines": table(
        "a table such as { gate = 15 }, in seconds", **dict.fromkeys((*_DEADLINE_KINDS, *_HOOKS), SECONDS)
    ),
    "sandbox": one_of("best", "require"),
}
_PLUGIN: Final = table(
    "a table",
    enabled=FLAG,
    placement=one_of("inline", "process", "sandbox", "shared"),
    interpreter=line(_interpreter_problem),
    environment=line(_environment_problem),
    process=PROCESS,
    source=LINE,
    grants=evolve(LINES, convert=_read_grants),
    shadow=Shape((bool, list), "true or false", {"type": ["boolean", "array"]}, _read_shadow),
    mandatory=FLAG,
    ungated_tools=Shape((bool, list), "true or a list of tools", {"type": ["boolean", "array"]}, _read_ungated_tools),
    consent=one_of("requests", "files"),
    on_error=table(
        'a table such as { gate = "deny", transform = "drop" }',
        gate=one_of("deny", "allow"),
        transform=one_of("drop", "block"),
    ),
    **_SHARED,
    settings=Shape((dict,), "a table", {"type": "object"}, _read_settings),
)
_OF_HOST: Final = {
    "sources": lines(_source_problem),
    "chat": object_of(ChatSettings, 'a table such as [chat] with model = "offline"'),
    "journal": object_of(JournalSettings, 'a table such as [journal] with content = "metadata"'),
}
_HOST: Final = table("a table", **_OF_HOST)
FILE: Final = keys(
    plugins=named_tables(checked(_PLUGIN, _two_pythons), is_plugin_name, "the name of a plugin"),
    # Not held to what was agreed to: an index is looked at, and nothing follows from it.
    indexes=named_tables(
        FILLED,
        is_plugin_name,
        "a name of lower-case letters, digits, '_' and '-'",
        'a table such as { main = "https://..." }',
    ),
    **_OF_HOST,
    **_SHARED,
)
"""The keys of a `config.toml`."""
