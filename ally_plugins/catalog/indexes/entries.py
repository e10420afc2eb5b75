"""The format of an index: what it says of each plugin. Bytes in, values out; a mistake in an entry costs that one.

{"format": 1, "plugins": [{"name": ..., "version": ..., "summary": ..., "distribution": ..., "hooks": [...],
"grants": [...], "requires_host": ..., "wheels": [{"file": ..., "sha256": ...}]}]}
"""

from __future__ import annotations

import re
from typing import Any, Final

from attrs import asdict, frozen

from ally_plugins.contract.documents import FILLED, LINE, Document, line, lines
from ally_plugins.contract.grants import is_plugin_name
from ally_plugins.contract.shapes import WRONG, several
from ally_plugins.contract.tables import keys, object_of
from ally_plugins.contract.values.codec import decode
from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.contract.wording import describe

__all__ = ["FORMAT", "Entry", "Index", "Wheel", "parse_index", "written"]

FORMAT: Final = 1
"""Raised when a reader of before would misunderstand what is written; keys that are added do not raise it."""

MAX_ENTRIES: Final = 50_000
"""Three times the plugins that the largest index of editor extensions for one language has."""

_SHOWN: Final = 5
"""Problems of one index that are shown; the rest is counted."""

_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")
_FILE: Final = re.compile(r"[A-Za-z0-9_.+!-]{1,200}\.whl\Z")
_DISTRIBUTION: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?\Z")


@frozen
class Wheel:
    """A file by which a distribution is installed, and the hash that it has to have."""

    file: str
    sha256: str


@frozen(kw_only=True)
class Entry:
    """What an index says of one plugin. All of it is its writer's word."""

    name: str
    version: str
    distribution: str
    summary: str = ""
    hooks: tuple[str, ...] = ()
    grants: tuple[str, ...] = ()
    """What it asks for, as commands write it."""
    requires_host: str = ""
    wheels: tuple[Wheel, ...] = ()

    def matches(self, word: str) -> int | None:
        """Return how well a word fits, 0 for the best; None where it does not. Case does not count."""
        wanted = word.casefold()
        texts = (self.name, self.distribution, self.summary, " ".join((*self.hooks, *self.grants)))
        if wanted == self.name.casefold():
            return 0
        return next((at for at, text in enumerate(texts, 1) if wanted in text.casefold()), None)


@frozen
class Index:
    """One index as it was read; `problems` are lines about entries that are left out."""

    entries: tuple[Entry, ...]
    problems: tuple[str, ...] = ()


def parse_index(content: bytes) -> Index:
    """Read an index. Raises ConfigError for what is none; an entry that is wrong is left out, with a problem."""
    try:
        value = decode(content)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"it is not JSON: {error}") from None
    if not isinstance(value, dict) or not isinstance(value.get("plugins"), list):
        raise ConfigError(f"it is no index: found {describe(value)}, expected an object with format and plugins")
    if type(value.get("format")) is not int or value["format"] != FORMAT:
        found = describe(value.get("format"))
        raise ConfigError(f"it has the format {found}, and this version reads {FORMAT}; upgrade ally-plugins")
    if len(value["plugins"]) > MAX_ENTRIES:
        raise ConfigError(f"it has {len(value['plugins'])} entries, expected at most {MAX_ENTRIES}")
    entries: list[Entry] = []
    problems: list[str] = []
    for number, each in enumerate(value["plugins"]):
        document = _Entries()
        given: Any = _ENTRY.read(each, f"plugins[{number}]", document)
        if document.problems or given is WRONG:
            problems.append(document.problems[0])
        else:
            wheels = tuple(Wheel(**wheel) for wheel in given.pop("wheels", ()))
            entries.append(Entry(wheels=wheels, **given))
    more = len(problems) - _SHOWN
    shown = [*problems[:_SHOWN], *([f"{more} more entries are wrong"] if more > 0 else [])]
    return Index(tuple(entries), tuple(shown))


def written(entry: Entry) -> dict[str, Any]:
    """Return an entry as the format has it."""
    return {key: value for key, value in asdict(entry).items() if value not in ("", ())}


class _Entries(Document):
    """An entry, in which a newer version may have written more."""

    passes_unknown = True


def _matching(pattern: re.Pattern[str], expected: str) -> Any:
    return line(lambda text: None if pattern.match(text) else f"found {describe(text)}, expected {expected}")


def _name_problem(text: str) -> str | None:
    return None if is_plugin_name(text) else f"found {describe(text)}, expected the name of a plugin"


_WHEEL: Final = object_of(
    keys(
        ("file", "sha256"),
        file=_matching(_FILE, "the name of a wheel"),
        sha256=_matching(_SHA256, "64 hexadecimal digits"),
    ),
    "an object with file and sha256",
)
_ENTRY: Final = object_of(
    keys(
        ("name", "version", "distribution"),
        name=line(_name_problem),
        version=FILLED,
        # It is shown within a command to copy.
        distribution=_matching(_DISTRIBUTION, "the name of a distribution"),
        summary=LINE,
        hooks=lines(),
        grants=lines(),
        requires_host=LINE,
        wheels=several(_WHEEL),
    ),
    "an object with name, version and distribution",
)
