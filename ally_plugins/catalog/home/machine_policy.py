"""The policy of a machine's administrator, read from outside of every home: it tightens what users settle.

The file is root's alone, or it is refused, and with it every host: whoever could write it could take its guards away.
What follows from it for one plugin is decided in `decide.policy_rules`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from attrs import evolve, frozen

from ally_plugins.contract.documents import LINES, Document, lines, named_tables, toml_of
from ally_plugins.contract.grants import ANY, is_plugin_name
from ally_plugins.contract.shapes import FLAG
from ally_plugins.contract.tables import keys
from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.contract.values.frozen import FrozenDict
from ally_plugins.policy.owned_files import fault_of
from ally_plugins.policy.permissions import GrantSet

__all__ = ["FILE", "POLICY_FILE", "MachinePolicy", "parse_policy", "read_policy"]

POLICY_FILE: Final = Path("/etc/ally-plugins/policy.toml")
"""No variable names another one: whoever starts a host would choose its policy."""

_ROOT: Final = (0, 0)
_MAX_BYTES: Final = 1024 * 1024
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)

_SEPARATORS: Final = re.compile(r"[-_.]+")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z")


@frozen(kw_only=True)
class MachinePolicy:
    """What the administrator settled. Without a file nothing is, and users decide alone."""

    file: str = ""
    """Empty where there is none."""
    digest: str = ""
    """The SHA-256 of the file, as `sha256sum` prints it; empty where there is none."""
    mandatory: tuple[str, ...] = ()
    """Plugins that run in every host with all gates and transforms that they ask for; without them none starts."""
    distributions: tuple[str, ...] | None = None
    """The distributions whose plugins may run, with `*` for any characters; None for all."""
    digests: Mapping[str, tuple[str, ...]] = FrozenDict()
    """By plugin, the digests of its files of which one has to be right."""
    ceilings: Mapping[str, GrantSet] = FrozenDict()
    """By plugin, or `*` for all others, the most that it may be granted."""
    allow: bool = True
    """Whether a person may let one denied call through."""
    pause: bool = True
    """Whether a person may have an agent go unguarded for a time."""

    def allows_distribution(self, name: str) -> bool:
        """Say whether plugins of a distribution may run."""
        if self.distributions is None:
            return True
        return any(fnmatchcase(_normal(name), _normal(pattern)) for pattern in self.distributions)

    def ceiling_of(self, plugin: str) -> GrantSet | None:
        """Return the most that a plugin may be granted, None for anything."""
        return self.ceilings.get(plugin, self.ceilings.get(ANY))


_NONE: Final = MachinePolicy()


def read_policy(file: Path | None = None) -> MachinePolicy:
    """Read the policy of this machine; one that settles nothing where there is no file.

    Raises ConfigError for a file that others than root can write, that cannot be read, or is wrong.
    """
    file = POLICY_FILE if file is None else file
    try:
        content = _read(file)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"the policy {str(file)!r} cannot be used: {reason}", file=str(file)) from error
    return _NONE if content is None else parse_policy(content, str(file))


def _read(file: Path) -> bytes | None:
    if os.name != "posix":
        return None
    try:
        # The folder first: who can write there puts another file in this one's place.
        folder = os.open(file.parent, _FLAGS | getattr(os, "O_DIRECTORY", 0))
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        _refuse(fault_of(str(file.parent), os.fstat(folder), _ROOT, is_folder=True))
        descriptor = os.open(file.name, _FLAGS | getattr(os, "O_NOFOLLOW", 0), dir_fd=folder)
    except FileNotFoundError:
        return None
    finally:
        os.close(folder)
    with os.fdopen(descriptor, "rb") as opened:
        _refuse(fault_of(str(file), os.fstat(descriptor), _ROOT))
        content = opened.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise OSError(None, f"it has more than {_MAX_BYTES} bytes")
    return content


def _refuse(fault: str) -> None:
    if fault:
        raise OSError(None, fault)


def parse_policy(content: bytes, file: str) -> MachinePolicy:
    """Read the text of a policy. Raises ConfigError with every mistake in it: a key that is not known is one."""
    try:
        written = toml_of(content)
    except ValueError as error:
        raise ConfigError(f"the policy {file!r} is {error}", file=file) from None
    document = Document()
    given: dict[str, Any] = FILE.read(written, "", document)
    if document.problems:
        raise ConfigError(f"the policy {file!r} is wrong: {'; '.join(document.problems)}", file=file)
    tables: dict[str, Any] = {name: MappingProxyType(given.pop(name, {})) for name in ("digests", "ceilings")}
    return MachinePolicy(file=file, digest=sha256(content).hexdigest(), **{**given, **tables})


def _normal(name: str) -> str:
    return _SEPARATORS.sub("-", name).lower()


def _name_problem(text: str) -> str | None:
    return None if is_plugin_name(text) else f"found {text!r}, expected the name of a plugin"


def _digest_problem(text: str) -> str | None:
    return None if _DIGEST.match(text) else f"found {text!r}, expected 64 digits, as `connect --managed` prints them"


def _read_ceiling(value: Any, path: str, mistakes: Any) -> Any:
    found = LINES.read(value, path, mistakes)
    try:
        return GrantSet.of(found)
    except ConfigError as error:
        return mistakes.refuse(path, str(error))


FILE: Final = keys(
    mandatory=lines(_name_problem),
    distributions=LINES,
    digests=named_tables(lines(_digest_problem, at_least_one=True), is_plugin_name, "the name of a plugin"),
    ceilings=named_tables(
        evolve(LINES, convert=_read_ceiling),
        lambda name: name == ANY or is_plugin_name(name),
        "the name of a plugin, or '*'",
    ),
    allow=FLAG,
    pause=FLAG,
)
