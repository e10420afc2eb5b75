"""`config.toml`: what the operator has settled, read strictly and edited so that comments and order stay.

What was agreed to stands in `consent`, secrets in `secrets`; which values a plugin's settings may have is known only
with its manifest, so the registry checks those.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from attrs import evolve, field, fields_dict, frozen

from ally_plugins.contract.grants import is_plugin_name
from ally_plugins.contract.hookspecs import HOOKS
from ally_plugins.contract.process_spec import read_process
from ally_plugins.contract.tables import Fields
from ally_plugins.contract.values.errors import ConfigError, EventError
from ally_plugins.contract.values.frozen import FrozenDict, freeze
from ally_plugins.policy.budget import Limits
from ally_plugins.policy.permissions import Grant, GrantSet

from .chat_settings import ChatSettings, read_chat_settings
from .folder import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable

    from .folder import Home

__all__ = ["DEFAULT_SOURCES", "MAX_CONFIG_BYTES", "Config", "Placement", "PluginConfig", "edit_config", "read_config"]

MAX_CONFIG_BYTES: Final = 1024 * 1024
"""A hundred plugins with every key take some 60 KiB."""

DEFAULT_SOURCES: Final = ("packages", "folders", "code_ally")
"""A source of another distribution is named by the operator: its code runs in the host and says what is a plugin."""

_ORIGINS: Final = ("package", "folder")
"""What the plugins of our own sources are told from others of the same name by; those of others have their source."""

_DEADLINE_KINDS: Final = ("gate", "transform", "observe", "start", "stop")
_TOPICS: Final = {info.topic: info.name for info in HOOKS.values() if info.topic is not None}
_LIMITS: Final = tuple(fields_dict(Limits))
_CONSENT: Final = ("requests", "files")
_NOTHING: Final = GrantSet()

_DEFAULT_LIMITS: Final = Limits()
_DEFAULT_CHAT: Final = ChatSettings()

Placement = Literal["inline", "process"]


@frozen(kw_only=True)
class PluginConfig:
    """`[plugins.NAME]`: what the operator has settled for one plugin. Names are as in the file."""

    enabled: bool = False
    is_decided: bool = False
    """Whether the operator has said yes or no at all: `enabled` stands in the file, and with a yes also `grants`.

    Commands write both; with the second line lost, a guard would run and be asked nothing.
    """
    placement: Placement | None = None
    """None leaves it to the plugin: a class runs inline, a daemon in its process."""
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
    sources: tuple[str, ...] = DEFAULT_SOURCES
    """Who is asked for plugins, in this order."""
    text: str = field(default="", eq=False, repr=False)
    """What the file holds, for `edit_config`; not shown, since settings stand in it."""

    def of(self, name: str) -> PluginConfig:
        """Return what is settled for a plugin."""
        return self.plugins.get(name, self.default)


def read_config(home: Home) -> Config:
    """Read `config.toml`; without one, nothing is enabled. Raises ConfigError with every mistake in it."""
    return parse_config(_read_text(home), str(home.config_file))


def parse_config(text: str, file: str) -> Config:
    """Read the text of a `config.toml`. Raises ConfigError with every mistake in it."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ConfigError(f"{file} is not TOML: {reason}", file=file) from None
    return evolve(_checked(table, file), text=text)


def _checked(table: dict[str, Any], file: str) -> Config:
    problems: list[str] = []
    config = _read(Fields(table, problems))
    if problems:
        count = f"{len(problems)} problems: " if len(problems) > 1 else ""
        first = problems[0].partition(": ")[0]
        raise ConfigError(f"{file} is wrong: {count}{'; '.join(problems)}", path=first, file=file)
    return config


def _read_text(home: Home) -> str:
    file = home.config_file
    try:
        return (home.read(file, MAX_CONFIG_BYTES, follow=True) or b"").decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 (byte {error.start})", file=str(file)) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{file} cannot be read: {reason}", file=str(file)) from error


def _read(top: Fields) -> Config:
    sources = _sources(top)
    origins = (*_ORIGINS, *(name for name in sources if name not in DEFAULT_SOURCES))
    default = PluginConfig(limits=_limits(top, _DEFAULT_LIMITS), deadlines=_deadlines(top, FrozenDict()))
    plugins = {
        name: _plugin(table, default, origins)
        for name, table in top.children("plugins", is_plugin_name, "the name of a plugin")
    }
    chat = read_chat_settings(top)
    top.close()
    return Config(plugins=MappingProxyType(plugins), default=default, chat=chat, sources=sources)


def _sources(top: Fields) -> tuple[str, ...]:
    names = top.texts("sources") if "sources" in top else DEFAULT_SOURCES
    for name in names:
        if not is_plugin_name(name) or name in _ORIGINS:
            top.wrong("sources", name, "the names of sources: lower-case letters, digits, '_' and '-'")
    return names


def _plugin(table: Fields, default: PluginConfig, origins: tuple[str, ...]) -> PluginConfig:
    gate, transform = _on_error(table)
    interpreter, environment = _python(table)
    config = PluginConfig(
        enabled=table.boolean("enabled"),
        is_decided="grants" in table if table.boolean("enabled") else "enabled" in table,
        placement=cast("Placement | None", table.word("placement", ("inline", "process"))),
        interpreter=interpreter,
        environment=environment,
        process=FrozenDict(_process(table)),
        origin=table.word("source", origins),
        grants=_grants(table),
        shadow=_shadow(table),
        mandatory=table.boolean("mandatory"),
        consent=cast("str", table.word("consent", _CONSENT, "requests")),
        gate_on_error=gate,
        transform_on_error=transform,
        deadlines=_deadlines(table, default.deadlines),
        limits=_limits(table, default.limits),
        settings=_settings(table),
    )
    table.close()
    return config


def _settings(table: Fields) -> FrozenDict:
    inner = table.table("settings")
    if inner is None:
        return FrozenDict()
    values = {}
    for key in inner.keys:
        value = inner.take(key)
        try:
            values[key] = freeze(value)
        except EventError:  # a date or an infinite number, which no setting can be
            inner.wrong(key, value, "a text, a finite number, true or false")
    return FrozenDict(values)


def _grants(table: Fields) -> GrantSet:
    grants = set()
    for text in table.texts("grants"):
        try:
            grants.add(Grant.parse(text))
        except ConfigError as error:
            table.note("grants", str(error))
    return GrantSet(frozenset(grants))


def _python(table: Fields) -> tuple[str, str]:
    interpreter, environment = table.text("interpreter"), table.text("environment")
    if interpreter and not Path(interpreter).is_absolute():
        table.wrong("interpreter", interpreter, "the absolute path of a Python")
    if environment and not is_plugin_name(environment):
        table.wrong("environment", environment, "the name of an environment: ally-plugins env NAME")
    if interpreter and environment:
        table.note("interpreter", "there is an 'environment' too, expected one of the two")
    return interpreter, environment


def _process(table: Fields) -> dict[str, Any]:
    inner = table.table("process", "a table such as { memory_mb = 512 }")
    if inner is None:
        return {}
    given = read_process(inner)
    inner.close()
    return given


def _on_error(table: Fields) -> tuple[str, str]:
    inner = table.table("on_error", 'a table such as { gate = "deny", transform = "drop" }')
    if inner is None:
        return "deny", "drop"
    gate = inner.word("gate", ("deny", "allow"), "deny")
    transform = inner.word("transform", ("drop", "block"), "drop")
    inner.close()
    return cast("str", gate), cast("str", transform)


def _shadow(table: Fields) -> bool | frozenset[str]:
    if not isinstance(table.take("shadow"), list):
        return table.boolean("shadow")
    return frozenset(_TOPICS.get(word, word) for word in table.words("shadow", [*_TOPICS, *_TOPICS.values()]))


def _deadlines(table: Fields, base: Mapping[str, float]) -> Mapping[str, float]:
    inner = table.table("deadlines", "a table such as { gate = 15 }, in seconds")
    if inner is None:
        return base
    hooks = [name for name, info in HOOKS.items() if info.kind != "capability"]
    given = {key: inner.number(key, above=0) for key in (*_DEADLINE_KINDS, *hooks)}
    inner.close()
    return FrozenDict({**base, **{key: value for key, value in given.items() if value is not None}})


def _limits(table: Fields, base: Limits) -> Limits:
    inner = table.table("limits", "a table such as { messages_per_minute = 30 }")
    if inner is None:
        return base
    given = {key: inner.count(key) for key in _LIMITS}
    inner.close()
    return evolve(base, **{key: value for key, value in given.items() if value is not None})


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
    _checked(shared | {"plugins": {plugin: expected["plugins"][plugin]}}, file)
    try:
        write_atomically(home.config_file, edited.encode())
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror or error}", file=file) from error


def _edited(text: str, plugin: str, changes: dict[str, Any], expected: dict[str, Any]) -> str | None:
    """Return the edited text, or None when no way of writing it means what it should.

    A new table gets a header of its own, or stands inline where its writer uses dotted keys or inline tables.
    """
    import tomlkit  # 40 ms, and only when something is changed

    for new_table in (tomlkit.table, tomlkit.inline_table):
        document = tomlkit.parse(text)
        with suppress(ValueError, TypeError):  # inline tables take no other ones
            if "plugins" not in document:
                document["plugins"] = tomlkit.table(is_super_table=True)
            plugins = cast("dict[str, Any]", document["plugins"])
            if plugin not in plugins:
                plugins[plugin] = new_table()
            _merge(plugins[plugin], changes, new_table)
            edited = tomlkit.dumps(document)
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
