"""The lock: what is installed, agreed, granted and configured here, in one file that another machine is made like.

It is a `pylock.toml` (PEP 751) with the distributions and their hashes, and a table of ours, `tool.ally-plugins`, with
the plugins. Secrets stand in neither. What differs is found in `decide.lock`; installing is the installer's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from attrs import asdict

from ally_plugins.contract.documents import LINE, LINES, Document, table, toml_of
from ally_plugins.contract.shapes import ANY, OBJECT, WRONG, named
from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.contract.values.frozen import FrozenDict

from .decide.lock import OF_THE_MACHINE, LockedPlugin, config_changes, locked_plugin
from .home.config import check_config
from .plugin_facts import read_settled
from .registry import OperatorChange
from .settling import settle

if TYPE_CHECKING:
    from packaging.pylock import Package, Pylock

    from .registry import Registry

__all__ = ["LOCK_NAME", "configure", "locked_plugins", "read_lock", "requirement_lines", "write_lock"]

LOCK_NAME: Final = "pylock.ally-plugins.toml"

MAX_LOCK_BYTES: Final = 4 * 1024 * 1024
"""As many as consent.toml may have, which says much the same."""

_VERSION: Final = "1"
_TOOL: Final = "ally-plugins"
_PLUGIN: Final = table(
    "a table",
    **dict.fromkeys(("origin", "distribution", "version", "code"), LINE),
    requests=LINES,
    agreed=LINES,
    config=OBJECT,
)


def locked_plugins(registry: Registry) -> dict[str, LockedPlugin]:
    """Return every plugin that is installed or named here, by name; reads all of their files.

    Raises as `Registry.load`, and ConfigError for files that cannot be read.
    """
    tables = toml_of(read_settled(registry.home).config.text).get("plugins", {})
    found: dict[str, LockedPlugin] = {}
    for record in registry.load():
        if not record.is_set_aside:
            try:
                code = record.found.content_digest() if record.found is not None else ""
            except OSError as error:
                raise ConfigError(f"the files of {record.name!r} cannot be read: {error.strerror or error}") from error
            found[record.name] = locked_plugin(record, tables.get(record.name, {}), code)
    return found


def configure(registry: Registry, there: LockedPlugin) -> OperatorChange | None:
    """Write what `[plugins.NAME]` is in a lock, but for `enabled` and `grants`, to which people agree.

    Secret settings and places of this machine stay. Returns None where nothing is changed. Raises ConfigError when that
    cannot be written.
    """
    here = locked_plugins(registry).get(there.name)
    changes = config_changes(there.config, here.config if here is not None else {}, kept=("enabled", "grants"))
    if not changes:
        return None
    with registry.home.locked():
        settle(registry.home, read_settled(registry.home), there.name, lambda _: changes)
    return OperatorChange(kind="configure", plugin=there.name, data=FrozenDict({"keys": sorted(changes)}))


def write_lock(plugins: Mapping[str, LockedPlugin], packages: Sequence[Package]) -> str:
    """Return the text of a lock."""
    import tomlkit
    from packaging.pylock import Pylock
    from packaging.version import Version

    entries = {name: _written(plugins[name]) for name in sorted(plugins)}
    tool = {_TOOL: {"version": _VERSION, "plugins": entries}}
    lock = Pylock(lock_version=Version("1.0"), created_by=_TOOL, packages=packages, tool=tool)
    return tomlkit.dumps(lock.to_dict())


def _written(plugin: LockedPlugin) -> dict[str, Any]:
    about = {key: value for key, value in asdict(plugin, recurse=False).items() if key != "name" and value is not None}
    return {**about, **{key: list(about[key]) for key in ("requests", "agreed") if key in about},
            "config": dict(plugin.config)}  # fmt: skip


def read_lock(text: str, file: str) -> tuple[dict[str, LockedPlugin], Pylock]:
    """Return the plugins and the packages of a lock. Raises ConfigError with what is wrong with it."""
    from packaging.pylock import Pylock, PylockValidationError

    try:
        written = toml_of(text)
        lock = Pylock.from_dict(written)
    except (ValueError, PylockValidationError) as error:
        raise ConfigError(f"{file} is no lock: {error}", file=file) from None
    ours = written.get("tool", {}).get(_TOOL, {})
    if not isinstance(ours, dict) or ours.get("version") != _VERSION:
        found = ours.get("version") if isinstance(ours, dict) else ours
        expected = f"expected {_VERSION!r}; write it anew with this version: ally-plugins lock"
        raise ConfigError(f"{file} has the version {found!r} of tool.{_TOOL}, {expected}", file=file)
    document = Document()
    entries = named(ANY, "a table").read(ours.get("plugins", {}), f"tool.{_TOOL}.plugins", document)
    plugins: dict[str, LockedPlugin] = {}
    for name, entry in () if entries is WRONG else entries.items():
        given = _PLUGIN.read(entry, f"tool.{_TOOL}.plugins.{name}", document)
        if given is not WRONG:
            given["config"] = {key: each for key, each in given.get("config", {}).items() if key not in OF_THE_MACHINE}
            plugins[name] = LockedPlugin(name=name, **given)
    if document.problems:
        raise ConfigError(f"{file} is wrong: {'; '.join(document.problems)}", file=file)
    # As if it stood in config.toml already: what that file would not take is refused before anything is changed.
    check_config({"plugins": {name: _whole(each) for name, each in plugins.items()}}, file)
    return plugins, lock


def _whole(plugin: LockedPlugin) -> dict[str, Any]:
    # The source of another distribution is for the file that names it to judge.
    return {key: value for key, value in plugin.config.items() if key != "source"}


def requirement_lines(lock: Pylock) -> list[str]:
    """Return the packages as lines of a requirements file in which each has its hashes.

    Raises ConfigError for what has none, which `--require-hashes` does not take: a folder, or a repository.
    """
    lines: list[str] = []
    for package in lock.packages:
        archive, wheels = package.archive, package.wheels or ()
        hashes = archive.hashes if archive is not None else {}
        named = (
            f"{package.name} @ {archive.url or archive.path}"
            if archive is not None
            else f"{package.name}=={package.version}"
        )
        options = [f"--hash={kind}:{digest}" for kind, digest in hashes.items()]
        options += [f"--hash={kind}:{digest}" for wheel in wheels for kind, digest in wheel.hashes.items()]
        if not options:
            text = "was installed from a folder or a repository, which has no hash: install it here yourself"
            raise ConfigError(f"{package.name} {text}")
        lines.append(" ".join([named, *options]))
    return lines
