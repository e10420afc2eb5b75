"""`consent.toml`: what the operator agreed to, plugin by plugin. Written by commands, not by hand.

Whether an agreement still holds for what is installed now is decided in `catalog.decide`.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from attrs import asdict, field, frozen

from ally_plugins.contract.documents import LINE, LINES, LONGEST_TEXT, Document, lines, table, toml_of
from ally_plugins.contract.shapes import ANY, OBJECT, WRONG, named, one_of
from ally_plugins.contract.values.errors import ConfigError, ConsentError
from ally_plugins.contract.values.frozen import FrozenDict
from ally_plugins.policy.permissions import Grant, GrantSet

from .config import Config, Placement, PluginConfig, config_table, host_config, host_table, plugin_config

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .folder import Home

__all__ = ["Agreement", "file_changes", "listing_of", "read_consent", "write_consent"]

_LONGEST_LISTING: Final = 500
"""Files; a folder with more of them has dependencies in it, whose list nobody would read."""
_SHORT: Final = 16  # hex digits of a hash, to show what has changed; whether anything has is decided by `files`

_REVIEW: Final = "ally-plugins review"
_MAX_BYTES: Final = 4 * 1024 * 1024
_HEADER: Final = "# What was agreed to, written by ally-plugins; config.toml is the file to edit.\n\n"


@frozen(kw_only=True)
class Agreement:
    """What was agreed to for one plugin: its requests, and which code that was.

    `by` is `person`, `--yes` or `code`; `at` is UTC in ISO 8601; `code` and `files` are the two digests of `Found`.
    """

    requests: tuple[str, ...]
    distribution: str
    version: str = ""
    code: str = ""
    files: str = ""
    at: str = ""
    by: str = "person"
    listing: tuple[str, ...] = ()
    """A folder's files, each as its hash, shortened, and its path: to show which of them have changed."""
    durable: tuple[str, ...] | None = None
    """The event types that it gets from the journal; None for an agreement from before these were shown."""
    placement: Placement | None = None
    """Where it was placed then or later: it stays there when `config.toml` has lost the line that says so."""
    settled: PluginConfig | None = field(default=None, repr=False)
    """What was settled for it in `config.toml` when somebody last agreed; None for an agreement from before."""

    @property
    def grants(self) -> GrantSet:
        """The requests as a set."""
        return GrantSet.of(self.requests)

    def new_durable(self, durable: Iterable[str]) -> tuple[str, ...]:
        """Return which of these event types were not agreed to as durable."""
        return () if self.durable is None else tuple(name for name in durable if name not in self.durable)


def listing_of(files: Mapping[str, str]) -> tuple[str, ...]:
    """Return the listing of a folder's files; nothing for more than `_LONGEST_LISTING`, whose digest must do."""
    if len(files) > _LONGEST_LISTING:
        return ()
    return tuple(f"{digest[:_SHORT]} {_plain(path)}" for path, digest in sorted(files.items()))


def _plain(path: str) -> str:
    """Return a path as one line of text that the file takes, cut where it is very long."""
    text = path if path.isprintable() else path.encode("unicode_escape", "surrogatepass").decode("ascii")
    return text[: LONGEST_TEXT - _SHORT - 1]


def file_changes(agreed: Iterable[str], now: Iterable[str]) -> tuple[str, ...]:
    """Return which files differ between two listings, each as `added PATH`, `removed PATH` or `changed PATH`."""
    old, new = _by_path(agreed), _by_path(now)
    changes = {
        path: "added" if path not in old else "removed" if path not in new else "changed"
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    }
    return tuple(f"{word} {path}" for path, word in changes.items())


def _by_path(listing: Iterable[str]) -> dict[str, str]:
    return {path: digest for digest, _, path in (line.partition(" ") for line in listing)}


def read_consent(home: Home) -> tuple[Mapping[str, Agreement], Config | None, tuple[str, ...]]:
    """Return the agreements, what was settled with them for no single plugin, and what is wrong with the file.

    What cannot be read was not agreed to: of the host's own settings the defaults were, None where nothing was kept.

    Raises ConsentError for what is no file, or one that another user may have written: it proves no consent.
    """
    file = home.consent_file
    try:
        content = home.read(file, _MAX_BYTES)
    except OSError as error:
        reason = error.strerror or str(error)
        text = f"{file} cannot be read: {reason}; what is missing then is to be agreed to again: {_REVIEW}"
        raise ConsentError(text, command=_REVIEW) from error
    try:
        written = toml_of(b"" if content is None else content)
        # The table is written even when it is empty: without it something was lost.
        reason = "" if content is None or "plugins" in written else "it is empty, or was cut off before [plugins]"
    except ValueError as error:
        written, reason = {}, f"it is {error}"
    if reason:
        return FrozenDict(), Config(), (f"{file} is damaged: {reason}; every plugin waits for consent: {_REVIEW}",)
    document = _Written()
    entries = _ENTRIES.read(written.get("plugins", {}), "plugins", document)
    agreements = {}
    for name, entry in () if entries is WRONG else entries.items():
        before = len(document.problems)
        given: Any = _AGREEMENT.read(entry, f"plugins.{name}", document)
        if given is not WRONG and "settled" in given:
            given["settled"] = plugin_config(given["settled"], f"plugins.{name}.settled", document)
        # One by one: an entry that is damaged costs its plugin the consent, and not the others theirs.
        if len(document.problems) == before:
            # An entry without them was agreed to with no requests, from no distribution: it agrees to nothing.
            nothing: dict[str, Any] = {"requests": (), "distribution": "", "by": ""}
            agreements[name] = Agreement(**nothing | given)
    host = host_config(written["host"], "host", document) if "host" in written else None
    damage = tuple(f"{file} is damaged at {problem}" for problem in document.problems)
    return MappingProxyType(agreements), host, damage


class _Written(Document):
    """The agreements, in which a newer version may have written more."""

    passes_unknown = True


_ENTRIES: Final = named(ANY, "a table")


def _grant_problem(text: str) -> str | None:
    try:
        Grant.parse(text)
    except ConfigError as error:
        return str(error)
    return None


_AGREEMENT: Final = table(
    "a table",
    requests=lines(_grant_problem),
    **dict.fromkeys(("distribution", "version", "code", "files", "at", "by"), LINE),
    listing=LINES,
    durable=LINES,
    placement=one_of("inline", "process", "sandbox", "shared"),
    settled=OBJECT,
)


def write_consent(home: Home, agreements: Mapping[str, Agreement], host: Config | None) -> None:
    """Replace the file. The caller holds `home.locked()`. Raises ConfigError when it cannot be written.

    `host` is what is kept of what is settled for no single plugin, None for nothing.
    """
    import tomlkit  # 40 ms, and only when something is agreed to

    plugins: dict[str, Any] = {name: asdict(agreements[name], recurse=False) for name in sorted(agreements)}
    for entry in plugins.values():
        settled = entry.pop("settled")
        if settled is not None:
            entry["settled"] = config_table(settled)
        entry["requests"] = list(entry["requests"])
        entry["listing"] = list(entry["listing"])
        entry["durable"] = None if entry["durable"] is None else list(entry["durable"])
        # TOML has no null, so None is a key that is not there.
        for key in ("durable", "placement"):
            if entry[key] is None:
                del entry[key]
    kept = {} if host is None else {"host": host_table(host)}
    content = _HEADER + tomlkit.dumps({**kept, "plugins": plugins})
    try:
        home.write(home.consent_file, content.encode(), _MAX_BYTES, private=True)
    except OSError as error:
        message = f"{home.consent_file} cannot be written: {error.strerror or error}"
        raise ConfigError(message, file=str(home.consent_file)) from error
