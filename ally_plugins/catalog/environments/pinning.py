"""Which distributions plugins consist of, each with its hashes, as PEP 751 writes them."""

from __future__ import annotations

import csv
import hashlib
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname
from zipfile import BadZipFile, ZipFile

import importlib_metadata
import orjson
from packaging.pylock import Package, PackageArchive, PackageDirectory, PackageSdist, PackageVcs, PackageWheel
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from ally_plugins.contract.values.errors import ConfigError, OperatorError

from .installer import pip_command

__all__ = ["pinned_packages"]

_OURS: Final = "ally-plugins"  # what runs a lock is there already, in a version of its own
_LONGEST_REASON: Final = 500
REPORT_TIMEOUT: Final = 300.0
"""Seconds for pip to find some dozens of distributions in an index."""


def pinned_packages(distributions: Iterable[str], options: Sequence[str] = ()) -> list[Package]:
    """Return these installed distributions, and those that they require, with the hashes of what they came from.

    For what came from an index pip is asked, with these `options` of it: an installation does not remember the hash.
    Blocks on files and on the index. Raises ConfigError for one that is damaged, and OperatorError when pip fails.
    """
    packages: dict[str, Package] = {}
    unknown: dict[str, Version] = {}
    for name, found in sorted(_with_required(distributions).items()):
        origin = orjson.loads(found.read_text("direct_url.json") or b"{}")
        package = _from_origin(name, found, origin) if isinstance(origin, dict) else None
        if package is None:
            unknown[name] = Version(found.version)
        else:
            packages[name] = package
    if unknown:
        packages |= {package.name: package for package in _asked(unknown, options)}
    return [packages[name] for name in sorted(packages)]


def _with_required(distributions: Iterable[str]) -> dict[str, Any]:
    waiting = [canonicalize_name(name) for name in distributions if name]
    found: dict[str, Any] = {}
    while waiting:
        name = waiting.pop()
        if name in found or name == _OURS:
            continue
        try:
            found[name] = distribution = importlib_metadata.distribution(name)
        except importlib_metadata.PackageNotFoundError:  # required, and left out by whoever installed it
            continue
        waiting += _required(distribution)
    return found


def _required(distribution: Any) -> Iterator[NormalizedName]:
    for text in distribution.requires or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise ConfigError(f"{distribution.name!r} is damaged: it requires {text!r}; install it again") from error
        # Extras that were asked for are not remembered either; a requirement of one that is here counts as wanted by
        # whoever has installed it, not by the plugin.
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield canonicalize_name(requirement.name)


def _from_origin(name: Any, found: Any, origin: Mapping[str, Any]) -> Package | None:
    """Return a package by what its installer has written down of where it came from; None where that has no hash."""
    version, url = Version(found.version), str(origin.get("url", ""))
    if isinstance(directory := origin.get("dir_info"), dict):
        path = url2pathname(urlsplit(url).path)
        return Package(name=name, directory=PackageDirectory(path=path, editable=bool(directory.get("editable"))))
    if isinstance(how := origin.get("vcs_info"), dict):
        vcs = PackageVcs(type=str(how.get("vcs")), url=url, commit_id=str(how.get("commit_id")))
        return Package(name=name, version=version, vcs=vcs)
    if hashes := _hashes(origin) or _hashes_of_wheel(url, found):
        return Package(name=name, version=version, archive=PackageArchive(url=url, hashes=hashes))
    return None


def _hashes(origin: Mapping[str, Any]) -> dict[str, str]:
    about = origin.get("archive_info")
    if not isinstance(about, dict):
        return {}
    if isinstance(hashes := about.get("hashes"), dict) and hashes:
        return {str(kind): str(digest) for kind, digest in hashes.items()}
    kind, _, digest = str(about.get("hash", "")).partition("=")  # as older versions of pip write it
    return {kind: digest} if digest else {}


def _hashes_of_wheel(url: str, found: Any) -> dict[str, str]:
    """Return the hash of a wheel of this machine that holds what is installed: pip before 23.1 and uv note none."""
    where = urlsplit(url)
    if where.scheme != "file" or not where.path.endswith(".whl"):
        return {}
    try:
        with Path(url2pathname(where.path)).open("rb") as file, ZipFile(file) as wheel:
            (record,) = (name for name in wheel.namelist() if name.endswith(".dist-info/RECORD"))
            if not _recorded(wheel.read(record).decode()) <= _recorded(found.read_text("RECORD") or ""):
                return {}  # another one has come into its place
            file.seek(0)
            return {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    except (OSError, BadZipFile, ValueError, csv.Error):
        return {}


def _recorded(record: str) -> set[tuple[str, str]]:
    """Return the files of a RECORD with their hashes; it has none of its own."""
    return {(path, digest) for path, digest, _ in csv.reader(record.splitlines()) if digest}


def _asked(unknown: Mapping[str, Version], options: Sequence[str]) -> Iterator[Package]:
    """Ask pip what it would install for these versions."""
    pins = [f"{name}=={version}" for name, version in unknown.items()]
    arguments = ("install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps", "--report", "-", *options, *pins)
    command = (*pip_command("only pip says what hash a distribution of an index has"), *arguments)
    try:
        done = subprocess.run(  # noqa: S603 - the operator's own options, and no shell
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=REPORT_TIMEOUT, check=True
        )
        report = orjson.loads(done.stdout)
        entries = [(each["metadata"], each["download_info"]) for each in report["install"]]
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip()[-_LONGEST_REASON:]
        raise OperatorError(f"pip does not say the hashes of {', '.join(pins)}: {said}") from error
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        raise OperatorError(f"pip does not say the hashes of {', '.join(pins)}: {error}") from error
    for metadata, origin in entries:
        url, hashes = str(origin.get("url", "")), _hashes(origin)
        file = unquote(urlsplit(url).path).rpartition("/")[2]
        name, version = canonicalize_name(metadata["name"]), Version(metadata["version"])
        if file.endswith(".whl"):
            yield Package(name=name, version=version, wheels=[PackageWheel(name=file, url=url, hashes=hashes)])
        else:
            yield Package(name=name, version=version, sdist=PackageSdist(name=file, url=url, hashes=hashes))
