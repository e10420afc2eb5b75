"""An index of a folder of wheels: what each says of its plugins, read without installing or running anything."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from configparser import Error as ParsingError
from pathlib import Path
from typing import Final

from attrs import evolve

from ally_plugins.catalog.discovery.packages import GROUP
from ally_plugins.contract.hookspecs import HOOKS
from ally_plugins.contract.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest
from ally_plugins.contract.values.errors import AllyError, ConfigError, ManifestError

from .entries import Entry, Wheel

__all__ = ["entries_of"]

_MAX_METADATA: Final = 4 * 1024 * 1024
"""METADATA holds a README too."""


def entries_of(folder: Path) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    """Return the plugins of all wheels in a folder, by name and version, and what is wrong with others of these wheels.

    Raises ConfigError for a folder that cannot be read. Blocks on files.
    """
    found: dict[tuple[str, str, str], Entry] = {}
    problems: list[str] = []
    try:
        wheels = sorted(path for path in folder.iterdir() if path.suffix == ".whl")
    except OSError as error:
        raise ConfigError(f"the folder {str(folder)!r} cannot be read: {error.strerror or error}") from error
    for path in wheels:
        try:
            for entry in _entries(path):
                key = (entry.name, entry.distribution, entry.version)
                # One distribution has a wheel for each platform, and says the same in all.
                before = found[key].wheels if key in found else ()
                found[key] = evolve(entry, wheels=(*before, *entry.wheels))
        except (AllyError, OSError, ValueError, KeyError, ParsingError, zipfile.BadZipFile) as error:
            problems.append(f"{path.name}: {error}")
    return tuple(found[key] for key in sorted(found)), tuple(problems)


def _entries(path: Path) -> Iterator[Entry]:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        info = next((name.partition("/")[0] for name in names if name.endswith(".dist-info/METADATA")), None)
        if info is None:
            raise ConfigError("it has no METADATA, and is no wheel")
        headers = _headers(_text(archive, f"{info}/METADATA"))
        entry_points = ConfigParser(delimiters=("=",), interpolation=None)
        entry_points.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
        if f"{info}/entry_points.txt" in names:
            entry_points.read_string(_text(archive, f"{info}/entry_points.txt"))
        plugins = entry_points[GROUP] if entry_points.has_section(GROUP) else {}
        for name, target in plugins.items():
            manifest = _manifest(archive, names, name, target.partition(":")[0].strip())
            yield Entry(
                name=name,
                version=headers["version"],
                distribution=headers["name"],
                summary=manifest.description or headers.get("summary", ""),
                hooks=_hooks(manifest),
                grants=tuple(sorted(grant.text for grant in manifest.grants)),
                requires_host=str(manifest.requires_host or ""),
                wheels=(Wheel(path.name, digest),),
            )


def _text(archive: zipfile.ZipFile, name: str, limit: int = _MAX_METADATA) -> str:
    # By what the archive says, and then by what is there: it may say anything.
    if archive.getinfo(name).file_size > limit:
        raise ConfigError(f"{name} has more than {limit} bytes")
    with archive.open(name) as file:
        content = file.read(limit + 1)
    return content[:limit].decode("utf-8", "replace")


def _headers(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in text.splitlines():
        key, colon, value = each.partition(":")
        if not colon:
            break
        found.setdefault(key.lower(), value.strip())
    return found


def _manifest(archive: zipfile.ZipFile, names: set[str], plugin: str, module: str) -> Manifest:
    parts = module.split(".")
    around = ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
    places = [*(f"{each}/{MANIFEST_NAME}" for each in around), *(f"{each}.{MANIFEST_NAME}" for each in around)]
    place = next((each for each in places if each in names), None)
    if place is None:
        raise ManifestError(f"the plugin {plugin!r} has no manifest in it, expected one of {', '.join(places)}")
    content = _text(archive, place, MAX_MANIFEST_BYTES).encode()
    return Manifest.from_mapping(Manifest.table_of(content, plugin), plugin)


def _hooks(manifest: Manifest) -> tuple[str, ...]:
    """Return the hooks that a manifest asks for, by the names of their functions; of its own events, none has one."""
    asked = {f"ally_{grant.kind}_{grant.topic}" for grant in manifest.grants if grant.kind in ("gate", "transform")}
    asked |= {f"ally_{name.lower()}" for name in manifest.subscribe}
    return tuple(sorted(asked & HOOKS.keys()))
