"""Where a path leads, and whether a pattern of a rule means it. Reads links, and nothing else of a disk."""

from __future__ import annotations

import ipaddress
import os
import re
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from .words import MANY, UNSEEN, is_known, overlaps

__all__ = ["Places", "fold_host", "host_matches", "is_name", "located", "path_matches"]

MAX_LENGTH: Final = 4096
"""Characters of a path; the system takes none that is longer."""

_HOMES: Final = ("/home/*", "/Users/*", "/root")
"""What is a home on all machines: in a sandbox there is another one, and `~root` is one as well."""

_ALL: Final = re.compile(rf"[{MANY}.]*{MANY}[{MANY}.]*|\.\x02{MANY}")
"""A last part that means all that is in a folder."""


@dataclass(frozen=True)
class Places:
    """The person's home, the session's project, where relative patterns begin, and what else is a home."""

    home: str
    project: str | None
    others: tuple[str, ...] = ()

    @classmethod
    def here(cls, project: str | None) -> Places:
        """Return those of this process; in a sandbox `~` is a folder of its own, and the person's is found by name."""
        others: tuple[str, ...] = ()
        with suppress(ImportError, KeyError, OSError):
            import pwd

            others = (pwd.getpwuid(os.getuid()).pw_dir,)
        return cls(os.path.expanduser("~"), project, others)  # noqa: PTH111 - Path.home() raises where there is none


def is_name(pattern: str) -> bool:
    """Say whether a pattern is one of a name, which counts wherever in a path it stands."""
    return "/" not in pattern and pattern != "~"


def located(word: str, folders: Iterable[str]) -> list[str]:
    """Return the absolute paths that a word may mean, as they are written and with links followed."""
    found: dict[str, None] = {}
    for folder in folders:
        path = _normal(word if word.startswith(("/", UNSEEN)) else f"{folder}/{word}")
        for each in (path, _followed(path)):
            found[each] = None
            head, _, last = each.rpartition("/")
            if last and _ALL.fullmatch(last):
                found[head or "/"] = None
    return list(found)


def _normal(path: str) -> str:
    """Return a path without `.`, `..` and empty parts; what comes after an unseen one stays behind it."""
    if len(path) > MAX_LENGTH:
        return UNSEEN
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts:
            if UNSEEN not in parts[-1]:
                parts.pop()
        elif part not in {"", ".", ".."}:
            parts.append(part)
    return "/".join(parts) if path.startswith(UNSEEN) else "/" + "/".join(parts)


def _followed(path: str) -> str:
    if not is_known(path):
        head, sign, tail = path.rpartition("/")
        # The folder may be a link, whatever of it is meant.
        return f"{os.path.realpath(head)}/{tail}" if sign and head and is_known(head) else path
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):
        return path


@lru_cache(maxsize=4096)
def _folded(text: str) -> str:
    # Some file systems fold both; where they do not, a rule says too much rather than too little.
    return unicodedata.normalize("NFC", text).casefold()


@lru_cache(maxsize=4096)
def _compiled(pattern: str, places: Places) -> tuple[tuple[str, ...], ...]:
    """Return the parts of the paths that a pattern of a whole path means."""
    if pattern == "~" or pattern.startswith("~/"):
        homes = [places.home, *places.others]
        heads = [*homes, *map(os.path.realpath, homes), *_HOMES]
        texts = [f"{head}{pattern[1:]}" for head in heads]
    elif pattern.startswith("/"):
        texts = [pattern]
    else:
        texts = [f"{places.project}/{pattern}"] if places.project is not None else []
    return tuple(dict.fromkeys(tuple(_folded(each).strip("/").split("/")) if each.strip("/") else () for each in texts))


@lru_cache(maxsize=1024)
def _parts(path: str) -> tuple[str, ...]:
    return tuple(_folded(path).strip("/").split("/")) if path.strip("/") else ()


@lru_cache(maxsize=8192)
def path_matches(path: str, pattern: str, places: Places) -> bool:
    """Say whether a path may be one that a pattern means: of a name anywhere in it, or of the whole path."""
    parts = _parts(path)
    if is_name(pattern):
        wanted = _folded(pattern)
        # `*` alone names nothing.
        return any(_part_matches(part, wanted) for part in parts if part.strip(f"{MANY}{UNSEEN}"))
    if path.startswith(UNSEEN):
        return False
    return any(_parts_match(parts, each) for each in _compiled(pattern, places))


def _parts_match(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if "**" not in pattern:
        return len(parts) == len(pattern) and all(map(_part_matches, parts, pattern))
    reachable = {0}
    for part in (*parts, None):
        # `**` stands for any number of parts, none among them.
        for at in sorted(reachable):
            place = at
            while place < len(pattern) and pattern[place] == "**":
                place += 1
                reachable.add(place)
        if part is None:
            return len(pattern) in reachable
        reachable = {
            at if pattern[at] == "**" else at + 1
            for at in reachable
            if at < len(pattern) and (pattern[at] == "**" or _part_matches(part, pattern[at]))
        }
        if not reachable:
            return False
    return False


def _part_matches(part: str, pattern: str) -> bool:
    # A shell's `*` means no file that begins with a dot.
    if part.startswith(MANY) and pattern.startswith("."):
        return False
    return overlaps(part, pattern)


def fold_host(host: str) -> str:
    """Return a host's name in the one form that names are compared in; an address, however written, as usual."""
    text = host.strip("[]").rstrip(".").casefold()
    try:
        number = int(text, 0) if re.fullmatch(r"0x[0-9a-f]+|[0-9]+", text) else None
        return str(ipaddress.ip_address(text if number is None else number))
    except ValueError:
        pass
    try:
        return text.encode("idna").decode()
    except UnicodeError:
        return text


def host_matches(host: str, pattern: str) -> bool:
    """Say whether a host is one that a pattern means; `*.example.com` means `example.com` too."""
    name, wanted = fold_host(host), pattern.casefold()
    return overlaps(name, wanted) or (wanted.startswith("*.") and name == wanted[2:])
