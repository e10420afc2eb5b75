"""A site directory with distributions in it, as an installer would leave them."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import importlib_metadata  # noqa: F401  # before a site hides where it is installed
import packaging.specifiers  # noqa: F401  # likewise
import pytest
import tomlkit  # noqa: F401  # likewise

from ally_plugins.catalog.home.folder import Home

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CODE = "class Plugin: pass\n"

LONG_AGO = 1_600_000_000


class Site:
    """One directory on `sys.path`; `add` is what installing a wheel leaves there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def add(
        self,
        name: str,
        plugins: Mapping[str, str] | str,
        files: Mapping[str, str | bytes] | None = None,
        *,
        version: str = "1.0",
        record: bool = True,
    ) -> Path:
        """Add a distribution and return the directory of its metadata."""
        files = files or {}
        info = self.path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = plugins if isinstance(plugins, str) else "".join(f"{key} = {to}\n" for key, to in plugins.items())
        (info / "entry_points.txt").write_text(f"[console_scripts]\nx = y:z\n\n[ally.plugins]\n{lines}")
        for path, content in files.items():
            self.write(path, content)
        if record:
            rows = [f"{path},sha256={hash(content)},{len(content)}" for path, content in files.items()]
            (info / "RECORD").write_text("\n".join([*rows, f"{info.name}/RECORD,,"]))
        importlib.invalidate_caches()
        return info

    def plugin(self, name: str, manifest: str = "", *, version: str = "1.0", code: str = CODE) -> Path:
        """Add a distribution with one package of that name and one plugin in it."""
        package = name.replace("-", "_")
        files = {f"{package}/__init__.py": code, f"{package}/ally-plugin.toml": manifest}
        return self.add(name, {name: f"{package}:Plugin"}, files, version=version)

    def write(self, path: str, content: str | bytes) -> Path:
        """Write a file below the site."""
        file = self.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def settle(self) -> None:
        """Make everything look as if it had been there for years."""
        for directory, _, files in os.walk(self.path):
            for file in files:
                os.utime(Path(directory, file), (LONG_AGO, LONG_AGO), follow_symlinks=False)
            os.utime(directory, (LONG_AGO, LONG_AGO))
        importlib.invalidate_caches()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Give an empty site that is all there is on the path beside the standard library; tests may change the path."""
    path, entries = sys.path, list(sys.path)
    made = Site(tmp_path / "site")
    sys.path = [str(made.path), *standard_library()]
    importlib.invalidate_caches()
    yield made
    sys.path = path
    sys.path[:] = entries
    importlib.invalidate_caches()


def standard_library() -> list[str]:
    return [entry for entry in sys.path if entry and "site-packages" not in entry and Path(entry, "os.py").is_file()]


@pytest.fixture
def home(home: Path, tmp_path: Path) -> Home:
    """Return a home of its own, which is not there yet; ALLY_HOME stays what every test has."""
    assert home.is_dir()
    return Home("test", tmp_path / "home")
