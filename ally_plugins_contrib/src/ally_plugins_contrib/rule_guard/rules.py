"""Rules files: TOML, read strictly. A mistake is an error that names the file, the place and the nearest right word."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Final

__all__ = ["EFFECTS", "Rule", "RulesError", "RulesFile", "built_in", "parse_rules", "read_rules"]

MAX_BYTES: Final = 256 * 1024
"""Of a rules file; each of its rules is asked for each part of a call."""

MAX_RULES: Final = 1000

EFFECTS: Final = ("allow", "ask", "deny")
"""From the mildest on."""

_CODES: Final = ("unparsed", "unseen", "downloaded")
_ACCESSES: Final = ("read", "write")
_TOP: Final = ("otherwise", "builtin", "rule", "trust")
_RULE: Final = ("name", "effect", "tool", "command", "path", "except", "host", "access", "code", "reason")


class RulesError(ValueError):
    """A rules file cannot be read, or says what no rules file can say."""


@dataclass(frozen=True)
class Rule:
    """One rule. Each condition that it has must hold; within one condition any of its patterns is enough."""

    name: str
    effect: str
    tools: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    exceptions: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    access: str | None = None
    codes: tuple[str, ...] = ()
    reason: str = ""
    source: str = "built in"


@dataclass(frozen=True)
class RulesFile:
    """What one file says. `trusted` are the digests of files, by the project that they lie in."""

    rules: tuple[Rule, ...] = ()
    otherwise: str = "allow"
    builtin: Mapping[str, str] = field(default_factory=dict)
    trusted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    digest: str = ""


def read_rules(path: Path) -> tuple[RulesFile, str] | None:
    """Return what a file says, and its digest; None where there is none. Raises RulesError. Waits for the disk."""
    import hashlib

    try:
        # A pipe in its place is not waited for.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise RulesError(f"{path}: is a link to nothing; expected a rules file") from None
        return None
    except OSError as error:
        raise RulesError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise RulesError(f"{path}: is no file; expected a rules file")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RulesError(f"{path}: cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    return parse_rules(raw, str(path)), hashlib.sha256(raw).hexdigest()


def parse_rules(raw: bytes, source: str) -> RulesFile:
    """Return what the bytes of a file say. Raises RulesError."""
    if len(raw) > MAX_BYTES:
        raise RulesError(f"{source}: has more than {MAX_BYTES:,} bytes")
    try:
        data = tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise RulesError(f"{source}: is no TOML: {error}") from None
    return _Reading(source).file(data)


@cache
def built_in() -> tuple[Rule, ...]:
    """Return the rules that are always there, unless the person's own file says otherwise."""
    from importlib.resources import files

    return parse_rules(files(__package__).joinpath("built_in.toml").read_bytes(), "built in").rules


@dataclass(frozen=True)
class _Reading:
    source: str

    def wrong(self, at: str, expected: str) -> RulesError:
        return RulesError(f"{self.source}: {at} {expected}")

    def file(self, data: dict[str, Any]) -> RulesFile:
        self.check_keys("", data, _TOP)
        given = data.get("rule", [])
        if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
            raise self.wrong("'rule'", "is no list of tables; expected [[rule]]")
        if len(given) > MAX_RULES:
            raise self.wrong("'rule'", f"has {len(given):,} entries; expected {MAX_RULES:,} at most")
        rules = tuple(self.rule(f"rule[{number}]", each) for number, each in enumerate(given, 1))
        names = [rule.name for rule in rules]
        for name in names:
            if names.count(name) > 1:
                raise self.wrong(f"the name {name!r}", "is there twice; expected a name of its own for each rule")
        otherwise = self.choice("otherwise", data.get("otherwise", "allow"), EFFECTS)
        return RulesFile(rules, otherwise, self.builtin(data.get("builtin", {})), self.trust(data.get("trust", [])))

    def check_keys(self, at: str, data: Mapping[str, Any], known: tuple[str, ...]) -> None:
        for key in data:
            if key not in known:
                near = get_close_matches(key, known, 1)
                hint = f"; did you mean {near[0]!r}" if near else ""
                where = f"{at}.{key}" if at else key
                raise self.wrong(repr(where), f"is no key of a rules file{hint}; expected one of: {', '.join(known)}")

    def choice(self, at: str, value: Any, known: tuple[str, ...]) -> str:
        if not isinstance(value, str) or value not in known:
            near = get_close_matches(str(value), known, 1)
            hint = f"; did you mean {near[0]!r}" if near else ""
            raise self.wrong(repr(at), f"is {value!r:.80}{hint}; expected one of: {', '.join(known)}")
        return value

    def texts(self, at: str, value: Any) -> tuple[str, ...]:
        values = value if isinstance(value, list) else [value]
        if not values or not all(isinstance(each, str) and each.strip() for each in values):
            raise self.wrong(repr(at), "is no text; expected a text that is not empty, or a list of such")
        return tuple(each.strip() for each in values)

    def rule(self, at: str, data: dict[str, Any]) -> Rule:
        self.check_keys(at, data, _RULE)
        for key in ("name", "effect"):
            if key not in data:
                raise self.wrong(repr(f"{at}.{key}"), "is missing; expected a text")
        name = data["name"]
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 80:  # noqa: PLR2004 - one line
            raise self.wrong(repr(f"{at}.name"), "is no name; expected a text of 1 to 80 printable characters")

        def texts(key: str) -> tuple[str, ...]:
            return self.texts(f"{at}.{key}", data[key]) if key in data else ()

        codes = tuple(self.choice(f"{at}.code", each, _CODES) for each in texts("code"))
        conditions = [texts("tool"), texts("command"), texts("path"), texts("host"), codes]
        if not any(conditions):
            raise self.wrong(repr(at), "has no condition; expected one of: tool, command, path, host, code")
        for key, needed in (("except", "path"), ("access", "path")):
            if key in data and needed not in data:
                raise self.wrong(repr(f"{at}.{key}"), f"is there without {needed!r}, which it is about")
        access = self.choice(f"{at}.access", data["access"], _ACCESSES) if "access" in data else None
        reason = data.get("reason", "")
        if not isinstance(reason, str) or len(reason) > 500:  # noqa: PLR2004 - the model reads it with each denied call
            raise self.wrong(repr(f"{at}.reason"), "is no text of at most 500 characters")
        effect = self.choice(f"{at}.effect", data["effect"], EFFECTS)
        return Rule(
            name, effect, conditions[0], conditions[1], conditions[2], texts("except"), conditions[3], access, codes,
            " ".join(reason.split()), self.source,
        )  # fmt: skip

    def builtin(self, data: Any) -> Mapping[str, str]:
        if not isinstance(data, dict):
            raise self.wrong("'builtin'", "is no table; expected [builtin]")
        if self.source == "built in":
            return {}
        self.check_keys("builtin", data, tuple(rule.name for rule in built_in()))
        for name, value in data.items():
            # What cannot be read is let through by nobody.
            known = ("ask", "deny") if name == "unparsed" else ("off", "ask", "deny")
            self.choice(f"builtin.{name}", value, known)
        return data

    def trust(self, data: Any) -> Mapping[str, tuple[str, ...]]:
        if not isinstance(data, list) or not all(isinstance(each, dict) for each in data):
            raise self.wrong("'trust'", "is no list of tables; expected [[trust]]")
        found: dict[str, tuple[str, ...]] = {}
        for number, each in enumerate(data, 1):
            at = f"trust[{number}]"
            self.check_keys(at, each, ("project", "sha256"))
            for key in ("project", "sha256"):
                if not isinstance(each.get(key), str) or not each[key]:
                    raise self.wrong(repr(f"{at}.{key}"), "is missing or no text; `trust` prints both")
            project = os.path.realpath(os.path.expanduser(each["project"]))  # noqa: PTH111 - `~` of nobody is no crash
            found[project] = (*found.get(project, ()), each["sha256"])
        return found
